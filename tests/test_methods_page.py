"""docs/methods.md: what its generator writes today, a picture for every method that has one to show."""

import sys
from pathlib import Path

import pytest
from PIL import Image

from eyespot.cluster.method_cards import cards

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
from methods_page import DOCS, MAX_BYTES, page, picture, section


@pytest.fixture(scope="module")
def found():
    return cards()


def test_it_is_what_make_methods_writes(found):
    assert (DOCS / "methods.md").read_text() == page(found), "run: make methods"


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
