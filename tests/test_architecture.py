"""docs/architecture.md: the drawing is of today's imports, and what the journeys name is there."""

import ast
import re
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "docs"))
import drawing

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "architecture.md").read_text()
NAMED = re.findall(r"`([\w/]+\.py)(?:: ([\w.]+))?`", PAGE)


@pytest.fixture(scope="module")
def graph():
    return drawing.read()


def test_the_drawing_is_of_todays_imports(graph):
    assert drawing.PICTURE.read_text(encoding="utf-8") == drawing.draw(graph), "run: make drawing"


def test_it_shows_every_file_and_is_svg(graph):
    count = sum(len(list((ROOT / floor).rglob("[!_]*.py"))) for floor in drawing.FLOORS)
    shown = [found for floor in drawing.floors(graph) for found in floor.files.values()]
    assert sum(shown) + shown.count(0) == count
    words = "".join(ElementTree.fromstring(drawing.draw(graph)).itertext())
    assert all(f"{name}/" in words for name in (*drawing.FLOORS, "objectives", "checkpoints"))


def test_a_box_stands_above_what_it_uses():
    uses = {"roof": {"wall", "floor"}, "wall": {"floor"}, "floor": set(), "shed": set()}
    assert drawing.levels(uses) == {"roof": 2, "wall": 1, "floor": 0, "shed": 0}
    assert drawing.needed(uses) == [("roof", "wall"), ("wall", "floor")]  # from roof to floor: by the wall
    with pytest.raises(ValueError, match="a circle among egg, hen"):
        drawing.levels({"hen": {"egg"}, "egg": {"hen"}, "roof": set()})


def test_boxes_of_a_row_do_not_touch(graph):
    for floor in drawing.floors(graph):
        rows, _, middle = drawing.rows_and_lines(floor)
        boxes = [[knot for knot in row if isinstance(knot, str)] for row in rows]
        assert sorted(box for row in boxes for box in row) == sorted(floor.files)
        for row in boxes:
            half = {box: drawing.width(box) / 2 for box in row}
            edges = [edge for box in row for edge in (middle[box] - half[box], middle[box] + half[box])]
            assert edges == sorted(edges) and edges[0] > drawing.MARGIN
            assert edges[-1] < drawing.WIDTH - drawing.SIDE


@pytest.mark.parametrize(("path", "name"), sorted(set(NAMED)))
def test_what_the_page_names_is_there(path, name):
    scope: list[ast.stmt] = ast.parse((ROOT / path).read_text()).body
    for part in filter(None, name.split(".")):
        found = [node for node in scope if getattr(node, "name", None) == part]
        assert found, f"{path} has no {name}; docs/architecture.md names it"
        scope = getattr(found[0], "body", [])


def test_three_journeys_of_ten_steps():
    journeys = PAGE.split("\n## ")[1:]
    assert [len(re.findall(r"^\d+\. ", journey, re.MULTILINE)) for journey in journeys] == [10, 10, 10]
    assert len(NAMED) >= 40
