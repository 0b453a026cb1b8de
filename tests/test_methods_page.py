"""docs/methods.md and README's table: what make methods writes today, a picture for every method that has one."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from eyespot.cluster.method_cards import cards

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
from methods_page import BEGIN, DOCS, END, MAX_BYTES, README, page, picture, readme, section


@pytest.fixture(scope="module")
def found():
    return cards()


def test_it_is_what_make_methods_writes(found):
    assert (DOCS / "methods.md").read_text() == page(found), "run: make methods"


def test_so_is_the_table_of_readme(found):
    assert README.read_text() == readme(README.read_text(), found), "run: make methods"


def test_a_new_method_stands_in_its_familys_row(found):
    old = f"before\n{BEGIN}what was there\n{END}after\n"
    new = replace(found[0], name="new", text="Never Seen: a method (nobody 2030).", measured=None)
    text = readme(old, [*found, new])
    (row,) = [line for line in text.splitlines() if "`new`" in line]
    assert row.startswith(f"| {new.about.family} | `{found[0].name}`") and row.endswith(", `new` (Never Seen) |")
    assert text.startswith(f"before\n{BEGIN}") and text.endswith(f"{END}after\n") and "what was there" not in text
    assert readme(text, [*found, new]) == text


def test_readme_says_what_failed_its_gate(found):
    judged = [
        replace(card, measured=card.measured and replace(card.measured, passed=place >= 2))
        for place, card in enumerate(found)
    ]
    assert f"for all but {found[0].name}, {found[1].name}.\n" in readme("", judged)
    assert "None was measured" in readme("", [replace(found[0], measured=None)])


def test_every_measured_method_that_shows_its_task_has_a_picture(found):
    for card in found:
        if card.measured and card.picture_rows:
            path = picture(card.name)
            assert path.is_file(), f"{path}: run make zoo, then make methods"
            assert path.stat().st_size <= MAX_BYTES
            with Image.open(path) as image:
                assert min(image.size) >= 90
            assert f"(methods/{card.name}.png)" in section(card)


def test_no_picture_is_left_over(found):
    assert {path.stem for path in (DOCS / "methods").glob("*")} <= {card.name for card in found}


def test_a_section_says_all_that_the_card_does(found):
    for card in found:
        text = section(card)
        for said in (card.name, card.paper, card.about.task, card.about.expected, *card.recipes, *card.formulas):
            assert said in text, card.name
