"""What an encoder loses in 8 bits is measured on what calibrated nothing, stands in the card, and refuses too much."""

from pathlib import Path

import numpy as np
import pytest
import torch
from released_runs import small_run, write_run
from safetensors.torch import load_file

from eyespot.cluster.cli import main
from eyespot.data_pipeline.augment.views import ViewSpec, center_view
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.shards.shard_folder import ShardFolder
from eyespot.eval import int8_loss
from eyespot.eval.int8_loss import Int8, Loss
from eyespot.eval.protocols.labeled_data import Part, labeled_data
from eyespot.eval.release.exports import onnx_export
from eyespot.eval.release.exports.onnx_export import export_onnx
from eyespot.eval.release.golden import golden_of, load_encoder
from eyespot.eval.release.layout import CONFIG, GOLDEN, INT8, PROVENANCE, read_json, sha256
from eyespot.eval.release.provenance import origin_of
from eyespot.eval.release.verify import verified


def digits_run(folder: Path, digits: Path) -> Path:
    """A run that says it was trained on the digits."""
    run = small_run(folder)
    run.data.shards = str(digits)
    return write_run(folder, run=run, manifest_sha256=ShardFolder.find(digits).manifest_sha256)


@pytest.fixture
def rows_seen(monkeypatch: pytest.MonkeyPatch) -> list[np.ndarray]:
    """Which rows views were made of, from here on."""
    seen: list[np.ndarray] = []
    views = int8_loss._views

    def noted(shards: ShardFolder, spec: ViewSpec, rows: np.ndarray):
        seen.append(rows)
        return views(shards, spec, rows)

    monkeypatch.setattr(int8_loss, "_views", noted)
    return seen


@pytest.mark.thorough
def test_a_release_in_8_bits(
    digits: Path, tmp_path: Path, rows_seen: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
):
    pytest.importorskip("onnxruntime")
    run_dir = digits_run(tmp_path / "run", digits)
    assert main(["release", str(run_dir), "--license", "mit", "--int8", str(digits)]) == 0
    out = run_dir / "release"
    verified(out)
    assert not (out / "model.onnx").exists()
    said = read_json(out / PROVENANCE, "")["exports"][INT8]
    assert said["sha256"] == sha256(out / INT8) and said["calibration_images"] == 256 == len(rows_seen[0])
    assert [loss["probe"] for loss in said["losses"]] == ["linear", "knn"]
    for loss in said["losses"]:
        low, high = loss["interval"]
        assert low < loss["int8"] - loss["float32"] < high and loss["float32"] > 0.3
    assert set(said["cosines"]) == {"cls_features", "mean_features"} and min(said["cosines"].values()) > 0.99
    golden = load_file(out / GOLDEN)
    assert golden["int8.cls_features"].shape == golden["cls"].shape
    card = (out / "README.md").read_text()
    assert f"## {INT8}" in card and "| linear |" in card

    lost = [Loss(probe="knn", float32=0.9, int8=0.8, interval=(-0.12, -0.08))]
    monkeypatch.setattr(int8_loss, "_measured", lambda *_: (lost, {}))
    origin, encoder, config = origin_of(run_dir), load_encoder(out), read_json(out / CONFIG, "")
    with pytest.raises(UserError, match=r"--int8: in 8 bits the knn probe falls from 90.00% to 80.00%, more than 2%"):
        Int8(digits)(tmp_path, origin, encoder, golden_of(encoder, config))
    lost[0] = Loss(probe="knn", float32=0.9, int8=0.8, interval=(-0.22, 0.02))  # it may be chance
    export_onnx(encoder, golden_of(encoder, config), tmp_path / "model.onnx")
    text, _, _ = Int8(digits)(tmp_path, origin, encoder, golden_of(encoder, config))
    assert "-10.00% | -22.00% to +2.00%" in text and (tmp_path / "model.onnx").exists()


def test_calibrates_on_nothing_that_it_is_tested_on(digits: Path, tmp_path: Path, rows_seen: list[np.ndarray]):
    run_dir = digits_run(tmp_path / "run", digits)
    data = labeled_data(ShardFolder.find(digits / "train"), 0)
    data.test.shards = data.train.shards  # as where there is no test split, and a part of train is held out
    origin = origin_of(run_dir)
    images = Int8(digits)._calibration(origin, data, ViewSpec(views=(center_view(16),)))
    assert images.shape == (256, 3, 16, 16)
    assert len(set(rows_seen[0])) == 256 and not set(rows_seen[0]) & set(data.test.rows)


def test_a_large_data_set_is_measured_on_a_part(digits: Path, monkeypatch: pytest.MonkeyPatch):
    data = labeled_data(ShardFolder.find(digits, "train"), 0)
    assert int8_loss._at_most(data, 0) == data, "a small one on all of it"
    monkeypatch.setattr(int8_loss, "MOST_IMAGES", 500)
    less = int8_loss._at_most(data, 0)
    assert less.test is data.test and abs(less.train.size - 500) <= 5 and less.train.digest() != data.train.digest()
    assert set(less.train.rows) < set(data.train.rows)
    counts = [np.bincount(part.labels) for part in (less.train, data.train)]
    assert np.abs(counts[0] - counts[1] * 500 / data.train.size).max() <= 1
    assert f"{less.train.size} of {data.train.size:,} images of train (seed 0)" in less.split


def test_trained_on_what_is_tested(digits: Path, tmp_path: Path):
    data = labeled_data(ShardFolder.find(digits / "train"), 0)
    everything = np.arange(data.train.shards.manifest.num_samples)
    data.test = Part(shards=data.train.shards, rows=everything, labels=np.zeros(len(everything), np.int64))
    origin = origin_of(digits_run(tmp_path / "run", digits))
    with pytest.raises(UserError, match=r"--int8 .*: every image that the run was trained on is tested on"):
        Int8(digits)._calibration(origin, data, ViewSpec(views=(center_view(16),)))


@pytest.mark.parametrize("why", ["", "no such operator\nat line 3"])
def test_an_encoder_that_cannot_be_exported(why: str, digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("onnxruntime")

    def fails(*_: object) -> None:
        raise RuntimeError(why)

    monkeypatch.setattr(onnx_export, "_export", fails)
    monkeypatch.setattr(Int8, "_calibration", lambda *_: torch.zeros(1, 3, 16, 16))
    origin, reason = origin_of(digits_run(tmp_path / "run", digits)), why.partition("\n")[0] or "RuntimeError"
    asked = rf"--int8: the encoder cannot be exported \({reason}\); leave --int8 out"
    with pytest.raises(UserError, match=asked):
        Int8(digits)(tmp_path, origin, torch.nn.Identity(), {"input": torch.zeros(1, 3, 16, 16)})


def test_without_the_images_of_training(digits: Path, tmp_path: Path):
    gone = write_run(tmp_path / "gone")
    encoder = torch.nn.Identity()
    with pytest.raises(UserError, match=r"--int8: needs the images of training, .*no-shards"):
        Int8(digits)(tmp_path, origin_of(gone), encoder, {})
    run = small_run(tmp_path / "other")
    run.data.shards = str(digits)
    other = write_run(tmp_path / "other", run=run)
    with pytest.raises(UserError, match="no longer holds what the run was trained on"):
        Int8(digits)(tmp_path, origin_of(other), encoder, {})
