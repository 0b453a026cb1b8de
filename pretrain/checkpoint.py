"""One checkpoint format, whatever engine wrote it: a torch distributed checkpoint in safetensors.

    RUN/checkpoints/step-00000012/shard-00001-model-00001-of-00001.safetensors   a file per rank
    RUN/checkpoints/step-00000012/meta.json     step, place in the data, sha256 of each file
    RUN/checkpoints/latest                      name of the newest complete one: a hint, never trusted

Tensors are named ``model.<name>`` and ``optim.state.<name>.<slot>``. Nothing is pickled, so a hostile file cannot run
code. A folder is complete or absent: it is written as ``step-*.tmp`` and renamed after everything is on the disk.
"""

import hashlib
import json
import os
import shutil
import warnings
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.metadata import TensorStorageMetadata

from eyespot.data_pipeline.atomic import commit, write_bytes
from eyespot.data_pipeline.errors import UserError
from eyespot.pretrain.dist import any_rank, barrier

PREFIX = "step-"
PARTIAL = ".tmp"


@dataclass(kw_only=True, slots=True)
class Meta:
    """meta.json: what a checkpoint says of itself besides its tensors."""

    step: int
    """Optimiser steps taken."""
    loader: dict[str, int]
    """Place in the data: the loader's state."""
    world_size: int
    """Ranks that wrote it; any number can read it."""
    run_key: str
    """The run it belongs to."""
    files: dict[str, str] = field(default_factory=dict)
    """sha256 of each file of tensors."""


def folder_of(run_dir: Path, step: int) -> Path:
    """Where the checkpoint of that step stands."""
    return run_dir / "checkpoints" / f"{PREFIX}{step:08d}"


def complete(run_dir: Path) -> list[Path]:
    """The run's complete checkpoints, oldest first."""
    folders = (run_dir / "checkpoints").glob(f"{PREFIX}*")
    return sorted(folder for folder in folders if folder.suffix != PARTIAL and (folder / "meta.json").is_file())


def newest(run_dir: Path) -> Path | None:
    """The run's newest complete checkpoint, if there is one."""
    return next(reversed(complete(run_dir)), None)


def save(run_dir: Path, tensors: dict[str, Tensor], meta: Meta, *, keep: int) -> Path:
    """Writes one checkpoint, all ranks together, then removes all but the ``keep`` newest.

    A kill at any instant leaves the previous checkpoint whole, and this one whole or absent.

    Raises:
        OSError: it could not be written (a full disk, say), on every rank; what was written of it is removed.
    """
    final = folder_of(run_dir, meta.step)
    partial = final.with_suffix(PARTIAL)
    rank = dist.get_rank() if dist.is_initialized() else 0
    if any_rank([final.exists()])[0]:  # the same step of the same run: never replaced, so never absent for a moment
        return final
    if rank == 0:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True, exist_ok=True)
    barrier()
    try:
        _write_tensors(partial, tensors)
        hashes = _gather_hashes({p.name: _sync_and_hash(p) for p in _own_files(partial, rank)})
        failure = None
    except (CheckpointException, OSError) as error:
        failure, hashes = _reason(error), {}
    if any_rank([failure is not None])[0]:
        if rank == 0:
            shutil.rmtree(partial, ignore_errors=True)
        raise OSError(f"checkpoint {final.name} not written: {failure or 'another rank failed'}")
    if rank == 0:
        meta.files = hashes
        write_bytes(partial / "meta.json", json.dumps(asdict(meta), indent=1).encode())
        commit(partial, final)
        write_bytes(final.parent / "latest", final.name.encode())
        _sweep(run_dir, keep)
    barrier()
    return final


def load(folder: Path, tensors: dict[str, Tensor]) -> Meta:
    """Reads a checkpoint into the live tensors, in place, on any engine and any number of ranks.

    Raises:
        UserError: it is damaged (a sha256 differs), or holds other tensors than the run asks for.
    """
    meta = read_meta(folder)
    rank, size = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    problem = _damage(folder, meta, rank, size) or _mismatch(folder, tensors)
    if any_rank([problem is not None])[0]:
        raise UserError(problem or f"checkpoint {folder}: another rank found it damaged")
    _read_tensors(folder, tensors)
    return meta


def read_meta(folder: Path) -> Meta:
    """Reads ``meta.json``.

    Raises:
        UserError: it is missing or not what a checkpoint has.
    """
    path = folder / "meta.json"
    try:
        return Meta(**json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError as error:
        raise UserError(f"checkpoint {folder}: no meta.json, so it is not a complete checkpoint") from error
    except (ValueError, TypeError) as error:
        raise UserError(
            f"checkpoint {folder}: damaged meta.json ({error}); delete the folder to use an older one"
        ) from (error)


def read_encoder(folder: Path) -> dict[str, Tensor]:
    """The encoder's state dict, as timm names it, whatever engine and number of ranks wrote it.

    Raises:
        UserError: the checkpoint is damaged or holds no encoder.
    """
    if problem := _damage(folder, read_meta(folder), 0, 1):
        raise UserError(problem)
    prefix = "model.encoder."
    tensors = {
        name: torch.empty(stored.size, dtype=stored.properties.dtype)
        for name, stored in _stored(folder).items()
        if name.startswith(prefix)
    }
    if not tensors:
        raise UserError(f"checkpoint {folder}: holds no tensors named {prefix}*")
    _read_tensors(folder, tensors, alone=True)
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}


def _write_tensors(folder: Path, tensors: dict[str, Tensor]) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        writer = HuggingFaceStorageWriter(str(folder), save_distributed=True)
        dcp.save(  # pyright: ignore[reportPrivateImportUsage]
            tensors, storage_writer=writer, no_dist=not dist.is_initialized()
        )


def _read_tensors(folder: Path, tensors: dict[str, Tensor], *, alone: bool = False) -> None:
    state: dict[str, Any] = dict(tensors)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        reader = HuggingFaceStorageReader(str(folder))
        dcp.load(  # pyright: ignore[reportPrivateImportUsage]
            state, storage_reader=reader, no_dist=alone or not dist.is_initialized()
        )


def _stored(folder: Path) -> dict[str, TensorStorageMetadata]:
    """Names, shapes and types in a checkpoint, from the files' headers."""
    return HuggingFaceStorageReader(str(folder)).read_metadata().state_dict_metadata  # pyright: ignore[reportReturnType]


def _damage(folder: Path, meta: Meta, rank: int, size: int) -> str | None:
    """One line on the first damaged file among this rank's share of them."""
    for name in sorted(meta.files)[rank::size]:
        path = folder / name
        if not path.is_file():
            return f"checkpoint {folder}: {name} is missing; delete the folder to go on from an older one"
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if digest != meta.files[name]:
            return (
                f"checkpoint {folder}: {name} is damaged (sha256 differs); delete the folder to go on from an older one"
            )
    return None


def _mismatch(folder: Path, tensors: dict[str, Tensor]) -> str | None:
    """One line on the first tensor that the checkpoint lacks or holds in another shape."""
    stored = _stored(folder)
    for name, tensor in tensors.items():
        if name not in stored:
            return f"checkpoint {folder}: has no tensor {name}; it was written by another recipe"
        if stored[name].size != tensor.shape:
            return (
                f"checkpoint {folder}: {name} is {tuple(stored[name].size)}, this run's is {tuple(tensor.shape)};"
                " it was written by another recipe"
            )
    return None


def _own_files(folder: Path, rank: int) -> list[Path]:
    """The files that this rank wrote: the storage writer numbers ranks from 1."""
    return sorted(folder.glob(f"shard-{rank + 1:05d}-*.safetensors"))


def _sync_and_hash(path: Path) -> str:
    with path.open("rb") as file:
        os.fsync(file.fileno())
        return hashlib.file_digest(file, "sha256").hexdigest()


def _gather_hashes(own: dict[str, str]) -> dict[str, str]:
    if not dist.is_initialized():
        return own
    gathered: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(gathered, own)
    return {name: digest for hashes in gathered for name, digest in hashes.items()}


def _reason(error: BaseException) -> str:
    """The innermost cause in one line: torch wraps a rank's OSError in a traceback."""
    if isinstance(error, CheckpointException):
        error = next(iter(error.failures.values()))[0]
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}"


def _sweep(run_dir: Path, keep: int) -> None:
    """Removes all but the newest checkpoints, and what killed runs left half-written.

    Renamed before it is deleted: a half-deleted folder must not look complete.
    """
    for folder in complete(run_dir)[:-keep]:
        folder.rename(folder.with_suffix(PARTIAL))
    for folder in (run_dir / "checkpoints").glob(f"{PREFIX}*{PARTIAL}"):
        shutil.rmtree(folder, ignore_errors=True)
