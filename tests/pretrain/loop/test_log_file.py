"""A rank's log: made anew where it was taken away; a line that cannot be written is no traceback."""

import logging
import shutil
from pathlib import Path

import pytest

from eyespot.pretrain.loop.log_file import LogFile


@pytest.fixture
def log(tmp_path):
    logger = logging.Logger("of_this_test")
    handler = LogFile(tmp_path / "logs" / "rank-0.log")
    logger.addHandler(handler)
    yield logger
    handler.close()


def test_a_file_that_was_deleted_is_made_anew(log, tmp_path):
    path = tmp_path / "logs" / "rank-0.log"
    log.warning("one")
    path.unlink()
    log.warning("two")
    assert path.read_text() == "two\n"


def test_a_folder_that_is_gone_is_said_once(log, tmp_path, capsys):
    shutil.rmtree(tmp_path / "logs")
    for _ in range(3):
        log.warning("one")
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "rank-0.log: cannot be written ([Errno 2]" in said


def test_a_full_disk_is_said_once(capsys):
    logger = logging.Logger("of_this_test")
    handler = LogFile(Path("/dev/full"))
    logger.addHandler(handler)
    for _ in range(3):
        logger.warning("one")
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "No space left" in said
