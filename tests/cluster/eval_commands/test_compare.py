"""eyespot eval compare as a person calls it."""

import json
import subprocess
import sys

import pytest
from PIL import Image
from stored_results import answers, result_of, write, write_baselines, write_run

from eyespot.cluster.cli import main


@pytest.fixture
def runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    for seed in range(2):
        write_run(tmp_path / f"mae-{seed}", answers(0.6, noise=0.05, seed=seed), seed=seed)
        write_run(tmp_path / f"sim-{seed}", answers(0.8, noise=0.05, seed=seed + 2), seed=seed, lr=2e-3)
    write_baselines(tmp_path / "mae-0", answers(0.3))
    return tmp_path


def said(capsys, *words):
    assert main(["eval", "compare", *words]) == 0
    return capsys.readouterr().out


def test_two_runs_in_plain_words(runs, capsys):
    text = said(capsys, "mae-0", "sim-0", "--protocol", "linear")
    for expected in ("linear on digits: 400 test samples", "A - B", "B is better", "<0.001", "One seed of each"):
        assert expected in text
    text = said(capsys, "mae-0")
    assert "A - B" in text and "A - C" in text and "B - C" not in text and "raw pixels" in text
    assert "all 2 together (Holm)" in text


def test_methods_over_seeds(runs, capsys):
    text = said(capsys, "mae-0", "mae-1", "sim-0", "sim-1")
    for expected in ("mae-0 and 1 more", "95% t-interval", "M1 - M2", "Methods, over seeds"):
        assert expected in text
    assert "One seed of each" not in text and "n = 1" not in text
    assert "n = 1: the spread over seeds is unknown." in said(capsys, "mae-0", "mae-1", "sim-0")


def test_json_and_plot(runs, capsys):
    values = json.loads(said(capsys, "mae-0", "sim-0", "--json", "--plot", "plots/forest.png"))
    assert values["pairs"][0]["verdict"] == "sim-0 is better"
    with Image.open("plots/forest.png") as image:
        assert image.width == 1200


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("", "no results named"),
        ("mae-0 other.json", "data digits against cifar10"),
        ("mae-0 nothing", "nothing: no result of eyespot eval"),
        ("sim-0", "one result alone"),
        ("mae-0 sim-0 --protocl knn", "--protocl"),
        ("mae-0 sim-0 --plot forest.txt2", "forest.txt2: cannot be written"),
        ("mae-0 mae-1 --plot forest.png", "no difference with an interval"),
    ],
)
def test_wrong_input_is_one_line(runs, words, message, capsys):
    write(runs / "other.json", result_of("other", answers(0.5), data="cifar10", test_sha256="other"))
    assert main(["eval", "compare", *words.split()]) == 2
    found = capsys.readouterr().err
    assert found.startswith("eyespot: ") and found.count("\n") == 1 and message in found


def test_help_teaches_and_needs_no_torch():
    code = "import sys; from eyespot.cluster.cli import main\ntry: main(['eval', 'compare', '--help'])\n"
    code += "finally: print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0 and done.stdout.strip().endswith("False")
    assert "--paired-seeds" in done.stdout and "eyespot eval compare runs/mae runs/simclr" in done.stdout
