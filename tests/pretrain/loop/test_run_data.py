"""From a run's settings to a loader's."""

import shutil
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from relabelled import rewrite_labels

from eyespot.data_pipeline.augment.views import CenterView, ViewSpec
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.loading.loader import make_loader
from eyespot.data_pipeline.shards.manifest import Manifest, read_index, read_manifest
from eyespot.pretrain.config import DataConfig
from eyespot.pretrain.distributed.process_group import World
from eyespot.pretrain.loop.initial_weights import fresh_objective
from eyespot.pretrain.loop.run_data import (
    check_labels,
    chosen_ids,
    labeled_ids,
    loader_spec,
    normalized,
    open_shards,
    sample_ids,
)
from eyespot.pretrain.objective import Objective
from eyespot.pretrain.recipe_lookup import make_run


def objective_of(recipe: str) -> Objective:
    run = make_run(recipe)
    return fresh_objective(run)


def test_a_method_that_needs_labels_says_so_before_the_first_step(digits):
    shards = digits / "train"
    labeled = read_manifest(shards)
    unlabeled, supcon = replace(labeled, num_labeled=0), objective_of("supcon_tiny")
    check_labels(supcon, shards, labeled, make_run("supcon_tiny"))
    check_labels(objective_of("simclr_tiny"), Path("photos"), unlabeled, make_run("simclr_tiny"))
    with pytest.raises(UserError, match=r"data\.shards photos: SupCon needs labels") as caught:
        check_labels(supcon, Path("photos"), unlabeled, make_run("supcon_tiny"))
    assert "\n" not in str(caught.value)


def test_a_classifier_asks_for_a_label_of_its_own_for_each_image(digits):
    shards = digits / "train"
    manifest, classify, run = read_manifest(shards), objective_of("classify_tiny"), make_run("classify_tiny")
    check_labels(classify, shards, manifest, run)
    classify.num_classes = 9
    with pytest.raises(UserError, match=r"objective\.num_classes 9: .* has label 9; set it to 10"):
        check_labels(classify, shards, manifest, run)


def partly_labeled(digits: Path, folder: Path) -> tuple[Path, Manifest]:
    """The training digits, every third without label."""
    copy = shutil.copytree(digits / "train", folder / "train")
    rewrite_labels(copy, lambda labels: np.where(np.arange(len(labels)) % 3 == 0, -1, labels))
    return copy, read_manifest(copy)


def test_labels_of_some_images_are_enough_where_the_method_says_so(digits, tmp_path):
    shards, manifest = partly_labeled(digits, tmp_path)
    check_labels(objective_of("supcon_tiny"), shards, manifest, make_run("supcon_tiny"))
    with pytest.raises(UserError, match=r"480 of 1438 images have no label; name the others in data\.ids"):
        check_labels(objective_of("classify_tiny"), shards, manifest, make_run("classify_tiny"))
    run = make_run("supcon_tiny")
    run.data.ids = tmp_path / "ids.txt"
    run.data.ids.write_text("0\n3\n6\n")
    with pytest.raises(UserError, match=r"data\.ids: SupCon needs labels, and of the samples that it sees none"):
        check_labels(objective_of("supcon_tiny"), shards, manifest, run)


def test_a_run_sees_the_labels_of_its_labeled_ids_alone(digits, tmp_path):
    shards, manifest = partly_labeled(digits, tmp_path)
    run, world = make_run("supcon_tiny"), World(rank=0, size=1, device=torch.device("cpu"))
    run.data = DataConfig(shards=shards, batch_size=1438, labeled_ids=tmp_path / "known.txt")
    run.data.labeled_ids.write_text("4\n8\n1000\n")
    supcon = objective_of("supcon_tiny")
    check_labels(supcon, shards, manifest, run)
    spec = loader_spec(run, shards, supcon.views(), world)
    with closing(make_loader(spec)) as loader:
        batch = next(loader)
    truth = torch.from_numpy(read_index(shards, manifest)["label"].astype(np.int64))[batch.ids]
    assert batch.ids[batch.labels >= 0].sort().values.tolist() == [4, 8, 1000]
    assert (batch.labels == torch.where(batch.labels < 0, -1, truth)).all()
    other = loader_spec(run, digits / "test", supcon.views(), world)  # a monitor's
    assert other.labeled_ids is None and other.ids is None


def test_it_is_said_once_who_may_be_told_some_labels(digits, tmp_path):
    shards = digits / "train"
    manifest = read_manifest(shards)
    for recipe, reason in (("simclr_tiny", "none of the labels; leave it out"), ("classify_tiny", "all of the labels")):
        run = make_run(recipe)
        run.data.labeled_ids = tmp_path / "known.txt"
        with pytest.raises(UserError, match=rf"data\.labeled_ids .*: .* learns from {reason}"):
            check_labels(objective_of(recipe), shards, manifest, run)
    run = make_run("supcon_tiny")
    run.data.ids, run.data.labeled_ids = tmp_path / "ids.txt", tmp_path / "known.txt"
    run.data.ids.write_text("0 1 2")
    run.data.labeled_ids.write_text("3 4 5")
    with pytest.raises(
        UserError, match=r"data\.labeled_ids: SupCon needs labels, and of the samples that it sees none"
    ):
        check_labels(objective_of("supcon_tiny"), shards, manifest, run)


@pytest.mark.parametrize(
    ("text", "reason"),
    [("", "at least one"), ("3 x", "one id a line"), ("1 1", "different"), ("1438", "1437"), ("1 3 6", "2 of 3 .*: 3")],
)
def test_wrong_labeled_ids_are_one_line(text, reason, digits, tmp_path):
    shards, manifest = partly_labeled(digits, tmp_path)
    data = DataConfig(shards=digits, labeled_ids=tmp_path / "known.txt")
    data.labeled_ids.write_text(text)
    with pytest.raises(UserError, match=rf"data\.labeled_ids .*known\.txt: .*{reason}") as caught:
        labeled_ids(data, shards, manifest)
    assert "\n" not in str(caught.value)


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
