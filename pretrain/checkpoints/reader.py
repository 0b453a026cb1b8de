"""One checkpoint format, whatever engine wrote it: a torch distributed checkpoint in safetensors.

    RUN/checkpoints/step-00000012/rank-00000.safetensors    what each rank wrote
    RUN/checkpoints/step-00000012/meta.json                 step, place in the data, sha256 of each file
    RUN/checkpoints/latest                                  name of the newest complete one: a hint, never trusted

Tensors are named ``model.<name>`` and ``optim.state.<name>.<slot>``. Nothing is pickled, so a hostile file cannot run
code. A folder is complete or absent; ``writer.py`` writes it. Decisions 0003 and 0007 say why.
"""

import hashlib
import logging
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Annotated, Any

import msgspec
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
from torch.distributed.checkpoint.metadata import Metadata, TensorStorageMetadata

import eyespot
from eyespot.data_pipeline import foreign_json
from eyespot.data_pipeline.errors import Outage, UserError
from eyespot.data_pipeline.patience import is_outage, words
from eyespot.data_pipeline.plain_files import open_plain
from eyespot.data_pipeline.ranges import LARGEST_NUMBER
from eyespot.pretrain.checkpoints.folders import newest
from eyespot.pretrain.checkpoints.low_rank import NAMES, merged
from eyespot.pretrain.distributed.collectives import agreed, gather_objects
from eyespot.pretrain.distributed.rendezvous import restarted

FORMAT = 1
"""Of what a checkpoint holds and how it is named; a higher one is refused."""
OPTIMIZER = "optim.state."
AVERAGE = "model.averaged."
"""Of the moving average of the encoder's weights (``--optim.ema``)."""

LARGEST_META = 64 * 2**20
"""Bytes of a meta.json: one line for each rank's file."""
Number = Annotated[int, msgspec.Meta(ge=0, le=LARGEST_NUMBER - 1)]

LoadTensors = Callable[[Callable[[dict[str, Tensor]], None]], None]
"""``Engine.load_tensors``."""

log = logging.getLogger("eyespot")


@dataclass(kw_only=True, slots=True)
class Meta:
    """meta.json: what a checkpoint says of itself besides its tensors.

    No state of a random generator: all randomness is a function of the run's seed, the step and the sample.
    """

    step: Number
    """Optimiser steps taken: also the place in every schedule."""
    loader: dict[str, Number]
    """Place in the data: the loader's state."""
    world_size: int
    """Ranks that wrote it; any number can read it."""
    run_key: str
    """The run it belongs to."""
    engine: str = ""
    """The engine that wrote it; any can read it."""
    precision: str = ""
    """Of the forward pass; what is saved is fp32."""
    eyespot: str = eyespot.__version__
    """Version that wrote it."""
    format: int = FORMAT
    files: dict[str, str] = field(default_factory=dict)
    """sha256 of each file of tensors."""


def restore(run_dir: Path, resume: str, load_tensors: LoadTensors) -> Meta | None:
    """Loads what ``Run.resume`` asks for: never, auto (the run's newest, if there is one) or a checkpoint's path.

    A branch that is started again goes on from its own newest; only before it has one, from where it branched off.

    Raises:
        UserError: as ``load``.
    """
    if resume == "never":
        return None
    # Rank 0's answer: on a network disk another rank may still see an older list of files.
    folder = gather_objects(newest(run_dir))[0] if resume == "auto" or restarted() else None
    if folder is None and resume == "auto":
        return None
    folder = folder or Path(resume)
    meta = load(folder, load_tensors)
    log.info("going on after step %d, from %s", meta.step, folder)
    return meta


def load(folder: Path, load_tensors: LoadTensors) -> Meta:
    """Reads a checkpoint into an engine, whatever engine and number of ranks wrote it. All ranks call it.

    Args:
        folder: the checkpoint.
        load_tensors: ``Engine.load_tensors``. All ranks call what it is given equally often; nothing is overwritten
            before the tensors of a call have been found to fit.

    Raises:
        UserError: it is damaged, or holds other tensors than the run asks for; on every rank.
    """
    rank, size = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    with agreed():
        meta = read_meta(folder)
        _verify(folder, meta, rank, size)
    with agreed():
        stored = _Stored(folder)
    unread = set(stored.tensors)

    def read(tensors: dict[str, Tensor]) -> None:
        with agreed():
            stored.check(tensors)
        with agreed():
            stored.fill(tensors)
        unread.difference_update(tensors)

    load_tensors(read)
    if left := sorted(set.intersection(*gather_objects(unread))):
        why = _other_writer(left[0], _has_steps(left))
        raise UserError(f"checkpoint {folder}: holds {left[0]}, which this run does not have; {why}")
    return meta


def read_meta(folder: Path) -> Meta:
    """Reads ``meta.json``.

    Raises:
        UserError: it is missing, not what a checkpoint has, or written by a newer version.
    """
    path = folder / "meta.json"
    try:
        values: dict[str, Any] = foreign_json.read(path, dict, LARGEST_META)
        number = values.get("format", 1)
        if isinstance(number, int) and number > FORMAT:
            raise UserError(
                f"checkpoint {folder}: format {number}, written by eyespot {values.get('eyespot')};"
                f" this is eyespot {eyespot.__version__}, which reads up to {FORMAT}: install that version"
            )
        return foreign_json.convert(values, Meta, path)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UserError(
            f"checkpoint {folder}: no meta.json, so it is not a complete checkpoint; name RUN/checkpoints/step-..."
        ) from error
    except foreign_json.ForeignJsonError as error:
        raise UserError(
            f"checkpoint {folder}: damaged meta.json ({error.why}); delete the folder to use an older one"
        ) from error
    except OSError as error:
        raise _unreadable(folder, path.name, error) from error


def sizes(folder: Path) -> dict[str, int]:
    """How many numbers each tensor of the objective has, by the headers of a checkpoint that was read before.

    Raises:
        UserError: they make no sense.
    """
    return {
        name.removeprefix("model."): prod(kept.size)
        for name, kept in _Stored(folder).tensors.items()
        if name.startswith("model.")
    }


def read_encoder(folder: Path) -> dict[str, Tensor]:
    """The encoder's state dict, as timm names it, whatever engine and number of ranks wrote it.

    Raises:
        UserError: the checkpoint is damaged or holds no encoder.
    """
    return read_module(folder, "model.encoder.")


def read_module(folder: Path, prefix: str = "model.") -> dict[str, Tensor]:
    """The state dict of the objective, or of the part of it that ``prefix`` names; low-rank steps are in the weights.

    Raises:
        UserError: the checkpoint is damaged or holds nothing of that name.
    """
    _verify(folder, read_meta(folder), 0, 1)
    stored = _Stored(folder)
    tensors = {
        name: torch.empty(kept.size, dtype=kept.properties.dtype)
        for name, kept in stored.tensors.items()
        if name.startswith(prefix)
    }
    if not tensors:
        raise UserError(f"checkpoint {folder}: holds no tensors named {prefix}*")
    stored.fill(tensors)
    return merged({name.removeprefix(prefix): tensor for name, tensor in tensors.items()})


class _Stored(HuggingFaceStorageReader):
    """The tensors of a verified checkpoint. Its headers are read once, however many parts are asked for.

    Raises:
        UserError: its headers make no sense, or it has only parts of a tensor.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(str(folder))
        self._folder = folder
        try:
            self._metadata = super().read_metadata()
            self.tensors: dict[str, TensorStorageMetadata] = self._metadata.state_dict_metadata  # pyright: ignore[reportAttributeAccessIssue]
            partial = [name for name, kept in self.tensors.items() if not _whole(kept)]
        except Exception as error:  # a stranger's headers can be wrong in any way
            raise UserError(f"checkpoint {folder}: damaged headers ({_one_line(error)})") from error
        if partial:
            raise UserError(f"checkpoint {folder}: has only a part of {partial[0]}; delete it to use an older one")

    def read_metadata(self) -> Metadata:
        """What was found at the start."""
        return self._metadata

    def check(self, tensors: dict[str, Tensor]) -> None:
        """Raises a UserError on the first tensor that is not stored, or in another shape or type."""
        other_rank = _has_steps(tensors) != _has_steps(self.tensors)
        for name, tensor in tensors.items():
            kept = self.tensors.get(name)
            if kept is None:
                raise UserError(f"checkpoint {self._folder}: has no tensor {name}; {_other_writer(name, other_rank)}")
            is_kept, is_asked = (kept.size, kept.properties.dtype), (tensor.shape, tensor.dtype)
            if is_kept != is_asked:
                raise UserError(
                    f"checkpoint {self._folder}: {name} is {_describe(*is_kept)}, this run's is"
                    f" {_describe(*is_asked)}; {_other_writer(name, other_rank)}"
                )

    def fill(self, tensors: dict[str, Tensor]) -> None:
        """Reads into the tensors; of DTensors only what this rank holds."""
        state: dict[str, Any] = dict(tensors)
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="torch.distributed is disabled")
                # Each rank alone: it knows all headers, so there is nothing to ask the others.
                dcp.load(state, storage_reader=self, no_dist=True)  # pyright: ignore[reportPrivateImportUsage]
        except Exception as error:  # the disk, or data that its header does not fit
            raise UserError(f"checkpoint {self._folder}: cannot be read ({_one_line(error)})") from error


def _verify(folder: Path, meta: Meta, rank: int, size: int) -> None:
    """Raises a UserError on the first missing, unknown or damaged file; sha256 of this rank's share of them only."""
    there = {path.name for path in folder.glob("*.safetensors")}
    for name in sorted(meta.files.keys() - there):
        raise UserError(f"checkpoint {folder}: {name} is missing; delete the folder to go on from an older one")
    for name in sorted(there - meta.files.keys()):
        raise UserError(f"checkpoint {folder}: {name} does not belong to it (not in meta.json); remove that file")
    for name in sorted(meta.files)[rank::size]:
        try:
            with open_plain(folder / name) as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise _unreadable(folder, name, error) from error
        if digest != meta.files[name]:
            raise UserError(
                f"checkpoint {folder}: {name} is damaged (sha256 differs); delete the folder to go on from an older one"
            )


def _whole(kept: TensorStorageMetadata) -> bool:
    """Whether the stored shards make up the tensor: where one is missing, loading would leave a hole unsaid."""
    return sum(prod(chunk.sizes) for chunk in kept.chunks) == prod(kept.size)


def _unreadable(folder: Path, name: str, error: OSError) -> Exception:
    """A file server that is away is nobody's damage: whoever watches over the run starts it again."""
    kind = Outage if is_outage(error) else UserError
    return kind(f"checkpoint {folder}: {name} cannot be read ({words(error)})")


def _has_steps(names: Iterable[str]) -> bool:
    """Whether low-rank steps, or what an optimiser keeps of them, are among those tensors."""
    return any(f".{step}" in name for name in names for step in NAMES)


def _other_writer(name: str, other_rank: bool) -> str:
    if other_rank or _has_steps([name]):
        return (
            "it was written with another --start.lora-rank: resume with that one, or let a new run begin with"
            " --start.model CHECKPOINT"
        )
    if name.startswith(AVERAGE):
        return "one of them has an average of the encoder's weights: resume with the --optim.ema that wrote it"
    what = "with another optimiser: resume with that one" if name.startswith(OPTIMIZER) else "by another recipe"
    return f"it was written {what}"


def _describe(shape: torch.Size, dtype: torch.dtype) -> str:
    return f"{tuple(shape)} {str(dtype).removeprefix('torch.')}"


def _one_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
