"""The 8-bit form of an encoder: smaller, close to it, for any number of images, and silent about this machine."""

from pathlib import Path

import pytest
import torch

onnx = pytest.importorskip("onnx")
from eyespot.data_pipeline.errors import UserError  # noqa: E402
from eyespot.eval.release.exports.int8 import quantize  # noqa: E402
from eyespot.eval.release.exports.onnx_export import OnnxEncoder, export_onnx  # noqa: E402
from eyespot.eval.release.golden import golden_of  # noqa: E402
from eyespot.pretrain.networks.encoders import EncoderConfig, encode, make_encoder  # noqa: E402


@pytest.mark.thorough
@pytest.mark.parametrize("name", ["test_resnet", "test_vit"])
def test_close_to_the_encoder(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    encoder = make_encoder(EncoderConfig(name=name, image_size=32)).eval().requires_grad_(False)
    asked = {"mean": [0.5] * 3, "std": [0.5] * 3, "input_size": [3, 32, 32]}
    model, small = tmp_path / "model.onnx", tmp_path / "small.onnx"
    export_onnx(encoder, golden_of(encoder, {"pretrained_cfg": asked}), model)
    images = torch.randn(40, 3, 32, 32)
    quantize(model, images[:32], small)
    rounded = OnnxEncoder(small)
    for count in (1, 3, 8):
        for kind, rows in encode(encoder, images[-count:]).items():
            found = rounded(images[-count:])[f"{kind}_features"]
            assert torch.cosine_similarity(found, rows).min() > 0.99
            assert not torch.equal(found, rows)
    assert small.stat().st_size < 0.6 * model.stat().st_size
    graph = onnx.load(small).graph
    weights = [each for each in graph.initializer if each.data_type == onnx.TensorProto.INT8]
    assert weights and max(onnx.numpy_helper.to_array(each).max() for each in weights) <= 64, "7 bits"
    assert str(Path(__file__).parents[4]).encode() not in small.read_bytes()
    assert str(tmp_path).encode() not in small.read_bytes()
    assert capsys.readouterr().out == ""


def test_what_cannot_be_quantized(tmp_path: Path):
    (tmp_path / "model.onnx").write_bytes(b"no model")
    with pytest.raises(UserError, match=r"--int8: onnxruntime cannot quantize this encoder \(.*\); leave --int8 out"):
        quantize(tmp_path / "model.onnx", torch.zeros(1, 3, 8, 8), tmp_path / "small.onnx")
