import json

import numpy as np
import pytest
import torch

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
