import json

import pytest

from eyespot.cluster import method_cards
from eyespot.cluster.method_cards import cards, paragraphs
from eyespot.pretrain.objective import FAMILIES
from eyespot.pretrain.recipe_lookup import recipe_names
from eyespot.pretrain.recipes import rotation


@pytest.fixture(scope="module")
def found():
    return {card.name: card for card in cards()}


def test_every_recipe_has_one_card(found):
    assert sorted(name for card in found.values() for name in card.recipes) == sorted(recipe_names())


def test_every_method_says_what_it_is(found):
    for card in found.values():
        about = card.about
        assert about.family in FAMILIES and about.task and about.paper and 1980 < about.year < 2030, card.name
        assert about.link.startswith(("arXiv:", "doi:", "https://")), card.name
        assert about.link.removeprefix("arXiv:") in card.text or not about.link.startswith("arXiv:"), card.name
        assert str(about.year) in card.text and card.formulas, card.name
        assert not about.task.endswith(".") and not about.expected.endswith("."), card.name


def test_they_come_by_family_and_year(found):
    order = [(FAMILIES.index(card.about.family), card.about.year) for card in found.values()]
    assert order == sorted(order)


def test_title_and_formula_are_those_of_the_file(found):
    card = found["rotation"]
    assert card.title.startswith("RotNet: unsupervised representation learning")
    assert card.formulas == ["L = -1/4 sum over k in 0..3 of log softmax(head(encoder(g(x | k))))_k,"]
    assert card.paper == "Gidaris et al. 2018"


def test_what_was_measured_is_read(tmp_path, monkeypatch):
    row = {"encoder": "resnet10t", "linear": 50.5, "random": 46.1, "passed": True}
    (tmp_path / "measured.json").write_text(json.dumps({"rotation": row, "jigsaw": row | {"passed": False}}))
    monkeypatch.setattr(method_cards, "MEASURED", tmp_path / "measured.json")
    said = {card.name: str(card.measured) for card in cards()}
    assert said["rotation"] == "resnet10t, minutes of CIFAR-10, linear: 50.5 %, random 46.1 %"
    assert said["jigsaw"].endswith("random 46.1 % (gate of 2 points not passed)")
    assert said["mae"] == "None"


def test_paragraphs_are_wrapped_anew_and_formulas_are_not():
    text = "One line\nand another.\n\n    a = b\n      + c\n\nTold:\n- first\n  of two\n- second"
    assert paragraphs(text) == ["One line and another.", "    a = b\n      + c", "Told:\n- first of two\n- second"]


def test_a_gate_comes_from_the_methods_recipe_file(found):
    assert found["rotation"].gate is rotation.GATE
    assert found["classify"].gate is None
