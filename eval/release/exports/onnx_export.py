"""The encoder as ONNX, for those who serve it without torch; compared with torch on the golden input."""

import importlib.metadata
import importlib.util
import logging
import warnings
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor, nn

from eyespot.data_pipeline.errors import UserError
from eyespot.eval.release.exports.torch_export import NamedFeatures
from eyespot.eval.release.golden import distance

NEEDED = ("onnx", "onnxruntime", "onnxscript")
TOLERANCE = 1e-4
"""Largest difference from torch's features, as a share of the largest one."""

_TEXT = """\
Input `images`: normalised float32, any number × 3 × height × width as in `config.json`. Outputs: {names}.
On the golden input they are within {far:.0e} of torch's, as a share of the largest feature (allowed: {most:.0e}; by
onnxruntime {runtime})."""


class OnnxEncoder:
    """An encoder in an ONNX file, of our own: no stranger's is loaded."""

    def __init__(self, path: Path) -> None:
        import onnxruntime

        self._session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        self.names = [output.name for output in self._session.get_outputs()]

    def __call__(self, images: Float[Tensor, "b 3 h w"]) -> dict[str, Float32[Tensor, "b _"]]:
        """Its features of normalised images, by name: "cls_features", "mean_features"."""
        found = self._session.run(self.names, {"images": images.numpy()})
        return {name: torch.from_numpy(np.asarray(rows)) for name, rows in zip(self.names, found, strict=True)}


def require(flag: str) -> None:
    """Raises a UserError unless what ``flag`` needs is installed."""
    if missing := [name for name in NEEDED if importlib.util.find_spec(name) is None]:
        raise UserError(f"{flag}: needs {', '.join(missing)}; install eyespot[onnx]")


def export_onnx(encoder: nn.Module, golden: dict[str, Tensor], path: Path, flag: str = "--onnx") -> str:
    """Writes model.onnx; returns what the card says of it.

    Its input is "images", normalised, any number of them; its outputs are "cls_features", "mean_features", ...

    Args:
        encoder: in evaluation mode.
        golden: tensors of golden.safetensors.
        path: of the file.
        flag: that asked for it, for errors.

    Raises:
        UserError: a package is missing, the encoder cannot be exported, or its features are too far off.
    """
    require(flag)
    kinds = [name for name in golden if name not in ("images", "input")]
    names = [f"{kind}_features" for kind in kinds]  # nodes of the graph may be called "mean"
    try:
        _export(encoder, golden["input"], names, path)
        answers = OnnxEncoder(path)(golden["input"])
    except Exception as error:  # the exporter and the runtime raise dozens of kinds
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise UserError(f"{flag}: the encoder cannot be exported ({reason}); leave {flag} out") from error
    far = max(distance(answers[name], golden[kind]) for kind, name in zip(kinds, names, strict=True))
    if not far <= TOLERANCE:
        raise UserError(
            f"{flag}: features in ONNX are off by {far:.1e} of the largest one, more than {TOLERANCE:.0e};"
            f" leave {flag} out"
        )
    runtime = importlib.metadata.version("onnxruntime")
    return _TEXT.format(names=", ".join(f"`{name}`" for name in names), far=far, most=TOLERANCE, runtime=runtime)


def _export(encoder: nn.Module, images: Float[Tensor, "b 3 h w"], names: list[str], path: Path) -> None:
    import onnx

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        torch.onnx.export(
            NamedFeatures(encoder),
            (images,),
            path,
            input_names=["images"],
            output_names=names,
            dynamic_shapes={"images": {0: "batch"}},
            external_data=False,
            dynamo=True,
            verbose=False,
        )
    model = onnx.load(path)
    for described in (model.graph, *model.graph.node, *model.graph.initializer, *model.graph.value_info):
        del described.metadata_props[:]  # the exporter's: traces with the paths of this machine
    onnx.save(model, path)
