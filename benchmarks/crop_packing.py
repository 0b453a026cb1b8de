"""Is a multi-crop step of a ViT faster when large and small views go through it together? Forward and backward.

    OMP_NUM_THREADS=1 python benchmarks/crop_packing.py
    python benchmarks/crop_packing.py --device cuda --dtype bfloat16 --batches 8 32 128

As DINO, iBOT, DINOv2 and DINOv3 have it, a student sees two large views and eight small ones of each image:

    apart    two passes, as these methods train: large views, then small ones
    packed   one pass: layers that know no neighbours get all tokens in one matrix, attention is of each group's own
    nested   the same with torch's nested tensors (jagged), whose attention knows where each view ends; on GPUs alone:
             without one, torch 2.14's asks CUDA which kernel to take, and fails

Outputs and gradients are compared first. Ratios are medians over rounds, in which the sides take turns.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import timm
import torch
import torch.nn.functional as F
from results import write_results
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn

NAME = "crop_packing"
LARGE, SMALL, NUM_LARGE, NUM_SMALL = 224, 96, 2, 8
TOLERANCE = 1e-3
"""Of outputs and gradients, as a share of the largest."""


def embedded(vit: VisionTransformer, images: Tensor) -> Tensor:
    """Tokens before the first block, with their positions resampled to the view's grid."""
    return vit.norm_pre(vit._pos_embed(vit.patch_embed(images)))


def apart(vit: VisionTransformer, views: list[Tensor]) -> list[Tensor]:
    """Class tokens, a pass for each size."""
    return [vit.norm(vit.blocks(embedded(vit, images)))[:, 0] for images in views]


def packed(vit: VisionTransformer, views: list[Tensor], attend: Callable[..., list[Tensor]]) -> list[Tensor]:
    """Class tokens, all sizes in one pass."""
    groups = [embedded(vit, images) for images in views]
    shapes = [group.shape[:2] for group in groups]
    rows = torch.cat([group.flatten(0, 1) for group in groups])
    for block in vit.blocks:
        assert isinstance(block, Block)
        attention = block.attn
        each = attention.qkv(block.norm1(rows)).unflatten(1, (3, attention.num_heads, -1)).unbind(1)
        seen = attend(*each, shapes)
        rows = rows + attention.proj(torch.cat(seen))
        rows = rows + block.mlp(block.norm2(rows))
    rows = vit.norm(rows)
    parts = rows.split([count * length for count, length in shapes])
    return [part.unflatten(0, shape)[:, 0] for part, shape in zip(parts, shapes, strict=True)]


def by_group(queries: Tensor, keys: Tensor, values: Tensor, shapes: list[tuple[int, int]]) -> list[Tensor]:
    """Attention of each group, whose views are equally long."""
    sizes = [count * length for count, length in shapes]
    found = list[Tensor]()
    for parts, shape in zip(
        zip(*(each.split(sizes) for each in (queries, keys, values)), strict=True), shapes, strict=True
    ):
        q, k, v = (part.unflatten(0, shape).transpose(1, 2) for part in parts)
        found.append(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(0, 1).flatten(1))
    return found


def by_nested(queries: Tensor, keys: Tensor, values: Tensor, shapes: list[tuple[int, int]]) -> list[Tensor]:
    """Attention of all views at once."""
    lengths = torch.tensor([length for count, length in shapes for _ in range(count)], device=queries.device)
    ends = F.pad(lengths.cumsum(0), (1, 0))
    q, k, v = (
        torch.nested.nested_tensor_from_jagged(
            each, ends, min_seqlen=min(s for _, s in shapes), max_seqlen=max(s for _, s in shapes)
        ).transpose(1, 2)
        for each in (queries, keys, values)
    )
    return [F.scaled_dot_product_attention(q, k, v).transpose(1, 2).values().flatten(1)]


SIDES: dict[str, Callable[[VisionTransformer, list[Tensor]], list[Tensor]]] = {
    "apart": apart,
    "packed": lambda vit, views: packed(vit, views, by_group),
    "nested": lambda vit, views: packed(vit, views, by_nested),
}


def sides(device: str) -> list[str]:
    """Those that run there."""
    return [side for side in SIDES if side != "nested" or device.startswith("cuda")]


def step(vit: nn.Module, side: str, views: list[Tensor], dtype: torch.dtype) -> Tensor:
    """Forward and backward of a loss of all class tokens; these."""
    vit.zero_grad()
    with torch.autocast(views[0].device.type, dtype, enabled=dtype != torch.float32):
        classes = torch.cat(SIDES[side](vit, views))
    classes.float().square().mean().backward()
    return classes.detach().float()


def check(vit: nn.Module, views: list[Tensor]) -> None:
    """Outputs and gradients of all sides are those of the first."""
    wanted: list[Tensor] = []
    for side in sides(views[0].device.type):
        found = [
            step(vit, side, views, torch.float32),
            *(each.grad for each in vit.parameters() if each.grad is not None),
        ]
        wanted = wanted or [each.clone() for each in found]
        for one, other in zip(found, wanted, strict=True):
            assert (one - other).abs().max() <= TOLERANCE * other.abs().max(), side


def seconds(vit: nn.Module, side: str, views: list[Tensor], dtype: torch.dtype) -> float:
    """Of one step."""
    begun = time.perf_counter()
    step(vit, side, views, dtype)
    if views[0].is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - begun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["vit_tiny_patch16_224", "vit_small_patch16_224"])
    parser.add_argument("--batches", type=int, nargs="+", default=[2, 8], help="images of a step")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    asked = parser.parse_args()
    rows, details = list[list[str]](), list[dict[str, object]]()
    for model in asked.models:
        torch.manual_seed(0)
        vit = timm.create_model(model, num_classes=0, dynamic_img_size=True).to(asked.device)
        for batch in asked.batches:
            sizes = ((NUM_LARGE * batch, LARGE), (NUM_SMALL * batch, SMALL))
            views = [torch.randn(count, 3, side, side, device=asked.device) for count, side in sizes]
            check(vit, views)
            taken: dict[str, list[float]] = {side: [] for side in sides(asked.device)}
            for _ in range(asked.rounds):
                for side, found in taken.items():
                    found.append(seconds(vit, side, views, getattr(torch, asked.dtype)))
            ratios = {
                side: statistics.median(a / b for a, b in zip(taken["apart"], taken[side], strict=True))
                for side in taken
            }
            cells = [f"{ratios[side]:.2f}x" for side in taken if side != "apart"]
            rows.append([model, str(batch), f"{batch / statistics.median(taken['apart']):.1f}", *cells])
            details.append({"model": model, "batch": batch, "seconds": taken, "ratios": ratios})
    write_results(
        NAME,
        title=f"Multi-crop steps, {LARGE} and {SMALL} pixels, {asked.device}, {asked.dtype}: against two passes",
        header=["encoder", "images", "images/s, apart", *sides(asked.device)[1:]],
        rows=rows,
        details={"measured": details},
    )


if __name__ == "__main__":
    main()
