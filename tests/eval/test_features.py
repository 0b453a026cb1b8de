import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from eyespot.data_pipeline.loader import LoaderSpec, make_pass
from eyespot.data_pipeline.views import ViewSpec
from eyespot.eval import features
from eyespot.eval.subject import Subject, center_view, encode_all
from eyespot.pretrain.dist import World
from eyespot.pretrain.encoders import EncoderConfig, make_encoder

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
    return features.features_of(make_subject(), shards, tmp_path_factory.mktemp("alone"), ALONE)


def test_equal_the_encoder_applied_to_each_image(shards, alone):
    subject = make_subject()
    spec = LoaderSpec(shards=shards, views=subject.views, batch_size=359)
    (batch,) = make_pass(spec)
    tokens = subject.encoder.forward_features(batch.views[0])  # pyright: ignore[reportCallIssue]
    assert sorted(alone) == ["cls", "mean"] and alone["cls"].dtype == np.float32
    np.testing.assert_allclose(alone["cls"], tokens[:, 0].detach(), atol=1e-5)
    np.testing.assert_allclose(alone["mean"], tokens[:, 1:].mean(1).detach(), atol=1e-5)


RANK = """
import sys, torch
from pathlib import Path
from threadpoolctl import threadpool_limits
from eyespot.eval.features import features_of
from eyespot.pretrain import dist
sys.path.insert(0, sys.argv[1])
from test_features import make_subject
with threadpool_limits(1):
    world = dist.start("cpu")
    features_of(make_subject(), Path(sys.argv[2]), Path(sys.argv[3]), world)
    dist.stop()
"""


def test_three_ranks_write_the_same_bytes(shards, alone, tmp_path):
    script, cache = tmp_path / "rank.py", tmp_path / "cache"
    script.write_text(RANK)
    words = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "3", str(script)]
    done = subprocess.run(
        [sys.executable, *words, str(Path(__file__).parent), str(shards), str(cache)],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    (folder,) = [path for path in cache.iterdir() if path.is_dir()]
    for kind, values in alone.items():
        assert np.load(folder / f"{kind}.npy").tobytes() == values.tobytes()


def test_a_row_does_not_depend_on_its_neighbours(shards, alone):
    subject, kept = make_subject(), {}
    for rank in range(3):  # rows that one rank of three would encode, among zeros in the border blocks
        world = World(rank=rank, size=3, device=torch.device("cpu"))
        for ids, images in features._blocks(subject, shards, world):
            with torch.inference_mode():
                rows = encode_all(subject.encoder, images)["cls"]
            kept.update(zip(ids.tolist(), rows[torch.from_numpy(ids % features.BLOCK)].numpy(), strict=True))
    assert sorted(kept) == list(range(359))
    assert np.stack([kept[sample] for sample in range(359)]).tobytes() == alone["cls"].tobytes()


def test_second_call_reads_the_cache(shards, tmp_path):
    features.features_of(make_subject(), shards, tmp_path, ALONE)
    (folder,) = [path for path in tmp_path.iterdir() if path.is_dir()]
    marked = np.load(folder / "cls.npy")
    marked[0] = 7
    np.save(folder / "cls.npy", marked)
    assert (features.features_of(make_subject(), shards, tmp_path, ALONE)["cls"][0] == 7).all()


def test_key_follows_weights_and_transform(shards):
    subject, other = make_subject(), make_subject()
    assert features.features_key(subject, shards) == features.features_key(other, shards)
    other.views = ViewSpec(views=(center_view(16),), mean=(0.5, 0.5, 0.5))
    assert features.features_key(subject, shards) != features.features_key(other, shards)
    assert features.features_key(subject, shards) != features.features_key(make_subject(seed=1), shards)
    assert features.features_key(subject, shards) != features.features_key(subject, shards.parent / "train")


def test_what_a_kill_left_is_thrown_away(shards, alone, tmp_path):
    key = features.features_key(make_subject(), shards)
    (tmp_path / f"{key}.tmp").mkdir()
    (tmp_path / f"{key}.tmp" / "cls.npy").write_bytes(b"half")
    found = features.features_of(make_subject(), shards, tmp_path, ALONE)
    assert found["cls"].tobytes() == alone["cls"].tobytes() and not (tmp_path / f"{key}.tmp").exists()
