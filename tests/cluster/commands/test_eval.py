"""eyespot eval and eyespot report as a person calls them."""

import logging
import subprocess
import sys
from pathlib import Path

import pytest

from eyespot.cluster.cli import main
from eyespot.data_pipeline.shards.pack import pack


@pytest.fixture(scope="module")
def digits(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("shards") / "digits"
    pack("digits", folder, workers=1)
    return folder


@pytest.fixture(scope="module")
def run_dir(digits, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "first"
    words = (
        f"pretrain mae_tiny --data.shards {digits} --run-dir {folder} --encoder.name test_vit --encoder.patch-size 4"
    )
    words += " --data.batch-size 32 --steps 3 --log-every 1 --picture-every 3 --no-track --device cpu"
    handlers = logging.getLogger("eyespot").handlers
    assert main(words.split()) == 0
    logging.getLogger("eyespot").handlers = handlers
    return folder


def test_train_judge_report(run_dir, digits, capsys):
    assert main(["eval", "knn", str(run_dir), str(digits), "--device", "cpu"]) == 0
    said = capsys.readouterr().out
    for expected in ("knn on digits: 10 classes", "mae_tiny, step 3", "random weights (seed 0)", "raw pixels", "95%"):
        assert expected in said
    assert len(list((run_dir / "eval").glob("*.json"))) == 3
    assert main(["eval", "compare", str(run_dir), "--protocol", "knn"]) == 0
    assert "raw pixels" in (said := capsys.readouterr().out) and "A - C" in said
    assert main(["report", str(run_dir)]) == 0
    path = Path(capsys.readouterr().out.strip())
    assert path == run_dir / "report.html" and "The task" in path.read_text()


def test_another_image_size_is_said_wherever_its_numbers_stand(run_dir, digits, capsys):
    words = ["eval", "linear", str(run_dir), str(digits), "--image-size", "24", "--device", "cpu"]
    assert main(words) == 0
    assert "linear on digits at 24 px: 10 classes" in capsys.readouterr().out
    assert main(["report", str(run_dir)]) == 0
    assert "linear probe at 24 px" in (run_dir / "report.html").read_text()


def test_timm_name_writes_beside_the_caller(digits, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["eval", "knn", "test_vit3", str(digits / "test"), "--no-pretrained", "--device", "cpu"]) == 0
    said = capsys.readouterr().out.replace("\n", " ")
    assert "20% of each class held out" in said and f"are in {tmp_path / 'eval-test_vit3'};" in said
    assert len(list((tmp_path / "eval-test_vit3").glob("knn_*_random-seed0.json"))) == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("eval", "{linear,knn,retrieval,clustering,unlabeled,"),
        ("eval cosine x y", "cosine"),
        ("eval knn nothing_like_it DIGITS", "no such folder, nor a name that timm knows"),
        ("eval knn test_vit /nowhere --no-pretrained", "no such folder"),
        ("eval knn EMPTY DIGITS", "not a run folder"),
        ("eval knn test_vit EMPTY --no-pretrained", "no manifest.json"),
        ("eval knn test_vit DIGITS --sed 1", "--sed"),
        ("eval knn test_vit DIGITS --shots 5", "--shots, --draws: knn learns from all of train"),
        ("eval low-shot test_vit DIGITS --no-pretrained --shots few", "--shots few: neither a number of samples"),
        ("eval knn test_vit DIGITS --frames 4", "--frames: knn looks at no clips; leave it out, or take action"),
        ("eval knn test_vit DIGITS --noise-level 4", "--noise-level: knn adds no noise; leave it out, or take layers"),
        ("eval knn test_vit DIGITS --keypoints x.json", "--keypoints: knn carries no points through videos; leave it"),
        ("eval action test_vit DIGITS --no-pretrained", "have no frames; pack videos, or folders of their frames"),
        ("eval own-head test_vit DIGITS", "model test_vit: has no head that answers a question"),
        ("eval captions test_vit DIGITS", "model test_vit: foretells no captions; captions judges runs of methods"),
        ("eval captions test_vit DIGITS --image-size 8", "--image-size 8: captions shows what training showed"),
        ("eval knn test_vit DIGITS --image-size 0", "--image-size 0: must be 1 or more"),
        ("eval knn test_vit DIGITS --no-pretrained --image-size 100", "image-size 100: random weights"),
        ("report EMPTY", "not a run folder"),
        ("report", "run"),
    ],
)
def test_wrong_input_is_one_line(words, message, digits, tmp_path, capsys):
    argv = words.replace("DIGITS", str(digits)).replace("EMPTY", str(tmp_path)).split()
    assert main(argv) == 2
    said = capsys.readouterr().err
    assert said.startswith("eyespot: ") and said.count("\n") == 1 and message in said.lower()


def test_help_teaches_and_needs_no_torch():
    code = "import sys; from eyespot.cluster.cli import main\ntry: main(['eval', '--help'])\n"
    code += "finally: print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0 and done.stdout.strip().endswith("False")
    for expected in (
        "{linear,knn,retrieval,clustering,unlabeled,",
        "--no-pretrained",
        "nearest training images",
        "eyespot eval linear runs/first",
    ):
        assert expected in done.stdout
