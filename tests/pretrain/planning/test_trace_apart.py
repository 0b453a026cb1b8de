"""A trace from another process is the trace, and what fails there is no failure here."""

import shutil
import sys

from eyespot.pretrain.planning.trace import trace
from eyespot.pretrain.planning.trace_apart import trace_apart
from eyespot.pretrain.recipe_lookup import make_run


def test_it_is_the_trace_of_one_rank():
    """Also where a launcher has told this process that it is one of many."""
    run = make_run("simclr_tiny")
    assert trace_apart(run, "cuda") == trace(run, 1, "cuda")


def test_a_process_that_fails_is_none(monkeypatch):
    monkeypatch.setattr(sys, "executable", shutil.which("false"))
    assert trace_apart(make_run("mae_tiny"), "cpu") is None
