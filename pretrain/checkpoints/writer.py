"""Writes checkpoints while the training goes on: copied at once, written by a thread, complete or absent.

    step-00000012.tmp/rank-00000.safetensors   a file per rank, on the disk before
    step-00000012.tmp/meta.json                which is there before
    step-00000012                              is renamed into place

A kill at any instant leaves the checkpoint before it whole, and this one whole or absent.
"""

import contextlib
import json
import logging
import shutil
import threading
from dataclasses import asdict, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch.distributed as dist
from torch import Tensor

from eyespot.data_pipeline.atomic_files import commit, write_bytes
from eyespot.pretrain.checkpoints.folders import PARTIAL, PREFIX, complete, folder_of
from eyespot.pretrain.checkpoints.reader import Meta
from eyespot.pretrain.checkpoints.shard_file import RankShard
from eyespot.pretrain.distributed.collectives import gather_objects

MAX_FAILURES = 3

log = logging.getLogger("eyespot")


class CheckpointWriter:
    """Saves a run, one checkpoint at a time. All ranks make it, call it and close it alike.

    A save that fails is known on every rank at the same step: at the next save. It leaves the last good checkpoint and
    a warning; one that must work, or the third in a row, raises.

    Args:
        run_dir: the run's folder.
        keep: newest checkpoints that are kept.
        timeout_seconds: a rank that says nothing for longer makes the others give up.
    """

    def __init__(self, run_dir: Path, *, keep: int, timeout_seconds: float = 600) -> None:
        self._run_dir, self._keep, self._timeout_seconds = run_dir, keep, timeout_seconds
        run_dir.mkdir(parents=True, exist_ok=True)  # later it is not made again: somebody has taken it away then
        # The thread's own: on the group that the training uses, its exchanges would meet the training's.
        self._group: Any = None
        if dist.is_initialized():
            self._group = dist.new_group(backend="gloo", timeout=timedelta(seconds=timeout_seconds))
        self._shard: RankShard | None = None
        self._thread: threading.Thread | None = None
        self._error: Exception | None = None
        self._failures = 0

    def save(self, tensors: dict[str, Tensor], meta: Meta, *, wait: bool = False) -> None:
        """Copies the state and returns; a thread writes it. The checkpoint before it is written out first.

        Args:
            tensors: ``Engine.save_tensors()``; free to change as soon as this returns.
            meta: what else belongs to it. A step that is already saved is left as it is.
            wait: returns when it is written, and raises if it cannot be.

        Raises:
            OSError: the checkpoint before was the third in a row that could not be written, or this one must be.
        """
        self._settle(must_work=False)
        fits = self._shard is not None and self._shard.fits(tensors)
        answers = gather_objects((folder_of(self._run_dir, meta.step).exists(), fits), group=self._group)
        if any(there for there, _ in answers):  # never replaced, so never absent for a moment
            return
        if self._shard is None or not all(fits for _, fits in answers):
            self._shard = None  # its memory, before that of the new one
            self._shard = RankShard(tensors, self._group)
        self._shard.copy(tensors)
        self._error = None
        self._thread = threading.Thread(target=self._write, args=(self._shard, meta), name="writer", daemon=True)
        self._thread.start()
        if wait:
            self._settle(must_work=True)

    def close(self) -> None:
        """Lets a checkpoint that is being written get finished, as long as the ranks still talk to each other."""
        if self._thread is not None:
            self._thread.join(self._timeout_seconds)

    def _settle(self, *, must_work: bool) -> None:
        """Waits for the thread; its outcome is the same on every rank."""
        if self._thread is None:
            return
        self._thread.join()
        self._thread = None
        if self._error is None:
            self._failures = 0
            return
        if not isinstance(self._error, OSError):
            raise self._error
        self._failures += 1
        if must_work or self._failures >= MAX_FAILURES:
            raise OSError(f"{self._error}; the last good checkpoint is kept, free some space and resume")

    def _write(self, shard: RankShard, meta: Meta) -> None:
        try:
            _write(self._run_dir, shard, meta, keep=self._keep, group=self._group)
        except OSError as error:
            self._error = error
            log.warning("%s; the last good checkpoint is kept", error)
        except Exception as error:  # a rank is gone, say: raised where the training can see it
            self._error = error


def _write(run_dir: Path, shard: RankShard, meta: Meta, *, keep: int, group: dist.ProcessGroup | None) -> None:
    """Writes one checkpoint, all ranks together, then removes all but the ``keep`` newest.

    Raises:
        OSError: a rank could not write (a full disk, say), on every rank; what was written of it is removed.
    """
    final = folder_of(run_dir, meta.step)
    partial = final.with_suffix(PARTIAL)
    if shard.rank == 0:
        shutil.rmtree(partial, ignore_errors=True)  # a killed run's, perhaps of more ranks
    gather_objects(None, group=group)
    hashes, failure = {}, None
    try:
        if not run_dir.is_dir():  # taken away from under the run: not to be made again
            raise FileNotFoundError(f"{run_dir} is gone")
        partial.mkdir(parents=True, exist_ok=True)
        hashes = shard.write(partial)
    except Exception as error:  # whatever it is, the other ranks wait for an answer
        failure = _reason(error, shard.rank)
    answers = gather_objects((hashes, failure), group=group)
    failure = next((failure for _, failure in answers if failure is not None), None)
    if shard.rank == 0 and failure is None:
        files = {name: digest for hashes, _ in answers for name, digest in hashes.items()}
        try:
            write_bytes(partial / "meta.json", json.dumps(asdict(replace(meta, files=files)), indent=1).encode())
            commit(partial, final)
        except OSError as error:
            failure = _reason(error, 0)
    if shard.rank == 0:
        _tidy(run_dir, final, keep, failed=failure is not None)
    failure = gather_objects(failure, group=group)[0]
    if failure is not None:
        raise OSError(f"checkpoint {final.name} not written: {failure}")


def _tidy(run_dir: Path, final: Path, keep: int, *, failed: bool) -> None:
    """Removes what nobody needs: all but the newest checkpoints, and what killed or failed saves left half-written."""
    if not failed:
        for folder in complete(run_dir)[:-keep]:
            with contextlib.suppress(OSError):
                folder.rename(folder.with_suffix(PARTIAL))  # a half-deleted folder must not look complete
        with contextlib.suppress(OSError):  # a hint for people: the checkpoint stands without it
            write_bytes(final.parent / "latest", final.name.encode())
    for folder in final.parent.glob(f"{PREFIX}*{PARTIAL}"):
        shutil.rmtree(folder, ignore_errors=True)


def _reason(error: Exception, rank: int) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())} (rank {rank})"
