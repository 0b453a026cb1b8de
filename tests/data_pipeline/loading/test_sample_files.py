"""Which files views are made of: frames, masks and partners, and what cannot be had of a shard folder."""

from dataclasses import replace

import numpy as np
import pytest

from eyespot.data_pipeline.augment.clip_frames import frame_numbers
from eyespot.data_pipeline.augment.views import CenterView, Clip, MaskView, RandomView, ViewSpec
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.loading.sample_files import SampleFiles, shown_together
from eyespot.data_pipeline.shards.shard_folder import ShardFolder

IDS, EPOCHS = np.arange(24), np.arange(24) % 3
SHORT = Clip(4, 2)


def spec(*views) -> ViewSpec:
    return ViewSpec(views=views)


def test_views_of_equal_clips_share_their_files():
    views = (
        RandomView(size=8, clip=SHORT),
        CenterView(size=8),
        RandomView(size=9, clip=Clip(4, 2)),
        MaskView(of=2),
        RandomView(size=8, clip=SHORT, partner=True),
        RandomView(size=8, clip=Clip(4, 2, stream=1)),
    )
    found = shown_together(spec(*views))
    assert [each.views for each in found] == [(0, 2), (1,), (4,), (5,)]
    assert [each.masks for each in found] == [(3,), (), (), ()]
    assert [each.num_files for each in found] == [8, 1, 4, 4]


def test_images_are_read_by_the_index_itself(film_shards):
    shards = ShardFolder(film_shards)
    files = SampleFiles(shards, spec(RandomView(size=8), CenterView(size=8)), 0)
    assert files.table is shards.index and files.rows(IDS, EPOCHS).tolist() == IDS[:, None].tolist()
    assert files.identity() == []


def test_rows_are_the_frames_and_masks_that_were_drawn(film_shards):
    shards = ShardFolder(film_shards)
    other = Clip(4, 2, stream=1)
    views = (
        CenterView(size=8),
        RandomView(size=8, clip=other),
        MaskView(of=1),
        RandomView(size=8, clip=Clip(2), partner=True),
    )
    files = SampleFiles(shards, spec(*views), 5)
    rows = files.rows(IDS, EPOCHS)
    assert rows.shape == (24, 1 + 4 + 4)
    assert (files.table[rows[:, 0]] == shards.index).all()
    numbers = frame_numbers(other, 5, EPOCHS, IDS, shards.clips["count"][:, 1])
    frames = shards.clips["first"][:, 1].astype(int)[:, None] + numbers
    assert (files.table[rows[:, 1:5]] == shards.frames[frames]).all()
    assert (files.table["size"][rows[:, 5:]] == shards.frame_masks["size"][frames]).all()
    assert (files.table["offset"][rows[:, 5:]] == shards.frame_masks["offset"][frames]).all()
    assert (files.table["tar"][rows[:, 5:]] == shards.frames["tar"][frames]).all()
    partners = files.partners(IDS, EPOCHS)
    assert (partners != IDS).all() and len(set(partners.tolist())) > 10
    beside = files.rows(partners, EPOCHS, partner=True)
    numbers = frame_numbers(Clip(2), 5, EPOCHS, partners, shards.clips["count"][partners, 0])
    assert (files.table[beside] == shards.frames[shards.clips["first"][partners, :1].astype(int) + numbers]).all()
    assert files.sample_bytes > 7 * shards.frames["size"].mean()


def test_motion_of_the_first_camera_counts_for_all(film_shards):
    shards = ShardFolder(film_shards)
    views = [RandomView(size=8, clip=Clip(3, by_motion=True, stream=stream)) for stream in (0, 1)]
    one, other = (SampleFiles(shards, spec(view), 0).rows(IDS, EPOCHS) for view in views)
    first = shards.clips["first"].astype(int)
    assert (one - first[:, :1] == other - first[:, 1:]).all()


def test_partners_come_from_among_the_samples_of_the_run(film_shards):
    among = np.array([2, 3, 11])
    files = SampleFiles(ShardFolder(film_shards), spec(RandomView(size=8, partner=True)), 0, among)
    for sample in among:
        partners = files.partners(np.full(50, sample), np.arange(50))
        assert set(partners.tolist()) == set(among.tolist()) - {sample}


def test_the_tables_that_count_are_part_of_the_identity(film_shards):
    shards = ShardFolder(film_shards)
    told = shards.manifest.frames
    clip, moving = RandomView(size=8, clip=SHORT), RandomView(size=8, clip=Clip(4, by_motion=True))
    known = [told.frames_sha256, told.clips_sha256]
    assert SampleFiles(shards, spec(clip), 0).identity() == known
    assert SampleFiles(shards, spec(moving), 0).identity() == [*known, told.motion_sha256]
    assert SampleFiles(shards, spec(clip, MaskView(of=0)), 0).identity() == [*known, told.masks_sha256]
    image = spec(RandomView(size=8), MaskView(of=0))
    assert SampleFiles(shards, image, 0).identity() == [shards.manifest.masks.sha256]


def test_what_cannot_be_had_is_one_line(film_shards, digit_shards):
    clip, stream = RandomView(size=8, clip=SHORT), RandomView(size=8, clip=Clip(2, stream=2))
    films, digits, one = ShardFolder(film_shards), ShardFolder(digit_shards), ShardFolder(film_shards)
    one.manifest.frames = replace(one.manifest.frames, streams=("left",))
    for shards, views, among, words in (
        (digits, (clip,), None, "have no frames"),
        (digits, (RandomView(size=8), MaskView(of=0)), None, "have no segmentation masks"),
        (films, (stream,), None, r"views\[0\].clip.stream 2: .* has 2; choose 0 to 1"),
        (one, (stream,), None, r"views\[0\].clip.stream 2: .* has 1; choose 0, or a recipe of one camera"),
        (
            films,
            (RandomView(size=8), RandomView(size=8, partner=True)),
            [3],
            r"one sample has all .*, and views\[1\] shows an",
        ),
    ):
        with pytest.raises(UserError, match=words):
            SampleFiles(shards, spec(*views), 0, among and np.array(among))


def test_masks_whose_unknown_is_another_number_than_is_counted_on_are_refused(film_shards):
    shards, clip = ShardFolder(film_shards), RandomView(size=8, clip=SHORT)
    SampleFiles(shards, spec(clip, MaskView(of=0, ignored=255)), 0)
    assert repr(MaskView(of=0, ignored=255)) == "MaskView(of=0)", "run records stay what they were"
    shards.manifest.masks.ignored = 254
    SampleFiles(shards, spec(clip, MaskView(of=0)), 0)
    with pytest.raises(
        UserError, match=r"in their masks 254 says nothing, and .* 255; pack them with --mask-ignored 255"
    ):
        SampleFiles(shards, spec(clip, MaskView(of=0, ignored=255)), 0)
