"""What a Run's settings mean for its engine, and which of them go together."""

from dataclasses import replace
from pathlib import Path

import pytest

from eyespot.data_pipeline.errors import UserError
from eyespot.pretrain.config import DataConfig, engine_settings
from eyespot.pretrain.recipe_lookup import make_run


def test_the_engine_is_told_this_ranks_share_of_the_batch():
    run = make_run("mae_tiny")
    run.data.batch_size, run.data.accumulate, run.optim.clip, run.precision = 96, 3, 0.5, "fp32"
    settings = engine_settings(run, world_size=4)
    assert (settings.micro_batch_size, settings.accumulate) == (8, 3)
    assert (settings.clip, settings.precision) == (0.5, "fp32")


@pytest.mark.parametrize(
    "given", [{"mean": (0.5, 0.5, 0.5)}, {"std": (0.5, 0.5, 0.5)}, {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.0, 0.5)}]
)
def test_mean_and_std_go_together(given):
    with pytest.raises(UserError, match=r"data\.std .*"):
        DataConfig(**given)
    assert DataConfig(mean=(0.5, 0.5, 0.5), std=(0.1, 0.1, 0.1)).std == (0.1, 0.1, 0.1)


@pytest.mark.parametrize("address", ["s3://bucket/x", "S3:/bucket/x", "hf://me/mine/x"])
def test_a_run_and_a_cache_lie_on_a_disk(address):
    """Of an address a path would become a folder called ``s3:``, of which nobody thinks."""
    with pytest.raises(UserError, match=r"data\.cache_dir .*: what is fetched of a store is written on a disk only"):
        DataConfig(cache_dir=Path(address))
    run = make_run("mae_tiny")
    with pytest.raises(UserError, match=r"run_dir .*: runs are written on a disk only; name a folder there"):
        replace(run, run_dir=Path(address))


def test_the_batch_is_checked_by_the_method():
    run = make_run("moco_tiny")
    run.data.batch_size = run.objective.queue_size - 1
    with pytest.raises(UserError, match=r"objective\.queue_size"):
        type(run)(**{name: getattr(run, name) for name in type(run).__slots__})
