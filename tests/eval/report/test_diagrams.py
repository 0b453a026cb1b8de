from xml.etree import ElementTree

import numpy as np
import pytest

from eyespot.eval.report.diagrams import confusion_map, scatter, share_bar


def test_parts_of_a_bar_are_as_wide_as_their_shares():
    drawing = ElementTree.fromstring(share_bar({"data": 0.25, "forward": 0.75}, title="<t>", width=100))
    first, second = drawing.iter("rect")
    assert (float(first.get("x", -1)), float(second.get("x", -1))) == (0, 25)
    assert float(second.get("width", 0)) == pytest.approx(74)
    assert drawing.get("aria-label") == "<t>: data 25.0%, forward 75.0%"


@pytest.mark.parametrize("num_classes", [2, 20])
def test_a_cell_for_each_pair_of_classes(num_classes):
    counts = np.diag(np.arange(1, num_classes + 1))
    counts[0, 1] = 3
    names = [f"<class {n}>" for n in range(num_classes)]
    drawing = ElementTree.fromstring(confusion_map(counts, names, title="who"))
    cells = list(drawing.iter("rect"))
    assert len(cells) == num_classes**2
    tips = [cell.findtext("title") for cell in cells]
    assert tips[1] == "<class 0> taken for <class 1>: 3 of 4"
    shades = np.array([float(cell.get("fill-opacity", 0)) for cell in cells]).reshape(counts.shape)
    assert shades[1, 1] == pytest.approx(1) and 0.7 < shades[0, 1] < 0.8 and shades[1, 0] == 0.05
    width = float(drawing.get("viewBox", "").split()[2])
    assert all(0 <= float(cell.get("x", -1)) <= width - float(cell.get("width", 0)) for cell in cells)


def test_points_keep_their_proportions_and_names_stand_among_them():
    places = np.array([[0.0, 0.0], [10.0, 0.0], [10.0, 5.0], [10.0, 5.0]])
    drawing = ElementTree.fromstring(scatter(places, np.array([0, 1, 1, 1]), ["a", "b & c"], title="map"))
    spots = np.array([[float(dot.get("cx", 0)), float(dot.get("cy", 0))] for dot in drawing.iter("circle")])
    assert spots[1, 0] - spots[0, 0] == pytest.approx(2 * (spots[2, 1] - spots[1, 1]), abs=0.3)
    assert [text.text for text in drawing.iter("text")] == ["a", "b & c"]
    assert [dot.get("class") for dot in drawing.iter("circle")][:2] == ["point k0", "point k1"]
    assert "circle" in scatter(places, np.full(4, -1), [], title="map")
