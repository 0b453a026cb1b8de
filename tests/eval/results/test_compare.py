import json
from typing import Any

import numpy as np
import pytest
from scipy import stats
from stored_results import answers, result_of, write, write_baselines, write_run

from eyespot.data_pipeline.errors import UserError
from eyespot.eval.results.compare import compare
from eyespot.eval.results.result import Result, Score
from eyespot.eval.results.significance import sign_flip, wilson


@pytest.fixture
def seeds(tmp_path):
    """Two methods, three seeds each, and a third of one seed."""
    runs = {}
    for method, share, lr in [("mae", 0.7, 1e-3), ("sim", 0.8, 2e-3)]:
        for seed in range(3):
            right = answers(share, noise=0.05, seed=len(runs))
            runs[f"{method}-{seed}"] = write_run(tmp_path / f"{method}-{seed}", right, seed=seed, lr=lr)
    runs["one"] = write_run(tmp_path / "one", answers(0.72), lr=5e-3)
    return runs


def test_pairs_by_hand(tmp_path):
    a = np.arange(100) < 80
    b = a ^ np.isin(np.arange(100), [*range(12), 90, 91, 92])  # 12 lost, 3 won
    places = [write(tmp_path / f"{name}.json", result_of(name, right)) for name, right in (("a", a), ("b", b))]
    found = compare(places)
    (pair,) = found.pairs
    assert (pair.only_a, pair.only_b, pair.value) == (12, 3, pytest.approx(0.09))
    assert pair.p == pair.p_holm == pytest.approx(stats.binomtest(12, 15).pvalue)
    assert pair.interval is not None and pair.interval[0] < 0.09 < pair.interval[1]
    assert pair.verdict() == f"{places[0]} is better" and pair.verdict({str(places[0]): "A"}) == "A is better"
    assert [row.num_correct for row in found.standings] == [80, 71]
    assert found.standings[1].interval == wilson(71, 100) and found.methods == found.method_pairs == []
    (turned,) = compare(places[::-1]).pairs
    assert turned.value == -pair.value and turned.verdict() == pair.verdict()


def test_many_comparisons_need_more(tmp_path):
    shared = np.arange(100) < 80
    rows = {"a": shared, "b": shared ^ (np.arange(100) < 6), "c": shared ^ np.isin(np.arange(100), [0, 99])}
    places = [write(tmp_path / f"{name}.json", result_of(name, right)) for name, right in rows.items()]
    (alone,) = compare(places[:2]).pairs
    assert alone.p == pytest.approx(2 / 64) and alone.verdict().endswith("a.json is better")
    together = compare(places)
    assert len(together.pairs) == 3 and together.pairs[0].p == alone.p
    assert together.pairs[0].p_holm == pytest.approx(6 / 64)
    assert {pair.verdict() for pair in together.pairs} == {"no difference shown"}


def test_baselines_are_compared_with_the_encoders_alone(tmp_path):
    runs = [write_run(tmp_path / name, answers(share), lr=share) for name, share in (("one", 0.7), ("two", 0.8))]
    for run in runs:
        write_baselines(run, answers(0.3))
    assert len(compare(runs).pairs) == 1
    assert len(compare(runs, baselines=True).pairs) == 5
    found = compare(runs[:1])
    assert len(found.pairs) == 2 and all(pair.verdict() == f"{runs[0]} is better" for pair in found.pairs)
    for path in (runs[0] / "eval").glob("*_[rp]*.json"):
        path.unlink()
    with pytest.raises(UserError, match="one result alone"):
        compare(runs[:1])


def test_methods_over_seeds(seeds):
    places = [run for name, run in seeds.items() if name != "one"]
    found = compare(places)
    assert len(found.pairs) == 9  # seeds of one method are not rivals
    first, second = found.methods
    assert first.label == f"{seeds['mae-0']} and 2 more" and list(first.accuracies) == [0, 1, 2]
    shares = [[row.accuracy for row in found.standings[start : start + 3]] for start in (0, 3)]
    assert list(first.accuracies.values()) == pytest.approx(shares[0]) and first.mean == pytest.approx(
        np.mean(shares[0])
    )
    assert first.interval == pytest.approx(stats.t.interval(0.95, 2, first.mean, stats.sem(shares[0])))
    (pair,) = found.method_pairs
    assert pair.value == pytest.approx(first.mean - second.mean) and pair.only_a is None
    assert pair.p == pytest.approx(stats.ttest_ind(*shares, equal_var=False).pvalue)
    assert pair.verdict() == f"{second.label} is better"
    (paired,) = compare(places, paired_seeds=True).method_pairs
    assert paired.p == pytest.approx(stats.ttest_rel(*shares).pvalue)


def test_one_seed_says_that_the_spread_is_unknown(seeds):
    found = compare([seeds[name] for name in ("mae-0", "mae-1", "one")])
    assert [len(method.accuracies) for method in found.methods] == [2, 1]
    assert found.methods[1].interval is None
    (pair,) = found.method_pairs
    assert pair.p is pair.p_holm is pair.interval is None and pair.verdict() == "unknown: too few seeds"
    assert len(found.pairs) == 2
    with pytest.raises(UserError, match=r"--paired-seeds: .* has the seeds \[0, 1\], .*one \[0\]"):
        compare([seeds[name] for name in ("mae-0", "mae-1", "one")], paired_seeds=True)


def test_what_makes_a_method(seeds, tmp_path):
    assert compare([seeds["mae-0"], seeds["sim-1"]]).methods == []  # another learning rate
    again = write_run(tmp_path / "again", answers(0.71), seed=0)
    assert compare([seeds["mae-0"], again]).methods == []  # the same seed again is no second draw
    assert [len(method.accuracies) for method in compare([seeds["mae-0"], again, seeds["mae-1"]]).methods] == [2]
    later = write_run(tmp_path / "later", answers(0.71), seed=7, origin={"step": 200})
    assert compare([seeds["mae-0"], later]).methods == []  # trained for longer


def test_values_are_json(seeds):
    values = json.loads(json.dumps(compare([seeds[name] for name in ("mae-0", "mae-1", "one")]).values()))
    assert values["pairs"][0]["verdict"] and values["method_pairs"][0]["p"] is None and values["share"] == "accuracy"
    assert values["methods"][0]["accuracies"].keys() == {"0", "1"} and values["num_test"] == 400


def drawn(key, share, train="draws"):
    """A result over five draws."""
    right = [answers(share, noise=0.2, seed=draw) for draw in range(5)]
    scores = {f"draw {number}": Score.of(row) for number, row in enumerate(right, 1)}
    accuracy = float(np.mean(right))
    changes = {"protocol": "low-shot", "scores": scores, "correct": None, "num_correct": None, "train_sha256": train}
    return result_of(key, right[0], **changes, accuracy=accuracy, interval=(accuracy - 0.1, accuracy + 0.1)), right


def test_results_over_draws(tmp_path):
    (one, a), (two, b) = drawn("one", 0.7), drawn("two", 0.8)
    places = [write(tmp_path / f"{result.key}.json", result) for result in (one, two)]
    found = compare(places)
    assert [row.accuracy for row in found.standings] == pytest.approx([np.mean(a), np.mean(b)])
    assert found.standings[0].interval == one.interval and found.standings[0].num_correct is None
    (pair,) = found.pairs
    assert pair.value == pytest.approx(np.mean(a) - np.mean(b)) and pair.only_a is pair.only_b is None
    assert pair.p == sign_flip(np.sum(a, 0) - np.sum(b, 0)) and pair.interval is not None
    assert pair.interval[0] < pair.value < pair.interval[1] and pair.verdict() == f"{places[1]} is better"
    other = write(tmp_path / "other.json", drawn("other", 0.8, train="other draws")[0])
    with pytest.raises(UserError, match="learned from other samples"):
        compare([places[0], other])


def masked(key: str, values: np.ndarray, **changes) -> Result:
    """A result of masks: a mean IoU, and that of each image."""
    scores = {
        "image mIoU": Score(value=float(values.mean()), values=values.tolist()),
        "pixel accuracy": Score(value=0.9),
    }
    fields = dict(
        protocol="dense-knn", accuracy=0.4, interval=(0.3, 0.5), num_correct=None, correct=None, scores=scores
    )
    return result_of(key, np.ones(len(values), bool), **{**fields, **changes})


def test_images_that_are_more_or_less_right_are_paired(tmp_path):
    generator = np.random.default_rng(0)
    a = generator.uniform(0.2, 0.9, 40)
    b = a - generator.normal(0.02, 0.03, 40)
    places = [write(tmp_path / f"{name}.json", masked(name, values)) for name, values in (("a", a), ("b", b), ("c", a))]
    found = compare(places[:2])
    (pair,) = found.pairs
    expected: Any = stats.ttest_rel(a, b)
    assert (pair.value, pair.p) == (pytest.approx((a - b).mean()), pytest.approx(expected.pvalue))
    assert pair.interval == pytest.approx(tuple(expected.confidence_interval()))
    assert pair.only_a is None and pair.verdict() == f"{places[0]} is better"
    assert found.share == "image mIoU" and found.graded and found.standings[0].num_correct is None
    assert [row.accuracy for row in found.standings] == pytest.approx([a.mean(), b.mean()])
    assert found.standings[0].interval == pytest.approx(stats.t.interval(0.95, 39, a.mean(), stats.sem(a)))
    (same,) = compare([places[0], places[2]]).pairs
    assert (same.value, same.p, same.interval) == (0, 1, (0, 0)) and same.verdict() == "no difference shown"
    short = write(tmp_path / "short.json", masked("d", a[:30], num_test=40))
    with pytest.raises(UserError, match="damaged: 30 values stored for 40 test samples"):
        compare([places[0], short])
