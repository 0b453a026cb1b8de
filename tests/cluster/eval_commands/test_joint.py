"""eyespot eval zero-shot, joint-retrieval and correspondence as a person calls them."""

import subprocess
import sys
from pathlib import Path

import pytest
from captioned import pack_named_digits
from left_runs import leave_run, small_run

from eyespot.cluster.cli import main


@pytest.fixture(scope="module")
def named(tmp_path_factory) -> Path:
    return pack_named_digits(tmp_path_factory.mktemp("named"), count=60)


@pytest.fixture(scope="module")
def run_dir(named, tmp_path_factory) -> Path:
    run = small_run("clip_tiny")
    run.data.shards, run.track = str(named), False
    return leave_run(run, "clip_tiny", tmp_path_factory.mktemp("clip") / "run", named)


def test_three_tables_beside_the_run_as_it_began(run_dir, named, capsys):
    words = [str(run_dir), str(named), "--device", "cpu"]
    assert main(["eval", "joint-retrieval", *words, "--images", "50"]) == 0
    said = capsys.readouterr().out
    for expected in ("recall@10 (text asks)", "median rank (image asks)", "random weights (seed 0)", "50 of the 60"):
        assert expected in said
    assert main(["eval", "correspondence", *words]) == 0
    assert "AUC" in capsys.readouterr().out
    assert main(["eval", "zero-shot", *words, "--prompt", "the digit {}", "--prompt", "{}"]) == 0
    said = capsys.readouterr().out
    for expected in ("zero-shot on source: 10 classes", "top-5", "prompts 2", "Accuracy by class", "seven"):
        assert expected in said
    assert len(list((run_dir / "eval").glob("*.json"))) == 6
    assert main(["eval", "compare", str(run_dir), "--protocol", "zero-shot"]) == 0
    assert main(["report", str(run_dir)]) == 0
    text = (run_dir / "report.html").read_text()
    assert "Classes by their names" in text and "Images and what belongs to them" in text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("zero-shot RUN NAMED --images 5", "--images 5: zero-shot judges all labelled images; leave it out"),
        ("joint-retrieval RUN NAMED --images 1", "--images 1"),
        ("correspondence RUN NAMED --images 100001", "--images 100001"),
        ("correspondence RUN NAMED --prompt {}", "correspondence names no classes; leave them out"),
        ("zero-shot RUN NAMED --prompt digit", "--prompt 'digit': must have {} once"),
        ("zero-shot RUN NAMED --prompts EMPTY", "is empty; write one template a line"),
        ("zero-shot RUN NAMED --prompts LATIN", "is not utf-8; write one template a line"),
        ("zero-shot RUN NAMED --class-names EMPTY", "is empty; write the name of one class a line"),
        ("zero-shot RUN NAMED --class-names LATIN", "is not utf-8"),
        ("zero-shot test_vit NAMED", "has no towers of images and text that meet in one space"),
        ("zero-shot RUN /nowhere", "no such folder"),
        ("zero-shot RUN", "shards"),
        ("joint-retrieval RUN DIGITS", "have no .txt beside their images"),
    ],
)
def test_wrong_input_is_one_line(words, message, run_dir, named, digits, tmp_path, capsys):
    (tmp_path / "empty").write_bytes(b"\n")
    (tmp_path / "latin").write_bytes(b"caf\xe9 {}\n")
    for name, path in {"RUN": run_dir, "NAMED": named, "DIGITS": digits, "EMPTY": tmp_path / "empty"}.items():
        words = words.replace(name, str(path))
    assert main(["eval", *words.replace("LATIN", str(tmp_path / "latin")).split()]) == 2
    said = capsys.readouterr().err
    assert said.startswith("eyespot: ") and said.count("\n") == 1 and message in said.lower()


def test_help_teaches_and_needs_no_torch():
    code = "import sys; from eyespot.cluster.cli import main\ntry: main(['eval', 'zero-shot', '--help'])\n"
    code += "finally: print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0 and done.stdout.strip().endswith("False")
    assert "--class-names" in done.stdout and "--prompt" in done.stdout
