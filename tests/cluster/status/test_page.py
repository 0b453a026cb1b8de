"""What a person sees, at any width."""

import io
import re
import time

import pytest

from eyespot.cluster.status.page import detail_page, sparkline, survey_page
from eyespot.cluster.status.records import JobLine, Records
from eyespot.cluster.status.survey import Status, Survey, survey
from eyespot.data_pipeline.console import Console
from eyespot.pretrain.tracking import metrics_file

NOW = 1_800_000_000.0


def status(name: str = "runs/first", **changes: object) -> Status:
    values = dict(run=name, recipe="mae_vitb16_in1k", state="running", words="running", job="1234567_12")
    values |= dict(job_state="RUNNING", nodes=("node1", "node2"), num_nodes=2, step=123456, steps=1000000)
    values |= dict(loss=0.43215, images_per_second=12345.6, seconds_left=12000.0, job_seconds_left=2400.0)
    values |= dict(checkpoint_step=123000, checkpoint_time=NOW - 720, requeues=3, notes=())
    return Status(**{**values, **changes})  # type: ignore[arg-type]


WAITS = status(
    "runs/waits",
    state="waiting",
    words="waits: over a limit of its account: all jobs' cpu minutes (AssocGrpCPUMinutesLimit)",
    notes=("attempt 2 failed: node2 [rank 1] was killed by signal 9",),
)


def drawn(page, width: int) -> list[str]:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(page(console))
    return console.file.getvalue().splitlines()  # type: ignore[attr-defined]


@pytest.mark.parametrize("width", [60, 80, 120, 160, 220])
def test_everything_is_readable_at_any_width(width):
    seen = Survey(time=NOW, runs=(status(), WAITS), slurm_error=None)
    lines = drawn(lambda console: survey_page(seen, console), width)
    assert max(map(len, lines)) <= width
    text = re.sub(r"\s+", " ", " ".join(lines))
    for word in ("1234567_12", "123,456 / 1,000,000", "0.4321", "12,346", "3 h 20 min", "40 min", "123,000, 12 min"):
        assert word in text
    assert "node2 [rank 1] was killed by signal 9" in text  # brackets are no markup
    assert "AssocGrpCPUMinutesLimit" in text
    assert ("requeues" in text) == (width >= 160)  # a table, or a block of lines for each


def test_no_colours_outside_terminals_and_colours_on_them():
    seen = Survey(time=NOW, runs=(status(),), slurm_error="squeue: no answer within 20 s")
    plain = drawn(lambda console: survey_page(seen, console), 80)
    assert "\x1b" not in "".join(plain)
    assert "SLURM does not answer (squeue: no answer within 20 s)" in " ".join(plain)
    console = Console(file=io.StringIO(), width=80, force_terminal=True, color_system="standard")
    console.print(survey_page(seen, console))
    assert "\x1b[32mrunning" in console.file.getvalue()  # type: ignore[attr-defined]


def test_one_run_in_detail(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))  # no SLURM
    run = tmp_path / "run"
    records = Records(run)
    log = records.submitit / "7_0_log.err"
    records.add_job(JobLine(job="7", kind="pretrain", submitted=NOW, log=str(log), nodes=20, processes=8))
    nodes = tuple(f"node{number}" for number in range(1, 21))
    first = records.start_attempt(job="7", requeues=0, nodes=nodes)
    records.end_attempt(first, "failed", "node2 stopped answering", ("node2",))
    for node in nodes:
        records.beat(node, job="7", requeues=0, state="the ranks run")
    lines = [{"step": step, "time": NOW + step, "loss": 1 / step} for step in range(1, 20)]
    (run / metrics_file.NAME).write_bytes(b"".join(map(metrics_file.encode, lines)))
    for name in ("step-00000010", "step-00000010-copy2"):
        (run / "checkpoints" / name).mkdir(parents=True)
        (run / "checkpoints" / name / "meta.json").write_text("{}")
    for width in (80, 160):
        drawing = drawn(lambda console: detail_page(survey([run]), console), width)
        assert max(map(len, drawing)) <= width
        text = re.sub(r"\s+", " ", " ".join(drawing))
        for words in ("failed: node2 stopped answering (blamed: node2)", "20 x 8 ranks", "loss of steps 1 to 19: 1 to"):
            assert words in text
        assert "and 12 more" in text
        assert "█" in text


def test_sparkline():
    assert sparkline([1.0, 2.0, 3.0, 8.0], 10) == "▁▂▃█"
    assert sparkline([1.0, float("nan"), 8.0], 10) == "▁ █"
    assert sparkline([5.0, 5.0], 10) == "▁▁"
    assert len(sparkline([float(number) for number in range(1000)], 72)) <= 72
    assert sparkline([0.0, 2.0, 8.0, 6.0], 2) == "▁█"
    assert sparkline([1e308, 1.0, -1e308, 8.0], 10) == " ▁ █", "a sum of them would be infinite"


def test_a_terminal_that_knows_ascii_only(tmp_path):
    with (tmp_path / "shown").open("w", encoding="ascii") as file:
        console = Console(file=file, width=130)
        console.print(survey_page(Survey(time=time.time(), runs=(status(), WAITS), slurm_error=None), console))
