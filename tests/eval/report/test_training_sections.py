import re

import pytest

from eyespot.eval.report.run_data import Story
from eyespot.eval.report.training_sections import speed
from eyespot.pretrain.run_record import RunRecord
from eyespot.pretrain.watchdog.time_breakdown import PARTS


def test_long_intervals_weigh_more(tmp_path):
    """100 images at 100 per second, all forward; then 300 at 100 per second, all backward."""
    lines = [
        {"step": 1, "samples_seen": 100, "images_per_second": 100.0, "forward": 1.0},
        {"step": 2, "samples_seen": 400, "images_per_second": 100.0, "backward": 1.0},
    ]
    metrics = [{**line, **{f"time_share/{part}": line.get(part, 0.0) for part in PARTS}} for line in lines]
    section = speed([Story(run_dir=tmp_path, record=RunRecord(), metrics=metrics, results=[], label="a")])
    body = section.body() if section else ""
    cells = dict(re.findall(r'<th scope="row">([a-z]+)</th><td class="number">([0-9.]+)%</td>', body))
    assert {name: float(value) for name, value in cells.items()} == pytest.approx({"forward": 25, "backward": 75})
    assert "forward 25.0%, backward 75.0%" in body
