import json

import numpy as np
import pytest
from stored_results import answers, result_of, write, write_baselines, write_run

from eyespot.data_pipeline.errors import UserError
from eyespot.eval.results.selection import find_entries

RIGHT = answers(0.7)


def keys(places, **options):
    return [entry.result.key for entry in find_entries(places, **options)]


@pytest.mark.parametrize("total", [1, 8, 359, 400])
def test_answers_come_back(tmp_path, total):
    right = np.random.default_rng(1).random(total) < 0.5
    (entry,) = find_entries([write(tmp_path / "a.json", result_of("a", right))])
    assert (entry.right == right).all() and entry.label == str(tmp_path / "a.json")


def test_a_run_a_folder_and_a_file(tmp_path):
    run = write_run(tmp_path / "run", RIGHT, seed=3)
    write(run / "eval" / "linear_digits_step-00000050.json", result_of("older", RIGHT, origin={"step": 50}))
    write(tmp_path / "folder" / "x.json", result_of("published", RIGHT, origin={}))
    file = write(tmp_path / "file.json", result_of("file", RIGHT))
    entries = find_entries([run, tmp_path / "folder", file])
    assert [entry.result.key for entry in entries] == ["run", "published", "file"]  # the newest step
    assert [entry.seed for entry in entries] == [3, None, None]
    assert entries[0].settings["step"] == 100 and "seed" not in entries[0].settings and not entries[1].settings
    (older,) = find_entries([run / "eval" / "linear_digits_step-00000050.json"])
    assert older.seed == 3 and older.settings["step"] == 50


def test_baselines_come_once_and_when_asked(tmp_path):
    runs = [write_run(tmp_path / name, RIGHT) for name in ("one", "two")]
    for run in runs:
        write_baselines(run, RIGHT)
    assert keys(runs) == ["one", "two"]
    entries = find_entries(runs, baselines=True)
    assert [entry.result.key for entry in entries] == ["one", "two", "pixels", "random"]
    assert [entry.baseline for entry in entries] == [False, False, True, True]
    assert entries[3].label == f"{runs[0]}: random weights (seed 0)"


def test_the_protocol_is_chosen_or_the_shared_one(tmp_path):
    one, two = (write_run(tmp_path / name, RIGHT) for name in ("one", "two"))
    write(one / "eval" / "knn.json", result_of("one-knn", RIGHT, protocol="knn"))
    assert keys([one, two]) == ["one", "two"]
    write(two / "eval" / "knn.json", result_of("two-knn", RIGHT, protocol="knn"))
    assert keys([one, two], protocol="knn") == ["one-knn", "two-knn"]
    with pytest.raises(UserError, match="--protocol: not given, and there are knn, linear; add --protocol knn"):
        find_entries([one, two])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"protocol": "knn"}, "protocol linear against knn"),
        ({"data": "cifar10", "test_sha256": "other"}, "data digits against cifar10"),
        ({"split": "held out (seed 1)", "test_sha256": "other"}, "split 'its own test split' against 'held out"),
        ({"test_sha256": "other"}, "other test samples of digits, or another order"),
        ({"train_sha256": "other", "num_train": 14}, r"learned from other samples of digits \(1,438 against 14\)"),
        ({"correct": None, "protocol": "unlabeled"}, "unlabeled does not say which samples were right"),
        ({"test_sha256": ""}, "older eyespot"),
        ({"num_test": 300}, "400 answers stored for 300"),
        ({"key": "one"}, "the two encoders are identical: "),
    ],
)
def test_what_cannot_be_compared_says_why(tmp_path, changes, words):
    places = [write(tmp_path / "one.json", result_of("one", RIGHT))]
    places.append(write(tmp_path / "two.json", result_of(**{"key": "two", "right": RIGHT, **changes})))
    with pytest.raises(UserError, match=words) as refused:
        find_entries(places)
    assert "\n" not in str(refused.value)


def test_protocols_meet_when_asked(tmp_path):
    places = [write(tmp_path / f"{name}.json", result_of(name, RIGHT, protocol=name)) for name in ("knn", "linear")]
    assert keys(places, across_protocols=True) == ["knn", "linear"]
    write_run(tmp_path / "run", RIGHT)
    write(tmp_path / "run" / "eval" / "knn.json", result_of("third", RIGHT, protocol="knn"))
    with pytest.raises(UserError, match=r"2 results fit \(knn, linear\); name one result file"):
        find_entries([places[0], tmp_path / "run"], across_protocols=True)


def test_other_wrong_places(tmp_path):
    run = write_run(tmp_path / "run", RIGHT)
    (tmp_path / "empty").mkdir()
    for place in (tmp_path / "empty", tmp_path / "absent", run / "run.json"):
        with pytest.raises(UserError, match="no result of eyespot eval"):
            find_entries([run, place])
    with pytest.raises(UserError, match="named twice"):
        find_entries([run, run])
    with pytest.raises(UserError, match="holds linear, not --protocol knn"):
        find_entries([run], protocol="knn")
    write(run / "eval" / "other.json", result_of("other", RIGHT, test_sha256="cifar", data="cifar10"))
    with pytest.raises(UserError, match=r"on cifar10 \(.*\) and digits \(.*\); name result files"):
        find_entries([run])
    (run / "run.json").write_text(json.dumps({"recipe": "mae_tiny"}))
    with pytest.raises(UserError, match=r"run\.json: damaged"):
        find_entries([run / "eval" / "linear_digits_step-00000100.json"])
