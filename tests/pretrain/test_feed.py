"""From a run's settings to a loader's."""

from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.loader import make_loader
from eyespot.data_pipeline.manifest import read_manifest
from eyespot.data_pipeline.views import CenterView, ViewSpec
from eyespot.pretrain.config import DataConfig, make_run
from eyespot.pretrain.dist import World
from eyespot.pretrain.feed import check_labels, chosen_ids, loader_spec, normalized, open_shards, sample_ids
from eyespot.pretrain.objective import Objective
from eyespot.pretrain.start import fresh_objective


def objective_of(recipe: str) -> Objective:
    run = make_run(recipe)
    return fresh_objective(run)


def test_a_method_that_needs_labels_says_so_before_the_first_step(digits):
    labeled = read_manifest(digits / "train")
    unlabeled = replace(labeled, num_labeled=0)
    check_labels(objective_of("supcon_tiny"), Path("photos"), labeled, DataConfig())
    check_labels(objective_of("simclr_tiny"), Path("photos"), unlabeled, DataConfig())
    with pytest.raises(UserError, match=r"data\.shards photos: SupCon needs labels") as caught:
        check_labels(objective_of("supcon_tiny"), Path("photos"), unlabeled, DataConfig())
    assert "\n" not in str(caught.value)


def test_a_classifier_asks_for_a_label_of_its_own_for_each_image(digits):
    shards = digits / "train"
    manifest, classify = read_manifest(shards), objective_of("classify_tiny")
    check_labels(classify, shards, manifest, DataConfig())
    classify.num_classes = 9
    with pytest.raises(UserError, match=r"objective\.num_classes 9: .* has label 9; set it to 10"):
        check_labels(classify, shards, manifest, DataConfig())


def test_a_method_that_computes_with_colours_has_its_own_normalization(digits):
    manifest = read_manifest(digits / "train")
    free = ViewSpec(views=(CenterView(),))
    fixed = replace(free, fixed=True)
    assert normalized(fixed, DataConfig(), manifest) == fixed
    assert normalized(free, DataConfig(normalize="dataset"), manifest).mean == manifest.image_stats.mean
    with pytest.raises(UserError, match=r"data\.normalize 'dataset': .* leave data\.normalize at imagenet"):
        normalized(fixed, DataConfig(normalize="dataset"), manifest)
    with pytest.raises(UserError, match=r"data\.mean \(0\.0, 0\.0, 0\.0\): this method"):
        normalized(fixed, DataConfig(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)), manifest)


def test_the_stream_is_made_of_the_chosen_samples_alone(digits, tmp_path):
    run = make_run("classify_tiny")
    run.data = DataConfig(
        shards=digits, batch_size=8, ids=tmp_path / "ids.txt", mean=(0.1, 0.2, 0.3), std=(1.0, 1.0, 1.0)
    )
    chosen = np.random.default_rng(0).permutation(1438)[:24]
    run.data.ids.write_text("\n".join(map(str, chosen)))
    shards, manifest = open_shards(run.data)
    views = normalized(objective_of("classify_tiny").views(), run.data, manifest)
    assert views.mean == (0.1, 0.2, 0.3)
    spec = loader_spec(run, shards, views, World(rank=0, size=1, device=torch.device("cpu")))
    with closing(make_loader(spec)) as loader:
        epoch = [next(loader) for _ in range(3)]
        state, following = loader.state_dict(), next(loader)
    assert sorted(torch.cat([batch.ids for batch in epoch]).tolist()) == sorted(chosen.tolist())
    assert sample_ids(run.data, manifest).tolist() == sorted(chosen.tolist())
    assert sample_ids(replace(run.data, ids=None), manifest).tolist() == list(range(manifest.num_samples))
    assert following.epochs.tolist() == [1] * 8 and loader.num_samples == 24
    with closing(make_loader(spec, state=state)) as loader:
        assert torch.equal(next(loader).ids, following.ids)
    run.data.ids.write_text("\n".join(map(str, chosen[::-1])))
    with pytest.raises(UserError, match="loader state"):
        make_loader(loader_spec(run, shards, views, World(rank=0, size=1, device=torch.device("cpu"))), state=state)


@pytest.mark.parametrize("text", ["", "3 x", "1\n1", "-1", "1438"])
def test_wrong_ids_are_one_line(text, digits, tmp_path):
    data = DataConfig(shards=digits, ids=tmp_path / "ids.txt")
    data.ids.write_text(text)
    with pytest.raises(UserError, match=r"data\.ids"):
        chosen_ids(data, read_manifest(digits / "train"))
