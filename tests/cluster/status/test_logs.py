"""Reading files that grow, are replaced and come later. Through a requeue: test_slurm_watching.py."""

import json
import os

import pytest

from eyespot.cluster.status import logs
from eyespot.cluster.status.logs import Growing, Reader, check_rank, follow, job_output, rank_logs
from eyespot.cluster.status.records import JobLine, Records
from eyespot.data_pipeline.errors import UserError


def append(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(text)


@pytest.mark.parametrize("number", [0, 1, 3, 1000, 100000])
def test_the_last_lines_of_a_long_file(tmp_path, number):
    lines = [f"line {index} {'x' * (index % 70)}" for index in range(9000)]
    append(tmp_path / "log", "".join(f"{line}\n" for line in lines) + "half")
    assert Growing(tmp_path / "log").last_lines(number) == (lines[-number:] if number else [])


def test_a_file_that_grows_and_is_replaced(tmp_path):
    path = tmp_path / "log"
    file = Growing(path)
    assert file.last_lines(9) == file.new_lines() == []
    append(path, "one\ntw")
    assert file.new_lines() == ["one"]
    append(path, "o\r\nthree \xe9\n")
    assert file.new_lines() == ["two", "three \xe9"]
    path.unlink()
    assert file.new_lines() == []
    append(path, "another\n")
    assert file.new_lines() == ["another"]
    path.write_text("cut\n")
    assert file.new_lines() == ["cut"]


def test_a_pipe_or_a_device_in_a_logs_place_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "endless").symlink_to("/dev/zero")
    for name in ("pipe", "endless"):
        assert Growing(tmp_path / name).last_lines(3) == [] == Growing(tmp_path / name).new_lines()


def test_half_a_line_is_shown_when_it_is_whole(tmp_path):
    append(tmp_path / "log", "one\nha")
    file = Growing(tmp_path / "log")
    assert file.last_lines(5) == ["one"]
    append(tmp_path / "log", "lf\n")
    assert file.new_lines() == ["half"]


def test_all_ranks_in_the_order_of_their_times(tmp_path):
    append(tmp_path / "logs/rank-0.log", "2026-01-02 03:04:05,100 INFO a\nTraceback\n2026-01-02 03:04:07,000 INFO c\n")
    append(tmp_path / "logs/rank-10.log", "2026-01-02 03:04:06,000 INFO b\n")
    reader = Reader(rank_logs(tmp_path, None), 20)
    seen = [(label, text[-1]) for label, text in reader.first()]
    assert seen == [("rank 0", "a"), ("rank 0", "k"), ("rank 10", "b"), ("rank 0", "c")]
    append(tmp_path / "logs/rank-2.log", "2026-01-02 03:04:09,000 INFO late\n")
    assert [line.label for line in reader.more()] == ["rank 2"]
    assert Reader(rank_logs(tmp_path, 10), 20).first() == [("", "2026-01-02 03:04:06,000 INFO b")]
    with pytest.raises(UserError, match=r"--rank 11: .* has logs of ranks 0 to 10"):
        check_rank(tmp_path, 11)


def test_output_of_the_newest_job_that_has_begun(tmp_path):
    folder = Records(tmp_path).submitit
    for job in ("7", "8_1", "9"):
        log = str(folder / f"{job}_0_log.err")
        Records(tmp_path).add_job(JobLine(job=job, kind="pretrain", submitted=1.0, log=log, nodes=2, processes=1))
    source = job_output(tmp_path)
    assert source() == {}
    append(folder / "7_0_log.err", "seven\n")
    assert source() == {"err": folder / "7_0_log.err"}
    for task in range(2):
        append(folder / f"8_1_{task}_log.out", "eight\n")
    append(folder / "8_10_0_log.out", "another task of the array\n")
    assert source() == {f"task {task} out": folder / f"8_1_{task}_log.out" for task in range(2)}


def test_following_ends_with_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr(logs, "STATUS_SECONDS", 0.1)
    monkeypatch.setattr(logs, "POLL_SECONDS", 0.05)
    (tmp_path / "run.json").write_text(json.dumps({"recipe": "mae_tiny", "run": {"steps": 1}}))
    reader, said = Reader(rank_logs(tmp_path, 0), 5), []
    assert reader.first() == []
    seen = []
    append(tmp_path / "logs/rank-0.log", "2026-01-02 03:04:05,100 INFO first\n")
    for lines in follow(tmp_path, reader, said.append):
        seen += [line.text.split()[-1] for line in lines]
        if seen == ["first"]:
            append(tmp_path / "logs/rank-0.log", "2026-01-02 03:04:06,100 INFO done: step 1 of 1\n")
    assert seen == ["first", "1"]
    assert said[-1].endswith("stopped as asked (--stop-after)")
