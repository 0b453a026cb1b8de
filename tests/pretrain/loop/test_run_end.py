"""What a file system says, in one line, and how a log ends."""

import errno

import pytest

from eyespot.pretrain.loop.run_end import LOG, OUTAGES, REFUSALS, in_words, last_word, read_end


def test_the_file_and_the_reason():
    assert (
        in_words(OSError(errno.EIO, "Input/output error", "RUN/metrics.jsonl"))
        == "RUN/metrics.jsonl: Input/output error"
    )
    assert in_words(OSError("checkpoint not written")) == "checkpoint not written"


def test_the_last_word_tells_an_end_from_a_stop():
    assert last_word(3000, 3000) == "done: step 3000 of 3000"
    assert last_word(14, 3000) == "stopped as asked after step 14 of 3000 (--stop-after); go on with --resume auto"


def test_what_an_outage_is_and_what_is_not():
    assert {errno.ESTALE, errno.EIO, errno.ETIMEDOUT, errno.ENOSPC} <= OUTAGES
    assert errno.ENOENT not in OUTAGES | REFUSALS and errno.EACCES not in OUTAGES


@pytest.mark.parametrize(
    ("lines", "end"),
    [
        ([last_word(3, 3)], "done"),
        (["stopped by SIGTERM after step 7"], "stopped"),
        (["stopped: no space left", "a line that says nothing"], "failed"),
        (["stopped: no space left", "mae_tiny: 0.3 M parameters, in encoder"], None),
        (["stopped: no space left", "going on after step 2, from checkpoints/step-00000002"], None),
        ([], None),
    ],
)
def test_a_log_ends_as_it_says_unless_the_run_began_anew(tmp_path, lines, end):
    (tmp_path / "logs").mkdir()
    (tmp_path / LOG).write_text("".join(f"2026-01-01 00:00:00,000 INFO {line}\n" for line in lines))
    assert read_end(tmp_path) == (end, lines[0] if end else "")


def test_no_log_and_a_link_out_of_the_folder_say_nothing(tmp_path):
    run = tmp_path / "run"
    (run / "logs").mkdir(parents=True)
    assert read_end(run) == (None, "")
    (tmp_path / "log").write_text("2026-01-01 00:00:00,000 INFO done: step 1 of 1\n")
    (run / LOG).symlink_to(tmp_path / "log")
    assert read_end(run) == ("done", "done: step 1 of 1") and read_end(run, inside=run) == (None, "")
