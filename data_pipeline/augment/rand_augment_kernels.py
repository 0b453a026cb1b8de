"""RandAugment in two Triton kernels: one looks at whole views (mean, extremes, histogram), one makes their pixels.

A program makes a tile of pixels of one view. Its steps are ``rand_augment.py``'s, one by one and without fused
operations, so the values are the CPU's; but for rotations, where ``grid_sample`` rounds as torch was built. What is
launched for whom, in which order, is told by ``rand_augment_tables.py``.

Imported only where there is a GPU, or where Triton interprets (TRITON_INTERPRET=1).
"""

from collections.abc import Sequence
from typing import Any, no_type_check

import torch
import triton
import triton.language as tl
from jaxtyping import Float, UInt8
from torch import Tensor

from eyespot.data_pipeline.augment.pipeline import OPERATIONS
from eyespot.data_pipeline.augment.rand_augment import (
    OUTSIDE,
    add_below,
    autocontrast,
    equalize,
    invert,
    invert_above,
    posterize,
    rotate,
    sharpness,
    shear_x,
    shear_y,
    translate_x,
    translate_y,
)
from eyespot.data_pipeline.augment.rand_augment_tables import NUM_MEASURES, AugmentTables
from eyespot.data_pipeline.augment.view_kernels import (
    CONTRAST,
    EXACT,
    changed,
    clipped,
    gray_level,
    loaded,
    rounded,
    store_view,
)

AUTOCONTRAST = tl.constexpr(OPERATIONS.index(autocontrast))
EQUALIZE = tl.constexpr(OPERATIONS.index(equalize))
INVERT = tl.constexpr(OPERATIONS.index(invert))
POSTERIZE = tl.constexpr(OPERATIONS.index(posterize))
INVERT_ABOVE = tl.constexpr(OPERATIONS.index(invert_above))
ADD_BELOW = tl.constexpr(OPERATIONS.index(add_below))
SHARPNESS = tl.constexpr(OPERATIONS.index(sharpness))
ROTATE = tl.constexpr(OPERATIONS.index(rotate))
SHEAR_X = tl.constexpr(OPERATIONS.index(shear_x))
SHEAR_Y = tl.constexpr(OPERATIONS.index(shear_y))
TRANSLATE_X = tl.constexpr(OPERATIONS.index(translate_x))
TRANSLATE_Y = tl.constexpr(OPERATIONS.index(translate_y))
GRAY = tl.constexpr(float(OUTSIDE))
JOB = tl.constexpr(5)
"""Numbers of a job."""
TILE = 512
"""Pixels that a program makes at once: half as many as where nothing moves, for it keeps more of each."""
MEASURED_TILE = 1024
"""Pixels that a program looks at, at once, on its way through a whole view."""
MEASURED: dict[str, Any] = dict(num_warps=8, **EXACT)
"""In fewer threads its numbers would not fit into registers."""


def augment_by_kernels(
    pixels: UInt8[Tensor, "b h w 3"],
    tables: AugmentTables,
    numbers: Sequence[Tensor],
    mean: Sequence[float],
    inverse_std: Sequence[float],
    ends: Tensor,
    noise: Tensor,
    out: Float[Tensor, "b 3 h w"],
) -> None:
    """Alters and normalises one view of each image.

    Args:
        pixels: square, contiguous, on a GPU.
        tables: what is done to them.
        numbers: ``tables.arrays`` on that GPU.
        mean: per channel, 8-bit levels; 0 where levels are wanted.
        inverse_std: per channel, per 8-bit level; 1 where levels are wanted.
        ends: (b, 6) what is erased and who is mirrored, as ``ViewTables.ends``; (0, 6) = nothing and nobody.
        noise: of the erased rectangles.
        out: where the views go, float32 or bfloat16, channels last.
    """
    jobs, steps, amounts, places, given = numbers
    size = pixels.shape[1]
    found = pixels.new_empty(max(1, tables.num_measured), NUM_MEASURES, dtype=torch.float32)
    kept = pixels.new_empty(max(1, tables.num_kept), size, size, 3, dtype=torch.float32)
    sources = pixels, kept
    told = steps, amounts, places, given, found, size
    for kind, own in tables.launches:
        count, shape = own.stop - own.start, dict(STEPS=steps.shape[1])
        if kind == "measure":
            measure[(count,)](*sources, jobs[own], *told, **shape, TILE=MEASURED_TILE, **MEASURED)
            continue
        grid, keep = (count, triton.cdiv(size * size, TILE)), kind == "keep"
        colors: list[float] = [0.0, 0.0, 0.0, 1.0, 1.0, 1.0] if keep else [*mean, *inverse_std]
        shape |= dict(KEEP=keep, ENDS=not keep and len(ends) > 0, TILE=TILE)
        augmented[grid](
            *sources, jobs[own], *told, kept if keep else out, *[*colors, ends, noise, noise.shape[1]], **shape, **EXACT
        )


@no_type_check
@triton.jit
def _cubic(offset, tap):
    """The weight of tap 0..3 of Keys' cubic of slope -0.75, for a place 0..1 beyond tap 1; as in grid_sample."""
    distance = tl.abs(offset + (1 - tap))
    near = (1.25 * distance - 2.25) * distance * distance + 1.0
    far = ((-0.75 * distance + 3.75) * distance - 6.0) * distance + 3.0
    return tl.where((tap == 1) | (tap == 2), near, far)


@no_type_check
@triton.jit
def _inverted_above(level, threshold):
    middle = level - 127.5
    return tl.where(level >= threshold, -middle, middle) + 127.5


@no_type_check
@triton.jit
def _added_below(level, half):
    return level + tl.where(level <= 127.5, half + half, 0.0)


@no_type_check
@triton.jit
def _stepped(red, green, blue, steps, amounts, places, found, begin, end):
    """The levels after the steps ``begin`` to ``end`` of one view, none of which moves."""
    for column in range(begin, end):
        step = tl.load(steps + column)
        amount = tl.load(amounts + column)
        own = found + tl.load(places + column)
        if step == AUTOCONTRAST:
            red = clipped((red - tl.load(own)) * tl.load(own + 1))
            green = clipped((green - tl.load(own + 2)) * tl.load(own + 3))
            blue = clipped((blue - tl.load(own + 4)) * tl.load(own + 5))
        elif step == EQUALIZE:
            red = tl.load(own + rounded(red).to(tl.int32))
            green = tl.load(own + 256 + rounded(green).to(tl.int32))
            blue = tl.load(own + 512 + rounded(blue).to(tl.int32))
        elif step == INVERT:
            red, green, blue = 255.0 - red, 255.0 - green, 255.0 - blue
        elif step == POSTERIZE:
            size = red * 0.0 + amount
            red, green, blue = (
                tl.floor(tl.div_rn(red, size)) * amount,
                tl.floor(tl.div_rn(green, size)) * amount,
                tl.floor(tl.div_rn(blue, size)) * amount,
            )
        elif step == INVERT_ABOVE:
            red, green, blue = (
                _inverted_above(red, amount),
                _inverted_above(green, amount),
                _inverted_above(blue, amount),
            )
        elif step == ADD_BELOW:
            red, green, blue = _added_below(red, amount), _added_below(green, amount), _added_below(blue, amount)
        else:
            mean = tl.load(own, step == CONTRAST, other=0.0)
            red, green, blue = changed(red, green, blue, steps, amounts, mean, column, column + 1)
    return red, green, blue


@no_type_check
@triton.jit
def _source(pixels, kept, is_kept, place, inside):
    if is_kept:
        red, green, blue = loaded(kept, place, inside)
    else:
        red, green, blue = loaded(pixels, place, inside)
    return red, green, blue


@no_type_check
@triton.jit
def _turned(numbers, y, x, size):
    """Where rotate reads each pixel, and whether that lies inside the view."""
    width, cos, sin = size.to(tl.float32) + tl.zeros(y.shape, tl.float32), tl.load(numbers), tl.load(numbers + 1)
    right = tl.div_rn((2 * x + 1).to(tl.float32), width) - 1.0
    down = tl.div_rn((2 * y + 1).to(tl.float32), width) - 1.0
    right, down = right * cos - down * sin, right * sin + down * cos
    inside = tl.maximum(tl.abs(right), tl.abs(down)) <= 1.0
    return ((down + 1.0) * width - 1.0) * 0.5, ((right + 1.0) * width - 1.0) * 0.5, inside


@no_type_check
@triton.jit
def _sharpened(level, sum_around, factor, inner):
    share = tl.div_rn((1.0 - factor) + level * 0.0, tl.full(level.shape, 13.0, tl.float32))
    return tl.where(inner, clipped(level * factor + (sum_around + level * 4.0) * share), level)


@no_type_check
@triton.jit
def _gray_outside(level, shown):
    return tl.where(shown, clipped(level) - GRAY, 0.0) + GRAY


@no_type_check
@triton.jit
def _levels(pixels, kept, job, steps, amounts, places, given, found, y, x, inside, size):
    """The levels of a view at these pixels, as the job says: all that moves is a weighted sum of lines of pixels.

    Where nothing moves, it is of one line of one pixel, times 1.
    """
    begin, moves, end = tl.load(job + 1), tl.load(job + 2), tl.load(job + 3)
    step = tl.load(steps + moves, moves >= 0, other=-1)
    middle = tl.where(moves >= 0, moves, end)
    numbers = given + tl.load(places + moves, moves >= 0, other=0)
    shifted_down = (step == SHEAR_Y) | (step == TRANSLATE_Y)
    shifted = (step == SHEAR_X) | (step == TRANSLATE_X) | shifted_down
    down = shifted_down | (step == SHARPNESS)  # whether a line of pixels goes down
    num_lines = tl.where(step == ROTATE, 4, tl.where(step == SHARPNESS, 3, 1))
    num_taps = tl.where(shifted, 4, num_lines)
    zero = tl.zeros(y.shape, tl.float32)
    first_y, first_x, line, shown, part_y, part_x = y, x, y, inside, zero, zero
    if step == ROTATE:
        place_y, place_x, shown = _turned(numbers, y, x, size)
        part_y, part_x = place_y - tl.floor(place_y), place_x - tl.floor(place_x)
        first_y, first_x = tl.floor(place_y).to(tl.int32) - 1, tl.floor(place_x).to(tl.int32) - 1
    elif shifted:
        line = tl.where(down, x, y)
        whole, part = tl.load(numbers + line, inside, other=0), tl.load(numbers + size + line, inside, other=0)
        place, half = tl.where(down, y, x) + whole.to(tl.int32), size.to(tl.float32) * 0.5
        shown = tl.abs(place.to(tl.float32) + (part + (0.5 - half))) <= half
        first_y, first_x = tl.where(down, place - 1, y), tl.where(down, x, place - 1)
    elif step == SHARPNESS:
        first_y, first_x = y - 1, x - 1

    red, green, blue, red0, green0, blue0 = zero, zero, zero, zero, zero, zero
    for number in range(num_lines):
        red1, green1, blue1 = zero, zero, zero
        for tap in range(num_taps):
            tap_y = tl.minimum(tl.maximum(first_y + tl.where(down, tap, number), 0), size - 1)
            tap_x = tl.minimum(tl.maximum(first_x + tl.where(down, number, tap), 0), size - 1)
            red2, green2, blue2 = _source(pixels, kept, begin > 0, tap_y * size + tap_x, inside)
            red2, green2, blue2 = _stepped(red2, green2, blue2, steps, amounts, places, found, begin, middle)
            weight = zero + 1.0
            if step == ROTATE:
                weight = _cubic(part_x, tap)
            elif shifted:
                weight = tl.load(numbers + (2 + tap) * size + line, inside, other=0)
            red1, green1, blue1 = red1 + red2 * weight, green1 + green2 * weight, blue1 + blue2 * weight
            if (number == 1) & (tap == 1):
                red0, green0, blue0 = red2, green2, blue2
        weight = zero + 1.0
        if step == ROTATE:
            weight = _cubic(part_y, number)
        red, green, blue = red + red1 * weight, green + green1 * weight, blue + blue1 * weight

    if step == SHARPNESS:
        factor = tl.load(amounts + moves)
        inner = (y > 0) & (y < size - 1) & (x > 0) & (x < size - 1)
        red = _sharpened(red0, red, factor, inner)
        green = _sharpened(green0, green, factor, inner)
        blue = _sharpened(blue0, blue, factor, inner)
    elif shifted | (step == ROTATE):
        red, green, blue = _gray_outside(red, shown), _gray_outside(green, shown), _gray_outside(blue, shown)
    return _stepped(red, green, blue, steps, amounts, places, found, middle + 1, end)


@no_type_check
@triton.jit(do_not_specialize=["num_noise"], do_not_specialize_on_alignment=["jobs"])
def augmented(
    pixels, kept, jobs, steps, amounts, places, given, found, size, out,
    offset0, offset1, offset2, factor0, factor1, factor2, ends, noise, num_noise,
    STEPS: tl.constexpr, KEEP: tl.constexpr, ENDS: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """The pixels of views, finished, or kept as levels for a step that moves them again."""
    job = jobs + tl.program_id(0) * JOB
    row, slot = tl.load(job).to(tl.int64), tl.load(job + 4).to(tl.int64)
    place = tl.program_id(1) * TILE + tl.arange(0, TILE)
    area = size * size
    inside = place < area
    red, green, blue = _levels(
        pixels + row * area * 3, kept + slot * area * 3, job,
        steps + row * STEPS, amounts + row * STEPS, places + row * STEPS, given, found,
        place // size, place % size, inside, size,
    )  # fmt: skip
    if KEEP:
        out += slot * area * 3
    else:
        out += row * area * 3
    store_view(
        out, place, inside, size, red, green, blue,
        offset0, offset1, offset2, factor0, factor1, factor2, ends + row * 6, noise, num_noise, ENDS,
    )  # fmt: skip


@no_type_check
@triton.jit
def _store_stretch(found, low, high):
    """What autocontrast takes away, and by what it multiplies."""
    spread = high - low
    stretched = spread >= 1.0
    factor = tl.div_rn(spread * 0.0 + 1.0, tl.maximum(spread, 1.0)) * 255.0
    tl.store(found, tl.where(stretched, low, 0.0))
    tl.store(found + 1, tl.where(stretched, factor, 1.0))


@no_type_check
@triton.jit
def _store_table(found, counts, area):
    """What equalize makes of each level."""
    level = tl.arange(0, 256)
    top = tl.max(tl.where(counts > 0, level, 0), 0)
    step = (area - tl.sum(tl.where(level == top, counts, 0), 0)) // 255
    below = tl.cumsum(counts, 0) - counts
    table = tl.minimum((below + step // 2) // tl.maximum(step, 1), 255)
    tl.store(found + level, tl.where(step > 0, table, level).to(tl.float32))


@no_type_check
@triton.jit(do_not_specialize_on_alignment=["jobs"])
def measure(pixels, kept, jobs, steps, amounts, places, given, found, size, STEPS: tl.constexpr, TILE: tl.constexpr):
    """What a step has to know of its whole view, as it is before that step, which is the end of the job's steps."""
    job = jobs + tl.program_id(0) * JOB
    row, end, slot = tl.load(job).to(tl.int64), tl.load(job + 3), tl.load(job + 4).to(tl.int64)
    area = size * size
    pixels += row * area * 3
    kept += slot * area * 3
    steps += row * STEPS
    amounts += row * STEPS
    places += row * STEPS
    step = tl.load(steps + end)
    total = tl.zeros((TILE,), tl.int32)
    high0, high1, high2 = tl.zeros((TILE,), tl.float32), tl.zeros((TILE,), tl.float32), tl.zeros((TILE,), tl.float32)
    low0, low1, low2 = high0 + 255.0, high1 + 255.0, high2 + 255.0
    counts0, counts1, counts2 = tl.zeros((256,), tl.int32), tl.zeros((256,), tl.int32), tl.zeros((256,), tl.int32)
    for begin in range(0, area, TILE):
        place = begin + tl.arange(0, TILE)
        inside = place < area
        red, green, blue = _levels(
            pixels, kept, job, steps, amounts, places, given, found, place // size, place % size, inside, size
        )
        if step == CONTRAST:
            total += tl.where(inside, rounded(gray_level(red, green, blue)), 0.0).to(tl.int32)
        elif step == AUTOCONTRAST:
            low0 = tl.minimum(low0, tl.where(inside, red, 255.0))
            low1 = tl.minimum(low1, tl.where(inside, green, 255.0))
            low2 = tl.minimum(low2, tl.where(inside, blue, 255.0))
            high0 = tl.maximum(high0, tl.where(inside, red, 0.0))
            high1 = tl.maximum(high1, tl.where(inside, green, 0.0))
            high2 = tl.maximum(high2, tl.where(inside, blue, 0.0))
        else:
            counts0 += tl.histogram(rounded(red).to(tl.int32), 256, inside)
            counts1 += tl.histogram(rounded(green).to(tl.int32), 256, inside)
            counts2 += tl.histogram(rounded(blue).to(tl.int32), 256, inside)
    found += tl.load(places + end)
    if step == CONTRAST:
        tl.store(found, (tl.sum(total, 0).to(tl.float64) / area.to(tl.float64)).to(tl.float32))
    elif step == AUTOCONTRAST:
        _store_stretch(found, tl.min(low0, 0), tl.max(high0, 0))
        _store_stretch(found + 2, tl.min(low1, 0), tl.max(high1, 0))
        _store_stretch(found + 4, tl.min(low2, 0), tl.max(high2, 0))
    else:
        _store_table(found, counts0, area)
        _store_table(found + 256, counts1, area)
        _store_table(found + 512, counts2, area)
