import json
import shutil

import numpy as np
import pytest
from relabelled import rewrite_labels

from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.shards.shard_folder import ShardFolder
from eyespot.eval.protocols.labeled_data import labeled_data


def test_own_test_split(digits):
    data = labeled_data(ShardFolder.find(digits), seed=0)
    assert data.train.shards.path == digits / "train" and data.test.shards.path == digits / "test"
    assert len(data.train.rows) + len(data.test.rows) == 1797 and len(data.classes) == 10


def test_without_a_test_split_a_fifth_of_each_class_is_held_out(digits):
    data = labeled_data(ShardFolder.find(digits / "train"), seed=0)
    assert "held out" in data.split and data.train.shards is data.test.shards
    assert not set(data.train.rows) & set(data.test.rows)
    share = np.bincount(data.test.labels) / (np.bincount(data.test.labels) + np.bincount(data.train.labels))
    assert share == pytest.approx(np.full(10, 0.2), abs=0.01)
    assert labeled_data(ShardFolder.find(digits / "train"), seed=1).test.rows.tolist() != data.test.rows.tolist()


def test_missing_test_folder_is_held_out_too(digits, tmp_path):
    shutil.copytree(digits / "train", tmp_path / "train")
    assert "held out" in labeled_data(ShardFolder.find(tmp_path), seed=0).split


def test_unlabelled_samples_are_left_out(digits, tmp_path):
    shutil.copytree(digits, tmp_path, dirs_exist_ok=True)
    rewrite_labels(tmp_path / "train", lambda labels: np.where(labels == 3, -1, labels))
    rewrite_labels(tmp_path / "test", lambda labels: np.where(labels == 3, -1, labels))
    data = labeled_data(ShardFolder.find(tmp_path), seed=0)
    assert 3 not in data.train.labels and len(data.train.rows) < 1438


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda labels: np.full_like(labels, -1), "none of 1,438 samples has a label"),
        (lambda labels: np.zeros_like(labels), "two classes or more"),
        (lambda labels: np.where(labels == 3, 4, labels), "classes of which train has no sample"),
    ],
)
def test_shards_that_no_probe_can_use(digits, tmp_path, change, message):
    shutil.copytree(digits, tmp_path, dirs_exist_ok=True)
    rewrite_labels(tmp_path / "train", change)
    with pytest.raises(UserError, match=message):
        labeled_data(ShardFolder.find(tmp_path), seed=0)


def list_classes(folder, classes):
    """Has the manifest of a copied shard folder list other classes."""
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**manifest, "classes": classes}))


@pytest.mark.parametrize("split", ["train", "test"])
def test_the_last_classes_may_be_missing_in_a_split(digits, tmp_path, split):
    """As where each split was indexed by itself, and its labels are numbers up to the largest that it has."""
    shutil.copytree(digits, tmp_path, dirs_exist_ok=True)
    for folder in (tmp_path / split, tmp_path / "test"):
        rewrite_labels(folder, lambda labels: np.where(labels >= 8, -1, labels))
    list_classes(tmp_path / split, [str(label) for label in range(8)])
    data = labeled_data(ShardFolder.find(tmp_path), seed=0)
    assert len(data.classes) == 10 and data.test.labels.max() == 7
    assert data.train.labels.max() == (9 if split == "test" else 7)


def test_a_label_that_means_two_things_is_refused(digits, tmp_path):
    shutil.copytree(digits, tmp_path, dirs_exist_ok=True)
    list_classes(tmp_path / "test", ["0", "2", "1", *"3456789"])
    with pytest.raises(UserError, match="label 1 is '1' in train and '2' in test"):
        labeled_data(ShardFolder.find(tmp_path), seed=0)


def test_no_shards(tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        labeled_data(ShardFolder.find(tmp_path / "nowhere"), seed=0)


def test_the_digest_tells_samples_apart(digits):
    whole, held = (
        labeled_data(ShardFolder.find(digits), seed=0),
        labeled_data(ShardFolder.find(digits / "train"), seed=0),
    )
    assert held.test.digest() == labeled_data(ShardFolder.find(digits / "train"), seed=0).test.digest()
    others = [
        whole.train,
        whole.test,
        held.train,
        held.test,
        labeled_data(ShardFolder.find(digits / "train"), seed=1).test,
    ]
    assert len({part.digest() for part in others}) == 5
