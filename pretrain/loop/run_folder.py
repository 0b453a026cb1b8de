"""The run folder on disk: who may write to it, what is being run, and the logs of each rank."""

import fcntl
import hashlib
import importlib.metadata
import json
import logging
import os
import platform
import re
import secrets
import socket
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.logging import RichHandler

import eyespot
from eyespot.data_pipeline.atomic_files import write_bytes
from eyespot.data_pipeline.augment.views import ViewSpec
from eyespot.data_pipeline.errors import UserError
from eyespot.pretrain.config import Run
from eyespot.pretrain.distributed.rendezvous import restarted
from eyespot.pretrain.redaction import MaskedFormatter, masked_values
from eyespot.pretrain.run_json import difference, to_values, with_defaults
from eyespot.pretrain.tracking.tracker import Tracker

PACKAGES = ("torch", "torchvision", "timm", "nvidia-dali-cuda130", "webdataset", "mlflow", "deepspeed", "numpy")

log = logging.getLogger("eyespot")


class RunFolder:
    """``RUN/``: made or reopened by rank 0, which alone locks it and writes ``run.json``."""

    def __init__(self, run: Run, recipe: str, rank: int) -> None:
        self.path = run.run_dir
        self._rank = rank
        self._lock: int | None = None
        self.record: dict[str, Any] = {}
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

    def write_record(self, run: Run, recipe: str, views: ViewSpec, manifest_sha256: str, world_size: int) -> None:
        """``run.json``, once, when the run begins: a resumed run keeps the record of its start."""
        if self._rank != 0 or self.record:
            return
        self.record = {
            "recipe": recipe,
            "argv": masked_values(sys.argv),
            "run": masked_values(to_values(run)),
            "run_key": secrets.token_hex(8),
            "started": datetime.now(UTC).isoformat(timespec="seconds"),
            "host": socket.gethostname(),
            "world_size": world_size,
            "hardware": hardware(),
            "eyespot": eyespot.__version__,
            "versions": {"python": sys.version.split()[0], **_versions()},
            "manifest_sha256": manifest_sha256,
            "normalization": {"mean": views.mean, "std": views.std},
            **code_state(),
        }
        write_bytes(self.path / "run.json", (json.dumps(self.record, indent=1) + "\n").encode())

    def open_tracker(self, run: Run, recipe: str, data: str, world_size: int) -> Tracker:
        """The tracker of the run that ``write_record`` has written; ``data`` is the name of its images."""
        return Tracker(
            run.run_dir,
            run_key=self.record["run_key"],
            name=run.run_dir.resolve().name,
            experiment=run.experiment,
            params=to_values(run),
            tags={
                "recipe": recipe,
                "data": data,
                "manifest_sha256": self.record["manifest_sha256"],
                "git_commit": self.record["git_commit"],
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
        path = self.path / "run.json"
        if not path.exists():
            return
        if run.resume == "never":
            raise UserError(
                f"run_dir {self.path}: holds a run already; go on in it with --resume auto, or choose another --run-dir"
            )
        try:
            self.record = json.loads(path.read_text(encoding="utf-8"))
            before = {"recipe": self.record["recipe"], **with_defaults(self.record["run"], run)}
        except (ValueError, KeyError, TypeError) as error:
            self.record = {}
            raise UserError(f"{path}: damaged ({error}); choose another --run-dir") from error
        if run.resume == "auto" and (found := difference(before, {"recipe": recipe, **masked_values(to_values(run))})):
            raise UserError(
                f"run_dir {self.path}: cannot go on with other settings: {found};"
                f" repeat it with --from {path}, or branch off with --resume CHECKPOINT and another --run-dir"
            )


def _locked(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def hardware() -> dict[str, Any]:
    """What this machine computes with: its processor, the cores that we may use, its GPUs."""
    cpu_info = Path("/proc/cpuinfo")
    names = re.findall(r"^model name\s*: (.+)$", cpu_info.read_text(), re.MULTILINE) if cpu_info.is_file() else []
    gpus = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    return {"cpu": names[0] if names else platform.processor(), "cores": len(os.sched_getaffinity(0)), "gpus": gpus}


def code_state() -> dict[str, str]:
    """Git commit and hash of the uncommitted diff of the code, where it runs from a checkout or its frozen copy."""
    root = Path(eyespot.__file__).parent
    frozen = root.parent / "frozen.json"
    if frozen.is_file():
        record = json.loads(frozen.read_text(encoding="utf-8"))
        return {name: record[name] for name in ("git_commit", "git_diff_sha256")}

    def git(*words: str) -> bytes | None:
        try:
            done = subprocess.run(["git", "-C", str(root), *words], capture_output=True, timeout=20, check=False)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout if done.returncode == 0 else None

    top = git("rev-parse", "--show-toplevel")
    commit = git("rev-parse", "HEAD")
    if top is None or commit is None or Path(top.decode().strip()).resolve() != root.resolve():
        return {"git_commit": "", "git_diff_sha256": ""}
    diff = git("diff", "HEAD") or b""
    return {"git_commit": commit.decode().strip(), "git_diff_sha256": hashlib.sha256(diff).hexdigest() if diff else ""}
