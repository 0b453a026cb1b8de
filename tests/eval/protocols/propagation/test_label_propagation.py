"""Propagation: one step against a slow reference, place by place; which frames are looked at; masks and their sizes."""

import math

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import normalize

from eyespot.eval.protocols.propagation import label_propagation as propagation
from eyespot.eval.protocols.propagation.label_propagation import carried, decided, nearest, one_hot, propagated


def slow_step(target, sources, shares, radius, top, temperature):
    """The definition, in Python's floats."""
    _, height, width = target.shape
    found = torch.zeros(shares.shape[1], height, width, dtype=torch.float64)
    for y in range(height):
        for x in range(width):
            seen = []
            for frame in range(len(sources)):
                for row in range(max(0, y - radius), min(height, y + radius + 1)):
                    for column in range(max(0, x - radius), min(width, x + radius + 1)):
                        cosine = float(target[:, y, x] @ sources[frame, :, row, column])
                        seen.append((cosine, frame, row, column))
            best = sorted(seen, reverse=True)[:top]
            weights = [math.exp(each[0] / temperature) for each in best]
            for weight, (_, frame, row, column) in zip(weights, best, strict=True):
                found[:, y, x] += weight / sum(weights) * shares[frame, :, row, column]
    return found


@pytest.mark.parametrize(("radius", "top", "at_once"), [(1, 5, 2**25), (2, 3, 40), (12, 5, 1000), (0, 5, 2**25)])
def test_a_step_is_the_slow_reference(radius, top, at_once, monkeypatch):
    monkeypatch.setattr(propagation, "_AT_ONCE", at_once)  # also in pieces of a row or two
    generator = torch.Generator().manual_seed(0)
    target, sources = (
        normalize(torch.randn(shape, dtype=torch.float64, generator=generator), dim=-3)
        for shape in ((6, 5, 7), (3, 6, 5, 7))
    )
    shares = torch.rand(3, 4, 5, 7, dtype=torch.float64, generator=generator)
    found = carried(target, sources, shares, radius=radius, top=top, temperature=0.1)
    assert torch.allclose(found, slow_step(target, sources, shares, radius, top, 0.1), atol=1e-12)


def test_the_first_and_the_last_seven_frames_are_looked_at(monkeypatch):
    """Each frame has one place, and says how many frames it was made of."""
    looked = []

    def note(target, sources, shares):
        looked.append(shares.flatten().tolist())
        return shares.max() + torch.ones(1, 1, 1)

    monkeypatch.setattr(propagation, "carried", note)
    list(propagated((torch.ones(2, 1, 1) for _ in range(11)), torch.zeros(1, 1, 1)))
    assert looked[0] == [0] and looked[1] == [0, 1] and looked[7] == [0, *range(1, 8)]
    assert looked[9] == [0, *range(3, 10)]  # the second and third frame are forgotten, the first is not


def test_a_thing_that_moves_takes_its_mask_along():
    """Features that name each thing: the mask follows, through frames in which it left the first place for good."""
    maps, masks = torch.zeros(9, 2, 16, 16), np.zeros((9, 64, 64), np.uint8)
    for frame in range(9):
        maps[frame, 0] = 1
        maps[frame, :, 2:6, frame : frame + 4] = torch.tensor([0.0, 1.0])[:, None, None]
        masks[frame, 8:24, 4 * frame : 4 * frame + 16] = 1
    shares = list(propagated(3 * maps, one_hot(masks[0], 2, (16, 16))))
    assert len(shares) == 8
    for frame, share in enumerate(shares, 1):
        assert np.array_equal(nearest(decided(share, (64, 64), (64, 64)), 16, 16), nearest(masks[frame], 16, 16))


@pytest.mark.parametrize("size", [(5, 9), (24, 40), (40, 24), (3, 3)])
def test_nearest_is_pils(size):
    mask = np.random.default_rng(0).integers(0, 9, (24, 31)).astype(np.uint8)
    expected = Image.fromarray(mask).resize(size[::-1], Image.Resampling.NEAREST)
    assert np.array_equal(nearest(mask, *size), np.asarray(expected))


def test_a_mask_becomes_shares_and_what_is_ignored_none():
    mask = np.repeat(np.repeat(np.array([[0, 2], [255, 1]], np.uint8), 3, 0), 3, 1)
    shares = one_hot(mask, 3, (2, 2))
    assert shares.tolist() == [[[1, 0], [0, 0]], [[0, 0], [0, 1]], [[0, 1], [0, 0]]]


def test_each_class_is_stretched_before_one_is_chosen():
    """An object of which no place is sure is still found where it is surest; one that is nowhere is not."""
    shares = torch.tensor([[[0.9, 0.9], [0.9, 0.6]], [[0.1, 0.1], [0.1, 0.4]], [[0.0, 0.0], [0.0, 0.0]]])
    assert decided(shares, (2, 2), (2, 2)).tolist() == [[0, 0], [0, 1]]
