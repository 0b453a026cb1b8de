"""The lock of a run folder: an orphan of a killed job must not write beside a new start."""

import logging
import os
import re
import socket
import stat
import time
from pathlib import Path

from eyespot.data_pipeline import file_locks
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.patience import is_outage, words
from eyespot.data_pipeline.plain_files import NOT_PLAIN

log = logging.getLogger("eyespot")


class RunLock:
    """Held for as long as the process lives.

    On a file system without locks the name that the last holder left in the file is all there is to go by: a process of
    this machine that lives has the folder; of other machines nothing can be told, and the log says so.

    Args:
        run_dir: the run folder.
        wait_seconds: for the holder's end.

    Raises:
        UserError: somebody else has the folder.
        OSError: the file system does not answer.
    """

    def __init__(self, run_dir: Path, wait_seconds: float) -> None:
        self._file = _opened(run_dir / ".lock")
        until, said = time.monotonic() + wait_seconds, False
        try:
            while (state := self._state()) == "taken":
                owner = self._owner() or "a process that has not said its name"
                if time.monotonic() >= until:
                    raise UserError(f"run_dir {run_dir}: in use by {owner}; wait for it or choose another --run-dir")
                if not said:
                    log.warning(
                        "run_dir %s: in use by %s; waiting up to %.0f s for its end", *(run_dir, owner, wait_seconds)
                    )
                said = True
                time.sleep(0.2)
            if state == "unknown":
                last = self._owner()
                log.warning(
                    "run_dir %s: this file system has no locks, so nothing keeps a second start out of it%s",
                    *(run_dir, f"; last used by {last}" if last else ""),
                )
            os.ftruncate(self._file, 0)
            os.pwrite(self._file, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)
        except BaseException:
            os.close(self._file)
            raise
        self._known = state == "held"

    def release(self) -> None:
        """Lets go of the folder."""
        if not self._known:
            os.ftruncate(self._file, 0)
        os.close(self._file)

    def _state(self) -> str:
        state = file_locks.lock(self._file)
        if state != "unknown":
            return state
        last = re.fullmatch(r"process (\d+) on (\S+)", self._owner())
        lives = last and last[2] == socket.gethostname() and int(last[1]) != os.getpid() and _lives(int(last[1]))
        return "taken" if lives else state

    def _owner(self) -> str:
        return os.pread(self._file, 200, 0).decode(errors="replace").strip()


def _opened(path: Path) -> int:
    """Its descriptor. What is none is refused: a folder, a pipe, a link to a file that we would empty."""
    try:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NONBLOCK | os.O_NOFOLLOW)
    except OSError as error:
        if is_outage(error):
            raise
        raise UserError(f"{path}: cannot be opened ({words(error)}); remove it or choose another --run-dir") from error
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise UserError(f"{path}: {NOT_PLAIN}; remove it or choose another --run-dir")
    return file


def _lives(process: int) -> bool:
    """Whether a process of this machine does, and is a Python's: numbers are used again."""
    try:
        command = Path(f"/proc/{process}/cmdline").read_bytes()
    except OSError:
        return False
    return b"python" in command or b"eyespot" in command
