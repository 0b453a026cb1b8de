"""NT-Xent by tiles against the whole matrix of logits, from 4,096 to 65,536 images; sizes of tiles; TF32."""

import torch
import torch.nn.functional as F
from gpu.instruments import DEVICE, DRY, Note, milliseconds, peak_mebibytes
from torch import Tensor

from eyespot.pretrain.losses import tiled_logsumexp
from eyespot.pretrain.losses.contrastive import nt_xent_loss

COUNTS, TILES = ((64,), (768,)) if DRY else ((4096, 16384, 65536), (2048, 4096, 8192))
TEMPERATURE, DIM = 0.1, 128
MOST_WHOLE = 16384
"""Images whose 2N x 2N logits, twice in fp32, are still stored."""


def run(note: Note) -> None:
    usual = tiled_logsumexp.TILE_ROWS[DEVICE.type]
    for count in COUNTS:
        generator = torch.Generator(DEVICE).manual_seed(0)
        views = [torch.randn(count, DIM, device=DEVICE, generator=generator).requires_grad_() for _ in range(2)]

        def ours(given: list[Tensor] = views) -> None:
            nt_xent_loss(given, TEMPERATURE).backward()

        for rows in TILES:
            tiled_logsumexp.TILE_ROWS[DEVICE.type] = rows
            note(f"{count} images, tiles of {rows}", f"{milliseconds(ours):.2f} ms, {peak_mebibytes(ours)}")
        tiled_logsumexp.TILE_ROWS[DEVICE.type] = usual
        torch.backends.cuda.matmul.allow_tf32 = True
        note(f"{count} images, tiles of {usual}, TF32", f"{milliseconds(ours):.2f} ms")
        torch.backends.cuda.matmul.allow_tf32 = False
        if count <= MOST_WHOLE:

            def whole(given: list[Tensor] = views) -> None:
                whole_matrix_loss(given).backward()

            note(f"{count} images, whole matrix", f"{milliseconds(whole):.2f} ms, {peak_mebibytes(whole)}")


def whole_matrix_loss(views: list[Tensor]) -> Tensor:
    """The same loss, with all logits stored."""
    rows = F.normalize(torch.cat(views), dim=1)
    logits = rows @ rows.T / TEMPERATURE
    logits.fill_diagonal_(-1e9)
    pairs = (torch.arange(len(rows), device=rows.device) + len(rows) // 2) % len(rows)
    return F.cross_entropy(logits, pairs)
