"""The encoder as a torch.export program, for those who have torch and neither timm nor eyespot.

``torch.export.load`` may unpickle what lies in the file, so a program is loaded here by who wrote it, and never by who
verifies what a stranger sent.
"""

import warnings
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from eyespot.data_pipeline.errors import UserError
from eyespot.eval.release.golden import distance
from eyespot.eval.release.layout import PT2
from eyespot.pretrain.networks.encoders import encode

TOLERANCE = 1e-5
"""Largest difference from the encoder's own features, as a share of the largest one; on a CPU there is none."""
BATCHES = (1, 2, 7)
"""Numbers of images that it is tried with: one and two are those that a program is easily bound to."""

_TEXT = """\
A torch.export program, written by torch {torch}, for which torch alone is needed: no timm, no eyespot.

```python
import torch

encoder = torch.export.load("FOLDER/{file}").module()
features = encoder(images)["{first}"]
```

`images`: normalised float32, any number × 3 × {sides}. It answers with {names}.
For {batches} images these are the encoder's own {how}. `torch.export.load` can run code that a file
holds: load this one only if it came from people whom you trust. Other versions of torch may refuse it."""


class NamedFeatures(nn.Module):
    """Every kind of features of an encoder, by the names of the ONNX file's outputs."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> dict[str, Tensor]:
        """The features of normalised images."""
        return {f"{kind}_features": rows for kind, rows in encode(self.encoder, images).items()}


def export_pt2(encoder: Any, golden: dict[str, Tensor], path: Path) -> tuple[str, dict[str, Any]]:
    """Writes encoder.pt2; returns what the card says of it, and what provenance.json does.

    It takes normalised images, any number of them, of any size where the encoder does, and returns a dict:
    "cls_features", "mean_features", ...

    Args:
        encoder: of timm, in evaluation mode.
        golden: tensors of golden.safetensors.
        path: of the file.

    Raises:
        UserError: torch cannot export the encoder, or the program's features are too far off.
    """
    images = golden["input"].clone()  # the file holds them, with all of the memory that a view lies in
    any_size = not encoder.pretrained_cfg.get("fixed_input_size")
    try:
        program = _exported(encoder, images, any_size=any_size)
        _forget_sources(program)
        torch.export.save(program, path, extra_files={"torch_version": torch.__version__})
        far = _farthest(path, encoder, images, any_size=any_size)
    except Exception as error:  # torch.export raises dozens of kinds
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise UserError(f"--pt2: torch {torch.__version__} cannot export it ({reason}); leave --pt2 out") from error
    if not far <= TOLERANCE:
        raise UserError(
            f"--pt2: features are off by {far:.1e} of the largest one, more than {TOLERANCE:.0e}; leave --pt2 out"
        )
    names = [f"{kind}_features" for kind in golden if kind not in ("images", "input")]
    text = _TEXT.format(
        torch=torch.__version__,
        file=PT2,
        first=names[0],
        sides="any height × any width" if any_size else f"{images.shape[2]} × {images.shape[3]} pixels",
        names=", ".join(f"`{name}`" for name in names),
        batches=", ".join(map(str, BATCHES[:-1])) + f" and {BATCHES[-1]}",
        how="to the last bit" if far == 0 else f"within {far:.0e} of the largest one",
    )
    return text, {"torch": torch.__version__, "any_size": any_size, "far": far}


def _exported(encoder: nn.Module, images: Float[Tensor, "b 3 h w"], *, any_size: bool) -> ExportedProgram:
    shape = {0: Dim.DYNAMIC} | ({2: Dim.DYNAMIC, 3: Dim.DYNAMIC} if any_size else {})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.export.export(NamedFeatures(encoder), (images,), dynamic_shapes={"images": shape})


def _forget_sources(program: ExportedProgram) -> None:
    """Which line of which file made each operation: traces with the paths of this machine."""
    for module in program.graph_module.modules():
        if isinstance(module, torch.fx.GraphModule):
            for node in module.graph.nodes:
                for name in ("stack_trace", "nn_module_stack", "source_fn_stack", "torch_fn"):
                    node.meta.pop(name, None)


def _farthest(path: Path, encoder: nn.Module, images: Float[Tensor, "b 3 h w"], *, any_size: bool) -> float:
    """Largest distance of what the written program answers from the encoder's own answer."""
    written = torch.export.load(path).module()
    shifted = torch.cat([images.roll(shift, -1) for shift in range(max(BATCHES))])
    tried = [shifted[:count] for count in BATCHES]
    if any_size:
        tried.append(torch.cat([images, images[..., : images.shape[-1] // 2]], -1))
    found = 0.0
    with torch.inference_mode():
        for batch in tried:
            wanted, answered = NamedFeatures(encoder)(batch), written(batch)
            found = max([found, *(distance(answered[name], rows) for name, rows in wanted.items())])
    return found
