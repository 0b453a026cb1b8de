import math
from xml.etree import ElementTree

import pytest

from eyespot.eval.report.charts import Line, Row, Scale, interval_chart, line_chart, short, smooth, thin


@pytest.mark.parametrize(
    ("value", "text"), [(1_500_000, "1.5M"), (12_000, "12k"), (512, "512"), (1.5e-4, "0.00015"), (1e-6, "1e-6")]
)
def test_short_numbers(value, text):
    assert short(value) == text


def test_ticks_are_round_and_inside():
    assert Scale(low=0, high=1, start=0, end=100).ticks(5) == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1])
    assert Scale(low=0.03, high=40, start=0, end=100, log=True).ticks(4) == pytest.approx([0.1, 1, 10])


def test_logarithmic_scale():
    scale = Scale(low=1, high=100, start=0, end=200, log=True)
    assert [scale(value) for value in (1, 10, 100)] == pytest.approx([0, 100, 200])


def test_thin_keeps_means_and_leaves_nan_out():
    points = [(step, float(step)) for step in range(1, 2001)] + [(2001, math.nan)]
    thinned = thin(points, 100)
    assert len(thinned) == 100 and thinned[0] == (20, 10.5) and thinned[-1][0] == 2000


def test_smooth_keeps_both_ends_and_straight_lines():
    line = [(step, 2.0 * step) for step in range(200)]
    assert [y for _, y in smooth(line, 0.1)] == pytest.approx([y for _, y in line])
    jagged = [(step, float(step % 2)) for step in range(200)]
    assert all(0.3 < y < 0.7 for _, y in smooth(jagged, 0.1)[20:-20])


IMMENSE = [1e308, 1.0, -1e308, 2.0, 1e99]


@pytest.mark.parametrize(
    "values", [[3.0] * 9, IMMENSE, [0.0] * 9, [10.0**-n for n in range(9)], [-1.0, 2.0, math.nan, 5.0]]
)
@pytest.mark.parametrize("zero", [True, False])
def test_line_charts_are_valid_and_stay_inside(values, zero):
    drawing = ElementTree.fromstring(line_chart([Line(points=list(enumerate(values, 1)))], title="<loss>", zero=zero))
    assert drawing.get("role") == "img" and "<loss>" in drawing.get("aria-label", "")
    circle = next(iter(drawing.iter("circle")))
    assert 0 <= float(circle.get("cx", -1)) <= 430
    if not zero or min(v for v in values if v == v) >= 0 or values is IMMENSE:
        assert 0 <= float(circle.get("cy", -1)) <= 230


def test_one_point_is_no_chart():
    assert "Not enough points" in line_chart([Line(points=[(1, 2.0), (2, math.inf)])], title="loss")


def test_several_lines_share_their_axes_and_a_legend():
    short_run = Line(points=[(1, 1.0), (50, 2.0)], run=0, label="a & b")
    long_run = Line(points=[(1, 1.0), (100, 4.0)], run=3, label="c")
    legend, _, svg = line_chart([short_run, long_run], title="loss").partition("</p>")
    assert "a &amp; b <b>2</b>" in legend and "c <b>4</b>" in legend and legend.count('class="mark r3"') == 1
    drawing = ElementTree.fromstring(svg)
    first, second = list(drawing.iter("circle"))
    assert (first.get("class"), second.get("class")) == ("dot end r0", "dot end r3")
    assert float(first.get("cx", 0)) < float(second.get("cx", 0)) and float(first.get("cy", 0)) > float(
        second.get("cy", 0)
    )


def test_interval_chart_places_dots_by_value():
    rows = [Row(label="a & b", value=0.9, interval=(0.85, 0.95)), Row(label="c", value=0.5, interval=(0.4, 0.6))]
    drawing = ElementTree.fromstring(interval_chart(rows, title="probe", chance=0.1))
    first, second = (float(circle.get("cx", 0)) for circle in drawing.iter("circle"))
    assert second < first < 430
    for odd in ((0.5, 0.5), (1.0, 1.0), (0.0, 0.0), (1.5, 1.6), (-0.6, -0.5)):
        ElementTree.fromstring(interval_chart([Row(label="", value=0.5, interval=odd)], title="odd", chance=None))
    assert "a & b 90.0%" in drawing.get("aria-label", "")
