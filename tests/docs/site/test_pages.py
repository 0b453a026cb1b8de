"""Every page has its place: files beside docs/, methods, and whatever nobody has named."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[3] / "docs" / "site"))
import pages
from fields import with_tables  # noqa: F401 - the module's cards are made once

from eyespot.cluster.method_cards import cards

ROOT = Path(__file__).parents[3]


def test_each_method_has_a_page_in_its_family():
    found = {name: family for family, named in pages.families().items() for name in named}
    assert found == {card.name: card.about.family.capitalize() for card in cards()}


def test_what_nobody_named_is_put_at_its_place(tmp_path):
    for name in ("index.md", "new.md", "tutorials/02_b.md", "tutorials/01_a.md", "decisions/0001.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("# x\n")
    nav = [
        {"Start": ["index.md", {"At a glance": "overview.md"}]},
        {"Tutorials": []},
        {"How-to": []},
        {"Methods": ["methods.md"]},
        {"Reference": ["reference/api.md", {"Measured": []}]},
        {"Explanation": ["architecture.md", {"Decisions": []}]},
    ]
    found = {name: entries for part in pages.filled(nav, tmp_path) for name, entries in part.items()}
    assert found["Tutorials"][:2] == ["tutorials/01_a.md", "tutorials/02_b.md"]
    assert found["How-to"] == ["new.md"] and found["Explanation"][-1] == {"Decisions": ["decisions/0001.md"]}
    assert "measured/zoo.md" in found["Reference"][-1]["Measured"]
    assert {"Contrast"} <= {name for entry in found["Methods"][1:] for name in entry}


def test_where_pages_come_from():
    assert pages.origin("overview.md") == "README.md" and pages.origin("data.md") == "docs/data.md"
    assert pages.origin("methods/simclr.md") == "docs/methods.md"
    assert pages.origin("measured/zoo.md") == "benchmarks/results/zoo.md"
    assert "#" not in pages.without_methods((ROOT / "docs" / "methods.md").read_text()).replace("(#", "(").lstrip("# ")
