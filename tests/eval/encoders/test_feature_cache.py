import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from ranks import RankError

from eyespot.data_pipeline.augment.views import ViewSpec, center_view
from eyespot.data_pipeline.loading.loader import LoaderSpec, make_pass
from eyespot.data_pipeline.shards.shard_folder import ShardFolder
from eyespot.eval.encoders import feature_cache
from eyespot.eval.encoders.subject import Subject, encode_all
from eyespot.pretrain.distributed.arithmetic import set_arithmetic
from eyespot.pretrain.distributed.process_group import World
from eyespot.pretrain.networks.encoders import EncoderConfig, last_tokens, make_encoder

ALONE = World(rank=0, size=1, device=torch.device("cpu"))


def make_subject(seed: int = 0) -> Subject:
    torch.manual_seed(seed)
    encoder = make_encoder(EncoderConfig(name="test_vit", image_size=16, patch_size=4)).eval()
    return Subject(name="test", tag="test", role="random", encoder=encoder, views=ViewSpec(views=(center_view(16),)))


@pytest.fixture(scope="module")
def shards(digits) -> Path:
    return digits / "test"


@pytest.fixture(scope="module")
def alone(shards, tmp_path_factory) -> dict[str, np.ndarray]:
    return feature_cache.features_of(make_subject(), ShardFolder(shards), tmp_path_factory.mktemp("alone"), ALONE)


def test_equal_the_encoder_applied_to_each_image(shards, alone):
    subject = make_subject()
    spec = LoaderSpec(shards=ShardFolder(shards), views=subject.views, batch_size=359)
    (batch,) = make_pass(spec)
    tokens = subject.encoder.forward_features(batch.views[0])  # pyright: ignore[reportCallIssue]
    assert sorted(alone) == ["cls", "mean"] and alone["cls"].dtype == np.float32
    np.testing.assert_allclose(alone["cls"], tokens[:, 0].detach(), atol=1e-5)
    np.testing.assert_allclose(alone["mean"], tokens[:, 1:].mean(1).detach(), atol=1e-5)


def computed(world: World, shards: Path, cache: Path) -> None:
    feature_cache.features_of(make_subject(), ShardFolder(shards), cache, world)
    feature_cache.features_of(make_subject(), ShardFolder(shards), cache, world, 2)


def test_three_ranks_write_the_same_bytes(shards, alone, tmp_path, on_ranks):
    two_blocks = feature_cache.features_of(make_subject(), ShardFolder(shards), tmp_path / "alone", ALONE, 2)
    on_ranks(computed, 3, shards, tmp_path)
    for num_blocks, expected in ((1, alone), (2, two_blocks)):
        folder = tmp_path / feature_cache.features_key(make_subject(), ShardFolder(shards), num_blocks)
        assert {path.stem for path in folder.glob("*.npy")} == set(expected)
        for kind, values in expected.items():
            assert np.load(folder / f"{kind}.npy").tobytes() == values.tobytes()


def test_earlier_blocks_come_after_the_last(shards, alone, tmp_path):
    found = feature_cache.features_of(make_subject(), ShardFolder(shards), tmp_path, ALONE, 2)
    assert list(found) == ["cls", "mean", "cls-2", "mean-2"]
    assert all(found[kind].tobytes() == rows.tobytes() for kind, rows in alone.items())
    subject = make_subject()
    (batch,) = make_pass(LoaderSpec(shards=ShardFolder(shards), views=subject.views, batch_size=359))
    before = last_tokens(subject.encoder, batch.views[0], 2)[0]
    np.testing.assert_allclose(found["cls-2"], before.cls.detach(), atol=1e-5)
    np.testing.assert_allclose(found["mean-2"], before.patches.mean((2, 3)).detach(), atol=1e-5)


def test_a_row_does_not_depend_on_its_neighbours(shards, alone):
    subject, kept = make_subject(), {}
    for rank in range(3):  # rows that one rank of three would encode, among zeros in the border blocks
        world = World(rank=rank, size=3, device=torch.device("cpu"))
        for ids, images in feature_cache._blocks(subject, ShardFolder(shards), world):
            with torch.inference_mode():
                rows = encode_all(subject.encoder, images)["cls"]
            kept.update(zip(ids.tolist(), rows[torch.from_numpy(ids % feature_cache.BLOCK)].numpy(), strict=True))
    assert sorted(kept) == list(range(359))
    assert np.stack([kept[sample] for sample in range(359)]).tobytes() == alone["cls"].tobytes()


def test_second_call_reads_the_cache(shards, tmp_path):
    feature_cache.features_of(make_subject(), ShardFolder(shards), tmp_path, ALONE)
    (folder,) = [path for path in tmp_path.iterdir() if path.is_dir()]
    marked = np.load(folder / "cls.npy")
    marked[0] = 7
    np.save(folder / "cls.npy", marked)
    assert (feature_cache.features_of(make_subject(), ShardFolder(shards), tmp_path, ALONE)["cls"][0] == 7).all()


def test_key_follows_weights_and_transform(shards):
    subject, other = make_subject(), make_subject()
    assert feature_cache.features_key(subject, ShardFolder(shards)) == feature_cache.features_key(
        other, ShardFolder(shards)
    )
    other.views = ViewSpec(views=(center_view(16),), mean=(0.5, 0.5, 0.5))
    assert feature_cache.features_key(subject, ShardFolder(shards)) != feature_cache.features_key(
        other, ShardFolder(shards)
    )
    assert feature_cache.features_key(subject, ShardFolder(shards)) != feature_cache.features_key(
        make_subject(seed=1), ShardFolder(shards)
    )
    assert feature_cache.features_key(subject, ShardFolder(shards)) != feature_cache.features_key(
        subject, ShardFolder(shards.parent / "train")
    )


def test_what_a_kill_left_is_thrown_away(shards, alone, tmp_path):
    key = feature_cache.features_key(make_subject(), ShardFolder(shards))
    (tmp_path / f"{key}.tmp").mkdir()
    (tmp_path / f"{key}.tmp" / "cls.npy").write_bytes(b"half")
    found = feature_cache.features_of(make_subject(), ShardFolder(shards), tmp_path, ALONE)
    assert found["cls"].tobytes() == alone["cls"].tobytes() and not (tmp_path / f"{key}.tmp").exists()


def stopped_after(world, shards, cache, count):
    """Encodes so many blocks, and is then killed."""
    calls, real = [], encode_all

    def fails(*arguments):
        calls.append(1)
        if len(calls) > count:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*arguments)

    feature_cache.encode_all = fails
    feature_cache.features_of(make_subject(), ShardFolder(shards), cache, world)


def test_a_killed_computation_goes_on(shards, alone, tmp_path, on_ranks, monkeypatch):
    with pytest.raises(RankError):
        on_ranks(stopped_after, 1, shards, tmp_path, 2)  # a first call learns the widths
    (folder,) = tmp_path.glob("*.tmp")
    assert 0 < np.load(folder / "done.npy").sum() < 359
    seen = []
    real = feature_cache._blocks
    monkeypatch.setattr(
        feature_cache, "_blocks", lambda *given: ((seen.extend(ids), (ids, x))[1] for ids, x in real(*given))
    )
    found = feature_cache.features_of(make_subject(), ShardFolder(shards), tmp_path, ALONE)
    assert list(found) == ["cls", "mean"] and all(
        found[kind].tobytes() == rows.tobytes() for kind, rows in alone.items()
    )
    assert len(seen) == 359 - 128 and not list(tmp_path.glob("*.tmp"))


def test_keys_are_those_of_the_first_release(shards):
    """What lies in people's caches stays known; a change of what determines the features is a new FORMAT."""
    subject = make_subject()
    subject.architecture = "a"
    subject.views = ViewSpec(views=(center_view(16),), mean=(0.25,) * 3, std=(0.5,) * 3)
    for parameter in subject.encoder.parameters():
        parameter.detach().fill_(0.5)
    assert feature_cache.features_key(subject, ShardFolder(shards)) == "69e5ffd3b9548ddcd81176054a8997b8"
    assert feature_cache.features_key(subject, ShardFolder(shards), 4) != feature_cache.features_key(
        subject, ShardFolder(shards)
    )
    try:
        set_arithmetic(torch.device("cuda"), "tf32")
        assert feature_cache.features_key(subject, ShardFolder(shards)) != "69e5ffd3b9548ddcd81176054a8997b8"
        set_arithmetic(torch.device("cpu"), "tf32")  # which rounds nothing
        assert feature_cache.features_key(subject, ShardFolder(shards)) == "69e5ffd3b9548ddcd81176054a8997b8"
    finally:
        set_arithmetic(torch.device("cpu"))
