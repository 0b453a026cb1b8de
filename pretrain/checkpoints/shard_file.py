"""A rank's share of a checkpoint: copied to host memory in one go, then written as one safetensors file.

A tensor that several ranks hold whole, or a shard that several hold alike, is copied and written by one of them only.
The copy is laid out as the file's data section, so that writing needs no memory and no interpreter lock: the training
goes on meanwhile. Files are those of torch's distributed checkpoint, whose own writer makes each file twice in memory
first, holding the interpreter lock.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor

from eyespot.data_pipeline.atomic_files import sync
from eyespot.pretrain.distributed.collectives import gather_objects

CHUNK = 1 << 24
"""Bytes that are hashed and written at a time."""
DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


@dataclass(kw_only=True, slots=True, frozen=True)
class Piece:
    """A tensor, or the shard of it that a rank holds."""

    name: str
    offsets: tuple[int, ...]
    """Where in the whole tensor it begins."""
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def num_bytes(self) -> int:
        """Its size in the file."""
        return prod(self.shape) * self.dtype.itemsize


class RankShard:
    """What this rank writes of a state, and the memory for it. All ranks of ``group`` make theirs together.

    Args:
        tensors: the state as this rank holds it: whole tensors, DTensors, or only the tensors that it is to write.
        group: the ranks that write; None = all.
    """

    def __init__(self, tensors: dict[str, Tensor], group: dist.ProcessGroup | None = None) -> None:
        self.rank = dist.get_rank(group) if dist.is_initialized() else 0
        self._held = pieces(tensors)
        own = deal(gather_objects(self._held, group=group))[self.rank]
        self._own = sorted(own, key=lambda piece: (-piece.dtype.itemsize, piece.name))  # hence each stands aligned
        on_gpu = any(tensor.is_cuda for tensor in tensors.values())
        self._buffer = torch.empty(sum(piece.num_bytes for piece in own), dtype=torch.uint8, pin_memory=on_gpu)
        self._copied = torch.cuda.Event() if on_gpu else None

    def fits(self, tensors: dict[str, Tensor]) -> bool:
        """Whether this state has the names, shapes and types that the share was made for."""
        return pieces(tensors) == self._held

    @torch.no_grad()
    def copy(self, tensors: dict[str, Tensor]) -> None:
        """Copies this rank's share. On a GPU it is only queued: what is queued later may change the tensors."""
        begin = 0
        for piece in self._own:
            end = begin + piece.num_bytes
            place = self._buffer[begin:end].view(piece.dtype).view(piece.shape)
            place.copy_(_local(tensors[piece.name]), non_blocking=True)
            begin = end
        if self._copied is not None:
            self._copied.record()

    def write(self, folder: Path) -> dict[str, str]:
        """Writes the copy to its file in ``folder`` and on to the disk: the file's name and sha256.

        Raises:
            OSError: it could not be written.
        """
        if not self._own:
            return {}
        if self._copied is not None:
            torch.cuda.set_device(self._copied.device)  # else this thread opens a context on the first GPU
            self._copied.synchronize()
        path, digest = folder / f"rank-{self.rank:05d}.safetensors", hashlib.sha256()
        data = self._buffer.numpy().data
        with path.open("wb") as file:
            for part in (_header(self._own), *(data[at : at + CHUNK] for at in range(0, len(data), CHUNK))):
                digest.update(part)
                file.write(part)
            file.flush()
            sync(file.fileno())
        return {path.name: digest.hexdigest()}


def pieces(tensors: dict[str, Tensor]) -> list[Piece]:
    """What this rank holds of a state."""
    found = []
    for name, tensor in tensors.items():
        local, offsets = _local(tensor), (0,) * tensor.ndim
        if isinstance(tensor, DTensor):
            if local.numel() == 0 and tensor.numel() > 0:  # fewer rows than ranks: this rank has none
                continue
            offsets = tuple(tensor.__create_chunk_list__()[0].offsets)
        found.append(Piece(name=name, offsets=offsets, shape=tuple(local.shape), dtype=local.dtype))
    return found


def deal(held: Sequence[Sequence[Piece]]) -> list[list[Piece]]:
    """Who writes what: each piece falls to that of its holders who has least to write so far, the largest first.

    Args:
        held: what each rank holds.

    Returns:
        What each rank writes. A pure function: every rank comes to the same result.
    """
    holders: dict[Piece, list[int]] = {}
    for rank, own in enumerate(held):
        for piece in own:
            holders.setdefault(piece, []).append(rank)
    num_bytes, dealt = [0] * len(held), [[] for _ in held]
    for piece in sorted(holders, key=lambda piece: (-piece.num_bytes, piece.name, piece.offsets)):
        rank = min(holders[piece], key=lambda rank: (num_bytes[rank], rank))
        num_bytes[rank] += piece.num_bytes
        dealt[rank].append(piece)
    return dealt


def _local(tensor: Tensor) -> Tensor:
    return tensor.to_local().detach() if isinstance(tensor, DTensor) else tensor.detach()


def _header(own: Sequence[Piece]) -> bytes:
    """What precedes the data: https://github.com/huggingface/safetensors#format, with the offsets as torch keeps them.

    Raises:
        TypeError: a tensor's type has no name in safetensors.
    """
    begin, entries = 0, {}
    for piece in own:
        if piece.dtype not in DTYPES:
            raise TypeError(f"{piece.name}: {piece.dtype} cannot be saved")
        end = begin + piece.num_bytes
        entries[piece.name] = {"dtype": DTYPES[piece.dtype], "shape": piece.shape, "data_offsets": [begin, end]}
        begin = end
    offsets = json.dumps({piece.name: {"saved_offsets": piece.offsets} for piece in own})
    metadata = {"DCP_SHARDING_INFO": offsets, "DCP_VERSION": "1.0", "format": "pt"}
    text = json.dumps({"__metadata__": metadata, **entries}, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # so that the data begin aligned
    return len(text).to_bytes(8, "little") + text
