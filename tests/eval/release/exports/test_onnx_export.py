"""The encoder as ONNX answers as torch does, for any number of images, and tells nothing of this machine."""

import importlib.util
import sys
from pathlib import Path

import pytest
import torch
from released_runs import write_release
from safetensors.torch import load_file

from eyespot.data_pipeline.errors import UserError
from eyespot.eval.release.exports.onnx_export import NEEDED, TOLERANCE
from eyespot.eval.release.golden import distance, load_encoder
from eyespot.eval.release.verify import verified
from eyespot.pretrain.networks.encoders import encode

MISSING = [name for name in NEEDED if importlib.util.find_spec(name) is None]


def test_without_the_packages(tmp_path: Path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)  # now it cannot be imported, nor found
    with pytest.raises(UserError, match=r"--onnx: needs onnx.*; install eyespot\[onnx\]"):
        write_release(tmp_path / "a", onnx=True)
    assert not (tmp_path / "a").exists()


@pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}; pip install eyespot[onnx]")
def test_the_same_features(tmp_path: Path):
    import onnxruntime

    folder = write_release(tmp_path / "a", onnx=True)
    verified(folder)
    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    images = torch.cat([load_file(folder / "golden.safetensors")["input"], torch.randn(3, 3, 16, 16)])
    cls, mean = session.run(["cls_features", "mean_features"], {"images": images.numpy()})
    with torch.no_grad():
        wanted = encode(load_encoder(folder), images)
    assert distance(torch.from_numpy(cls), wanted["cls"]) <= TOLERANCE
    assert distance(torch.from_numpy(mean), wanted["mean"]) <= TOLERANCE
    assert str(Path(__file__).parents[4]).encode() not in (folder / "model.onnx").read_bytes()
