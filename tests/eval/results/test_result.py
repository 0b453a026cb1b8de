"""Result files: what is not one is left out, and reading them needs no torch."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from result_files import some_result, write

from eyespot.eval.results.result import read_result, results_in


def test_reads_what_was_written_and_nothing_else(tmp_path: Path):
    write(tmp_path, "b.json", some_result(key="b"))
    write(tmp_path, "a.json", some_result(key="a"))
    write(tmp_path, "old.json", some_result(format="eyespot-result/0"))
    (tmp_path / "eval" / "torn.json").write_text('{"key": ')
    assert results_in(tmp_path) == [some_result(key="a"), some_result(key="b")]
    assert read_result(tmp_path / "eval" / "missing.json") is None and results_in(tmp_path / "nothing") == []


ODD = {
    "hexadecimal": {"correct": "zz"},
    "two digits": {"correct": "f"},
    "scores": {"scores": {"mAP": {"value": "high"}}},
    "interval of accuracy": {"interval": [float("-inf"), float("inf")]},
    "0.9 to 0.1": {"interval": [0.9, 0.1]},
    "7.0 to 8.0": {"interval": [7, 8]},
    "interval of mAP": {"scores": {"mAP": {"value": 0.5, "interval": [0.5, float("nan")]}}},
    "correct of recall@5": {"scores": {"recall@5": {"value": 0.5, "correct": "0x"}}},
    "origin.step": {"origin": {"step": "twelve"}},
    "num_test": {"num_test": "16"},
    "format 'eyespot-result/99'": {"format": "eyespot-result/99"},
}


@pytest.mark.parametrize("words", ODD)
def test_what_is_left_out_is_named_with_its_reason(words, tmp_path: Path, caplog):
    write(tmp_path, "a.json", some_result(key="a"))
    write(tmp_path, "b.json", some_result(key="b"))
    path = tmp_path / "eval" / "b.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **ODD[words]}))
    assert results_in(tmp_path) == [some_result(key="a")]
    (said,) = [record.message for record in caplog.records]
    assert said.startswith(f"{path}: left out, no result that this version reads: ") and words in said


@pytest.mark.parametrize("kind", ["pipe", "endless", "folder", "deep"])
def test_what_is_no_file_of_json_is_neither_waited_for_nor_kept_quiet(kind, tmp_path: Path, caplog):
    write(tmp_path, "a.json", some_result(key="a"))
    path = tmp_path / "eval" / "b.json"
    make = {
        "pipe": lambda: os.mkfifo(path),
        "endless": lambda: path.symlink_to("/dev/zero"),
        "folder": path.mkdir,
        "deep": lambda: path.write_text("[" * 100_000),
    }
    make[kind]()
    assert results_in(tmp_path) == [some_result(key="a")]
    assert [record.message.partition(": left out")[0] for record in caplog.records] == [str(path)]


def test_settings_in_short():
    assert some_result().chosen() == "cls, k 20"
    assert some_result(settings={"features": "cls", "k": 200.0}).chosen() == "cls, k 200", "as a file gives it back"
    assert some_result(settings={"features": "mean", "lambda": 1e-3}).chosen() == "mean, λ 0.001"


def test_needs_no_torch():
    code = "import sys, eyespot.eval.results.result; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0
