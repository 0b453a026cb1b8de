"""The numbers that launchers know, and that nobody writes them down a second time."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from eyespot.data_pipeline.exit_codes import ExitCode

ROOT = Path(__file__).parents[2]
FLOORS = ("data_pipeline", "pretrain", "eval", "cluster")
SOURCES = [path for floor in FLOORS for path in (ROOT / floor).rglob("*.py") if path.name != "exit_codes.py"]


def test_the_numbers_are_those_that_scripts_know():
    known = {"DONE": 0, "FAILED": 1, "WRONG_INPUT": 2, "STOPPED": 75, "UNREAD": 141}
    assert {code.name: int(code) for code in ExitCode} == known


@pytest.mark.parametrize("code", ExitCode)
def test_a_process_ends_with_the_number(code):
    script = f"import sys; from eyespot.data_pipeline.exit_codes import ExitCode; sys.exit(ExitCode.{code.name})"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == code.value


def test_in_a_shell_script_it_is_its_number():
    assert f"[ $? = {ExitCode.STOPPED} ]" == "[ $? = 75 ]"


def numbers(node: ast.AST) -> list[ast.Constant]:
    return [part for part in ast.walk(node) if isinstance(part, ast.Constant) and type(part.value) is int]


def test_no_source_file_spells_the_number_of_a_stop():
    places = [
        f"{path.relative_to(ROOT)}:{number.lineno}"
        for path in SOURCES
        for number in numbers(ast.parse(path.read_text()))
        if number.value == ExitCode.STOPPED and path.parent.name != "planning"  # of a GPU's speed
    ]
    assert places == []


def is_bare(value: ast.expr | None) -> bool:
    """Whether it is a number, or one of two."""
    parts = (value.body, value.orelse) if isinstance(value, ast.IfExp) else (value,)
    return any(part in numbers(value) for part in parts if part is not None)


def test_every_command_ends_with_a_named_code():
    """Not with a bare 0, 1 or 2, whose reader has to know the table by heart."""
    for path in [ROOT / "cluster" / "cli.py", *(ROOT / "cluster" / "commands").glob("*.py")]:
        ends = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Return)]
        assert [end.lineno for end in ends if is_bare(end.value)] == [], path
