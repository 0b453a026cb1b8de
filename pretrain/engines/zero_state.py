"""ZeroState: a run's state out of ZeRO's partitions, and back into them.

ZeRO keeps the optimiser's state, and in stage 3 the parameters, as flat vectors of which each rank holds a part. Here
is all that we know of how it lays them out, so every attribute of DeepSpeed's that is not public: a test names them and
the version that they were read in. Nothing here imports DeepSpeed.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from eyespot.pretrain.distributed.process_group import World
from eyespot.pretrain.engine import ReadTensors

PART_BYTES = 1 << 30
"""How much of a saved state is in memory at once while it is loaded."""
BUCKET_BYTES = 1 << 26
"""How much of a state meets at once, on the rank that is to write it."""


@dataclass(kw_only=True, slots=True)
class _Place:
    """Where this rank keeps its elements of a trainable parameter: ``flat[offset : offset + length]``."""

    flat: Tensor
    offset: int
    start: int
    """Of the parameter's elements, in order, the first that is here."""
    length: int


@dataclass(kw_only=True, slots=True)
class _Entry:
    """A tensor of the state and this rank's share of it."""

    shape: torch.Size
    share: Tensor
    """A live view: the whole tensor, or a vector of some of its elements."""
    start: int | None = None
    """The first of these elements; None = the whole tensor."""

    @property
    def num_bytes(self) -> int:
        return self.shape.numel() * self.share.element_size()


class ZeroState:
    """The state of an objective that ZeRO has cut up.

    Making it creates the optimiser's slots, all zero, so that the state has the same names before the first step.

    Args:
        objective: the plain one.
        tensors: its parameters and persistent buffers by name, taken before ZeRO touched it.
        zero: DeepSpeed's ZeRO optimiser, of any stage.
        stage: 1, 2 or 3.
        world: this process.
    """

    def __init__(self, objective: nn.Module, tensors: dict[str, Tensor], zero: Any, stage: int, world: World) -> None:
        self._objective, self._zero, self._stage, self._world = objective, zero, stage, world
        self._parameters = {name: tensor for name, tensor in tensors.items() if isinstance(tensor, nn.Parameter)}
        self._buffers = [name for name in tensors if name not in self._parameters]
        self._share_weights()
        self._fill_slots()

    @torch.no_grad()
    def save(self) -> dict[str, Tensor]:
        """Whole tensors on the CPU, each on one rank, so that all hold about as many bytes. Collective.

        On a GPU a bucket goes to pinned memory while the next one meets, and the host waits once, for the last.
        """
        dealt = _dealt(self._entries(), self._world.size)
        copies = _HostCopies(dealt[self._world.rank], self._world.device)
        for owner, entries in enumerate(dealt):
            cut = {name: entry for name, entry in entries.items() if entry.start is not None}
            for part in _parts(cut, BUCKET_BYTES):
                wholes = self._met(part, owner)
                if owner == self._world.rank:
                    copies.take(wholes)
        copies.take({name: entry.share for name, entry in dealt[self._world.rank].items() if entry.start is None})
        return copies.finish()

    @torch.no_grad()
    def load(self, read: ReadTensors) -> None:
        """Takes over a saved state, part by part; nothing is exchanged."""
        for part in _parts(self._entries(), PART_BYTES):
            saved = {name: torch.empty(entry.shape, dtype=entry.share.dtype) for name, entry in part.items()}
            read(saved)
            for name, entry in part.items():
                if entry.start is None:
                    entry.share.copy_(saved[name])
                else:
                    entry.share.copy_(saved[name].flatten()[entry.start : entry.start + entry.share.numel()])

    def forget_gradients(self) -> None:
        """Drops what backward passes have left, reduced or not: as ZeRO itself does where it skips a step."""
        zero = self._zero
        if self._stage == 3:
            zero._pre_step()
            zero._partition_all_parameters()
            zero.averaged_gradients = {}
        else:
            zero.micro_step_id = -1
            for group in zero.averaged_gradients:
                zero.averaged_gradients[group] = zero.all_grad_tensors[group] = None
        zero.zero_grad(set_to_none=True)

    def _met(self, part: dict[str, _Entry], owner: int) -> dict[str, Tensor]:
        """Tensors of 4-byte numbers whose shares have met on their owner; elsewhere something of their shapes."""
        sizes = [entry.shape.numel() for entry in part.values()]
        # The shares of other ranks are zero: a sum of integers carries every bit, that of a negative zero too.
        bucket = torch.zeros(sum(sizes), dtype=torch.int32, device=self._world.device)
        for entry, whole in zip(part.values(), bucket.split(sizes), strict=True):
            whole[entry.start or 0 :][: entry.share.numel()] = entry.share.view(torch.int32)
        dist.reduce(bucket, owner)
        wholes = zip(part.items(), bucket.split(sizes), strict=True)
        return {name: whole.view(entry.share.dtype).view(entry.shape) for (name, entry), whole in wholes}

    def _entries(self) -> dict[str, _Entry]:
        """All of the state in an order, with shapes and types, that are the same on every rank."""
        entries = {f"model.{name}": self._weights(parameter) for name, parameter in self._parameters.items()}
        for name in self._buffers:
            buffer = self._objective.get_buffer(name)
            entries[f"model.{name}"] = _Entry(shape=buffer.shape, share=buffer)
        places = self._places()
        for name, parameter in self._objective.named_parameters():
            if (place := places.get(id(parameter))) is None:
                continue  # frozen
            for slot, value in self._zero.optimizer.state[place.flat].items():
                entries[f"optim.state.{name}.{slot}"] = _slot(value, place, _shape(parameter))
        return entries

    def _weights(self, parameter: Tensor) -> _Entry:
        if self._stage < 3:
            return _Entry(shape=parameter.shape, share=parameter.detach())
        start, length = self._own_range(parameter)
        return _Entry(shape=_shape(parameter), share=_vector(parameter)[:length], start=start)

    def _own_range(self, parameter: Tensor) -> tuple[int, int]:
        """Stage 3 cuts each parameter into pieces of one length, the last of which are padded or empty."""
        piece, total = _vector(parameter).numel(), _shape(parameter).numel()
        start = min(piece * self._world.rank, total)
        return start, min(piece, total - start)

    def _places(self) -> dict[int, _Place]:
        """By the parameter's id."""
        return self._places_of_stage_3() if self._stage == 3 else self._places_of_stages_1_and_2()

    def _places_of_stages_1_and_2(self) -> dict[int, _Place]:
        """A group's parameters stand one after the other in a vector that is cut into one piece per rank."""
        zero, found = self._zero, {}
        for group, flat in enumerate(zero.single_partition_of_fp32_groups):
            size = zero.partition_size[group]
            first = size * self._world.rank
            offsets = zero.round_robin_bit16_offsets[group]
            for parameter, offset in zip(zero.round_robin_bit16_groups[group], offsets, strict=True):
                begin, end = max(offset, first), min(offset + parameter.numel(), first + size)
                inside = begin < end
                found[id(parameter)] = _Place(
                    flat=flat,
                    offset=begin - first if inside else 0,
                    start=begin - offset if inside else 0,
                    length=end - begin if inside else 0,
                )
        return found

    def _places_of_stage_3(self) -> dict[int, _Place]:
        """This rank's pieces of a group's parameters stand one after the other."""
        zero, found = self._zero, {}
        for parameters, flat in zip(zero.fp16_groups, zero.fp32_partitioned_groups_flat, strict=True):
            offset = 0
            for parameter in parameters:
                start, length = self._own_range(parameter)
                found[id(parameter)] = _Place(flat=flat, offset=offset, start=start, length=length)
                offset += _vector(parameter).numel()
        return found

    def _share_weights(self) -> None:
        """Lets the optimiser work on the parameters themselves.

        ZeRO gives it a copy, which it needs where parameters are not fp32. Here it would be 4 bytes per parameter over
        the ranks for nothing, and what is loaded would have to go to both.
        """
        zero = self._zero
        if self._stage == 3:
            for flat, pieces in zip(zero.fp32_partitioned_groups_flat, zero.fp16_partitioned_groups_flat, strict=True):
                flat.data = pieces.data
            return
        for flat, pieces in zip(
            zero.single_partition_of_fp32_groups, zero.parallel_partitioned_bit16_groups, strict=True
        ):
            flat.data = pieces[self._world.rank].data
        zero._link_all_hp_params()  # its own views of the copies keep them alive

    def _flats(self) -> Iterator[tuple[Tensor, dict[str, Any]]]:
        """The vectors that the optimiser works on, with their groups' settings."""
        zero = self._zero
        groups = zero.optimizer.param_groups
        if self._stage == 3:
            for number, flat in enumerate(zero.fp32_partitioned_groups_flat):
                yield flat, groups[zero.sub_group_to_group_id[number]]
        else:
            yield from zip(zero.single_partition_of_fp32_groups, groups, strict=True)

    def _fill_slots(self) -> None:
        """Steps once at rate 0 with zero gradients, which changes no parameter, and zeroes what it left."""
        optimizer = self._zero.optimizer
        for flat, group in list(self._flats()):
            groups, optimizer.param_groups = optimizer.param_groups, [{**group, "params": [flat], "lr": 0.0}]
            flat.grad = torch.zeros_like(flat)
            optimizer.step()
            optimizer.param_groups, flat.grad = groups, None
            for slot in optimizer.state[flat].values():
                slot.zero_()


class _HostCopies:
    """Copies of tensors in host memory, in one piece: pinned where they come from a GPU, on a stream of their own.

    Args:
        entries: what there will be copies of.
        device: where it comes from.
    """

    def __init__(self, entries: dict[str, _Entry], device: torch.device) -> None:
        on_gpu = device.type == "cuda"
        sizes = [-(-entry.num_bytes // 16) * 16 for entry in entries.values()]  # each begins aligned
        # One piece: torch rounds each that is pinned up to a power of two, so this one takes up to twice its size.
        memory = torch.empty(sum(sizes), dtype=torch.uint8, pin_memory=on_gpu)
        self._copies = {
            name: place[: entry.num_bytes].view(entry.share.dtype).view(entry.shape)
            for (name, entry), place in zip(entries.items(), memory.split(sizes), strict=True)
        }
        self._stream = torch.cuda.Stream(device) if on_gpu else None

    def take(self, tensors: dict[str, Tensor]) -> None:
        """Copies them; on a GPU once what is queued now has made them."""
        if self._stream is None:
            for name, tensor in tensors.items():
                self._copies[name].copy_(tensor)
            return
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            for name, tensor in tensors.items():
                self._copies[name].copy_(tensor, non_blocking=True)
                tensor.record_stream(self._stream)  # its memory is free only then

    def finish(self) -> dict[str, Tensor]:
        """All copies, by name, once they are there."""
        if self._stream is not None:
            self._stream.record_event().synchronize()
        return self._copies


def _dealt(entries: dict[str, _Entry], num_ranks: int) -> list[dict[str, _Entry]]:
    """Which rank is to hold what: each tensor falls to the one that has least so far."""
    dealt: list[dict[str, _Entry]] = [{} for _ in range(num_ranks)]
    load = [0] * num_ranks
    for name, entry in entries.items():
        owner = load.index(min(load))
        load[owner] += entry.num_bytes
        dealt[owner][name] = entry
    return dealt


def _slot(value: Tensor, place: _Place, shape: torch.Size) -> _Entry:
    """A parameter's part of an optimiser's slot: the same number for all (a counter), or one for each element."""
    if value.ndim == 0:
        return _Entry(shape=value.shape, share=value)
    return _Entry(shape=shape, share=value.detach()[place.offset : place.offset + place.length], start=place.start)


def _shape(parameter: Tensor) -> torch.Size:
    """Of the whole parameter, also where stage 3 has taken it away."""
    return torch.Size(getattr(parameter, "ds_shape", parameter.shape))


def _vector(parameter: Any) -> Tensor:
    """Stage 3's piece of a parameter on this rank, padded."""
    return parameter.ds_tensor.detach()


def _parts(entries: dict[str, _Entry], num_bytes: int) -> Iterator[dict[str, _Entry]]:
    """Cuts the state where it would exceed ``num_bytes``; a tensor stays whole."""
    part: dict[str, _Entry] = {}
    used = 0
    for name, entry in entries.items():
        if part and used + entry.num_bytes > num_bytes:
            yield part
            part, used = {}, 0
        part[name] = entry
        used += entry.num_bytes
    if part:
        yield part
