"""Wrong input: one line for the person who typed it, and nothing that other code takes for its own error."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from eyespot.data_pipeline.errors import UserError

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("kind", [ValueError, RuntimeError, OSError, LookupError, TypeError])
def test_no_handler_of_another_error_swallows_it(kind):
    """Readers catch these to say "damaged"; a UserError inside would lose its words."""
    assert not issubclass(UserError, kind)


def raised() -> Iterator[tuple[str, ast.expr]]:
    """Where the four folders raise a UserError, and with what."""
    for folder in ("data_pipeline", "pretrain", "eval", "cluster"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "UserError":
                    assert len(node.args) == 1, f"{path}:{node.lineno}: one message"
                    yield f"{path.relative_to(ROOT)}:{node.lineno}", node.args[0]


def test_every_message_is_one_line():
    found = list(raised())
    assert len(found) > 200
    for place, message in found:
        texts = [part.value for part in ast.walk(message) if isinstance(part, ast.Constant)]
        assert not any(isinstance(text, str) and "\n" in text for text in texts), place
