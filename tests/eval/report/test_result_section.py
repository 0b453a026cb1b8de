import numpy as np
from result_files import some_result

from eyespot.eval.report.result_section import judgement
from eyespot.eval.report.run_data import Story
from eyespot.eval.results.result import Score
from eyespot.eval.results.significance import mcnemar, paired_interval
from eyespot.pretrain.run_record import RunRecord


def story(tmp_path, label, *results):
    return Story(run_dir=tmp_path / label, record=RunRecord(), metrics=[], results=list(results), label=label)


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
    said = f"(95% {low:.1f} to {high:.1f}; p = {mcnemar(20, 5):.2g}, McNemar, Holm over 1)"
    assert f"simclr, step 9 is 15.0 points above mae, step 12 {said}" in body
    assert body.count("test_vit, random weights (seed 0)</text>") == 1
    assert 'class="bar r0"' in body and 'class="bar r1"' in body and 'class="bar plain"' in body


def test_other_test_images_are_not_compared(tmp_path):
    runs = [story(tmp_path, name, judged([1, 0, 1], key=name, test_sha256=name)) for name in ("a", "b")]
    assert "McNemar" not in judgement(runs).body()


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
