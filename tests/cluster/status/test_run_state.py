"""What a run folder tells: folders as the trainer's own writers make them."""

import fcntl
import json
import math
import os
import socket
import subprocess
import sys
import time

import pytest

from eyespot.cluster.status.run_state import is_run, read_run_state, tail_metrics
from eyespot.pretrain.tracking import metrics_file

START = "2026-01-02 03:04:05,678 INFO mae_tiny: test_vit, 0.4 M parameters, in runs/one"
DONE = "2026-01-02 03:05:00,000 INFO done: step 100 of 100"


def write_metrics(run_dir, times, **values):
    lines = [
        metrics_file.encode({"step": step, "time": moment, "loss": 1 / step, "images_per_second": 50.0, **values})
        for step, moment in times
    ]
    run_dir.mkdir(exist_ok=True)
    (run_dir / metrics_file.NAME).write_bytes(b"".join(lines))


def write_log(run_dir, *lines):
    (run_dir / "logs").mkdir(parents=True, exist_ok=True)
    (run_dir / "logs" / "rank-0.log").write_text("".join(f"{line}\n" for line in lines))


def test_an_empty_folder_tells_nothing(tmp_path):
    run_state = read_run_state(tmp_path)
    assert not is_run(tmp_path)
    assert (run_state.step, run_state.steps, run_state.loss, run_state.end, run_state.holder) == (
        0,
        None,
        None,
        None,
        None,
    )


def test_steps_loss_and_pace(tmp_path):
    (tmp_path / "run.json").write_text(json.dumps({"recipe": "mae_tiny", "run": {"steps": 100}}))
    # 2 s per step, but an hour in the queue between steps 6 and 8
    write_metrics(tmp_path, [(step, 1000.0 + 2 * step + (3600 if step > 6 else 0)) for step in range(2, 21, 2)])
    with (tmp_path / metrics_file.NAME).open("ab") as file:
        file.write(b'{"step": 22, "time": 1')  # being written
    run_state = read_run_state(tmp_path)
    assert is_run(tmp_path)
    assert (run_state.recipe, run_state.steps, run_state.step) == ("mae_tiny", 100, 20)
    assert run_state.loss == 1 / 20
    assert run_state.seconds_per_step == 2.0
    assert run_state.seconds_between_lines == 4.0
    assert run_state.logged == 1000.0 + 40 + 3600


def test_a_loss_that_is_no_number(tmp_path):
    write_metrics(tmp_path, [(1, 1.0), (2, 2.0)], loss=math.nan)
    assert math.isnan(read_run_state(tmp_path).loss or 0.0)


def test_a_long_file_is_read_from_its_end(tmp_path):
    write_metrics(tmp_path, [(step, float(step)) for step in range(1, 5001)])
    lines = tail_metrics(tmp_path)
    assert lines[-1]["step"] == 5000
    assert [line["step"] for line in lines] == list(range(5001 - len(lines), 5001))
    assert 500 < len(lines) < 5000


def test_the_newest_complete_checkpoint(tmp_path):
    for name, complete in (("step-00000010", True), ("step-00000020", True), ("step-00000030", False)):
        folder = tmp_path / "checkpoints" / name
        folder.mkdir(parents=True)
        if complete:
            (folder / "meta.json").write_text("{}")
    (tmp_path / "checkpoints" / "step-00000040.tmp").mkdir()
    (tmp_path / "checkpoints" / "step-00000040.tmp" / "meta.json").write_text("{}")
    run_state = read_run_state(tmp_path)
    assert run_state.checkpoint_step == 20
    assert abs((run_state.checkpoint_time or 0) - time.time()) < 60
    assert run_state.step == 20  # saved, and its line not yet written


@pytest.mark.parametrize(
    ("lines", "end"),
    [
        ([START, DONE], "done"),
        ([START, "2026-01-02 03:05:00,000 INFO stopped by SIGTERM after step 7; go on with --resume auto"], "stopped"),
        (
            [START, "2026-01-02 03:05:00,000 ERROR stopped: ValueError: done: step 1", "Traceback", " done: step"],
            "failed",
        ),
        ([START, DONE, "2026-01-02 03:06:00,000 WARNING MLflow does not have all of this run yet"], "done"),
        ([START, DONE, START], None),
        ([START], None),
    ],
)
def test_how_the_log_ends(tmp_path, lines, end):
    write_log(tmp_path, *lines)
    assert read_run_state(tmp_path).end == end


@pytest.mark.parametrize("name", ["metrics.jsonl", "logs/rank-0.log", ".lock"])
@pytest.mark.parametrize("kind", ["pipe", "endless"])
def test_what_is_no_file_is_neither_waited_for_nor_read(tmp_path, name, kind):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    os.mkfifo(path) if kind == "pipe" else path.symlink_to("/dev/zero")
    run_state = read_run_state(tmp_path)
    assert (run_state.loss, run_state.end, run_state.holder) == (None, None, None)


def test_who_holds_the_folder(tmp_path):
    """A process that the kernel says holds the lock; to look does not take it."""
    lock = tmp_path / ".lock"
    lock.write_text(f"process 1 on {socket.gethostname()}")
    script = "import fcntl, sys; f = open(sys.argv[1], 'r+'); fcntl.flock(f, fcntl.LOCK_EX); print(flush=True); input()"
    pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with subprocess.Popen([sys.executable, "-c", script, str(lock)], **pipes) as process:
        process.stdout.readline()
        assert read_run_state(tmp_path).holder == process.pid
        process.communicate(b"\n")
    run_state = read_run_state(tmp_path)
    assert (run_state.holder, run_state.host) == (None, socket.gethostname())
    file = os.open(lock, os.O_RDWR)
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # nobody else has it
    os.close(file)


@pytest.mark.parametrize("name", [".lock", metrics_file.NAME, "logs/rank-0.log"])
def test_a_pipe_or_a_device_in_a_files_place_is_not_waited_for(tmp_path, name):
    for number, put in enumerate((os.mkfifo, lambda path: path.symlink_to("/dev/zero"))):
        path = tmp_path / str(number) / name
        path.parent.mkdir(parents=True)
        put(path)
        run_state = read_run_state(tmp_path / str(number))
        assert (run_state.host, run_state.holder, run_state.step, run_state.end) == ("", None, 0, None)
