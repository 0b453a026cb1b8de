"""The steps of a view, its normalisation and its layout in at most three Triton kernels.

A program reads 8-bit pixels once, does each view's own sequence of steps in registers by a switch on the step's number,
and writes what the encoder reads. The mean gray of contrast is a kernel of its own, as it needs the whole view; a
blurred view is another: its program takes whole rows, changes the colours of the rows above and below again instead of
writing them down (more arithmetic, a third of the bytes), and blurs along the rows in shared memory.

The operations are those of ``color.py``, one by one: nothing is contracted to a fused multiply-add, and divisions are
rounded as IEEE 754 says, so the values are those of the CPU.

Imported only where there is a GPU, or where Triton interprets (TRITON_INTERPRET=1).
"""

from collections.abc import Sequence
from typing import Any, no_type_check

import triton
import triton.language as tl
from jaxtyping import Float, Float32, UInt8
from torch import Tensor

from eyespot.data_pipeline.augment.color import brightness, contrast, hue, saturation, solarize
from eyespot.data_pipeline.augment.pipeline import OPERATIONS
from eyespot.data_pipeline.augment.view_tables import ViewTables

BRIGHTNESS = tl.constexpr(OPERATIONS.index(brightness))
CONTRAST = tl.constexpr(OPERATIONS.index(contrast))
SATURATION = tl.constexpr(OPERATIONS.index(saturation))
HUE = tl.constexpr(OPERATIONS.index(hue))
SOLARIZE = tl.constexpr(OPERATIONS.index(solarize))
ROUNDING = tl.constexpr(1.5 * 2**23)
"""Added and taken away again, it rounds to whole numbers, halves to even ones."""
TILE = 1024
"""Pixels that a program changes at once."""
EXACT: dict[str, Any] = dict(enable_fp_fusion=False)
"""Else products and sums would become one operation that rounds once, where the CPU rounds twice."""


def finish_by_kernels(
    pixels: UInt8[Tensor, "b h w 3"] | Float32[Tensor, "b h w 3"],
    tables: ViewTables,
    numbers: Sequence[Tensor],
    mean: Sequence[float],
    inverse_std: Sequence[float],
    out: Float[Tensor, "b 3 h w"],
) -> None:
    """Alters and normalises one view of each image.

    Args:
        pixels: square, contiguous, on a GPU; levels where RandAugment has changed them.
        tables: what is done to them.
        numbers: ``tables.arrays`` on that GPU.
        mean: per channel, 8-bit levels.
        inverse_std: per channel, per 8-bit level.
        out: where the views go, float32 or bfloat16, channels last.
    """
    ends, noise, steps, amounts, totals, gray_rows, gray_ends, sharp_rows, blurred_rows, radii, weights = numbers
    size, num_steps = pixels.shape[1], steps.shape[1]
    area, colors = size * size, (*mean, *inverse_std, ends, noise, noise.shape[1])
    shape = dict(STEPS=num_steps, ENDS=len(ends) > 0)
    if len(gray_rows):
        grid = len(gray_rows), triton.cdiv(area, TILE)
        gray_totals[grid](
            pixels, gray_rows, gray_ends, steps, amounts, totals, area, STEPS=num_steps, TILE=TILE, **EXACT
        )
    if len(sharp_rows):
        grid = len(sharp_rows), triton.cdiv(area, TILE)
        sharp_views[grid](pixels, sharp_rows, steps, amounts, totals, out, size, *colors, **shape, TILE=TILE, **EXACT)
    if len(blurred_rows):
        width = triton.next_power_of_2(size)
        height = max(1, TILE // width)
        grid = len(blurred_rows), triton.cdiv(size, height)
        shape |= dict(BLUR=tables.blur, TAPS=weights.shape[1], HEIGHT=height, WIDTH=width)
        blurred_views[grid](
            pixels, blurred_rows, radii, weights, steps, amounts, totals, out, size, *colors, **shape, **EXACT
        )


@no_type_check
@triton.jit
def clipped(level):
    """Levels within 0..255."""
    return tl.minimum(tl.maximum(level, 0.0), 255.0)


@no_type_check
@triton.jit
def rounded(number):
    """To whole numbers, halves to even ones."""
    return (number + ROUNDING) - ROUNDING


@no_type_check
@triton.jit
def gray_level(red, green, blue):
    """The luma of ITU-R BT.601."""
    return (red * 0.299 + green * 0.587) + blue * 0.114


@no_type_check
@triton.jit
def _on_circle(place, chroma, low):
    return tl.minimum(tl.maximum(place, 0.0), 1.0) * chroma + low


@no_type_check
@triton.jit
def _hue(red, green, blue, turn):
    low = tl.minimum(tl.minimum(red, green), blue)
    chroma = tl.maximum(tl.maximum(red, green), blue) - low
    distance = tl.div_rn(((green + blue) - red) - low, tl.maximum(chroma, 1e-3)) + 1.0
    place = tl.abs(3.0 - distance)
    place = tl.where(blue < green, -place, place) + turn
    place = place - rounded(tl.div_rn(place, tl.full(place.shape, 6.0, tl.float32))) * 6.0
    red = _on_circle(tl.abs(place) - 1.0, chroma, low)
    green = _on_circle(2.0 - tl.abs(place + 1.0), chroma, low)
    blue = _on_circle(2.0 - tl.abs(place - 1.0), chroma, low)
    return red, green, blue


@no_type_check
@triton.jit
def changed(red, green, blue, steps, amounts, mean, begin, end):
    """The levels after the steps ``begin`` to ``end`` of one view; hue's amount is in sixths of a turn."""
    for column in range(begin, end):
        step = tl.load(steps + column)
        amount = tl.load(amounts + column)
        if step == BRIGHTNESS:
            red, green, blue = clipped(red * amount), clipped(green * amount), clipped(blue * amount)
        elif (step == CONTRAST) | (step == SATURATION):
            middle = tl.where(step == CONTRAST, mean, gray_level(red, green, blue))
            rest = middle * (1.0 - amount)
            red, green, blue = (
                clipped(red * amount + rest),
                clipped(green * amount + rest),
                clipped(blue * amount + rest),
            )
        elif step == HUE:
            red, green, blue = _hue(red, green, blue, amount)
        elif step == SOLARIZE:
            red, green, blue = (
                tl.minimum(red, 255.0 - red),
                tl.minimum(green, 255.0 - green),
                tl.minimum(blue, 255.0 - blue),
            )
    return red, green, blue


@no_type_check
@triton.jit
def loaded(pixels, place, inside):
    """The levels of the pixels at these places of a view."""
    red = tl.load(pixels + 3 * place, inside, other=0).to(tl.float32)
    green = tl.load(pixels + 3 * place + 1, inside, other=0).to(tl.float32)
    blue = tl.load(pixels + 3 * place + 2, inside, other=0).to(tl.float32)
    return red, green, blue


@no_type_check
@triton.jit
def _mean(totals, row, area):
    return (tl.load(totals + row).to(tl.float64) / area.to(tl.float64)).to(tl.float32)


@no_type_check
@triton.jit
def store_view(
    out, place, inside, size, red, green, blue,
    offset0, offset1, offset2, factor0, factor1, factor2, ends, noise, num_noise, ENDS: tl.constexpr,
):  # fmt: skip
    """Normalises pixels of a view; with ENDS puts noise into its rectangle, and mirrors it last."""
    red, green, blue = (red - offset0) * factor0, (green - offset1) * factor1, (blue - offset2) * factor2
    if ENDS:
        y, x = place // size, place % size
        top, left, height, width = tl.load(ends), tl.load(ends + 1), tl.load(ends + 2), tl.load(ends + 3)
        erased = inside & (y >= top) & (y < top + height) & (x >= left) & (x < left + width)
        own = noise + tl.load(ends + 4).to(tl.int64) * num_noise + (y - top) * width + (x - left)
        red = tl.where(erased, tl.load(own, erased, other=0.0), red)
        green = tl.where(erased, tl.load(own + height * width, erased, other=0.0), green)
        blue = tl.where(erased, tl.load(own + 2 * height * width, erased, other=0.0), blue)
        place = y * size + tl.where(tl.load(ends + 5) > 0, size - 1 - x, x)
    tl.store(out + 3 * place, red.to(out.dtype.element_ty), inside)
    tl.store(out + 3 * place + 1, green.to(out.dtype.element_ty), inside)
    tl.store(out + 3 * place + 2, blue.to(out.dtype.element_ty), inside)


@no_type_check
@triton.jit
def gray_totals(pixels, rows, ends, steps, amounts, totals, area, STEPS: tl.constexpr, TILE: tl.constexpr):
    """Adds up the whole gray levels of each of ``rows`` as they are before its contrast, step ``ends``."""
    row = tl.load(rows + tl.program_id(0)).to(tl.int64)
    place = tl.program_id(1) * TILE + tl.arange(0, TILE)
    inside = place < area
    red, green, blue = loaded(pixels + row * area * 3, place, inside)
    end = tl.load(ends + tl.program_id(0))
    red, green, blue = changed(red, green, blue, steps + row * STEPS, amounts + row * STEPS, 0.0, 0, end)
    level = tl.where(inside, rounded(gray_level(red, green, blue)), 0.0)
    tl.atomic_add(totals + row, tl.sum(level.to(tl.int32), 0))


@no_type_check
@triton.jit(do_not_specialize=["num_noise"])  # else it would be compiled anew for some batches
def sharp_views(
    pixels, rows, steps, amounts, totals, out, size,
    offset0, offset1, offset2, factor0, factor1, factor2, ends, noise, num_noise,
    STEPS: tl.constexpr, ENDS: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """The views of ``rows``, which are not blurred."""
    row = tl.load(rows + tl.program_id(0)).to(tl.int64)
    place = tl.program_id(1) * TILE + tl.arange(0, TILE)
    area = size * size
    inside = place < area
    red, green, blue = loaded(pixels + row * area * 3, place, inside)
    mean = _mean(totals, row, area)
    red, green, blue = changed(red, green, blue, steps + row * STEPS, amounts + row * STEPS, mean, 0, STEPS)
    store_view(
        out + row * area * 3, place, inside, size, red, green, blue,
        offset0, offset1, offset2, factor0, factor1, factor2, ends + row * 6, noise, num_noise, ENDS,
    )  # fmt: skip


@no_type_check
@triton.jit(do_not_specialize=["num_noise"])
def blurred_views(
    pixels, rows, radii, weights, steps, amounts, totals, out, size,
    offset0, offset1, offset2, factor0, factor1, factor2, ends, noise, num_noise,
    STEPS: tl.constexpr, ENDS: tl.constexpr, BLUR: tl.constexpr, TAPS: tl.constexpr,
    HEIGHT: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """The views of ``rows``, which are blurred after the first BLUR steps; weights are of distances 0, 1, ..."""
    row = tl.load(rows + tl.program_id(0)).to(tl.int64)
    radius = tl.load(radii + tl.program_id(0))
    weights += tl.program_id(0) * TAPS
    pixels += row * size * size * 3
    steps += row * STEPS
    amounts += row * STEPS
    mean = _mean(totals, row, size * size)
    y = tl.program_id(1) * HEIGHT + tl.arange(0, HEIGHT)[:, None]
    x = tl.arange(0, WIDTH)[None, :] + tl.zeros((HEIGHT, 1), tl.int32)
    inside = (y < size) & (x < size)

    red, green, blue = loaded(pixels, y * size + x, inside)
    red, green, blue = changed(red, green, blue, steps, amounts, mean, 0, BLUR)
    weight = tl.load(weights)
    down0, down1, down2 = red * weight, green * weight, blue * weight
    for distance in range(1, radius + 1):
        weight = tl.load(weights + distance)
        above, below = tl.abs(y - distance), y + distance
        below = tl.where(below < size, below, 2 * (size - 1) - below)
        red, green, blue = loaded(pixels, above * size + x, inside)
        red, green, blue = changed(red, green, blue, steps, amounts, mean, 0, BLUR)
        red1, green1, blue1 = loaded(pixels, below * size + x, inside)
        red1, green1, blue1 = changed(red1, green1, blue1, steps, amounts, mean, 0, BLUR)
        down0 += (red + red1) * weight
        down1 += (green + green1) * weight
        down2 += (blue + blue1) * weight

    weight = tl.load(weights)
    red, green, blue = down0 * weight, down1 * weight, down2 * weight
    for distance in range(1, radius + 1):
        weight = tl.load(weights + distance)
        left, right = tl.abs(x - distance), x + distance
        right = tl.maximum(tl.where(right < size, right, 2 * (size - 1) - right), 0)
        red += (tl.gather(down0, left, 1) + tl.gather(down0, right, 1)) * weight
        green += (tl.gather(down1, left, 1) + tl.gather(down1, right, 1)) * weight
        blue += (tl.gather(down2, left, 1) + tl.gather(down2, right, 1)) * weight
    red, green, blue = changed(red, green, blue, steps, amounts, mean, BLUR + 1, STEPS)
    store_view(
        out + row * size * size * 3, y * size + x, inside, size, red, green, blue,
        offset0, offset1, offset2, factor0, factor1, factor2, ends + row * 6, noise, num_noise, ENDS,
    )  # fmt: skip
