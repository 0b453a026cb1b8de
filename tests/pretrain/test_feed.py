"""From a run's settings to a loader's."""

from dataclasses import replace
from pathlib import Path

import pytest

from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.manifest import read_manifest
from eyespot.pretrain.config import DataConfig, make_run
from eyespot.pretrain.encoders import make_encoder
from eyespot.pretrain.feed import check_labels
from eyespot.pretrain.objective import Objective


def objective_of(recipe: str) -> Objective:
    run = make_run(recipe)
    return run.objective.build(make_encoder(run.encoder), run.encoder.image_size)


def test_a_method_that_needs_labels_says_so_before_the_first_step(digits):
    labeled = read_manifest(digits / "train")
    unlabeled = replace(labeled, num_labeled=0)
    check_labels(objective_of("supcon_tiny"), Path("photos"), labeled, DataConfig())
    check_labels(objective_of("simclr_tiny"), Path("photos"), unlabeled, DataConfig())
    with pytest.raises(UserError, match=r"data\.shards photos: SupCon needs labels") as caught:
        check_labels(objective_of("supcon_tiny"), Path("photos"), unlabeled, DataConfig())
    assert "\n" not in str(caught.value)
