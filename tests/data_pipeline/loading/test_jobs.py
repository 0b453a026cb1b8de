"""Clips through the loader: the same bits on any number of ranks, in any batch, after a resume, whatever is damaged."""

import shutil
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from films import COUNTS, HEIGHT, square, told
from streams import global_stream, take

from eyespot.data_pipeline.augment.clip_frames import frame_numbers
from eyespot.data_pipeline.augment.views import CenterView, Clip, MaskView, RandomView, ViewSpec
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.loading import jobs
from eyespot.data_pipeline.loading.loader import LoaderSpec, batches_ahead, make_loader, make_pass, make_selection
from eyespot.data_pipeline.loading.reader import Reader
from eyespot.data_pipeline.loading.sample_files import SampleFiles
from eyespot.data_pipeline.shards.shard_folder import ShardFolder

COLORS = dict(jitter=(0.8, 0.8, 0.8, 0.2), grayscale=0.2, blur=0.5)
CLIP, LEFT, RIGHT = Clip(4, 2), Clip(3, by_motion=True), Clip(3, by_motion=True, stream=1)
ALL = ViewSpec(
    views=(
        RandomView(size=24, clip=CLIP, **COLORS),
        RandomView(size=16),
        MaskView(of=0),
        RandomView(size=20, scale=(0.05, 0.5), clip=CLIP, erase=0.5),
        RandomView(size=16, clip=RIGHT),
        RandomView(size=16, clip=Clip(5, pick="ordered"), partner=True),
        MaskView(of=1),
    )
)
WHOLE = dict(resize=HEIGHT, size=HEIGHT)


@pytest.fixture
def shards(film_shards, tmp_path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(film_shards, tmp_path / "shards"))


def films(shards: Path, *views, **changes) -> LoaderSpec:
    spec = ViewSpec(views=views) if views else ALL
    return LoaderSpec(
        **{**dict(shards=ShardFolder(shards), views=spec, batch_size=8, num_threads=2, seed=3), **changes}
    )


def first_epoch(spec: LoaderSpec):
    (batch,) = take(make_selection(replace(spec, batch_size=24), np.arange(24)), 1)
    return batch


def spoil(shards: Path, rows: list[int], table: str = "frames") -> None:
    """Overwrites some bytes of files, which the checksum finds."""
    folder = ShardFolder(shards)
    places = getattr(folder, table)
    for row in rows:
        path = folder.tar_path(int(folder.frames["tar"][row]))
        content = bytearray(path.read_bytes())
        at = int(places["offset"][row]) + 60
        content[at : at + 4] = bytes(255 - value for value in content[at : at + 4])
        path.write_bytes(content)


def test_a_batch_has_what_the_view_spec_asks_for(film_shards):
    batch = next(make_loader(films(film_shards)))
    assert [tuple(view.shape[1:]) for view in batch.views] == ALL.shapes()
    assert [view.dtype for view in batch.views] == [torch.uint8 if n in (2, 6) else torch.float32 for n in range(7)]


def test_clips_show_the_frames_that_were_drawn_of_the_cameras_asked_for(film_shards):
    spec = films(film_shards, *(CenterView(**WHOLE, clip=clip) for clip in (CLIP, LEFT, RIGHT)), CenterView(**WHOLE))
    batch, folder = first_epoch(spec), spec.shards
    film, frame, camera = told(batch.views[0], spec.views)
    counts = folder.clips["count"][:, 0]
    assert (film == film[:, :1]).all() and sorted(film[:, 0].tolist()) == list(range(24)) and not camera.any()
    assert [COUNTS[number % 8] for number in film[:, 0].tolist()] == counts.tolist()
    assert (frame.numpy() == frame_numbers(CLIP, 3, batch.epochs.numpy(), batch.ids.numpy(), counts)).all()
    left, right = (told(view, spec.views) for view in batch.views[1:3])
    assert torch.equal(left[1], right[1]) and not left[2].any() and right[2].all(), "synchronous"
    single = told(batch.views[3], spec.views)
    assert torch.equal(single[0], film[:, 0]) and not single[1].any(), "an image is the first frame"


def test_all_frames_of_a_clip_are_cut_flipped_and_coloured_alike(film_shards):
    """Each is what an image of that frame would give: the frames of a still film are equal."""
    still = films(
        film_shards, RandomView(size=24, clip=Clip(4, 1), erase=0.5, **COLORS), RandomView(size=24, erase=0.5, **COLORS)
    )
    batch = first_epoch(still)
    short = [row for row, count in enumerate(still.shards.clips["count"][:, 0]) if count == 1]
    assert len(short) == 3
    for row in short:
        assert all(torch.equal(batch.views[0][row, 0], batch.views[0][row, place]) for place in range(1, 4))
    assert not torch.equal(batch.views[0][:, 0], batch.views[0][:, 3])


def test_one_frame_is_what_an_image_is(film_shards):
    views = RandomView(size=24, **COLORS)
    image = first_epoch(films(film_shards, views))
    clip = first_epoch(films(film_shards, replace(views, clip=Clip(1, 40))))  # too short for anything but its start
    counts = ShardFolder(film_shards).clips["count"][:, 0]
    assert image.views[0].shape == (24, 3, 24, 24) and clip.views[0].shape == (24, 1, 3, 24, 24)
    same = [torch.equal(one, other[0]) for one, other in zip(image.views[0], clip.views[0], strict=True)]
    assert all(same[row] for row in range(24) if counts[row] == 1) and not all(same)


def test_masks_follow_their_view(film_shards):
    """Through crop, resize and flip; where a frame has none, all is ignored."""
    spec = films(film_shards, RandomView(size=24, clip=CLIP), MaskView(of=0), RandomView(size=24), MaskView(of=2))
    batch = first_epoch(spec)
    ignored = spec.shards.manifest.masks.ignored
    red = batch.views[0][:, :, 0] * spec.views.std[0] + spec.views.mean[0]
    _, frame, _ = told(batch.views[0], spec.views)
    masks = batch.views[1][:, :, 0]
    lacking = frame % 3 == 2
    assert (masks[lacking] == ignored).all() and lacking.any()
    agree = ((red > 0.5) == masks.bool())[~lacking].float().mean()
    assert agree > 0.97, "but for blurred edges"
    image = (batch.views[2][:, 0] * spec.views.std[0] + spec.views.mean[0] > 0.5) == batch.views[3][:, 0].bool()
    assert image.float().mean() > 0.97
    assert square(0, 0).any()


def test_a_partner_is_the_same_view_of_another_sample(film_shards):
    view = RandomView(size=24, clip=CLIP, **COLORS)
    spec = films(film_shards, replace(view, partner=True))
    usual = first_epoch(films(film_shards, view)).views[0]
    partners = SampleFiles(spec.shards, spec.views, 3).partners(np.arange(24), np.zeros(24, int))
    assert torch.equal(first_epoch(spec).views[0], usual[partners]) and (partners != np.arange(24)).all()


def test_clips_do_not_depend_on_ranks_batches_or_threads(film_shards):
    spec = films(film_shards)
    expected = global_stream(spec, 1, 6)
    assert global_stream(spec, 2, 6) == expected
    assert global_stream(spec, 4, 6) == expected
    assert global_stream(replace(spec, batch_size=16, num_threads=1), 2, 3) == expected
    assert global_stream(replace(spec, batch_size=4, num_threads=3), 1, 12) == expected


def test_a_resume_goes_on_exactly_there_on_other_ranks(film_shards):
    spec = films(film_shards)
    whole = global_stream(spec, 1, 6)
    loader = make_loader(spec)
    before = [next(loader) for _ in range(2)]
    state = loader.state_dict()
    loader.close()
    after = global_stream(spec, 4, 4, state)
    ids = torch.cat([batch.ids for batch in before]).tolist()
    assert ids + after[-3] == whole[-3]
    assert all(one.endswith(other) for one, other in zip(whole[:-3], after[:-3], strict=True))


def test_a_damaged_frame_replaces_the_whole_sample_alike_everywhere(shards):
    folder = ShardFolder(shards)
    clips, masked = folder.clips, np.flatnonzero(folder.frame_masks["size"])
    wrong = [int(clips["first"][4, 0]), int(clips["first"][9, 1]) + 1]
    spoil(shards, wrong)
    spoil(shards, [int(row) for row in masked if clips["first"][15, 0] <= row < clips["first"][15, 1]], "frame_masks")
    spec = films(shards, max_bad_fraction=1.0)
    expected = global_stream(spec, 1, 9)
    assert global_stream(spec, 2, 9) == expected and global_stream(replace(spec, batch_size=24), 4, 3) == expected
    seen = set(expected[-3])
    assert 15 not in seen, "its masks are part of it"
    loader = make_loader(replace(spec, batch_size=24))
    batches = take(loader, 3)
    wanted = sum(len(set(batch.ids.tolist())) < 24 for batch in batches)
    assert wanted == 3 and loader.bad_samples >= 3
    for batch in batches:
        places = frame_numbers(CLIP, 3, batch.epochs.numpy(), batch.ids.numpy(), clips["count"][batch.ids.numpy(), 0])
        rows = clips["first"][batch.ids.numpy(), 0].astype(int)[:, None] + places
        assert not np.isin(rows, wrong).any(), "no clip has a damaged frame in it"


def test_a_partner_that_is_damaged_is_replaced_and_never_by_the_sample_itself(shards):
    folder = ShardFolder(shards)
    spoil(shards, [int(folder.clips["first"][row, 0]) for row in range(0, 24, 3)])
    views = CenterView(**WHOLE), CenterView(**WHOLE, partner=True)
    spec = films(shards, *views, max_bad_fraction=1.0)
    batch = first_epoch(spec)
    own, beside = (told(view, spec.views)[0] for view in batch.views)
    assert not {sample % 3 for sample in batch.ids.tolist()} & {0} and (own != beside).all()
    good = set(own.tolist())
    assert len(good) == 16 and set(beside.tolist()) <= good
    loader = make_selection(replace(spec, batch_size=24), np.arange(24))
    next(loader)
    assert 8 < loader.bad_samples < 24, "those whose partner is damaged count, too"
    loader.close()


def test_who_stands_in_is_one_of_the_samples_that_the_run_learns_from(shards):
    spoil(shards, [int(ShardFolder(shards).clips["first"][6, 0])])
    chosen = dict(ids=np.array([20, 6, 2]), batch_size=3, max_bad_fraction=1.0)
    (batch,) = take(make_loader(films(shards, CenterView(**WHOLE), **chosen)), 1)
    assert sorted(batch.ids.tolist()) == [2, 20, 20]


def test_damage_is_an_error_where_nothing_may_stand_in(shards):
    folder = ShardFolder(shards)
    row = int(folder.clips["first"][6, 0]) + 1
    spoil(shards, [row])
    spec = films(shards, CenterView(**WHOLE, clip=Clip(5, 1, "center")), seed=0)
    rows = SampleFiles(folder, spec.views, 0).rows(np.array([6]), np.array([0]))
    if row not in rows:
        spoil(shards, [int(rows[0, 1])])
    with pytest.raises(UserError, match=r"sample 6 \(.*\) is damaged: its bytes changed"):
        list(make_pass(spec))


def test_frames_that_cannot_be_decoded_are_found_counted_and_replaced(shards, monkeypatch):
    spec = films(shards, RandomView(size=16, clip=CLIP), MaskView(of=0), RandomView(size=8), max_bad_fraction=1.0)
    found = Job = jobs.Jobs._job
    broken = set()

    def spoiled(self, wanted, epochs, own, beside):
        job = found(self, wanted, epochs, own, beside)
        for part in job.parts:
            count = part.shown.num_frames
            for row, sample in enumerate(part.samples.tolist()):
                if sample == 7 and count > 1:
                    part.files[row * count + 2][41:-16] = b"x" * (len(part.files[row * count + 2]) - 57)
                    broken.add(sample)
                if sample == 12 and part.masks and (mask := part.masks[row * count]):
                    mask[33:] = b"x" * (len(mask) - 33)
                    broken.add(sample)
        return job

    monkeypatch.setattr(jobs.Jobs, "_job", spoiled)
    loader = make_selection(replace(spec, batch_size=6), np.arange(24))
    ids = [sample for batch in loader for sample in batch.ids.tolist()]
    assert Job is found and 7 in broken
    assert ids == [8 if sample == 7 else 13 if sample == 12 and 12 in broken else sample for sample in range(24)]
    assert loader.bad_samples == len(broken)


def test_other_frames_are_another_stream(film_shards, tmp_path):
    spec = films(film_shards)
    loader = make_loader(spec)
    state = loader.state_dict()
    loader.close()
    images = replace(spec, views=ViewSpec(views=(RandomView(size=8),)))
    with pytest.raises(UserError, match="loader state: shards"):
        make_loader(images, state=state)


def test_what_waits_is_bounded_by_the_bytes_of_clips(film_shards):
    spec = films(film_shards, RandomView(size=100, clip=Clip(10)), ready_mb=10)
    assert batches_ahead(spec, 1) == 3 and batches_ahead(spec, 4) == 2 and batches_ahead(spec, 40) == 1
    assert batches_ahead(films(film_shards, RandomView(size=100), ready_mb=10), 40) == 2
    files = SampleFiles(spec.shards, spec.views, 0)
    reader = Reader(spec.shards, substitute=True, index=files.table)
    ahead = jobs.Jobs(reader, files, spec.views, 0, None)._most_ahead
    assert ahead(8) == 3 and ahead(int(jobs.READ_AHEAD_BYTES / files.sample_bytes)) == 1
    assert ahead(int(jobs.READ_AHEAD_BYTES / files.sample_bytes / 2.2)) == 2 and ahead(10**9) == 1
    reader.close()


@pytest.mark.parametrize("count", [5, 2**20, 2**20 + 1, 3 * 2**20 - 1])
def test_which_labels_are_shown_is_summed_up_as_a_byte_of_each_sample(count):
    labeled = np.unique(np.random.default_rng(count).integers(0, count, 1000))
    shown = np.zeros(count, bool)
    shown[labeled] = True
    assert jobs.checksum_of_labeled(labeled, count, 7) == zlib.crc32(shown.tobytes(), 7)
