"""What ``import eyespot`` offers: the list is a promise, and costs nothing before it is used."""

import ast
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import eyespot

PUBLIC = {
    "Embeddings", "LoadedEncoder", "Outage", "Page", "Results", "SampleLoader", "Trained", "UserError", "__version__",
    "embed", "evaluate", "fit", "load", "loader", "objective", "recipe", "recipes", "report",
}  # fmt: skip
"""One that goes, or is called otherwise, breaks somebody's program: see docs/python.md."""


def test_the_list_is_what_was_promised():
    assert set(eyespot.__all__) == PUBLIC and set(dir(eyespot)) >= PUBLIC


@pytest.mark.parametrize("name", sorted(PUBLIC - {"__version__"}))
def test_each_is_there_and_documented(name):
    found = getattr(eyespot, name)
    assert found.__name__ == name and len(inspect.getdoc(found) or "") > 40


def test_the_reference_has_each():
    page = (Path(eyespot.__file__).parent / "docs" / "reference" / "api.md").read_text()
    assert set(re.findall(r"^::: eyespot\.(\w+)$", page, re.M)) == PUBLIC - {"__version__"}


def test_type_checkers_are_told_of_the_same_names_in_the_same_places():
    tree = ast.parse(Path(eyespot.__file__).with_name("__init__.pyi").read_text())
    told = {alias.name: node.module for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert told == eyespot._PLACES
    (names,) = [node.value for node in tree.body if isinstance(node, ast.Assign)]
    assert ast.literal_eval(names) == eyespot.__all__


def test_an_unknown_name_is_an_attribute_error_that_lists_those_there_are():
    with pytest.raises(AttributeError, match=r"has no attribute 'train'; its functions: .*\bfit\b"):
        eyespot.train  # noqa: B018


def test_the_import_loads_nothing_heavy():
    script = "import sys, eyespot; print(sorted({'torch', 'numpy', 'timm', 'rich'} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_python_m_eyespot_is_the_command():
    done = subprocess.run([sys.executable, "-m", "eyespot", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"eyespot {eyespot.__version__}\n"
    wrong = subprocess.run([sys.executable, "-m", "eyespot", "dance"], capture_output=True, text=True, check=False)
    assert wrong.returncode == 2 and wrong.stderr.startswith("eyespot: command 'dance'")
