from dataclasses import replace

import numpy as np
import pytest
from result_files import some_result

from eyespot.eval.report.metric_columns import MetricColumns
from eyespot.eval.report.result_section import judgement
from eyespot.eval.report.run_data import Story
from eyespot.eval.results.result import Score
from eyespot.eval.results.significance import holm, mcnemar, paired_interval
from eyespot.pretrain.run_record import RunRecord


def story(tmp_path, label, *results):
    return Story(
        run_dir=tmp_path / label, record=RunRecord(), metrics=MetricColumns(), results=list(results), label=label
    )


def judged(right, **changes):
    score = Score.of(np.array(right, bool))
    return some_result(
        accuracy=score.value, interval=score.interval, correct=score.correct, num_test=len(right), **changes
    )


def test_runs_are_compared_sample_by_sample(tmp_path):
    better, worse = [1] * 90 + [0] * 10, [1] * 70 + [0] * 25 + [1] * 5
    shared = judged([0, 1] * 50, key="r", role="random", name="random weights (seed 0)", origin={"encoder": "test_vit"})
    body = judgement(
        [
            story(tmp_path, "mae", judged(worse, key="a"), shared),
            story(tmp_path, "simclr", judged(better, key="b", origin={"step": 9}), shared),
        ]
    ).body()
    low, high = (100 * end for end in paired_interval(20, 5, 100))
    said = f"(95% {low:.1f} to {high:.1f}; paired test: p = {mcnemar(20, 5):.2g}, exact McNemar)"
    assert f"simclr, step 9 is 15.0 points above mae, step 12 {said}" in body
    assert body.count("test_vit, random weights (seed 0)</text>") == 1
    assert 'class="bar r0"' in body and 'class="bar r1"' in body and 'class="bar plain"' in body


def test_one_run_is_paired_with_both_baselines(tmp_path):
    """Their intervals overlap, and still the pairs tell them apart; then both are close, and they do not."""
    own = judged([1] * 80 + [0] * 20, key="a")
    random = judged([1] * 68 + [0] * 32, key="r", role="random", name="random weights (seed 0)")
    pixels = judged([1] * 79 + [0] * 21, key="p", role="pixels", name="raw pixels")
    body = judgement([story(tmp_path, "mae", own, random, pixels)]).body()
    p = holm([mcnemar(12, 0), mcnemar(1, 0)])
    said = f"paired test: p = {p[0]:.2g}, exact McNemar, Holm over 2)."
    assert own.interval[0] < random.interval[1]
    assert "12.0 points above the same encoder with random weights (95% " in body and said in body
    said = f"paired test: p = {p[1]:.2g}, exact McNemar, Holm over 2: no difference shown)."
    assert "1.0 points above raw pixels (95% " in body and said in body
    assert "overlap" not in body


def test_a_run_below_its_baseline_is_said_to_be_so(tmp_path):
    own = judged([1] * 60 + [0] * 40, key="a")
    pixels = judged([1] * 80 + [0] * 20, key="p", role="pixels", name="raw pixels")
    body = judgement([story(tmp_path, "mae", own, pixels)]).body()
    low, high = sorted(-100 * end for end in paired_interval(0, 20, 100))
    assert f"20.0 points below raw pixels (95% {low:.1f} to {high:.1f}; paired test: p &lt; 0.0001" in body


def test_what_each_block_knows_is_drawn_by_depth(tmp_path):
    metrics = {f"layers/block{block:03}_cls": 0.3 + 0.1 * block for block in range(1, 5)}
    own = some_result(protocol="layers", metrics=metrics, settings={"features": "cls", "block": "4 of 4"})
    pixels = some_result(protocol="layers", key="p", role="pixels", name="raw pixels", metrics={"layers/pixels": 0.5})
    body = judgement([story(tmp_path, "mae", own, pixels)]).body()
    assert "Linear probes by depth on digits, by depth: mae_tiny, step 12: cls from 40 to 70 % at block 4" in body
    assert '3</th><td class="number">60.0%</td>' in body
    assert "by depth:" not in judgement([story(tmp_path, "mae", some_result())]).body()


def test_masks_are_paired_by_the_image(tmp_path):
    values = np.linspace(0.2, 0.8, 20)
    mious = [values + 0.05 * np.sin(np.arange(20)), values - 0.1]
    runs = [
        story(
            tmp_path, str(n), some_result(
                protocol="dense-linear", key=str(n), num_test=20, accuracy=float(each.mean()), correct=None,
                scores={"image mIoU": Score(value=float(each.mean()), values=each.tolist())}, origin={"step": n},
            )
        )
        for n, each in enumerate(mious)
    ]  # fmt: skip
    assert "paired test: p &lt; 0.0001, paired t)" in judgement(runs).body()


@pytest.mark.parametrize("changes", [{"test_sha256": "other"}, {"correct": None}, {"correct": "ff"}])
def test_what_cannot_be_paired_is_judged_by_its_intervals(changes, tmp_path):
    far, near = [1] * 95 + [0] * 5, [1] * 45 + [0] * 55
    runs = [story(tmp_path, "a", judged(far, key="a")), story(tmp_path, "b", judged(near, key="b"))]
    runs[1].results = [replace(runs[1].results[0], **changes)]
    body = judgement(runs).body()
    assert "50.0 points above b, step 12; the intervals do not overlap (no paired test: " in body
    assert "McNemar" not in body


def test_a_run_that_is_not_judged_is_named_as_text(tmp_path):
    body = judgement([story(tmp_path, "<img src=x>")]).body()
    assert "Not judged yet" in body and "&lt;img src=x&gt;&#39; SHARDS</code>" in body and "<img" not in body


def test_the_newest_step_stands_in_the_table_of_all_results(tmp_path):
    first, last = judged([1, 0, 0, 0], key="a"), judged([1, 1, 1, 0], key="b", origin={"step": 40})
    linear = judged([1, 1, 0, 0], key="c", protocol="linear")
    body = judgement([story(tmp_path, "mae", last, first, linear)]).body()
    summary = body.partition("All results")[2].partition("</table>")[0]
    assert "75.0%" in summary and "25.0%" not in summary and summary.index("Linear probe") < summary.index("Nearest")


def test_few_labels_are_a_comparison_for_each_number_of_them(tmp_path):
    runs = [judged([1, 0], key=n, protocol="low-shot", settings={"shots": n}) for n in ("1%", "5")]
    body = judgement([story(tmp_path, "mae", *runs)]).body()
    assert (
        "<h3>Few labels on digits, 1% per class</h3>" in body and "<h3>Few labels on digits, 5 per class</h3>" in body
    )


def test_chance_is_what_the_protocol_says_it_is(tmp_path):
    known = {"num_classes": 0, "num_train": 0, "protocol": "alignment"}
    said = [
        judgement([story(tmp_path, "a", some_result(**known, settings=settings))]).data["groups"][0]
        for settings in ({"chance": 0.6667}, {"chance": "none"}, {"chance": 7.0}, {})
    ]
    assert ["Dashed: chance" in group.about for group in said] == [True, False, False, False]
    assert said[0].heading.startswith("Moments seen by two cameras on ") and "test videos" in said[0].about
