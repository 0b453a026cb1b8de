"""Both objectives of a run: the checkpoint's weights in one, the encoder that is random elsewhere in the other."""

from pathlib import Path

import pytest
import torch
from films import pack_films
from left_runs import leave_run, small_run

from eyespot.data_pipeline.augment.views import Clip, RandomView
from eyespot.eval.encoders.run_objectives import objectives_of
from eyespot.eval.encoders.subject import subjects_of
from eyespot.pretrain.checkpoints import reader as checkpoint
from eyespot.pretrain.checkpoints.folders import newest


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    films = pack_films(folder / "films", count=6)
    run = small_run("arrow_of_time_tiny")
    run.data.shards, run.objective.view = str(films), RandomView(clip=Clip(4))
    return leave_run(run, "arrow_of_time_tiny", folder / "run", films)


def test_weights_are_those_of_the_checkpoint_and_of_the_seed(run_dir):
    found = objectives_of(str(run_dir), 3, lambda objective: objective.chance is not None)
    assert (found.run_dir, found.recipe, found.checkpoint) == (run_dir, "arrow_of_time_tiny", newest(run_dir))
    for name, tensor in checkpoint.read_module(found.checkpoint).items():
        assert torch.equal(found.trained.state_dict()[name], tensor)
    trained, random, _ = subjects_of(str(run_dir), seed=3)
    for own, subject in ((found.trained, trained), (found.untrained, random)):
        assert not own.training and not any(tensor.requires_grad for tensor in own.parameters())
        for name, tensor in subject.encoder.state_dict().items():
            assert torch.equal(own.encoder.state_dict()[name], tensor)
    named = objectives_of(str(found.checkpoint), 3, lambda objective: True)
    assert named.checkpoint == found.checkpoint and named.run_dir == run_dir


def test_of_others_there_is_none(run_dir):
    assert objectives_of("test_vit", 0, lambda objective: True) is None
    assert objectives_of(str(run_dir), 0, lambda objective: objective.embeds_frames) is None
