"""Schedules against the papers' formulas, point by point."""

import math

import pytest

from eyespot.pretrain.loop.schedule import due, effective_rate, learning_rate, micro_seed, rate_at
from eyespot.pretrain.recipe_lookup import make_run


def test_warmup_is_linear_and_reaches_the_peak():
    rates = [learning_rate(step, steps=100, warmup_steps=10, peak=2.0) for step in range(11)]
    assert rates[:10] == pytest.approx([0.2 * (step + 1) for step in range(10)])
    assert rates[10] == 2.0


def test_cosine_has_its_middle_and_its_end():
    def rate(step):
        return learning_rate(step, steps=110, warmup_steps=10, peak=2.0, final=0.5)

    assert rate(60) == pytest.approx(1.25)
    assert rate(35) == pytest.approx(0.5 + 1.5 * 0.5 * (1 + math.cos(math.pi / 4)))
    assert rate(110) == pytest.approx(0.5)
    assert all(rate(step) >= rate(step + 1) for step in range(10, 110))


def test_without_warmup_it_starts_at_the_peak():
    assert learning_rate(0, steps=10, warmup_steps=0, peak=3.0) == 3.0


def test_stairs_fall_to_a_tenth_at_their_shares():
    """MoCo's 200 epochs, falling at 120 and 160; a step that is a share of the run is the first of the lower rate."""

    def rate(step):
        return learning_rate(step, steps=200, warmup_steps=0, peak=0.03, decay_at=(0.6, 0.8))

    assert [rate(step) for step in (0, 119, 120, 159, 160, 199)] == [0.03, 0.03, 0.003, 0.003, 0.0003, 0.0003]


def test_stairs_have_the_same_warmup_and_count_it_as_part_of_the_run():
    def rate(step):
        return learning_rate(step, steps=10, warmup_steps=4, peak=1.0, decay_at=(0.7,))  # 0.7 * 10 > 7 in floats

    assert [rate(step) for step in range(10)] == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0, 1.0, 0.1, 0.1, 0.1]


def test_linear_scaling_rule():
    assert effective_rate(1.5e-4, 4096) == pytest.approx(2.4e-3)  # the effective rate of MAE's paper


def test_micro_seed_depends_on_each_coordinate_and_fits_torch():
    seeds = {micro_seed(*place) for place in [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (0, 11, 1), (0, 1, 11)]}
    assert len(seeds) == 6
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_the_rate_of_a_run_is_for_its_batch():
    run = make_run("moco_v1_r50_in1k")
    run.data.batch_size, run.steps, run.optim.warmup_steps = 512, 100, 10
    assert [rate_at(step, run) for step in (0, 9, 50, 70, 90)] == pytest.approx([0.006, 0.06, 0.06, 0.006, 0.0006])


def test_due_counts_from_one_and_knows_never():
    assert [step for step in range(1, 10) if due(step, 3)] == [3, 6, 9]
    assert not any(due(step, 0) for step in range(10))
