"""Feature maps for what looks at places: the last ones of an encoder, down to a wanted stride.

A vision transformer's blocks all have the stride of its patches, so that is one map, the last block's. Networks that
shrink the image stage by stage (ResNet, ConvNeXt, Swin) have theirs at strides of 4, 8, 16, 32: what was published
about places in video takes strides away, which changes the network. Here it stays timm's, and its finer maps are read.
"""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from eyespot.pretrain.networks.encoders import last_tokens
from eyespot.pretrain.networks.eval_mode import at_rest

STRIDE = 8
"""Of Vondrick et al. 2018 and those after them: 32 x 32 places of 256 pixels."""
_ALL = 10_000


def maps_at_stride(encoder: nn.Module, image_size: int, stride: int = STRIDE) -> list[tuple[int, int, int]]:
    """The encoder's last maps, from the first that has the stride, or a finer one, to the last: channels and sides.

    How many they are is what ``last_tokens`` wants to know. Where all are coarser, from the finest on. Found by a look
    at one black image; on torch's meta device nothing is computed.

    Args:
        encoder: a timm encoder.
        image_size: height and width of what it sees, pixels.
        stride: pixels of the image from one place to the next.

    Raises:
        UserError: timm does not hand out the feature maps of this architecture.
    """
    with at_rest(encoder):
        blank = next(encoder.parameters()).new_zeros(1, 3, image_size, image_size)
        last = _shape(last_tokens(encoder, blank)[-1].patches)
        if last[1] * stride >= image_size:
            return [last]
        shapes = [_shape(tokens.patches) for tokens in last_tokens(encoder, blank, _ALL)]
    count = 1
    while count < len(shapes) and shapes[-count][1] * stride < image_size and shapes[-count - 1][1] > shapes[-count][1]:
        count += 1
    return shapes[-count:]


class DenseFeatures(nn.Module):
    """A row for each place of the finest of an encoder's last maps: all of them, widened and added up there.

    1x1 convolutions bring the maps to one width, repeated pixels the coarse ones to the finest one's resolution.

    Args:
        encoder: whose maps will come; it is not kept.
        image_size: height and width of what it sees, pixels.
        out_channels: of the rows.
        stride: as for ``maps_at_stride``.
    """

    def __init__(self, encoder: nn.Module, image_size: int, out_channels: int, stride: int = STRIDE) -> None:
        super().__init__()
        found = maps_at_stride(encoder, image_size, stride)
        self.grid = found[0][1:]
        self.laterals = nn.ModuleList(nn.Conv2d(channels, out_channels, 1) for channels, _, _ in found)

    def read(self, encoder: nn.Module, images: Float[Tensor, "b c h w"]) -> list[Float[Tensor, "b _ _ _"]]:
        """The maps that ``forward`` takes."""
        return [tokens.patches for tokens in last_tokens(encoder, images, len(self.laterals))]

    def forward(self, maps: list[Float[Tensor, "b _ _ _"]]) -> Float[Tensor, "b d h w"]:
        """Their sum."""
        size = maps[0].shape[2:]
        parts = [lateral(each) for lateral, each in zip(self.laterals, maps, strict=True)]
        coarse = [F.interpolate(part, size, mode="nearest") for part in parts[1:]]
        return sum(coarse, parts[0])


def _shape(patches: Float[Tensor, "1 d h w"]) -> tuple[int, int, int]:
    return patches.shape[1], patches.shape[2], patches.shape[3]
