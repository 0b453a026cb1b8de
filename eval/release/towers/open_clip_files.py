"""Both towers as open_clip has them: ``open_clip.create_model_and_transforms("local-dir:FOLDER")``.

open_clip builds timm's encoders by name alone, with a linear layer behind, and a text tower whose names are ours. What
it cannot build so is refused, and what it builds must answer the golden images and captions, which its own transform
and its own tokenizer prepare. Of large images its transform shows a little more than ours: the short side is scaled to
the image's size, and the middle cut out.
"""

import importlib
import importlib.util
import json
import warnings
from pathlib import Path
from typing import Any

import timm
import torch
from PIL import Image
from torch import Tensor, nn

from eyespot.data_pipeline.errors import UserError
from eyespot.eval.release.golden import same
from eyespot.eval.release.layout import OPEN_CLIP, SMALL_STEM, read_json
from eyespot.eval.release.towers.golden_views import EMBEDDING
from eyespot.eval.release.towers.joint_space import JointSpace
from eyespot.eval.release.towers.tokenizer_trial import GOLDEN_TEXTS
from eyespot.eval.release.towers.tower_files import load_tensors, save_tensors
from eyespot.pretrain.networks.towers.tower import TextTower

TOLERANCE = 1e-5
"""Of a unit vector's numbers, and of the scale's logarithm; absolute."""

_TEXT = """\
Both towers for open_clip 3, which needs nothing of eyespot. Its embeddings of the golden images and captions are within
{far:.0e} of ours (allowed: {most:.0e}). It scales an image's short side to {size} pixels and cuts out the middle.

```python
import open_clip

model, _, transform = open_clip.create_model_and_transforms("local-dir:FOLDER")
tokenizer = open_clip.get_tokenizer("local-dir:FOLDER")
images = model.eval().encode_image(transform(image)[None], normalize=True)
texts = model.encode_text(tokenizer(["a photo of a cat", "a photo of a dog"]), normalize=True)
```"""


def write_open_clip(folder: Path, space: JointSpace | None, config: dict[str, Any], golden: dict[str, Tensor]) -> str:
    """Writes open_clip's two files and lets it answer; returns what the card says.

    Args:
        folder: of the release.
        space: its towers; None = it has one.
        config: its config.json.
        golden: tensors of golden.safetensors.

    Raises:
        UserError: open_clip cannot build these towers, is not installed, or answers otherwise.
    """
    if space is None or space.joint[1] != "text":
        raise UserError(
            "--open-clip: open_clip has towers for images and captions, which this method lacks; leave it out"
        )
    if why := _unfit(space, config):
        raise UserError(f"--open-clip: {why}; leave it out")
    if importlib.util.find_spec("open_clip") is None:
        raise UserError('--open-clip: needs open_clip_torch; pip install "eyespot[text]"')
    (folder / OPEN_CLIP[0]).write_text(json.dumps(_config(space, config), indent=1) + "\n", encoding="utf-8")
    save_tensors(_tensors(space), folder / OPEN_CLIP[1])
    try:
        far = _distance(folder, golden)
    except Exception as error:  # open_clip and timm raise whatever they meet
        raise UserError(f"--open-clip: open_clip cannot load it ({_brief(error)}); leave it out") from error
    if not far <= TOLERANCE:
        raise UserError(
            f"--open-clip: open_clip's embeddings are off by {far:.1e}, more than {TOLERANCE:.0e}: it reads this image"
            " tower otherwise; leave it out"
        )
    return _TEXT.format(far=max(far, 1e-9), most=TOLERANCE, size=config["pretrained_cfg"]["input_size"][-1])


def check_open_clip(folder: Path, space: JointSpace | None, config: dict[str, Any], source: str) -> None:
    """That open_clip's files, where they are there, say what the others say.

    Raises:
        UserError: they do not.
    """
    if space is None or not (folder / OPEN_CLIP[0]).is_file():
        return
    if _unfit(space, config) or read_json(folder / OPEN_CLIP[0], source) != _config(space, config):
        raise UserError(f"{source}: {OPEN_CLIP[0]} describes other towers than the release's; fetch the release anew")
    found, wanted = load_tensors(folder / OPEN_CLIP[1], source), _tensors(space)
    odd = sorted(found.keys() ^ wanted.keys()) or [n for n in wanted if not _same(n, found[n], wanted[n])]
    if odd:
        raise UserError(f"{source}: {OPEN_CLIP[1]}: {odd[0][:100]} is not as in the release; fetch the release anew")


def _unfit(space: JointSpace, config: dict[str, Any]) -> str:
    """Why open_clip cannot build these towers; empty where it can."""
    name, asked = config["architecture"], config["pretrained_cfg"]
    if name.endswith(SMALL_STEM):
        return f"open_clip builds {name.removesuffix(SMALL_STEM)} with its own stem, and this one's is small"
    known, size = timm.get_pretrained_cfg(name), asked["input_size"][-1]
    if known is not None and known.fixed_input_size and known.input_size[-1] != size:
        return f"open_clip builds {name} for {known.input_size[-1]} pixels, and this one sees {size}"
    if (config.get("model_args") or {}).get("patch_size") is not None:
        return f"open_clip builds {name} with its own patches, and this one's have other sizes"
    if space.tokenizer is None or not space.tokenizer.mends:
        return "open_clip reads captions with CLIP's tokenizer, and this text tower with another"
    behind = dict(space.projections.items())
    if not isinstance(behind.get("image"), nn.Linear) or "text" in behind or space.scale is None:
        return "open_clip has one linear layer behind the image tower, none behind the text tower, and a learned scale"
    return ""


def _config(space: JointSpace, config: dict[str, Any]) -> dict[str, Any]:
    tower, asked, projection = space.config, config["pretrained_cfg"], space.projections["image"]
    assert isinstance(tower, TextTower) and isinstance(projection, nn.Linear)
    size = asked["input_size"][-1]
    vision = {
        "timm_model_name": config["architecture"],
        "timm_model_pretrained": False,
        "timm_pool": "",
        "timm_proj": "linear",
        "timm_proj_bias": projection.bias is not None,
        "image_size": size,
    }
    text = {
        "context_length": tower.context,
        "vocab_size": tower.num_tokens,
        "width": tower.width,
        "heads": tower.heads,
        "layers": tower.layers,
    }
    model: dict[str, Any] = {"embed_dim": tower.out_dim, "vision_cfg": vision, "text_cfg": text}
    if space.bias is not None:
        model["init_logit_bias"] = float(space.bias)
    names = ("mean", "std", "interpolation")
    preprocess = {"size": size, "mode": "RGB", **{name: asked[name] for name in names}, "resize_mode": "shortest"}
    return {"model_cfg": model, "preprocess_cfg": preprocess}


def _tensors(space: JointSpace) -> dict[str, Tensor]:
    """By open_clip's names."""
    assert space.scale is not None
    tensors = {f"visual.trunk.{name}": tensor for name, tensor in space.encoder.state_dict().items()}
    tensors |= {f"visual.head.proj.{n}": t for n, t in space.projections["image"].state_dict().items()}
    tensors |= space.tower.state_dict()
    tensors["logit_scale"] = space.scale.log().squeeze()
    if space.bias is not None:
        tensors["logit_bias"] = space.bias.squeeze()
    return tensors


def _same(name: str, found: Tensor, wanted: Tensor) -> bool:
    """Whether the tensor of that name is; a logarithm's last bits are another processor's own."""
    if name == "logit_scale" and (found.dtype, found.shape) == (wanted.dtype, wanted.shape):
        return torch.allclose(found, wanted, rtol=0, atol=TOLERANCE)
    return same(found, wanted)


def _distance(folder: Path, golden: dict[str, Tensor]) -> float:
    """Of open_clip's embeddings from the golden ones."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        library: Any = importlib.import_module("open_clip")
        model, _, transform = library.create_model_and_transforms(f"local-dir:{folder}")
        tokenizer = library.get_tokenizer(f"local-dir:{folder}")
    seen = [transform(Image.fromarray(image.permute(1, 2, 0).numpy())) for image in golden["images"]]
    with torch.inference_mode():
        images = model.eval().encode_image(torch.stack(seen), normalize=True)
        texts = model.encode_text(tokenizer(list(GOLDEN_TEXTS)), normalize=True)
    pairs = ((images, golden[f"{EMBEDDING}.image"]), (texts, golden[f"{EMBEDDING}.text"]))
    return max(float((found - wanted).abs().max()) for found, wanted in pairs)


def _brief(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]
