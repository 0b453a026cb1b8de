import json
import shutil
from copy import deepcopy
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from relabelled import rewrite_labels
from sklearn.datasets import load_digits

from eyespot.data_pipeline.augment.views import ViewSpec, center_view
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.shards.shard_folder import ShardFolder
from eyespot.eval import evaluate
from eyespot.eval.encoders.feature_cache import features_of
from eyespot.eval.encoders.subject import RawPixels, Subject, subjects_of
from eyespot.eval.evaluate import PROTOCOLS, _key, _task, judge, read_result
from eyespot.eval.protocols import linear_grid
from eyespot.eval.protocols.labeled_data import labeled_data
from eyespot.eval.protocols.task import Task
from eyespot.eval.results.significance import wilson
from eyespot.pretrain.distributed.process_group import World

ALONE = World(rank=0, size=1, device=torch.device("cpu"))


@pytest.fixture
def short(monkeypatch):
    """Fewer epochs of the one protocol that trains by steps."""
    monkeypatch.setattr(linear_grid, "MAX_EPOCHS", 5)
    monkeypatch.setattr(linear_grid, "BATCH_SIZE", 128)


def run(protocol, target, shards, out=None):
    return judge(protocol, str(target), shards, out=out, seed=0, pretrained=False, world=ALONE)


def test_results_of_a_run(run_dir, digits):
    results = run("knn", run_dir, digits)
    assert [result.role for result in results] == ["encoder", "random", "pixels"]
    files = sorted((run_dir / "eval").glob("knn_*.json"))
    assert len(files) == 3
    for result in results:
        assert result.num_test == 359 and result.num_train == 1438
        right = np.unpackbits(np.frombuffer(bytes.fromhex(result.correct), np.uint8))[:359]
        assert right.sum() == result.num_correct == round(result.accuracy * 359)
        assert result.interval == wilson(result.num_correct, 359)
        assert result.metrics[result.metric] == pytest.approx(result.accuracy)
        assert result in [read_result(path) for path in files]
    assert results[2].accuracy > 0.9  # raw digits are easy: the whole path works
    assert set(json.loads(files[0].read_text())) >= {"key", "metric", "accuracy", "interval", "settings", "seed"}


def judged(world, shards, out):
    """What every protocol that learns nothing says of one encoder, without the clock's part in it."""
    found = []
    for protocol in ("retrieval", "clustering", "unlabeled"):
        results = judge(protocol, "test_vit", shards, out=out, seed=0, pretrained=False, world=world)
        found += [{**asdict(result), "seconds": 0, "created": "", "argv": []} for result in results]
    return found


@pytest.mark.parametrize("size", [2, pytest.param(3, marks=pytest.mark.thorough)])
def test_any_number_of_ranks_gives_the_same_results(size, digits, tmp_path, on_ranks):
    alone = judged(ALONE, digits / "test", tmp_path / "1")
    retrieval, clustering, unlabeled = alone[::2]
    assert {result["name"] for result in alone[1::2]} == {"raw pixels at 18 px"}
    assert 0.1 < retrieval["accuracy"] <= retrieval["scores"]["recall@5"]["value"]
    assert retrieval["num_test"] == 70 and clustering["metric"].startswith("clustering/kmeans_")
    assert unlabeled["accuracy"] is None and unlabeled["num_test"] == 359 and "cls/rankme" in unlabeled["scores"]
    first, *others = on_ranks(judged, size, digits / "test", tmp_path / str(size))
    assert first == alone and not any(others)


def streamed(world, run_dir, shards, out, most):
    """What knn and clustering say where no more than so many bytes of features are to be in memory."""
    evaluate.MOST_IN_MEMORY = most
    results = [
        result
        for protocol in ("knn", "clustering")
        for result in judge(protocol, str(run_dir), shards, out=out, seed=0, pretrained=False, world=world)
    ]
    return [{**asdict(result), "seconds": 0, "created": "", "argv": []} for result in results]


def test_too_many_features_are_read_in_pieces_by_all_ranks(run_dir, digits, tmp_path, on_ranks):
    most = evaluate.MOST_IN_MEMORY
    try:
        whole = streamed(ALONE, run_dir, digits / "test", tmp_path / "whole", most)
        pieces = streamed(ALONE, run_dir, digits / "test", tmp_path / "pieces", 0)
        assert pieces[:3] == whole[:3]  # kNN, to the bit
        assert {result["metric"].split("_")[0] for result in pieces[3:]} == {"clustering/spherical"}
        first, second = on_ranks(streamed, 2, run_dir, digits / "test", tmp_path / "ranks", 0)
        assert first == pieces and second == []
    finally:
        evaluate.MOST_IN_MEMORY = most


def test_shards_without_labels_can_be_looked_at(digits, tmp_path):
    shutil.copytree(digits, tmp_path / "shards")
    for split in ("train", "test"):
        rewrite_labels(tmp_path / "shards" / split, lambda labels: np.full_like(labels, -1))
    result, *_ = run("unlabeled", "test_vit", tmp_path / "shards", tmp_path / "out")
    assert result.num_train == 0 and result.num_test == 359 and result.split == "all of its own test split"
    assert "cls/uniformity" in result.scores and "cls/alignment" not in result.scores
    assert result.metrics["unlabeled/cls/rankme"] == result.scores["cls/rankme"].value
    again, *_ = run("unlabeled", "test_vit", tmp_path / "shards", tmp_path / "out")
    assert again == result  # read from its file
    with pytest.raises(UserError, match="has a label"):
        run("retrieval", "test_vit", tmp_path / "shards", tmp_path / "out")


def test_results_of_older_versions_stay_known(run_dir, digits):
    first = run("knn", run_dir, digits)
    for path in (run_dir / "eval").glob("knn_*.json"):
        fields = json.loads(path.read_text())
        old = {name: value for name, value in fields.items() if name not in ("scores", "alarms")}
        path.write_text(json.dumps({**old, "format": "eyespot-result/1"}))
    again = run("knn", run_dir, digits)
    assert [(r.created, r.accuracy, r.interval) for r in again] == [(r.created, r.accuracy, r.interval) for r in first]


def test_known_results_are_not_computed_again(run_dir, digits):
    first = run("knn", run_dir, digits)
    assert [result.created for result in run("knn", run_dir, digits)] == [result.created for result in first]
    (path,) = (run_dir / "eval").glob("knn_*_pixels.json")
    path.write_text("torn")
    again = run("knn", run_dir, digits)
    assert again[2].accuracy == first[2].accuracy and read_result(path) == again[2]


def test_linear_on_shards_without_test_split(digits, tmp_path):
    result, *_ = run("linear", "test_vit", digits / "test", tmp_path / "out")
    assert "held out" in result.split and result.num_train + result.num_test == 359
    assert result.metric.startswith("linear/") and 0.1 < result.accuracy <= 1


def test_broken_weights(run_dir, digits, monkeypatch):
    from eyespot.eval.encoders import subject

    plain = subject.encode_all
    monkeypatch.setattr(
        "eyespot.eval.encoders.feature_cache.encode_all", lambda *a: {k: v * np.nan for k, v in plain(*a).items()}
    )
    with pytest.raises(UserError, match="not all finite"):
        run("knn", run_dir, digits)


def test_unwritable_out(digits, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        run("knn", "test_vit", digits / "test", tmp_path / "file" / "out")


CACHED = [name for name, procedure in PROTOCOLS.items() if not procedure.maps]


@pytest.fixture(scope="module")
def pixels():
    """Digits as features of two kinds, in random order: 600 rows to learn from, 400 to be tested on."""
    values, labels = load_digits(return_X_y=True)
    rows = np.random.default_rng(0).permutation(len(labels))[:1000]
    x, y = torch.from_numpy(values[rows] / 16).float(), torch.from_numpy(labels[rows]).long()
    return {"cls": x[:, 2::8], "mean": x[:, 4::8]}, y


def task_of(features, labels, test_rows=None):
    rows = torch.arange(600, 1000) if test_rows is None else test_rows
    train = {kind: values[:600] for kind, values in features.items()}
    test = {kind: values[rows] for kind, values in features.items()}
    labels = {"train_labels": labels[:600], "test_labels": labels[rows]}
    return Task(train=train, test=test, num_classes=10, seed=0, **labels)


def reported(protocol, task):
    """The candidate that counts, and the scores of all."""
    found = PROTOCOLS[protocol].candidates(task)
    best = max(found, key=lambda candidate: candidate.validation or 0.0)
    scores = {f"{c.metric}/{name}": score.value for c in found for name, score in c.scores.items()}
    return best, scores


@pytest.mark.parametrize("protocol", CACHED)
def test_images_in_another_order_score_the_same(protocol, pixels, short):
    order = torch.from_numpy(np.random.default_rng(1).permutation(400))
    best, scores = reported(protocol, task_of(*pixels))
    other, others = reported(protocol, task_of(*pixels, 600 + order))
    assert other.settings == best.settings and others == pytest.approx(scores, abs=1e-6)
    if best.predictions is None:
        assert protocol == "unlabeled"
    else:
        labels = pixels[1][600:].numpy()
        right = best.predictions == labels
        assert right.mean() > 0.3
        np.testing.assert_array_equal(other.predictions == labels[order], right[order])


@pytest.mark.parametrize("protocol", CACHED)
def test_shuffled_labels_score_chance(protocol, pixels, short):
    features, labels = pixels
    shuffled = labels[torch.from_numpy(np.random.default_rng(2).permutation(1000))]
    best, scores = reported(protocol, task_of(features, shuffled))
    if protocol == "unlabeled":  # images of one class are as far apart as any two: 2 - 2 cos on average
        assert scores["unlabeled/cls/alignment"] == pytest.approx(
            2 - 2 * scores["unlabeled/cls/negative_similarity"], rel=0.02
        )
    elif protocol == "clustering":  # its accuracy is fitted to the labels
        assert abs(best.scores["ARI"].value) < 0.02
    else:
        assert (best.predictions == task_of(features, shuffled).test_labels.numpy()).mean() < 0.1 + 4 * 0.015


@pytest.mark.parametrize("name", ["test_vit", "test_resnet"])
def test_no_protocol_changes_the_weights(name, digits, tmp_path, short):
    """BatchNorm's running statistics among them."""
    subject, _ = subjects_of(name, seed=0, pretrained=False)
    subject.views = ViewSpec(views=(center_view(32),))
    data, weights = labeled_data(ShardFolder(digits / "test"), 0), deepcopy(subject.encoder.state_dict())
    for protocol in CACHED:
        cached = features_of(subject, ShardFolder(digits / "test"), tmp_path, ALONE, PROTOCOLS[protocol].num_blocks)
        PROTOCOLS[protocol].candidates(_task(subject, data, {digits / "test": cached}, 0, ALONE.device))
    for key, tensor in subject.encoder.state_dict().items():
        assert torch.equal(tensor, weights[key]), key


def test_keys_are_those_of_the_first_release(digits):
    """Results that people have stay known. Raw pixels, since random weights are another thing in each torch."""
    shards, views = digits / "test", ViewSpec(views=(center_view(16),), mean=(0.25,) * 3, std=(0.5,) * 3)
    subject = Subject(name="", tag="", role="pixels", encoder=RawPixels(), views=views)
    for protocol, key in (
        ("linear-grid", "6bc876ecf4750cf3ee4b329df728ecb0"),
        ("unlabeled", "ae1653d3c710f6adbc434c9f0ed1a71e"),
    ):
        data = PROTOCOLS[protocol].data(shards, 3, ALONE)
        assert _key(protocol, PROTOCOLS[protocol], subject, data, 3) == key
        for other in ({"variant": "5-shot"}, {"revision": "other numbers"}):
            assert _key(protocol, replace(PROTOCOLS[protocol], **other), subject, data, 3) != key
