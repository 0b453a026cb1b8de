"""The encoder as ONNX, for those who serve it without torch; compared with torch on the golden input."""

import importlib.util
import logging
import warnings
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from eyespot.data_pipeline.errors import UserError
from eyespot.eval.release.golden import distance
from eyespot.pretrain.encoders import encode

NEEDED = ("onnx", "onnxruntime", "onnxscript")
TOLERANCE = 1e-4
"""Largest difference from torch's features, as a share of the largest one."""

_TEXT = """\
Input `images`: normalised float32, any number × 3 × height × width as in `config.json`. Outputs: {kinds}. On the golden
input they are within {far:.0e} of torch's, as a share of the largest feature (allowed: {most:.0e}; by onnxruntime
{runtime})."""


class Features(nn.Module):
    """Every kind of features of an encoder, in the order of ``encode``."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> tuple[Tensor, ...]:
        """The features of normalised images."""
        return tuple(encode(self.encoder, images).values())


def export_onnx(encoder: nn.Module, golden: dict[str, Tensor], path: Path) -> str:
    """Writes model.onnx; returns what the card says of it.

    Its input is "images", normalised, any number of them; its outputs are the kinds of features by name.

    Args:
        encoder: in evaluation mode.
        golden: tensors of golden.safetensors.
        path: of the file.

    Raises:
        UserError: a package is missing, the encoder cannot be exported, or its features are too far off.
    """
    if missing := [name for name in NEEDED if importlib.util.find_spec(name) is None]:
        raise UserError(f"--onnx: needs {', '.join(missing)}; install eyespot[onnx]")
    import onnxruntime  # pyright: ignore[reportMissingImports]

    kinds = [name for name in golden if name not in ("images", "input")]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            logging.getLogger("torch.onnx").setLevel(logging.ERROR)
            torch.onnx.export(
                Features(encoder),
                (golden["input"],),
                path,
                input_names=["images"],
                output_names=kinds,
                dynamic_shapes={"images": {0: torch.export.Dim.DYNAMIC}},
                external_data=False,
                dynamo=True,
                verbose=False,
            )
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        answers = session.run(kinds, {"images": golden["input"].numpy()})
    except Exception as error:  # the exporter and the runtime raise dozens of kinds
        raise UserError(f"--onnx: cannot be exported ({str(error).strip().splitlines()[0][:200]})") from error
    far = max(distance(torch.from_numpy(answer), golden[kind]) for kind, answer in zip(kinds, answers, strict=True))
    if not far <= TOLERANCE:
        raise UserError(f"--onnx: features are off by {far:.1e} of the largest one, more than {TOLERANCE:.0e}")
    return _TEXT.format(kinds=", ".join(kinds), far=far, most=TOLERANCE, runtime=onnxruntime.__version__)
