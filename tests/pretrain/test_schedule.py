"""Schedules against the papers' formulas, point by point."""

import math

import pytest

from eyespot.pretrain.schedule import effective_rate, micro_seed, warmup_cosine


def test_warmup_is_linear_and_reaches_the_peak():
    rates = [warmup_cosine(step, steps=100, warmup_steps=10, peak=2.0) for step in range(11)]
    assert rates[:10] == pytest.approx([0.2 * (step + 1) for step in range(10)])
    assert rates[10] == 2.0


def test_cosine_has_its_middle_and_its_end():
    def rate(step):
        return warmup_cosine(step, steps=110, warmup_steps=10, peak=2.0, final=0.5)

    assert rate(60) == pytest.approx(1.25)
    assert rate(35) == pytest.approx(0.5 + 1.5 * 0.5 * (1 + math.cos(math.pi / 4)))
    assert rate(110) == pytest.approx(0.5)
    assert all(rate(step) >= rate(step + 1) for step in range(10, 110))


def test_without_warmup_it_starts_at_the_peak():
    assert warmup_cosine(0, steps=10, warmup_steps=0, peak=3.0) == 3.0


def test_linear_scaling_rule():
    assert effective_rate(1.5e-4, 4096) == pytest.approx(2.4e-3)  # the effective rate of MAE's paper


def test_micro_seed_depends_on_each_coordinate_and_fits_torch():
    seeds = {micro_seed(*place) for place in [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (0, 11, 1), (0, 1, 11)]}
    assert len(seeds) == 6
    assert all(0 <= seed < 2**63 for seed in seeds)
