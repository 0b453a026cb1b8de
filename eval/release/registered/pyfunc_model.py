"""A release as a model of MLflow's: ``mlflow.pyfunc.load_model("models:/NAME@ALIAS").predict(images)``.

    MLmodel, requirements.txt, ...   MLflow's, which name this file as what loads the model
    data/release/                    the release

Nothing is pickled and no code lies beside the release. It is verified when it is loaded, as ``eyespot pull`` does, and
its digest must be the one that stands in MLmodel. Who may write to the server can change both: who knows the digest
hands it over, ``load_model(..., model_config={"sha256": "8d2f..."})``.
"""

import io
import tempfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float32
from PIL import Image
from timm.data.config import resolve_data_config
from timm.data.transforms_factory import create_transform
from torch import nn

import eyespot
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.shards.image_check import BadImage, open_image
from eyespot.eval.release.golden import golden_images, load_encoder
from eyespot.eval.release.layout import CONFIG, digest_of, read_json
from eyespot.eval.release.verify import verified

if TYPE_CHECKING:
    import pandas

RELEASE = Path("data") / "release"
"""The release in the model's folder."""
_BATCH = 64
_PINNED = ("torch", "torchvision", "timm", "safetensors", "numpy", "pillow")


class ImageEmbedder:
    """What MLflow calls: encoded images in, features out.

    Args:
        encoder: in evaluation mode.
        asked: the release's ``pretrained_cfg``.
        device: where it computes.
    """

    def __init__(self, encoder: nn.Module, asked: dict[str, Any], device: str) -> None:
        self._encoder, self._device = encoder.to(device), device
        self._transform: Any = create_transform(**resolve_data_config({}, pretrained_cfg=asked))

    def predict(self, images: "pandas.DataFrame", params: dict[str, Any] | None = None) -> Float32[np.ndarray, "n dim"]:
        """A row of features for each image.

        Args:
            images: one column: the bytes of a JPEG, PNG or what else can be packed. MLflow makes it of a list.
            params: none are known.

        Raises:
            UserError: one of them is no image.
        """
        del params
        content = list(images.iloc[:, 0])
        rows = []
        for start in range(0, len(content), _BATCH):
            pixels = [self._pixels(one, start + place) for place, one in enumerate(content[start : start + _BATCH])]
            with torch.inference_mode():
                rows.append(self._encoder(torch.stack(pixels).to(self._device)).float().cpu().numpy())
        return np.concatenate(rows) if rows else np.zeros((0, 0), np.float32)

    def _pixels(self, content: bytes, place: int) -> Any:
        try:
            return self._transform(open_image(content))
        except BadImage as error:
            raise UserError(f"image {place}: {error}; give the bytes of an image file") from error


def _load_pyfunc(path: str, model_config: dict[str, Any] | None = None) -> ImageEmbedder:
    """What MLflow calls to load the model, with the folder ``data/release``.

    Args:
        path: of the release.
        model_config: ``sha256``, the digest that it must have; ``device``, "cpu" where none is named.

    Raises:
        UserError: it is not the release that it should be, or not whole.
    """
    folder, asked = Path(path), model_config or {}
    source = f"release {folder}"
    wanted = asked.get("sha256")
    verified(folder, source)
    if wanted is not None and digest_of(folder) != str(wanted).lower():
        raise UserError(f"{source}: is another release: its sha256 is {digest_of(folder)}, not {wanted}; do not use it")
    config: Any = read_json(folder / CONFIG, source)
    if (seen := len(config["pretrained_cfg"]["mean"])) != 3:
        raise UserError(f"{source}: sees images of {seen} bands, and pictures are given; load it with timm")
    return ImageEmbedder(load_encoder(folder, source), config["pretrained_cfg"], str(asked.get("device", "cpu")))


def save_model(folder: Path, into: Path) -> None:
    """Writes a release as such a model.

    Args:
        folder: the release.
        into: the model's folder, made.
    """
    import mlflow.pyfunc
    import pandas
    from mlflow.models import ModelSignature
    from mlflow.types.schema import ColSpec, DataType, Schema, TensorSpec

    signature = ModelSignature(
        inputs=Schema([ColSpec(DataType.binary)]),  # without a name, so that a list will do
        outputs=Schema([TensorSpec(np.dtype(np.float32), (-1, -1))]),
    )
    png = io.BytesIO()
    Image.fromarray(golden_images(32)[0].permute(1, 2, 0).numpy()).save(png, "PNG")
    with tempfile.TemporaryDirectory() as room:
        named = Path(room) / RELEASE.name
        named.symlink_to(folder.resolve())
        mlflow.pyfunc.save_model(
            str(into),
            loader_module=__name__,
            data_path=str(named),
            signature=signature,
            input_example=pandas.DataFrame([png.getvalue()]),
            pip_requirements=[f"eyespot=={eyespot.__version__}", *_pinned()],
            model_config={"sha256": digest_of(folder)},
        )


def _pinned() -> list[str]:
    found = []
    for name in _PINNED:
        try:
            found.append(f"{name}=={version(name).partition('+')[0]}")
        except PackageNotFoundError:
            continue
    return found
