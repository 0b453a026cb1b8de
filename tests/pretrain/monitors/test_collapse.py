"""Which features count as collapsed, and the alarm on real and broken encoders."""

import logging
import math

import pytest
import torch
from torch import nn

from eyespot.pretrain.config import Run
from eyespot.pretrain.distributed.process_group import World
from eyespot.pretrain.loop.initial_weights import fresh_objective
from eyespot.pretrain.loop.run_data import open_data
from eyespot.pretrain.monitors import collapse
from eyespot.pretrain.objective import Objective
from eyespot.pretrain.objectives.mae import MAE
from eyespot.pretrain.recipe_lookup import make_run

ALONE = World(rank=0, size=1, device=torch.device("cpu"))


def rows(count: int, dim: int, seed: int = 0, shift: float = 0.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, dim, generator=generator, dtype=torch.float64) + shift


def constant_and_noise(scale: float) -> torch.Tensor:
    return (1 + scale * rows(300, 64)).float()


def test_which_features_count_as_collapsed():
    def collapsed(features: torch.Tensor) -> bool:
        return collapse.is_collapsed(collapse.collapse_statistics([features]), *features.shape)

    assert not collapsed(rows(300, 64).float())
    assert not collapsed(constant_and_noise(0.2))  # an untrained network: all alike, and yet each its own
    assert collapsed(constant_and_noise(0.01))  # centred, this has full rank
    assert collapsed((rows(300, 1) @ rows(1, 64)).float())
    assert collapsed(torch.ones(300, 64))
    assert not collapsed(torch.full((300, 64), math.nan))  # broken in another way, which the trainer reports


def small_run(shards) -> Run:
    run = make_run("mae_tiny")
    run.data.shards = str(shards)
    return run


def make_objective(run: Run) -> Objective:
    torch.manual_seed(0)
    return fresh_objective(run)


class TwoViews(MAE):
    """What a method with two views and a small third one asks for."""

    def views(self):
        (view,) = super().views().views
        spec = super().views()
        small = type(view)(size=8)
        return type(spec)(views=(view, view, small), mean=spec.mean, std=spec.std)


def test_one_view_has_no_positives(digits):
    run = small_run(digits)
    found = collapse.CollapseMonitor(open_data(run, ALONE))(make_objective(run), ALONE)
    names = {"effective_rank", "effective_rank_centered", "uniformity", "negative_similarity", "collapsed"}
    assert found.keys() == {f"health/{name}" for name in names}
    assert found["health/collapsed"] == 0 and 2 < found["health/effective_rank_centered"] <= 64


def test_two_views_are_compared_and_small_ones_left_out(digits):
    run = small_run(digits)
    objective = make_objective(run)
    objective.__class__ = TwoViews
    monitor = collapse.CollapseMonitor(open_data(run, ALONE))
    found = monitor(objective, ALONE)
    assert found.keys() >= {"health/alignment", "health/positive_similarity"}
    assert found["health/positive_similarity"] > found["health/negative_similarity"]
    assert found["health/alignment"] == pytest.approx(2 - 2 * found["health/positive_similarity"], abs=1e-5)
    assert monitor(objective, ALONE) == found == collapse.CollapseMonitor(open_data(run, ALONE))(objective, ALONE)


def test_the_alarm_rings_once_and_says_when_it_is_over(digits, caplog):
    run = small_run(digits)
    objective, monitor = make_objective(run), collapse.CollapseMonitor(open_data(run, ALONE))
    final = objective.encoder.norm
    assert isinstance(final, nn.LayerNorm)
    with caplog.at_level(logging.INFO, logger="eyespot"):
        assert monitor(objective, ALONE)["health/collapsed"] == 0 and not caplog.records
        with torch.no_grad():
            final.weight.zero_()
            final.bias.fill_(1.0)  # the output no longer depends on the image
        assert monitor(objective, ALONE)["health/collapsed"] == 1
        assert monitor(objective, ALONE)["health/collapsed"] == 1
        (warning,) = caplog.records
        assert warning.levelno == logging.WARNING and "collapsed" in warning.message and "\n" not in warning.message
        nn.init.ones_(final.weight)
        assert monitor(objective, ALONE)["health/collapsed"] == 0
    assert caplog.records[-1].levelno == logging.INFO and len(caplog.records) == 2


def look(world: World, digits) -> dict[str, float]:
    run = small_run(digits)
    return collapse.CollapseMonitor(open_data(run, world))(make_objective(run), world)


def test_ranks_look_together(digits, on_ranks):
    """The first has the numbers of one process alone, the other none."""
    assert on_ranks(look, 2, digits) == [look(ALONE, digits), {}]


def test_a_head_that_stays_collapsed_is_reported_once(caplog):
    watch = collapse.HeadWatch()
    with caplog.at_level(logging.WARNING, logger="eyespot"):
        for step in range(4):  # a run may begin there
            watch(step, {"negative_similarity": 0.9999})
        watch(4, {"negative_similarity": 0.5})
        watch(5, {"loss": 1.0})
        assert not caplog.records
        for step in range(6, 20):
            watch(step, {"negative_similarity": 0.9999})
    (warning,) = caplog.records
    assert "step 10: the head gives nearly the same embedding for every image" in warning.getMessage()
