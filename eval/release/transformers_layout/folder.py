"""Writes a release once more as transformers' ``from_pretrained`` reads it, without code, and proves that it is equal.

The proof is of all tokens, or the whole map, of the golden images: equal to the bit, or it is not written. On other
machines both may round differently: transformers makes query, key and value by three layers, timm by one.
"""

import importlib.util
import json
import math
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import load_file
from timm.data.config import resolve_data_config
from timm.data.transforms_factory import create_transform
from torch import Tensor, nn

from eyespot.data_pipeline.errors import UserError
from eyespot.eval.release.golden import distance, golden_images, load_encoder
from eyespot.eval.release.hub.header import front_matter
from eyespot.eval.release.layout import CARD, CONFIG, GOLDEN, digest_of, read_json, settle
from eyespot.eval.release.transformers_layout.conversion import Conversion, converted
from eyespot.eval.release.verify import verified

MOST_LEVELS = 3
"""Largest difference of a prepared pixel from timm's transform, in levels of 255: one resizes with PIL, the other with
torch."""

_CARD = """\
# {name}

The encoder of the release {name} (digest `{digest}`), for transformers. Its own folder has the card with numbers,
data and limits, and the proof of what it is.

```python
import torch
from transformers import AutoImageProcessor, AutoModel

processor = AutoImageProcessor.from_pretrained("FOLDER")
model = AutoModel.from_pretrained("FOLDER").eval()
with torch.inference_mode():
    answer = model(**processor(image, return_tensors="pt"))
answer.last_hidden_state, answer.pooler_output
```

`pooler_output` is {pooled}.
Of the golden images both are timm's to the bit, in single precision, on the machine that wrote this. The processor's
pixels were within {levels} of 255 levels of those of timm's transform; of images that are not square, the middle that
is cut out may lie a pixel aside.
"""


def check(out: Path) -> None:
    """Whether the folder could be written: to be asked before the release is.

    Raises:
        UserError: transformers is not installed, or the folder exists.
    """
    if importlib.util.find_spec("transformers") is None:
        raise UserError('--transformers: needs transformers; pip install "eyespot[transformers]"')
    if out.exists():
        raise UserError(f"--transformers {out}: exists already; choose another folder, or remove it")


def write_transformers(release: Path, out: Path) -> Path:
    """Writes the folder, complete and proven, or nothing.

    Args:
        release: of which the encoder is; it is verified first.
        out: the folder to write; must not exist.

    Returns:
        ``out``.

    Raises:
        UserError: transformers is not installed, has no class for the encoder, or computes something else.
    """
    check(out)
    said = verified(release)
    encoder, config = load_encoder(release), read_json(release / CONFIG, str(release))
    conversion, asked = converted(encoder), dict[str, Any](config["pretrained_cfg"])  # type: ignore[call-overload]
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{out.name}.", suffix=".tmp", dir=out.parent) as room:
            folder = Path(room) / "layout"
            with _quietly():
                _save(conversion, folder)
            (folder / "preprocessor_config.json").write_text(json.dumps(_processor(asked), indent=1) + "\n")
            with _quietly():
                levels = _prove(folder, encoder, load_file(release / GOLDEN)["input"])
            words = {"name": said["name"], "digest": digest_of(release), "pooled": conversion.pooled}
            head = front_matter(said["license"], said["name"], [], "transformers")
            (folder / CARD).write_text(f"{head}\n\n{_CARD.format(**words, levels=levels)}", encoding="utf-8")
            settle(folder)
            folder.rename(out)
    except OSError as error:
        raise UserError(f"--transformers {out}: cannot be written ({error.strerror or error})") from error
    return out


def _save(conversion: Conversion, folder: Path) -> None:
    from transformers import AutoConfig, AutoModel

    config = AutoConfig.for_model(conversion.kind, **conversion.settings)
    model: Any = AutoModel.from_config(config)
    try:
        model.load_state_dict(conversion.tensors)
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise UserError(
            f"--transformers: its {conversion.kind} has other tensors ({reason:.200}); leave it out"
        ) from error
    model.save_pretrained(folder)


def _processor(asked: dict[str, Any]) -> dict[str, Any]:
    """What makes pixels as timm's transform does; of those that transformers has, Bit's does just that."""
    wanted = resolve_data_config(pretrained_cfg=asked)
    size = wanted["input_size"][-1]
    if wanted["crop_mode"] != "center" or wanted["interpolation"] not in ("bicubic", "bilinear"):
        raise UserError(
            f"--transformers: its processors have no crop_mode {wanted['crop_mode']!r} with"
            f" {wanted['interpolation']!r}; leave it out"
        )
    return {
        "image_processor_type": "BitImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"shortest_edge": int(size / wanted["crop_pct"])},
        "resample": {"bicubic": 3, "bilinear": 2}[wanted["interpolation"]],
        "do_center_crop": True,
        "crop_size": {"height": size, "width": size},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(wanted["mean"]),
        "image_std": list(wanted["std"]),
    }


def _prove(folder: Path, encoder: nn.Module, pixels: Tensor) -> int:
    """How far prepared pixels are from timm's, in levels of 255.

    Raises:
        UserError: too far, or features are not timm's to the bit.
    """
    from transformers import AutoImageProcessor, AutoModel

    model: Any = AutoModel.from_pretrained(folder, trust_remote_code=False).eval()
    processor: Any = AutoImageProcessor.from_pretrained(folder, trust_remote_code=False)
    timm_encoder: Any = encoder
    with torch.inference_mode():
        wanted, answer = timm_encoder.forward_features(pixels), model(pixel_values=pixels)
        pairs = ((answer.last_hidden_state, wanted), (answer.pooler_output.flatten(1), timm_encoder(pixels)))
    if not all(torch.equal(found, ours) for found, ours in pairs):
        far = max(distance(found, ours) for found, ours in pairs)
        raise UserError(
            f"--transformers: its features are off by {far:.1e} of the largest one, not equal; leave it out"
        )
    transform: Any = create_transform(**resolve_data_config(pretrained_cfg=timm_encoder.pretrained_cfg))
    image = Image.fromarray(golden_images(2 * pixels.shape[-1])[0].permute(1, 2, 0).numpy())
    made, ours = processor(image, return_tensors="pt")["pixel_values"][0], transform(image)
    std = torch.tensor(processor.image_std).view(3, 1, 1)
    levels = float(((made - ours) * std).abs().max() * 255) if made.shape == ours.shape else float("inf")
    if not levels <= MOST_LEVELS:
        raise UserError(f"--transformers: its processor's pixels are off by {levels:.1f} levels of 255; leave it out")
    return math.ceil(levels)


@contextmanager
def _quietly() -> Iterator[None]:
    """transformers draws bars and tells what it does."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
