"""The notebooks were executed from top to bottom, hold what a stranger may see, and can be executed again."""

import ast
import json
import re
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "docs" / "notebooks"
NAMES = sorted(path.stem for path in FOLDER.glob("*.ipynb"))
MACHINE = re.compile(r"(?<![\w.~])/(tmp|home|root|work|Users|var|opt|usr|mnt|data)/")
MAX_BYTES = 300_000
MOST_LINES = 25
"""Of a cell's printed output: a progress bar that is drawn anew on each line has more."""


def texts(output) -> list[str]:
    parts = [output.get("text", ""), *output.get("data", {}).values()]
    return ["".join(part) for part in parts]


def code_cells(name: str) -> list[dict]:
    return [cell for cell in json.loads((FOLDER / f"{name}.ipynb").read_text())["cells"] if cell["cell_type"] == "code"]


def test_there_are_three():
    assert len(NAMES) == 3


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_was_executed_from_top_to_bottom(name):
    cells = code_cells(name)
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    for cell in cells:
        assert not [output for output in cell["outputs"] if output["output_type"] == "error"]
        assert sum("".join(output.get("text", "")).count("\n") for output in cell["outputs"]) <= MOST_LINES


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_is_small_and_says_nothing_of_a_machine(name):
    path = FOLDER / f"{name}.ipynb"
    assert path.stat().st_size < MAX_BYTES
    for cell in code_cells(name):
        for output in cell["outputs"]:
            for kind in output.get("data", {}):
                assert kind in ("text/plain", "text/html", "image/png")
            said = [text for text in texts(output) if not text.startswith("iVBOR")]
            assert not [text for text in said if MACHINE.search(text)]
    assert any("image/png" in output.get("data", {}) for cell in code_cells(name) for output in cell["outputs"])


@pytest.mark.parametrize("name", NAMES)
def test_its_cells_are_python(name):
    for cell in code_cells(name):
        lines = "".join(cell["source"]).splitlines()
        ast.parse("\n".join(line for line in lines if not line.startswith("!")))
        assert all(line.startswith("!eyespot ") for line in lines if line.startswith("!"))


@pytest.mark.thorough
@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_can_be_executed_again(name, tmp_path, monkeypatch):
    import nbformat

    monkeypatch.syspath_prepend(FOLDER)
    import execute

    before = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
    kinds = [[sorted(output.get("data", {})) for output in cell.get("outputs", ())] for cell in before.cells]
    after = execute.without_folder(execute.execute(before, tmp_path), tmp_path)
    shown = [[sorted(output.get("data", {})) for output in cell.get("outputs", ())] for cell in after.cells]
    assert [kind for one in shown for kind in one if kind] == [kind for one in kinds for kind in one if kind]
    sys.modules.pop("execute", None)
