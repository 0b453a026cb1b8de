import json
import shutil
from dataclasses import asdict

import numpy as np
import pytest
import torch
from relabelled import rewrite_labels

from eyespot.data_pipeline.errors import UserError
from eyespot.eval.intervals import wilson
from eyespot.eval.judge import judge, read_result
from eyespot.pretrain.dist import World

ALONE = World(rank=0, size=1, device=torch.device("cpu"))


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


def test_any_number_of_ranks_gives_the_same_results(digits, tmp_path, on_ranks):
    alone = judged(ALONE, digits / "test", tmp_path / "1")
    retrieval, clustering, unlabeled = alone
    assert 0.1 < retrieval["accuracy"] <= retrieval["scores"]["recall@5"]["value"]
    assert retrieval["num_test"] == 70 and clustering["metric"].startswith("clustering/kmeans_")
    assert unlabeled["accuracy"] is None and unlabeled["num_test"] == 359 and "cls/rankme" in unlabeled["scores"]
    for size in (2, 3):
        first, *others = on_ranks(judged, size, digits / "test", tmp_path / str(size))
        assert first == alone and not any(others)


def test_shards_without_labels_can_be_looked_at(digits, tmp_path):
    shutil.copytree(digits, tmp_path / "shards")
    for split in ("train", "test"):
        rewrite_labels(tmp_path / "shards" / split, lambda labels: np.full_like(labels, -1))
    (result,) = run("unlabeled", "test_vit", tmp_path / "shards", tmp_path / "out")
    assert result.num_train == 0 and result.num_test == 359 and result.split == "all of its own test split"
    assert "cls/uniformity" in result.scores and "cls/alignment" not in result.scores
    assert result.metrics["unlabeled/cls/rankme"] == result.scores["cls/rankme"].value
    (again,) = run("unlabeled", "test_vit", tmp_path / "shards", tmp_path / "out")
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
    (result,) = run("linear", "test_vit", digits / "test", tmp_path / "out")
    assert "held out" in result.split and result.num_train + result.num_test == 359
    assert result.metric.startswith("linear/") and 0.1 < result.accuracy <= 1


def test_broken_weights(run_dir, digits, monkeypatch):
    from eyespot.eval import subject

    plain = subject.encode_all
    monkeypatch.setattr("eyespot.eval.features.encode_all", lambda *a: {k: v * np.nan for k, v in plain(*a).items()})
    with pytest.raises(UserError, match="not all finite"):
        run("knn", run_dir, digits)


def test_unwritable_out(digits, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        run("knn", "test_vit", digits / "test", tmp_path / "file" / "out")
