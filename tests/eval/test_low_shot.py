import hashlib
import json

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import PredefinedSplit

from eyespot.data_pipeline.errors import UserError
from eyespot.eval import low_shot
from eyespot.eval.low_shot import judge_low_shot
from eyespot.eval.protocols.labeled_data import Shots
from eyespot.eval.protocols.task import Candidate, Task
from eyespot.eval.results.result import Score
from eyespot.eval.results.significance import mean_interval
from eyespot.pretrain.distributed.process_group import World

ALONE = World(rank=0, size=1, device=torch.device("cpu"))


@pytest.fixture(scope="module")
def pixels():
    values, labels = load_digits(return_X_y=True)
    return torch.from_numpy(values).float(), torch.from_numpy(labels).long()


def test_draws_are_a_function_of_labels_seed_and_shots():
    labels = np.random.default_rng(0).integers(0, 4, 400)
    five, again = (Shots(text="5").draw(labels, seed=7) for _ in range(2))
    assert [len(rows) for rows in five] == [20] * 5
    assert all((a == b).all() for a, b in zip(five, again, strict=True))
    for rows in five:
        assert len(set(rows.tolist())) == 20 and (np.bincount(labels[rows]) == 5).all()
        assert (labels[rows] == np.repeat(np.arange(4), 5)).all()
    assert len({frozenset(rows.tolist()) for rows in five}) == 5
    assert set(Shots(text="5").draw(labels, seed=8)[0]) != set(five[0])
    more = Shots(text="5", num_draws=8).draw(labels, seed=7)  # more draws begin with the same ones
    assert len(more) == 8 and all((a == b).all() for a, b in zip(five, more, strict=False))
    for smaller, larger in zip(five, Shots(text="10%").draw(labels, seed=7), strict=True):  # and larger hold smaller
        assert set(smaller.tolist()) < set(larger.tolist())


def test_a_share_is_of_each_class():
    labels = np.repeat([0, 1, 2], [1000, 150, 50])
    (first, *_) = Shots(text="1%").draw(labels, seed=0)
    assert np.bincount(labels[first]).tolist() == [10, 2, 1]


@pytest.mark.parametrize("text", ["0", "0%", "100%", "-1", "1.5", "few", "", "%", "1%%", "²"])
def test_unknown_shots(text):
    with pytest.raises(UserError, match=r"^--shots .*: neither a number of samples nor a share; write 1%, 10% or"):
        Shots(text=text)


def test_too_few():
    labels = np.repeat([0, 1], [100, 20])
    with pytest.raises(UserError, match=r"^--shots 1%: class dog has 20 training samples, 1% of them is none; choose"):
        Shots(text="1%").draw(labels, 0, ["cat", "dog"])
    with pytest.raises(UserError, match=r"^--shots 20: class dog has 20 training samples, draws would not differ"):
        Shots(text="20").draw(labels, 0, ["cat", "dog"])
    with pytest.raises(UserError, match=r"^--draws 4: fewer than 5"):
        Shots(text="1%", num_draws=4)
    with pytest.raises(UserError, match=r"^--draws 1000000000: more than 10,000"):
        Shots(text="1%", num_draws=10**9)


def test_penalty_is_that_of_scikit_learns_cross_validation(pixels):
    (rows, *_) = Shots(text="7").draw(pixels[1].numpy(), seed=0)
    train, labels = pixels[0][rows], pixels[1][rows]
    wide = train.double().numpy()
    deviation = wide.std(0)
    standard = (wide - wide.mean(0)) / np.where(deviation > 0, deviation, 1)
    folds = PredefinedSplit(np.tile(np.arange(7) % 5, 10))
    accuracies = {}
    for penalty in low_shot.PENALTIES:
        reference = LogisticRegression(C=1, solver="newton-cholesky", tol=1e-8)
        right = []
        for kept, held in folds.split():
            reference.set_params(C=1 / (penalty * len(kept)))
            right.append(reference.fit(standard[kept], labels[kept]).predict(standard[held]) == labels[held].numpy())
        accuracies[penalty] = np.concatenate(right).mean()
    penalty, accuracy = low_shot.choose(train, labels, num_classes=10)
    assert accuracy == pytest.approx(accuracies[penalty]) and accuracy == pytest.approx(max(accuracies.values()))
    assert penalty == max(p for p, found in accuracies.items() if found == accuracies[penalty])


def share_of(candidate: Candidate) -> Score:
    assert candidate.share is not None
    return candidate.share


def test_the_mean_over_draws(pixels):
    features, labels = pixels
    train, test = slice(0, 1000), slice(1000, None)
    task = Task(
        train={"pixels": features[train], "noise": torch.randn(1000, 8, generator=torch.Generator().manual_seed(0))},
        train_labels=labels[train],
        test={"pixels": features[test], "noise": torch.randn(797, 8, generator=torch.Generator().manual_seed(1))},
        test_labels=labels[test],
        num_classes=10,
        seed=0,
    )
    by_shots = [low_shot.candidates(task, shots=Shots(text=text)) for text in ("1", "3")]
    values = [share_of(found[0]).value for found in by_shots]
    assert 0.4 < values[0] < values[1] < 0.9  # more is better
    for found, noise in by_shots:
        draws = [score.value for score in found.scores.values()]
        assert list(found.scores) == [f"draw {n}" for n in range(1, 6)] and len(set(draws)) > 1
        assert share_of(found).value == pytest.approx(np.mean(draws))
        assert share_of(found).interval == pytest.approx(mean_interval(draws))
        assert abs(share_of(noise).value - 0.1) < 0.05
    assert by_shots[0][0].validation is None and by_shots[0][0].settings["lambda"] == low_shot.ONE_SHOT_PENALTY
    assert by_shots[1][0].metric == "low-shot/3_pixels" and (by_shots[1][0].validation or 0) > 0.3


def test_results_and_id_lists(run_dir, digits):
    options = {"shots": Shots(text="1"), "out": None, "seed": 0, "pretrained": False, "world": ALONE}
    results = judge_low_shot(str(run_dir), digits, **options)
    assert [result.role for result in results] == ["encoder", "random", "pixels"]
    (path,) = (run_dir / "eval" / "draws").iterdir()
    assert path.name.startswith("digits-") and path.name.endswith("_1-shot-5-draws_seed0.json")
    stored = json.loads(path.read_text())
    labels = np.load(digits / "train" / "index.npy")["label"]
    assert all((np.bincount(labels[ids]) == 1).all() for ids in stored["draws"])
    assert stored["index_sha256"] == json.loads((digits / "train" / "manifest.json").read_text())["index_sha256"]
    for result in results:
        assert result.train_sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
        assert result.num_train == 10 and result.num_test == 359 and result.num_correct is result.correct is None
        assert "mean over 5 draws of 1 per class" in result.split
    assert (results[2].accuracy or 0) > 0.4
    before = path.read_bytes()
    again = judge_low_shot(str(run_dir), digits, **options)
    assert [result.created for result in again] == [result.created for result in results]
    assert path.read_bytes() == before
    other = judge_low_shot(str(run_dir), digits, **{**options, "shots": Shots(text="1", num_draws=6)})
    assert other[0].key != results[0].key and len(list((run_dir / "eval").glob("low-shot-*.json"))) == 6
    with pytest.raises(UserError, match=r"class 0 has .* training samples, draws would not differ"):
        judge_low_shot(str(run_dir), digits, **{**options, "shots": Shots(text="1000")})
