"""How a GPU computes: what it makes of fp32 numbers, and whether it answers the same again. Said here alone.

torch's own defaults mean two things by fp32: matrix products take the numbers as they are, convolutions round them to
TF32 (10 bits of mantissa in place of 23) first. Here fp32 means fp32 in both, and tf32 means TF32 in both. A CPU takes
fp32 numbers as they are, whatever is asked for.

Many of a GPU's fast kernels add up by atomic additions, whose order differs from run to run. ``deterministic`` chooses
others; where torch has none, it refuses, and so does the run: a promise of bits that a warning takes back is none.
"""

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor

from eyespot.data_pipeline.errors import UserError

Precision = Literal["fp32", "tf32", "bf16"]

WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"
WORKSPACES = (":4096:8", ":16:8")
"""With which cuBLAS answers the same again, by its documentation; the first is the faster."""
_REFUSAL = "does not have a deterministic implementation"
_ONE_VALUE = "Expected more than 1 value per channel"


def set_arithmetic(
    device: torch.device, precision: Precision = "fp32", *, deterministic: bool = False, training: bool = False
) -> None:
    """Sets how this process computes, in all its threads, until it is set anew. Before the first kernel.

    Without arguments it is that of frozen evaluation: fp32 as it is, and the convolutions that cuDNN's rules choose.

    Args:
        device: what computes; only a GPU knows TF32.
        precision: tf32 rounds the inputs of matrix products and convolutions to TF32. What bf16's autocast leaves in
            fp32 is fp32.
        deterministic: the same bits again on the same GPU, software and number of ranks.
        training: batches of few shapes, many times: cuDNN may try all its convolutions and keep the fastest, unless
            ``deterministic``, for it may choose others after a restart.

    Raises:
        UserError: ``deterministic``, and cuBLAS has been told otherwise.
    """
    tf32 = precision == "tf32" and device.type == "cuda"
    # The older names first: torch's compiler asks for them, and torch refuses to answer where the two contradict.
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = tf32
    rounding = "tf32" if tf32 else "ieee"
    torch.backends.cuda.matmul.fp32_precision = rounding
    torch.backends.cudnn.conv.fp32_precision = rounding  # pyright: ignore[reportAttributeAccessIssue]
    torch.backends.cudnn.rnn.fp32_precision = rounding  # pyright: ignore[reportAttributeAccessIssue]
    if deterministic and os.environ.setdefault(WORKSPACE, WORKSPACES[0]) not in WORKSPACES:
        raise UserError(
            f"{WORKSPACE} {os.environ[WORKSPACE]!r}: --deterministic needs {' or '.join(WORKSPACES)}; unset it"
        )
    torch.use_deterministic_algorithms(deterministic)
    # torch would write NaN into each new tensor: a kernel more for each, to show who reads what nobody wrote. Nobody
    # here does: a test trains all methods with it.
    torch.utils.deterministic.fill_uninitialized_memory = False  # pyright: ignore[reportAttributeAccessIssue]
    _Resampling.replace("CUDA" if deterministic and device.type == "cuda" else None)
    torch.backends.cudnn.deterministic = deterministic
    torch.backends.cudnn.benchmark = training and not deterministic and device.type == "cuda"


def rounds_to_tf32() -> bool:
    """Whether fp32 numbers are rounded to TF32 before they are multiplied."""
    return torch.backends.cuda.matmul.fp32_precision == "tf32"


@contextmanager
def refusals_in_words(accumulate: int = 1) -> Iterator[None]:
    """Says in a line which operator has no deterministic kernel, or that batch norm has nothing to take a mean of.

    Args:
        accumulate: micro-batches per step.

    Raises:
        UserError: an operator within it refuses.
    """
    try:
        yield
    except (RuntimeError, ValueError) as error:
        if _ONE_VALUE in str(error):
            alone = "batch norm needs more than one image at a time, and gets one"
            whole = f"data.batch_size 1: {alone}; raise it"
            part = f"data.accumulate {accumulate}: {alone}; lower it, or raise data.batch_size"
            raise UserError(part if accumulate > 1 else whole) from error
        if _REFUSAL not in str(error):
            raise
        operator = str(error).split(_REFUSAL)[0].split()[-1]
        raise UserError(
            f"deterministic True: torch has no deterministic {operator}; leave it out, or take another encoder"
        ) from error


class _Resampling:
    """The gradient of antialiased bicubic resampling, by which vision transformers fit positions to small views.

    torch's CUDA kernel of it adds up by atomic additions and refuses to be deterministic. It is linear, and rows and
    columns go by themselves: sums over two small matrices, which the resampling itself gives for unit vectors.
    """

    _library: torch.library.Library | None = None

    @classmethod
    def replace(cls, device_key: str | None) -> None:
        """Takes the kernel's place on "CUDA" (or "CPU"), or gives it back."""
        if cls._library is not None:
            cls._library._destroy()
            cls._library = None
        if device_key is not None:
            cls._library = torch.library.Library("aten", "IMPL")
            with warnings.catch_warnings():  # that there was another, which is the point
                warnings.simplefilter("ignore")
                cls._library.impl("_upsample_bicubic2d_aa_backward", _bicubic_gradient, device_key)


def _bicubic_gradient(
    slope: Tensor,
    output_size: list[int],
    input_size: list[int],
    align_corners: bool,
    scales_h: float | None = None,
    scales_w: float | None = None,
) -> Tensor:
    """The gradient (n, c, h, w) of the input, of that of the output, as torch's kernel computes it."""
    scales = ((scales_h, None), (None, scales_w))
    rows, columns = (
        torch.ops.aten._upsample_bicubic2d_aa(
            torch.eye(before, dtype=slope.dtype, device=slope.device)[None, None],
            [after, before] if scale is scales[0] else [before, after],
            align_corners,
            *scale,
        )[0, 0]
        for before, after, scale in zip(input_size[2:], output_size, scales, strict=True)
    )  # (output rows, input rows) and (input columns, output columns)
    # Products and sums, no matrix products: those may be rounded to TF32.
    by_rows = (slope[..., :, None, :] * rows[:, :, None]).sum(-3)
    return (by_rows[..., None, :] * columns).sum(-1)
