"""The run folder on disk: who may write to it, whether its run may go on, and the logs of each rank."""

import logging
import re
import secrets
import shlex
import socket
import sys
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from logging.handlers import WatchedFileHandler
from pathlib import Path

from rich.logging import RichHandler

import eyespot
from eyespot.data_pipeline.augment.views import TextView, ViewSpec
from eyespot.data_pipeline.console import Console
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.loading.members.tokenizer import tokenizer_digests
from eyespot.data_pipeline.loading.mixtures.mixed_shards import MixedShards
from eyespot.data_pipeline.shards.manifest import Manifest
from eyespot.data_pipeline.shards.shard_folder import ShardFolder
from eyespot.pretrain.config import Run
from eyespot.pretrain.distributed.rendezvous import restarted
from eyespot.pretrain.loop.environment import code_state, hardware, own_code_state, versions
from eyespot.pretrain.loop.run_end import OUTAGES
from eyespot.pretrain.loop.run_lock import RunLock
from eyespot.pretrain.objective import Objective
from eyespot.pretrain.redaction import MaskedFormatter, masked_values
from eyespot.pretrain.run_json import change_of, recorded_values, to_values
from eyespot.pretrain.run_record import RunRecord
from eyespot.pretrain.tracking.mirrors import check_mirrors
from eyespot.pretrain.tracking.mlflow_pages import NOTE_TAG, note
from eyespot.pretrain.tracking.tracker import Tracker

log = logging.getLogger("eyespot")
_PROGRAMS = ("/eyespot", "/eyespot/__main__.py", "/eyespot/cluster/cli.py")
"""Ends of ``sys.argv[0]`` where the command began the run, or ``python -m`` of it."""


class RunFolder:
    """``RUN/``: made or reopened by rank 0, which alone locks it and writes ``run.json``."""

    def __init__(self, run: Run, recipe: str, rank: int) -> None:
        if rank == 0:  # it alone brings them
            check_mirrors(tensorboard=run.tensorboard, wandb=run.wandb)
        self.path = run.run_dir
        self._rank = rank
        self._lock: RunLock | None = None
        self._identity: tuple[int, int] | None = None
        self._tracker: Tracker | None = None
        self._looked_at = 0.0
        self.record: RunRecord | None = None
        if rank == 0:
            self._create()
            # A restarted run may meet a process of its last start that SLURM or the launcher has not ended yet. It
            # waits for it, but not for so long that the other ranks give up.
            self._lock = RunLock(self.path, 0.8 * run.rank_timeout_seconds if restarted() else 0.0)
            try:
                self._check_new_or_same(run, recipe)
            except BaseException:
                self.close()
                raise
            self._identity = _identity(self.path)

    def start_logging(self, console: Console) -> None:
        """One log file per rank; rank 0 also talks to the terminal."""
        to_file = LogFile(self.path / "logs" / f"rank-{self._rank}.log")
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
        self,
        run: Run,
        recipe: str,
        objective: Objective,
        views: ViewSpec,
        shards: ShardFolder,
        world_size: int,
        position: Mapping[str, int],
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
            manifest_sha256=shards.manifest_sha256,
            mixture=masked_values(shards.record()) if isinstance(shards, MixedShards) else None,
            tokenizers=tokenizer_digests(views) or None,
            start=masked_values(objective.began),
            teacher=masked_values(objective.taught),
            normalization={"mean": views.mean, "std": views.std},
            lane_frame=position.get("lane_frame"),
            **code_state(),
            own_code=own_code_state(recipe),
        )
        self.record.write(self.path)

    @property
    def run_key(self) -> str:
        """The run's, on rank 0; empty on the others."""
        return "" if self.record is None else self.record.run_key or ""

    def open_tracker(self, run: Run, recipe: str, data: Manifest, world_size: int) -> Tracker:
        """The tracker of the run that ``write_record`` has written, on the images of that manifest."""
        record = self.record or RunRecord()
        self._tracker = Tracker(
            run.run_dir,
            run_key=self.run_key,
            name=run.run_dir.resolve().name,
            experiment=run.experiment,
            params=to_values(run),
            tags={
                "recipe": recipe,
                "data": data.name,
                "num_samples": str(data.num_samples),
                "manifest_sha256": record.manifest_sha256 or "",
                "git_commit": record.git_commit or "",
                "world_size": str(world_size),
                **_page_tags(run, recipe, record),
            },
            uri=None if run.track else "none",
            tensorboard=run.tensorboard,
            wandb=run.wandb,
        )
        return self._tracker

    def lost(self, every_seconds: float = 1.0) -> str | None:
        """What somebody has taken away from under the run, in words; None where all is there. On rank 0; others None.

        Args:
            every_seconds: a look that comes sooner after the last finds nothing.
        """
        if self._identity is None or time.monotonic() - self._looked_at < every_seconds:
            return None
        self._looked_at = time.monotonic()
        try:
            if _identity(self.path) != self._identity:
                return f"run_dir {self.path}: was deleted or moved away while the run was writing to it"
            if self._tracker is not None and (path := self._tracker.lost) is not None:
                return f"{path}: was deleted or replaced while the run was writing to it"
        except OSError:
            return None  # a file server that does not answer for a moment: what is written will say so
        return None

    def close(self) -> None:
        """Lets go of the folder."""
        for handler in log.handlers:
            handler.close()
        log.handlers = []
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def _create(self) -> None:
        try:
            for name in ("checkpoints", "logs"):
                (self.path / name).mkdir(parents=True, exist_ok=True)
            (self.path / ".lock").touch()
        except OSError as error:
            if error.errno in OUTAGES:
                raise
            raise UserError(
                f"run_dir {self.path}: cannot be written ({error.strerror}); choose another --run-dir"
            ) from (error)

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
        text = getattr(run.objective, "text", None)
        if run.resume == "auto" and record.tokenizers and isinstance(text, TextView):
            before, now = set(record.tokenizers.values()), tokenizer_digests(ViewSpec(views=(text,)))
            if not before >= set(now.values()):
                raise UserError(
                    f"objective.text.tokenizer {text.tokenizer!r}: is not the one that the run began with (sha256"
                    f" {now[text.tokenizer]}, was {', '.join(sorted(before))}); name that one, wherever it lies now"
                )
        self.record = record


class LogFile(WatchedFileHandler):
    """Appends to a file. A line that cannot be written (a full disk) is dropped; the first time stderr says so.

    Args:
        path: the file; its folder is made.

    Raises:
        OSError: it cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        super().__init__(path, encoding="utf-8")
        self._said = False

    def emit(self, record: logging.LogRecord) -> None:
        """Writes a line."""
        try:
            super().emit(record)
        except OSError:  # its folder is gone
            self.handleError(record)

    def handleError(self, record: logging.LogRecord) -> None:
        """Says once that lines are missing, where logging would print a traceback for each."""
        if not self._said:
            self._said = True
            sys.stderr.write(f"eyespot: {self.baseFilename}: cannot be written ({sys.exception()}); lines go missing\n")


def _page_tags(run: Run, recipe: str, record: RunRecord) -> dict[str, str]:
    """What MLflow's page of the run says of it: description, source, commit."""
    module = type(run.objective).__module__
    method = (sys.modules[module].__doc__ or "").strip().partition("\n")[0] if module != "__main__" else ""
    program, *words = [str(word) for word in record.argv or sys.argv]
    command = shlex.join(["eyespot", *words]) if f"/{program}".endswith(_PROGRAMS) else ""
    papers = re.findall(r"arXiv:(\d{4}\.\d{4,5})", method)
    method = re.sub(r" *\(?,? *arXiv:[^)]*\)?\.?", "", method) if papers else method
    return {
        NOTE_TAG: note(command=command, recipe=recipe, method=method, papers=papers, run_dir=run.run_dir),
        "mlflow.source.name": recipe,
        "mlflow.source.type": "LOCAL",
        "mlflow.source.git.commit": record.git_commit or "",
    }


def _identity(path: Path) -> tuple[int, int] | None:
    """What tells a file or folder from another of its name; None where there is none now.

    Raises:
        OSError: the file system does not answer.
    """
    try:
        found = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return found.st_dev, found.st_ino
