"""benchmarks/noise_levels.py: what is chosen is chosen on held-out images, and the table is of the results kept."""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
import noise_levels
from noise_levels import best, rows_of

RECORD = json.loads((noise_levels.RESULTS / "noise_levels.json").read_text())
KEPT = {(each["role"], each["time"]): each for each in RECORD["results"]}


def test_held_out_images_choose_and_of_equals_that_with_less_noise():
    held_out, on_test = (0.40, 0.42, 0.42), (0.50, 0.41, 0.43)
    pairs = zip((0, 11, 30), held_out, on_test, strict=True)
    found = {("encoder", time): {"validation": known, "accuracy": asked} for time, known, asked in pairs}
    found["random", 0] = {"validation": 0.9, "accuracy": 0.9}
    assert best(found, "encoder") == (11, {"validation": 0.42, "accuracy": 0.41})


def test_the_table_is_of_the_results_kept():
    times = sorted({time for _, time in KEPT})
    rows = rows_of(KEPT, times)
    assert [list(row) for row in rows] == [list(row.values()) for row in RECORD["rows"]]
    assert len(rows) == 6 + 3 and len(times) == 6
    for time, cell in zip(times, rows[6][1:], strict=True):
        assert cell.startswith(f"{100 * KEPT['encoder', time]['accuracy']:.1f} (block ")
