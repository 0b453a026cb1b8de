"""Images as rows of patches, and back."""

from jaxtyping import Float, Int, Shaped
from torch import Tensor


def take(rows: Float[Tensor, "b n d"], index: Int[Tensor, "b m"]) -> Float[Tensor, "b m d"]:
    """For each image the rows of the given numbers."""
    return rows.gather(1, index[..., None].expand(-1, -1, rows.shape[-1]))


def patchify(images: Shaped[Tensor, "b c h w"], size: int) -> Shaped[Tensor, "b n p"]:
    """(B, C, H, W) to (B, H/size * W/size, size * size * C): patches row-major, within a patch row, column, channel."""
    batch, channels, height, width = images.shape
    grid = images.reshape(batch, channels, height // size, size, width // size, size)
    return grid.permute(0, 2, 4, 3, 5, 1).reshape(batch, -1, size * size * channels)


def unpatchify(patches: Float[Tensor, "b n p"], size: int, grid: tuple[int, int]) -> Float[Tensor, "b c h w"]:
    """The inverse of ``patchify``."""
    rows, columns = grid
    pixels = patches.reshape(len(patches), rows, columns, size, size, -1)
    return pixels.permute(0, 5, 1, 3, 2, 4).reshape(len(patches), -1, rows * size, columns * size)
