"""Links of files in the repository become links between pages; what is code stays as it is."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[3] / "docs" / "site"))
from links import rewritten

PLACES = {
    "README.md": "overview.md",
    "benchmarks/results/zoo.md": "measured/zoo.md",
    "docs/methods.md#simclr": "methods/simclr.md",
}


@pytest.mark.parametrize(
    ("origin", "uri", "link", "led"),
    [
        ("docs/data.md", "data.md", "plan.md#sizes", "plan.md#sizes"),
        ("docs/data.md", "data.md", "../README.md", "overview.md"),
        ("docs/decisions/0001.md", "decisions/0001.md", "../data.md", "../data.md"),
        ("docs/methods.md", "methods/byol.md", "methods/byol.png", "byol.png"),
        ("docs/methods.md", "methods/byol.md", "../benchmarks/results/zoo.md", "../measured/zoo.md"),
        ("docs/methods.md", "methods.md", "#simclr", "methods/simclr.md"),
        ("docs/methods.md", "methods.md", "#elsewhere", "#elsewhere"),
        ("docs/tutorials/own.md", "tutorials/own.md", "../methods.md#simclr", "../methods/simclr.md"),
        ("README.md", "overview.md", "docs/plan.md", "plan.md"),
        ("README.md", "overview.md", "docs/quickstart.webp", "quickstart.webp"),
        ("README.md", "overview.md", "https://arxiv.org/abs/1", "https://arxiv.org/abs/1"),
        ("README.md", "overview.md", "benchmarks/probe.py", "benchmarks/probe.py"),
    ],
)
def test_where_a_link_leads(origin, uri, link, led):
    assert rewritten(f"See [this]({link}).", origin, uri, PLACES) == f"See [this]({led})."
    assert rewritten(f'![A picture]({link} "title")', origin, uri, PLACES) == f'![A picture]({led} "title")'


@pytest.mark.parametrize(
    "code", ["`[a](../README.md)`", "```\n[a](../README.md)\n```", "~~~text\n[a](../README.md)\n~~~"]
)
def test_code_stays(code):
    text = f"[b](../README.md)\n\n{code}\n\n[c](../README.md)"
    assert rewritten(text, "docs/data.md", "data.md", PLACES) == f"[b](overview.md)\n\n{code}\n\n[c](overview.md)"
