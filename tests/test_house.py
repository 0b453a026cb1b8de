"""The rules of the house: sizes, names, the fixed layout, and that the code says nothing it should not."""

import ast
import functools
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("data_pipeline", "pretrain", "eval", "cluster")
SOURCES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
TESTED = sorted([*SOURCES, *(ROOT / "tests").rglob("*.py"), *(ROOT / "benchmarks").rglob("*.py")])
NAMELESS = {"utils", "util", "common", "misc", "helpers", "helper", "base", "manager", "core"}
MADE_UP = """
adversary alter atomic batches batchnorm beginning blame blocks checkpoint classes clusters contrast crops dali dist
document draws entrants erase exam examination exhibits features feed finding frozen gallery gathered_lse grad_cache
grid headers health images judge judgement lab labels local masks meeting metric_losses metrics miou mixing mlflow_sync
norms online optim order palette patches pictures plan_page plates probing profiles rank_board rank_shift rank_sums
ranks record redundancy refresh resolution sample_bank sample_noise saver secrets settings shardwriter share specimens
spool standing start status_page stopping story supervised tarfiles tarindex teacher tiled_lse time_shares tracked
training turns unlabeled view_picture workers
"""
"""Names that files had once and that nobody in the field would look for."""
ONE_A_METHOD = {"pretrain/objectives", "pretrain/recipes", "cluster/commands"}
"""Folders that grow with every method, or with every command."""
MOST_FILES = 16


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


# A test looks at all files: thousands of tests, one a file, took a minute of a core to begin and to end.


@functools.cache
def text_of(path: Path) -> str:
    return path.read_text()


class Tree(NamedTuple):
    """What is asked of a file's syntax tree, which itself would be large."""

    path: Path
    lengths: list[tuple[str, int]]
    """Functions and their lines."""
    unseeded: list[int]
    """Lines of calls."""
    calls: int


@pytest.fixture(scope="module")
def trees() -> list[Tree]:
    found = []
    for path in TESTED:
        nodes = list(ast.walk(ast.parse(text_of(path))))
        functions = [node for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
        calls = [node for node in nodes if isinstance(node, ast.Call)]
        lengths = [(node.name, node.end_lineno - node.lineno) for node in functions]
        found.append(Tree(path, lengths, [call.lineno for call in calls if unseeded(call)], len(calls)))
    return found


def test_files_and_functions_are_short(trees):
    limits = {path: 250 if name(path) == "pretrain/trainer.py" else 400 for path in TESTED}
    lengths = {path: len(text_of(path).splitlines()) for path in TESTED}
    assert {name(path): length for path, length in lengths.items() if length > limits[path]} == {}
    assert sum(len(tree.lengths) for tree in trees) > len(TESTED)
    long = [f"{name(tree.path)}: {function}" for tree in trees for function, lines in tree.lengths if lines >= 60]
    assert long == [], "longer than 60 lines"


def test_no_file_has_a_name_that_says_nothing():
    assert not [name(path) for path in TESTED if path.stem in NAMELESS]
    assert not [name(path) for path in SOURCES if path.stem in MADE_UP.split()]


def test_no_folder_is_too_wide_to_see():
    counts = Counter(name(path.parent) for path in SOURCES if path.stem != "__init__")
    assert {folder for folder, count in counts.items() if count > MOST_FILES} <= ONE_A_METHOD


def test_pillow_is_told_which_formats_may_come():
    """Of all others some start a program on the bytes: EPS is given to Ghostscript."""
    opened = {name(path): re.findall(r"Image\.open\((?!.*formats=).*", text_of(path)) for path in SOURCES}
    assert {path: found for path, found in opened.items() if found} == {}


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


def test_every_file_has_its_tests():
    """<folder>/<file>.py is tested by tests/<folder>/test_<file>.py; recipes all together by tests/test_recipes.py."""
    lacking = [
        name(path)
        for path in SOURCES
        if path.stem != "__init__" and path.parent != ROOT / "pretrain" / "recipes"
        if not (ROOT / "tests" / path.relative_to(ROOT).with_name(f"test_{path.name}")).exists()
    ]
    assert lacking == []


@functools.cache
def is_somewhere(*parts: str) -> bool:
    """Whether these names lead, from the root, to a module, or into one, or to what a package's ``__init__`` holds."""
    place = ROOT
    for part in parts:
        if (place / part).is_dir():
            place /= part
            continue
        within = (place / "__init__.py").read_text()
        return (place / f"{part}.py").exists() or part.startswith("__") or re.search(rf"\b{part}\b", within) is not None
    return True


def test_what_is_named_exists():
    """Also in scripts inside of strings, where no import fails before they run."""
    folders, missing = "|".join(FOLDERS), list[str]()
    for path in [*TESTED, *sorted((ROOT / "docs").rglob("*.md"))]:
        text = text_of(path)
        for dotted in set(re.findall(rf"\beyespot\.((?:{folders})(?:\.\w+)*)", text)):
            missing += [] if is_somewhere(*dotted.split(".")) else [f"{name(path)}: eyespot.{dotted}"]
        for package, names in re.findall(rf"from eyespot\.((?:{folders})[\w.]*) import (\w[\w, ]*)", text):
            if (ROOT / package.replace(".", "/")).is_dir():
                for imported in names.split(","):
                    there = is_somewhere(*package.split("."), imported.split()[0])
                    missing += [] if there else [f"{name(path)}: {package}: {imported}"]
        for file in set(re.findall(rf"(?<![\w/.])((?:{folders}|benchmarks|tests)/[\w/]+\.py)\b", text)):
            missing += [] if (ROOT / file).exists() else [f"{name(path)}: {file}"]
    assert missing == []


def unseeded(node: ast.Call) -> bool:
    """A generator that takes its seed from the machine. ``torch.Generator()`` has always the same one until seeded."""
    function = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    owner = node.func.value if isinstance(node.func, ast.Attribute) else None
    known = function in {"default_rng", "RandomState", "SeedSequence"} or (function, getattr(owner, "id", "")) in {
        ("Random", "random"),
        ("seed", "torch"),
        ("seed", "random"),
    }
    return function == "SystemRandom" or (known and not node.args and not node.keywords)


def test_nothing_is_drawn_from_an_unseeded_generator(trees):
    """The global ones are seeded by tests/conftest.py, by the name of the test."""
    assert sum(tree.calls for tree in trees) > 10_000
    assert [f"{name(tree.path)}:{line}" for tree in trees for line in tree.unseeded] == [], "give it a seed"


def test_packages_say_what_lives_there_and_hold_no_code():
    for path in SOURCES:
        if path.name == "__init__.py":
            text = path.read_text()
            assert len(ast.parse(text).body) == 1 and len(ast.get_docstring(ast.parse(text)) or "") > 60, name(path)


def test_help_does_not_import_torch():
    script = "import sys; from eyespot.cluster.cli import main; main(['--help']); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, check=False).returncode == 0


def test_no_process_of_ours_runs_what_lies_in_the_current_folder():
    """``python -m`` and ``-c`` put it first on the path: a stranger's run folder may hold a json.py. Ranks are started
    where the run's own code may lie."""
    for folder in ("data_pipeline", "pretrain", "eval", "cluster"):
        for path in (ROOT / folder).rglob("*.py"):
            if path != ROOT / "cluster" / "processes.py":
                started = re.findall(r"\[sys\.executable, \"(-\w+)\"", path.read_text())
                assert set(started) <= {"-P"}, path


def test_nothing_points_at_a_machine_of_ours():
    """Paths of the machine it was written on would be dead links for everybody else."""
    words = ("/work" + "/", "/root" + "/", "/home" + "/")
    for path in [*TESTED, *ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), ROOT / "Makefile"]:
        for number, line in enumerate(path.read_text().splitlines(), 1):
            assert not any(word in line for word in words), f"{name(path)}:{number}: {line}"
