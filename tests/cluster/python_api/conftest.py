"""Functions called as a program calls them: without the checks of types that tests add."""

import jaxtyping
import pytest


@pytest.fixture
def untyped(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
