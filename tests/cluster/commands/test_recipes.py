import pytest

from eyespot.cluster.cli import main
from eyespot.cluster.method_cards import cards
from eyespot.pretrain.recipe_lookup import recipe_names


@pytest.mark.parametrize("width", [80, 160])
def test_the_whole_zoo_fits_the_terminal(width, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", str(width))
    assert main(["recipes"]) == 0
    said = capsys.readouterr().out
    assert max(map(len, said.splitlines())) <= width
    assert "…" not in said
    for card in cards():
        assert card.about.family in said
        assert all(word in said for word in (card.name, *card.about.paper.split(), str(card.about.year), *card.recipes))


@pytest.mark.parametrize("name", ["jigsaw", "jigsaw_tiny"])
def test_one_method_at_length(name, capsys):
    assert main(["recipes", name]) == 0
    said = capsys.readouterr().out
    assert "arXiv:1603.09246" in said and "L = -log softmax" in said and "To expect" in said
    for recipe in ("jigsaw_tiny", "jigsaw_r18_cifar10", "jigsaw_r50_in1k"):
        assert recipe in said and (recipe_names()[recipe].__doc__ or "")[:20] in said
    assert "eyespot pretrain jigsaw_tiny --data.shards SHARDS --run-dir RUN" in said


@pytest.mark.parametrize(
    ("words", "message"),
    [(["jigsw"], "did you mean jigsaw?"), (["x"], "see eyespot recipes")],
)
def test_an_unknown_method_is_one_line(words, message, capsys):
    assert main(["recipes", *words]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and f"method {words[0]}: there is none; {message}" in said


def test_help(capsys):
    assert main(["recipes", "--help"]) == 0
    assert main(["recipes", "a", "b"]) == 2
    assert capsys.readouterr().out.count("usage: eyespot recipes [METHOD]") == 2
