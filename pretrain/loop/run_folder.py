"""The run folder on disk: who may write to it, whether its run may go on, and the logs of each rank."""

import fcntl
import logging
import os
import secrets
import socket
import sys
import time
from datetime import UTC, datetime

from rich.logging import RichHandler

import eyespot
from eyespot.data_pipeline.augment.views import ViewSpec
from eyespot.data_pipeline.console import Console
from eyespot.data_pipeline.errors import UserError
from eyespot.pretrain.config import Run
from eyespot.pretrain.distributed.rendezvous import restarted
from eyespot.pretrain.loop.environment import code_state, hardware, versions
from eyespot.pretrain.objective import Objective
from eyespot.pretrain.redaction import MaskedFormatter, masked_values
from eyespot.pretrain.run_json import change_of, recorded_values, to_values
from eyespot.pretrain.run_record import RunRecord
from eyespot.pretrain.tracking.tracker import Tracker

log = logging.getLogger("eyespot")


class RunFolder:
    """``RUN/``: made or reopened by rank 0, which alone locks it and writes ``run.json``."""

    def __init__(self, run: Run, recipe: str, rank: int) -> None:
        self.path = run.run_dir
        self._rank = rank
        self._lock: int | None = None
        self.record: RunRecord | None = None
        if rank == 0:
            self._create()
            # A restarted run may meet a process of its last start that SLURM or the launcher has not ended yet. It
            # waits for it, but not for so long that the other ranks give up.
            self._acquire(0.8 * run.rank_timeout_seconds if restarted() else 0.0)
            try:
                self._check_new_or_same(run, recipe)
            except UserError:
                self.close()
                raise

    def start_logging(self, console: Console) -> None:
        """One log file per rank; rank 0 also talks to the terminal."""
        folder = self.path / "logs"
        folder.mkdir(parents=True, exist_ok=True)
        to_file = logging.FileHandler(folder / f"rank-{self._rank}.log", encoding="utf-8")
        to_file.setFormatter(MaskedFormatter("%(asctime)s %(levelname)s %(message)s"))
        log.handlers = [to_file]
        if self._rank == 0:
            to_terminal = RichHandler(console=console, show_path=False, show_time=False, markup=False)
            to_terminal.setFormatter(MaskedFormatter("%(message)s"))
            to_terminal.addFilter(lambda record: not getattr(record, "file_only", False))
            log.handlers.append(to_terminal)
        log.setLevel(logging.INFO)
        log.propagate = False

    def write_record(
        self, run: Run, recipe: str, objective: Objective, views: ViewSpec, manifest_sha256: str, world_size: int
    ) -> None:
        """``run.json``, once, when the run begins: a resumed run keeps the record of its start."""
        if self._rank != 0 or self.record is not None:
            return
        self.record = RunRecord(
            recipe=recipe,
            argv=masked_values(sys.argv),
            run=recorded_values(run),
            run_key=secrets.token_hex(8),
            started=datetime.now(UTC).isoformat(timespec="seconds"),
            host=socket.gethostname(),
            world_size=world_size,
            hardware=hardware(),
            eyespot=eyespot.__version__,
            versions=versions(),
            manifest_sha256=manifest_sha256,
            start=masked_values(objective.began),
            normalization={"mean": views.mean, "std": views.std},
            **code_state(),
        )
        self.record.write(self.path)

    @property
    def run_key(self) -> str:
        """The run's, on rank 0; empty on the others."""
        return "" if self.record is None else self.record.run_key or ""

    def open_tracker(self, run: Run, recipe: str, data: str, world_size: int) -> Tracker:
        """The tracker of the run that ``write_record`` has written; ``data`` is the name of its images."""
        record = self.record or RunRecord()
        return Tracker(
            run.run_dir,
            run_key=self.run_key,
            name=run.run_dir.resolve().name,
            experiment=run.experiment,
            params=to_values(run),
            tags={
                "recipe": recipe,
                "data": data,
                "manifest_sha256": record.manifest_sha256 or "",
                "git_commit": record.git_commit or "",
                "world_size": str(world_size),
            },
            uri=None if run.track else "none",
        )

    def close(self) -> None:
        """Lets go of the folder."""
        for handler in log.handlers:
            handler.close()
        log.handlers = []
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _create(self) -> None:
        try:
            (self.path / "checkpoints").mkdir(parents=True, exist_ok=True)
            probe = self.path / ".lock"
            probe.touch()
        except OSError as error:
            raise UserError(
                f"run_dir {self.path}: cannot be written ({error.strerror}); choose another --run-dir"
            ) from (error)

    def _acquire(self, wait_seconds: float) -> None:
        """Holds a lock for as long as the process lives: an orphan of a killed job must not write beside a new one."""
        self._lock = os.open(self.path / ".lock", os.O_RDWR | os.O_CREAT)
        until, said = time.monotonic() + wait_seconds, False
        while not _locked(self._lock):
            owner = os.pread(self._lock, 200, 0).decode(errors="replace").strip() or "another process"
            if time.monotonic() >= until:
                self.close()
                raise UserError(f"run_dir {self.path}: in use by {owner}; wait for it or choose another --run-dir")
            if not said:
                log.warning(
                    "run_dir %s: in use by %s; waiting up to %.0f s for its end", self.path, owner, wait_seconds
                )
            said = True
            time.sleep(0.2)
        os.ftruncate(self._lock, 0)
        os.pwrite(self._lock, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)

    def _check_new_or_same(self, run: Run, recipe: str) -> None:
        path = RunRecord.path(self.path)
        if not path.exists():
            return
        if run.resume == "never":
            raise UserError(
                f"run_dir {self.path}: holds a run already; go on in it with --resume auto, or choose another --run-dir"
            )
        try:
            record = RunRecord.read(path, needed=("recipe", "run", "run_key"))
        except UserError as error:
            raise UserError(f"{error}; choose another --run-dir") from error
        if run.resume == "auto" and (found := change_of(record, recipe, run)):
            raise UserError(
                f"run_dir {self.path}: cannot go on with other settings: {found};"
                f" repeat it with --from {path}, or branch off with --resume CHECKPOINT and another --run-dir"
            )
        self.record = record


def _locked(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
