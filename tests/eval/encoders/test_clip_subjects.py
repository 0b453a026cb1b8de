"""Encoders that look at clips: frame by frame they say what they say of the frames as images."""

import numpy as np
import torch
from films import pack_films, told
from left_runs import leave_run, small_run

from eyespot.data_pipeline.augment.views import CenterView, Clip, ViewSpec
from eyespot.data_pipeline.loading.loader import LoaderSpec, make_pass
from eyespot.data_pipeline.shards.shard_folder import ShardFolder
from eyespot.eval.encoders.clip_subjects import clip_subjects
from eyespot.eval.encoders.feature_cache import features_key, features_of
from eyespot.eval.encoders.image_size import at_size
from eyespot.eval.encoders.run_objectives import objectives_of
from eyespot.eval.encoders.subject import Subject, encode_all, subjects_of
from eyespot.pretrain.distributed.process_group import World
from eyespot.pretrain.networks.encoders import last_tokens

ONE = World(rank=0, size=1, device=torch.device("cpu"))
CLIPS = [Clip(3, place="center", pick="spread", stream=stream) for stream in (0, 1)]
SEEN = ViewSpec(views=(CenterView(resize=16, size=16, mode="squash"),))


def subjects() -> list[Subject]:
    found = subjects_of("test_vit3", seed=0, pretrained=False)
    for subject in found:
        subject.views = ViewSpec(views=(CenterView(resize=160, size=160),))
    return found


def test_features_are_those_of_the_frames_as_images(tmp_path):
    shards = ShardFolder(pack_films(tmp_path / "films", count=6))
    for subject, room in [(each, room) for each in subjects() for room in (0, 10**6)]:
        (of_clips,) = clip_subjects([subject], CLIPS, patch_bytes=room)
        found = features_of(of_clips, shards, tmp_path / "cache", ONE)
        (batch,) = make_pass(LoaderSpec(shards=shards, views=of_clips.views, batch_size=6))
        frames = torch.cat(batch.views, dim=1)
        expected = [encode_all(subject.encoder, frames[:, frame]) for frame in range(6)]
        if room and subject.role != "pixels":
            maps = [last_tokens(subject.encoder, frames[:, frame])[-1].patches for frame in range(6)]
            for own, map_ in zip(expected, maps, strict=True):
                own["patches100"] = map_.permute(0, 2, 3, 1).reshape(6, -1)
        assert found.keys() == expected[0].keys()
        for kind, rows in found.items():
            apart = np.stack([each[kind].numpy() for each in expected], axis=1)
            assert np.allclose(rows, apart.reshape(6, -1), rtol=1e-3, atol=1e-4)


def test_patches_are_kept_where_there_is_room_for_them():
    encoder, *_, pixels = subjects()
    size = 4 * 6 * 100 * encoder.encoder.num_features
    kept = [
        clip_subjects([subject], CLIPS, patch_bytes=room)[0].encoder.patches
        for subject, room in ((encoder, size), (encoder, size - 1), (encoder, 0), (pixels, size))
    ]
    assert kept == [True, False, False, False]


def test_a_head_sees_the_frames_of_each_camera_by_themselves(tmp_path):
    shards = ShardFolder(pack_films(tmp_path / "films", count=6))
    run = small_run("tcn_tiny")
    run.objective.joined = 2
    own = objectives_of(str(leave_run(run, "tcn_tiny", tmp_path / "run", shards.path)), 0, lambda each: True)
    encoder, random, pixels = clip_subjects(subjects_of(str(own.run_dir), seed=0), CLIPS, own=own)
    found = features_of(encoder, shards, tmp_path / "cache", ONE)
    (batch,) = make_pass(LoaderSpec(shards=shards, views=encoder.views, batch_size=6))
    expected = torch.cat([own.trained.embed_frames(view).flatten(1) for view in batch.views], dim=1)
    assert np.allclose(found["head"], expected.numpy(), rtol=1e-3, atol=1e-4)
    assert random.encoder.head is own.untrained and pixels.encoder.head is None
    larger = at_size(subjects_of(str(own.run_dir), seed=0), 24)
    seen = [clip_subjects([each], CLIPS, own=own)[0].encoder.kinds(torch.zeros(1, 6, 3, 24, 24)) for each in larger]
    assert [kinds["head"].shape for kinds in seen] == [(1, 6 * own.run.objective.out_dim)] * 2


def test_the_frames_are_those_of_both_cameras(tmp_path):
    shards = ShardFolder(pack_films(tmp_path / "films", count=8))
    bare = Subject(name="", tag="", role="pixels", encoder=torch.nn.Identity(), views=SEEN)
    (subject,) = clip_subjects([bare], CLIPS)
    (batch,) = make_pass(LoaderSpec(shards=shards, views=subject.views, batch_size=8))
    for camera, view in enumerate(batch.views):
        _, frames, cameras = told(view, subject.views)
        assert (cameras == camera).all()
        of_twelve = shards.clips["count"][:, 0].tolist().index(12)
        assert frames[of_twelve].tolist() == [1, 5, 9]


def test_another_choice_of_frames_has_another_key(tmp_path):
    shards = ShardFolder(pack_films(tmp_path / "films", count=6))
    subject = subjects()[0]
    choices = [(CLIPS, 10**6), (CLIPS, 0), (CLIPS[:1], 0), ([Clip(4, place="center", pick="spread")], 0)]
    keys = {features_key(clip_subjects([subject], clips, patch_bytes=room)[0], shards) for clips, room in choices}
    assert len(keys | {features_key(subject, shards)}) == 5


def test_any_number_of_ranks_gives_the_same_bits(tmp_path, on_ranks):
    shards = ShardFolder(pack_films(tmp_path / "films", count=24))
    (subject,) = clip_subjects(subjects()[:1], CLIPS, patch_bytes=10**6)
    alone = features_of(subject, shards, tmp_path / "one", ONE)
    on_ranks(on_a_rank, 2, shards.path, tmp_path / "two")
    (folder,) = [path for path in (tmp_path / "two").iterdir() if path.is_dir()]
    for kind, rows in alone.items():
        assert np.array_equal(rows, np.load(folder / f"{kind}.npy"))


def on_a_rank(world: World, path, cache) -> None:
    (subject,) = clip_subjects(subjects()[:1], CLIPS, patch_bytes=10**6)
    features_of(subject, ShardFolder(path), cache, world)
