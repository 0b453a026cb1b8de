"""Tables of settings say of every field its name, type, range, default and words."""

import sys
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from annotated_types import Ge, Lt

from eyespot.data_pipeline.augment.views import RandomView
from eyespot.pretrain.config import DataConfig, Run
from eyespot.pretrain.objectives.simclr import SimCLR
from eyespot.pretrain.recipe_lookup import recipe_names

sys.path.insert(0, str(Path(__file__).parents[3] / "docs" / "site"))
from fields import in_words, method_page, table, with_tables
from pages import families


def rows(text: str) -> dict[str, list[str]]:
    """By the first cell of each row, the others."""
    lines = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| `")]
    return {cells[0].strip("`"): cells[1:] for cells in lines}


@pytest.mark.parametrize(
    ("hint", "words"),
    [
        (int, "whole number"),
        (Annotated[float, Ge(0), Lt(1)], "number, ≥ 0, < 1"),
        (Annotated[int, Ge(1)] | None, "whole number, ≥ 1 or none"),
        (Literal["a", "b"], "`a`, `b`"),
        (tuple[float, float], "2 of number"),
        (tuple[str, ...], "list of text"),
        (dict[str, Any], "text → any"),
        (RandomView, "random view"),
        (Path, "path"),
        (bool, "true or false"),
    ],
)
def test_types_in_words(hint, words):
    assert in_words(hint) == words


def test_every_setting_has_its_row_and_its_words():
    for kind, prefix in ((Run, ""), (DataConfig, "data."), (SimCLR.Config, "objective."), (RandomView, "")):
        found = rows(table(kind, prefix))
        own = {f"{prefix}{one.name}" for one in fields(kind)}
        assert found.keys() <= own and all(len(cells) == 3 and len(cells[2]) > 8 for cells in found.values())
        told_elsewhere = {Run: 8, DataConfig: 1, RandomView: 1}.get(kind, 0)
        assert len(own) - len(found) == told_elsewhere, "parts with tables of their own, and what has no flag"
    found = rows(table(DataConfig, "data."))
    assert found["data.batch_size"][:2] == ["whole number, ≥ 1", "`256`"]
    assert found["data.batch_size"][2].startswith("Images per optimiser step")
    assert rows(table(SimCLR.Config, "objective."))["objective.temperature"][1] == "`0.1`"


@dataclass
class Odd:
    """With what breaks tables."""

    text: str = "a|b"
    """One `|` and
    two lines."""


def test_nothing_breaks_a_table():
    (line,) = [line for line in table(Odd).splitlines() if "a" in line and "`text`" in line]
    assert line == "| `text` | text | `a\\|b` |  |", "the words of classes that are not ours are not looked for"


def test_a_page_asks_for_a_table():
    page = "before\n\n<!-- fields of eyespot.pretrain.config.StartConfig as start. -->\n\nafter"
    assert "| `start.weights` | path or none | none | File of an encoder" in with_tables(page)


def test_a_methods_page_has_its_settings_and_what_its_recipes_set():
    sections = {name: text for named in families().values() for name, text in named.items()}
    page = method_page("simclr", sections["simclr"])
    before, settings, recipes = page.partition("## Settings of simclr")[0], *page.split("\n## ")[1:]
    assert page.startswith("# simclr\n") and "What differs from the authors' code" in before
    assert before.count("exp(z_i . z_k / T)") == 1 and before.index("NT-Xent") < before.index("- Paper: ")
    assert rows(settings).keys() == {f"objective.{one.name}" for one in fields(SimCLR.Config)}
    found = rows(recipes)
    header = next(line for line in recipes.splitlines() if line.startswith("| setting"))
    names = [name.strip("` ") for name in header.strip("|").split("|")[1:-1]]
    assert set(names) == {name for name in recipe_names() if name.startswith("simclr_")}
    assert found["data.batch_size"][names.index("simclr_r50_in1k")] == "`4096`"
    assert found["objective.temperature"][-1] == "`0.1`" and "run_dir" not in found
