import re

import pytest

from eyespot.eval.report.metric_columns import MetricColumns
from eyespot.eval.report.run_data import Story
from eyespot.eval.report.training_sections import MAX_OTHER_CHARTS, PART_NAMES, curves, speed, watched
from eyespot.pretrain.run_record import RunRecord
from eyespot.pretrain.watchdog.gpu_health import METRICS
from eyespot.pretrain.watchdog.time_breakdown import PARTS, UNDIVIDED


def test_every_part_that_is_measured_has_a_name():
    assert tuple(PART_NAMES) == (*PARTS, UNDIVIDED)


def test_every_figure_of_a_gpu_has_its_chart(tmp_path):
    metrics = MetricColumns([{"step": step, "loss": 1.0, **dict.fromkeys(METRICS, 0.5)} for step in (1, 2)])
    story = Story(run_dir=tmp_path, record=RunRecord(), metrics=metrics, results=[], label="a")
    section = speed([story])
    assert section is not None and len(headings(section.body())) == len(METRICS)
    assert headings(curves([story]).body()) == ["Loss"]


def test_long_intervals_weigh_more(tmp_path):
    """100 images at 100 per second, all forward; then 300 at 100 per second, all backward."""
    lines = [
        {"step": 1, "samples_seen": 100, "images_per_second": 100.0, "forward": 1.0},
        {"step": 2, "samples_seen": 400, "images_per_second": 100.0, "backward": 1.0},
    ]
    metrics = [{**line, **{f"time_share/{part}": line.get(part, 0.0) for part in PARTS}} for line in lines]
    section = speed(
        [Story(run_dir=tmp_path, record=RunRecord(), metrics=MetricColumns(metrics), results=[], label="a")]
    )
    body = section.body() if section else ""
    cells = dict(re.findall(r'<th scope="row">([a-z]+)</th><td class="number">([0-9.]+)%</td>', body))
    assert {name: float(value) for name, value in cells.items()} == pytest.approx({"forward": 25, "backward": 75})
    assert "forward 25.0%, backward 75.0%" in body


def training(tmp_path, *runs):
    """The Training section of runs that logged some numbers at four steps."""
    stories = []
    for number, run in enumerate(runs):
        metrics = [{"step": n, "loss": 1.0, **{name: n * value for name, value in run.items()}} for n in range(1, 5)]
        story = Story(
            run_dir=tmp_path, record=RunRecord(), metrics=MetricColumns(metrics), results=[], label=f"run {number}"
        )
        stories.append(story)
    return curves(stories).body()


def headings(body):
    return re.findall(r"<h3>(.*?)</h3>", body)


def test_every_scalar_of_an_objective_is_drawn(tmp_path):
    """Names that no chart was made for, of one run and of the other; what other sections show is not repeated."""
    known = {"lr": 1e-3, "images_per_second": 9.0, "time_share/data": 0.1, "health/collapsed": 0, "epoch": 0.1}
    body = training(tmp_path, {"recon/<l1>": 0.5, **known}, {"kl": 2.0, "health/of_my_own": 1})
    assert headings(body) == ["Loss", "Learning rate", "health/of_my_own", "kl", "recon/&lt;l1&gt;"]
    assert 'aria-label="kl: run 1 from 2 to 8 at step 4"' in body


def test_drift_is_drawn_where_the_encoder_is_watched(tmp_path):
    metrics = MetricColumns([{"step": step, "loss": 1.0, "drift/knn": -0.1 * step} for step in (1, 2)])
    story = Story(run_dir=tmp_path, record=RunRecord(), metrics=metrics, results=[], label="a")
    section = watched([story])
    assert section is not None
    assert headings(section.body()) == ["Nearest neighbours, change since the given weights (%)"]
    assert headings(curves([story]).body()) == ["Loss"]


def test_words_and_digests_are_no_scalars(tmp_path):
    body = training(tmp_path, {"sample_digest": "a", "note": "b", "weights": 1.0})
    assert headings(body) == ["Loss", "weights"]


def test_what_is_too_much_for_a_page_is_counted(tmp_path):
    body = training(tmp_path, {f"layer{number:03d}": 1.0 for number in range(MAX_OTHER_CHARTS + 3)})
    assert len(headings(body)) == 1 + MAX_OTHER_CHARTS
    assert f"3 more scalars are in metrics.jsonl and not drawn, from layer{MAX_OTHER_CHARTS:03d} to" in body
