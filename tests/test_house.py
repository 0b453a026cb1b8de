"""The rules of the house: sizes, names, the fixed layout, and that the code says nothing it should not."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("data_pipeline", "pretrain", "eval", "cluster")
SOURCES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
TESTED = sorted([*SOURCES, *(ROOT / "tests").rglob("*.py"), *(ROOT / "benchmarks").rglob("*.py")])
NAMELESS = {"utils", "util", "common", "misc", "helpers", "helper", "base", "manager", "core"}


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", TESTED, ids=name)
def test_files_and_functions_are_short(path):
    text = path.read_text()
    limit = 250 if name(path) == "pretrain/trainer.py" else 400
    assert len(text.splitlines()) <= limit
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno - node.lineno < 60, f"{node.name} is longer than 60 lines"


def test_no_file_has_a_name_that_says_nothing():
    assert not [name(path) for path in TESTED if path.stem in NAMELESS]


def test_the_fixed_top_level_is_there():
    for entry in (*FOLDERS, "tests", "setup.py", "Dockerfile"):
        assert (ROOT / entry).exists(), entry


def test_tests_mirror_the_tree():
    """tests/<folder>/test_<file>.py tests <folder>/<file>.py."""
    for path in (ROOT / "tests").rglob("test_*.py"):
        relative = path.relative_to(ROOT / "tests")
        if relative.parent == Path():
            continue
        subject = ROOT / relative.parent / f"{path.stem.removeprefix('test_')}.py"
        assert subject.exists(), f"{relative} tests no file {subject.relative_to(ROOT)}"


def test_help_does_not_import_torch():
    script = "import sys; from eyespot.cluster.cli import main; main(['--help']); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, check=False).returncode == 0


def test_nothing_points_at_a_machine_of_ours():
    """Paths of the machine it was written on would be dead links for everybody else."""
    words = ("/work" + "/", "/root" + "/", "/home" + "/")
    for path in [*TESTED, *ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), ROOT / "Makefile"]:
        for number, line in enumerate(path.read_text().splitlines(), 1):
            assert not any(word in line for word in words), f"{name(path)}:{number}: {line}"
