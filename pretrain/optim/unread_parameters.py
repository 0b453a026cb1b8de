"""Parameters of an encoder that a method never reads: they get no gradient, so they are no part of the training.

An encoder brings what its own head needs (a norm after the mean, attention pooling, BEiT's mask token), and a method
that reads the class token, or the patch tokens, leaves it out. Engines wait for the gradient of every trainable
parameter on every rank; so these are frozen before an engine takes the objective, on any number of ranks.
"""

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from eyespot.data_pipeline.errors import UserError

Read = Callable[[nn.Module, Tensor], Tensor]
"""What a method reads of an encoder's look at images: (encoder, images (B, 3, H, W)) to any tensor."""


def freeze_unread(encoder: nn.Module, read: Read, image_size: int | tuple[int, ...]) -> list[str]:
    """Freezes the parameters that ``read`` does not reach, in place.

    The encoder is run once on a blank image and on torch's meta device, where nothing is computed; one that needs
    numbers to run is run on the CPU.

    Args:
        encoder: in any mode; neither that nor its buffers, nor torch's generator, are touched.
        read: what the method reads.
        image_size: height and width of the image, pixels; or channels, height and width of what is no image.

    Returns:
        The names of the frozen parameters.

    Raises:
        UserError: the encoder cannot see an image of that size.
    """
    trainable = [(name, parameter) for name, parameter in encoder.named_parameters() if parameter.requires_grad]
    if not trainable:
        return []
    shape = (3, image_size, image_size) if isinstance(image_size, int) else image_size
    reached = _reached(encoder, read, shape, trainable)
    frozen = [pair for pair, is_reached in zip(trainable, reached, strict=True) if not is_reached]
    for _, parameter in frozen:
        parameter.requires_grad_(False)
    return [name for name, _ in frozen]


def _reached(
    encoder: nn.Module, read: Read, shape: tuple[int, ...], trainable: list[tuple[str, nn.Parameter]]
) -> list[bool]:
    modes = [(part, part.training) for part in encoder.modules()]
    encoder.eval()  # batch norms take one image, and note nothing of it
    try:
        with torch.enable_grad(), torch.random.fork_rng(devices=[]):
            try:
                return _reached_on_meta(encoder, read, shape, trainable)
            except Exception:  # an architecture that asks a tensor for its value, or holds tensors outside its buffers
                images = torch.zeros(1, *shape, device=trainable[0][1].device)
                return _have_gradient(read(encoder, images), [parameter for _, parameter in trainable])
    except UserError:
        raise
    except Exception as error:  # whatever a stranger's architecture says
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        size = f"encoder.image_size {shape[1]}" if shape[1] == shape[2] else f"{' x '.join(map(str, shape))} numbers"
        raise UserError(f"{size}: {type(encoder).__name__} refuses images of that size ({reason})") from error
    finally:
        for part, mode in modes:
            part.training = mode


def _reached_on_meta(
    encoder: nn.Module, read: Read, shape: tuple[int, ...], trainable: list[tuple[str, nn.Parameter]]
) -> list[bool]:
    """On a copy, whose parameters and buffers have no values: some architectures keep what they computed."""
    blank: dict[int, Tensor] = {
        id(parameter): nn.Parameter(torch.empty_like(parameter, device="meta"), requires_grad=parameter.requires_grad)
        for parameter in encoder.parameters()
    }
    blank |= {id(buffer): torch.empty_like(buffer, device="meta") for buffer in encoder.buffers()}
    images = torch.zeros(1, *shape, device="meta")
    found = read(copy.deepcopy(encoder, dict(blank)), images)
    return _have_gradient(found, [blank[id(parameter)] for _, parameter in trainable])


def _have_gradient(found: Tensor, parameters: list[Tensor]) -> list[bool]:
    gradients = torch.autograd.grad(found.sum(), parameters, allow_unused=True)
    return [gradient is not None for gradient in gradients]
