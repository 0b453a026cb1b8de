"""Result files: what is not one is left out, and reading them needs no torch."""

import subprocess
import sys
from pathlib import Path

from result_files import some_result, write

from eyespot.eval.results.result import read_result, results_in


def test_reads_what_was_written_and_nothing_else(tmp_path: Path):
    write(tmp_path, "b.json", some_result(key="b"))
    write(tmp_path, "a.json", some_result(key="a"))
    write(tmp_path, "old.json", some_result(format="eyespot-result/0"))
    (tmp_path / "eval" / "torn.json").write_text('{"key": ')
    assert results_in(tmp_path) == [some_result(key="a"), some_result(key="b")]
    assert read_result(tmp_path / "eval" / "missing.json") is None and results_in(tmp_path / "nothing") == []


def test_settings_in_short():
    assert some_result().chosen() == "cls, k 20"
    assert some_result(settings={"features": "mean", "lambda": 1e-3}).chosen() == "mean, λ 0.001"


def test_needs_no_torch():
    code = "import sys, eyespot.eval.results.result; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0
