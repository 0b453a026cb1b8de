"""A gated PixelCNN by whole kernels of figure 2, zeros where nothing may be seen, for references in float64.

What may be seen is written out here once more; the masks of the layers are not looked at.
"""

import torch
import torch.nn.functional as F


def slow_own_pixel(weight, mask, parts=1):
    """(D, C) weights of the own pixel without those of colours that may not be seen; channels are red, green, blue."""
    num_out, num_in = weight.shape
    rows = []
    for out in range(num_out):
        color = out % (num_out // parts) // (num_out // parts // 3)
        seen = [into // (num_in // 3) < color + (mask == "B") for into in range(num_in)]
        rows.append(torch.stack([weight[out, into] * float(seen[into]) for into in range(num_in)]))
    return torch.stack(rows)


def slow_left(maps, layer, mask, parts=1):
    """Half a kernel to the left, and of the own pixel what may be seen."""
    reach = layer.weight.shape[3] - 1
    beside = torch.zeros(*layer.weight.shape[:2], 1, 2 * reach + 1, dtype=maps.dtype)
    beside[:, :, 0, :reach] = layer.weight[:, :, 0, :reach]
    beside[:, :, 0, reach] = slow_own_pixel(layer.weight[:, :, 0, reach], mask, parts)
    return F.conv2d(maps, beside, layer.bias, padding=(0, reach))


def slow_stacks(encoder, values):
    """h after each layer."""
    found, vertical, horizontal = [], values, values
    for layer in encoder.blocks:
        first, (num_rows, size) = not found, layer.vertical.kernel_size
        dim = len(layer.vertical.weight) // 2
        above = torch.zeros(2 * dim, vertical.shape[1], size, size, dtype=values.dtype)
        above[:, :, :num_rows] = layer.vertical.weight
        above = F.conv2d(vertical, above, layer.vertical.bias, padding=size // 2)
        summed = slow_left(horizontal, layer.horizontal, "A" if first else "B", parts=2)
        summed = summed + torch.einsum("oc,bchw->bohw", layer.downwards.weight[:, :, 0, 0], above)
        summed = summed + layer.downwards.bias[:, None, None]
        gated = summed[:, :dim].tanh() / (1 + (-summed[:, dim:]).exp())
        added = slow_left(gated, layer.added, "B")
        horizontal = added if first else horizontal + added
        vertical = above[:, :dim].tanh() / (1 + (-above[:, dim:]).exp())
        found.append(horizontal)
    return found


def slow_logits(objective, levels):
    """(B, 768, H, W): of each pixel 256 numbers for red, then for green, then for blue."""
    _, hidden, _, last = objective.head
    maps = slow_stacks(objective.encoder, levels.double() / 127.5 - 1)[-1].clamp(min=0)
    return slow_left(slow_left(maps, hidden, "B").clamp(min=0), last, "B")
