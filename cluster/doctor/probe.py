"""What doctor does in a process of each rank, where torch, DALI and NCCL may crash or hang without harm.

The answer is written anew after every stage and names the stage that is next: that one is to blame if no more comes.
"""

import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed
from jaxtyping import Float64
from torch import Tensor

from eyespot.cluster.doctor import gpu_links, gpus
from eyespot.cluster.doctor.checks import in_one_line
from eyespot.cluster.doctor.findings import Answer, Finding, Level
from eyespot.cluster.doctor.nccl_log import transport
from eyespot.cluster.doctor.shards import PATIENCE_SECONDS
from eyespot.data_pipeline.errors import Outage, UserError
from eyespot.data_pipeline.loading.loader import LoaderSpec, make_selection
from eyespot.pretrain.config import Run
from eyespot.pretrain.distributed import process_group
from eyespot.pretrain.distributed.collectives import all_gather, barrier, group_name
from eyespot.pretrain.distributed.devices import name_of, own_device, pci_address
from eyespot.pretrain.loop.initial_weights import fresh_objective
from eyespot.pretrain.loop.run_data import normalized_views, open_shards
from eyespot.pretrain.objective import Objective
from eyespot.pretrain.planning.memory import optimizer_bytes
from eyespot.pretrain.planning.trace import planned_ids, sizes
from eyespot.pretrain.run_json import load_run

REDUCE_SECONDS = 1.5
GPU_BYTES, CPU_BYTES = 64 << 20, 8 << 20
"""Of a large all-reduce: what it takes to fill the link."""
SLOW_BETWEEN_NODES, SLOW_GLOO = 10e9, 50e6
"""Bus bandwidth, bytes per second. Of NCCL between nodes: one InfiniBand port of 100 Gbit/s; inside a node: see
``gpu_links.py``. Of gloo: less than 1 Gbit/s would give."""
DEVICE_FIX = "give the run a GPU that torch can use, or --device cpu"


@dataclass(kw_only=True, slots=True)
class Report:
    """What this rank found, and where it is kept."""

    path: Path
    rank: int
    findings: list[Finding] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)

    def add(self, check: str, level: Level, found: str, fix: str = "") -> None:
        """Notes a finding."""
        self.findings.append(Finding(check=check, node=f"rank {self.rank}", level=level, found=found, fix=fix))

    def write(self, next_stage: str) -> None:
        """Writes all so far."""
        self.facts["stage"] = next_stage
        Answer(node=f"rank {self.rank}", findings=self.findings, facts=self.facts).write(self.path)

    @contextmanager
    def stage(self, check: str, fix: str) -> Iterator[None]:
        """Around one check: an error is a finding, and what it takes is noted."""
        self.write(check)
        begin, first = time.monotonic(), len(self.findings)
        try:
            yield
        except (UserError, Outage) as error:
            self.add(check, "fail", str(error), fix)
        except Exception as error:  # DALI's, NCCL's, gloo's
            self.add(check, "fail", in_one_line(error), fix)
        seconds = round(max(0.01, time.monotonic() - begin), 2)  # 0 = not known
        self.findings[first:] = [replace(finding, seconds=seconds) for finding in self.findings[first:]]


def probe(run_file: Path, folder: Path, seconds: float) -> None:
    """One rank's part, written to ``folder/rank-N.json``.

    Args:
        run_file: what ``eyespot pretrain --from`` reads.
        folder: on this node.
        seconds: for the ranks to meet, and for each exchange of theirs.
    """
    rank = int(os.environ.get("RANK", 0))
    report = Report(path=folder / f"rank-{rank}.json", rank=rank)
    run: Run | None = None
    objective: Objective | None = None
    device: torch.device | None = None
    with report.stage("recipe", "mend the recipe or its flags"):
        _, run = load_run(run_file)
        objective = _objective(run)
        if rank == 0:
            held = sizes(objective)
            report.facts["state_bytes"] = held.parameters + held.buffers + optimizer_bytes(run, held)
    if run is not None:
        with report.stage("device", DEVICE_FIX):
            device = own_device(run.device, int(os.environ.get("LOCAL_RANK", 0)))
            if device.type == "cuda":
                report.facts["gpu"] = f"{pci_address(device)} {name_of(device)}"
    if run is not None and device is not None:
        if objective is not None:
            fix = "see eyespot shards verify; DALI must fit the driver: pip list | grep dali"
            with report.stage("data pipeline", fix):
                report.add("data pipeline", "ok", _decode(run, objective, rank, device))
        with report.stage("all-reduce", _network_fix(run)):
            nccl_log = _listen_to_nccl(folder) if rank == 0 else None
            if (world := _meet(report, run, seconds)) is not None:
                _exchange(report, world, nccl_log)
    report.write("end")
    os._exit(0)  # a process group with a broken member may never close


def _objective(run: Run) -> Objective:
    """The objective without its numbers, where it can be made so: only its views and sizes are wanted."""
    ids = planned_ids(run, PATIENCE_SECONDS)
    try:
        with torch.device("meta"):
            return fresh_objective(run, ids)
    except UserError:
        raise
    except Exception:  # one that looks at its own numbers while it is made
        return fresh_objective(run, ids)


def _decode(run: Run, objective: Objective, rank: int, device: torch.device) -> str:
    """Makes the views of one sample on the rank's device.

    Raises:
        UserError: the shards or the device are wrong.
        ValueError: what came out are not the views that were asked for.
    """
    shards = open_shards(run.data, patience_seconds=PATIENCE_SECONDS)
    views = normalized_views(objective.views(), run.data, shards.manifest)
    # On a GPU "auto" would let the CPU decode what nvJPEG refuses: that is what is to be found out.
    decode = "gpu" if device.type == "cuda" and run.data.decode == "auto" else run.data.decode
    spec = LoaderSpec(
        shards=shards,
        views=views,
        batch_size=1,
        seed=run.seed,
        device=str(device),
        decode=decode,
        nvjpeg=run.data.nvjpeg,
        num_threads=1,
    )
    loader = make_selection(spec, np.array([rank % shards.manifest.num_samples]))
    try:
        batch = next(loader)
    finally:
        loader.close()
    for shape, images in zip(views.shapes(), batch.views, strict=True):
        if images.shape != (1, *shape) or not bool(images.isfinite().all()):
            raise ValueError(f"a view of shape {tuple(images.shape)}, finite: {bool(images.isfinite().all())}")
    what = "image" if views.num_frames == 1 else f"clip of {views.num_frames} frames"
    return f"one {what} decoded on {device}, {len(batch.views)} view{'s' if len(batch.views) > 1 else ''} of it made"


def _meet(report: Report, run: Run, seconds: float) -> process_group.World | None:
    """The world of all ranks; None where two have one GPU, which is no fault of the network."""
    try:
        return process_group.start(run.device, seconds)
    except UserError as error:
        report.add("device", "fail", str(error), "a GPU for each: --gpus-per-node as many as --processes-per-node")
        return None


def _exchange(report: Report, world: process_group.World, nccl_log: Path | None = None) -> None:
    """Sums numbers over all ranks, on the CPU and the device: are they right, how fast is it? And compares clocks.

    Args:
        report: of this rank.
        world: this process among the ranks.
        nccl_log: the file in which NCCL says how this rank's numbers travel, where it was told to.
    """
    if world.size == 1:
        report.add("all-reduce", "ok", "not needed: one process")
        return
    devices = [torch.device("cpu")] if world.device.type == "cpu" else [torch.device("cpu"), world.device]
    for device in devices:
        _sum_is_right(world, device)
    report.facts["clocks"] = _clock_offsets(world).tolist()
    speed = _bandwidth(world)
    way = transport(nccl_log) if nccl_log is not None else ""
    name, link = _expected(world, way)
    found = (
        f"{name}: right on {'the one rank' if world.size == 1 else f'all {world.size} ranks'}, {speed / 1e9:.2f} GB/s"
    )
    if way:
        report.facts["transport"] = way
        found += f", by {way}"
    if link.words:
        found += f", {link.words}"
    if speed < link.slow and world.rank == 0:  # all measured the same, and one knows the way
        report.add("all-reduce", "warn", f"{found}: slow, {link.slow / 1e9:g} GB/s were to be expected", link.fix)
    else:
        report.add("all-reduce", "ok", found)


def _expected(world: process_group.World, transport: str) -> tuple[str, gpu_links.Link]:
    """Who exchanges, by which link, and how many bytes per second that should do at least.

    Args:
        world: this process among the ranks; the first alone asks nvidia-smi.
        transport: NCCL's word; empty = not known.
    """
    if world.device.type == "cpu":
        fix = "is it the fast network? choose it with GLOO_SOCKET_IFNAME"
        return "gloo", gpu_links.Link(words="", slow=SLOW_GLOO, fix=fix)
    if world.size == int(os.environ.get("LOCAL_WORLD_SIZE", world.size)):
        fleet = gpus.ask()[0] if world.rank == 0 else None
        used = gpus.visible(fleet)[: world.size] if fleet is not None else []
        link = gpu_links.ask([gpu.index for gpu in used]) if used else gpu_links.UNKNOWN
        return "NCCL", gpu_links.as_used(link, transport)
    fix = (
        "is it the fast network? NCCL_IB_HCA and NCCL_SOCKET_IFNAME choose it. NET/Socket where there is InfiniBand:"
        " node or container lacks libibverbs1, ibverbs-providers or /dev/infiniband; EFA wants the host's aws-ofi-nccl"
    )
    return "NCCL", gpu_links.Link(words="", slow=SLOW_BETWEEN_NODES, fix=fix)


def _listen_to_nccl(folder: Path) -> Path | None:
    """Has NCCL, before it starts, write down what this rank uses; None where the user has it say what he wants."""
    if {"NCCL_DEBUG", "NCCL_DEBUG_FILE"} & os.environ.keys():
        return None
    path = folder / "nccl.log"
    os.environ |= {"NCCL_DEBUG": "INFO", "NCCL_DEBUG_FILE": str(path)}
    return path


def _sum_is_right(world: process_group.World, device: torch.device) -> None:
    """Whole numbers, so that the sum has one right value.

    Raises:
        ValueError: it is wrong.
    """
    numbers = torch.arange(1000, dtype=torch.float32, device=device)
    total = numbers * (world.rank + 1)
    torch.distributed.all_reduce(total)
    wrong = int((total != numbers * (world.size * (world.size + 1) / 2)).sum())
    if wrong:
        raise ValueError(f"{wrong} of 1000 sums over the ranks are wrong on {device}")


def _bandwidth(world: process_group.World) -> float:
    """Bytes per second through a rank's link (a ring moves 2 (n - 1) / n of the buffer); the same on all ranks."""
    num_bytes = CPU_BYTES if world.device.type == "cpu" else GPU_BYTES
    buffer = torch.zeros(num_bytes // 4, device=world.device)
    seconds = _timed(buffer)  # opens the connections
    count = max(1, min(20, int(REDUCE_SECONDS / max(seconds, 1e-4))))
    slowest = torch.tensor([min(_timed(buffer) for _ in range(_agreed(count)))])
    torch.distributed.all_reduce(slowest, torch.distributed.ReduceOp.MAX)
    return 2 * (world.size - 1) / world.size * num_bytes / float(slowest)


def _timed(buffer: Tensor) -> float:
    wait: Callable[[], None] = torch.cuda.synchronize if buffer.is_cuda else lambda: None
    wait()
    begin = time.monotonic()
    torch.distributed.all_reduce(buffer)
    wait()
    return time.monotonic() - begin


def _agreed(count: int) -> int:
    """The smallest of all ranks' numbers: all must do as many."""
    smallest = torch.tensor([count])
    torch.distributed.all_reduce(smallest, torch.distributed.ReduceOp.MIN)
    return int(smallest)


def _clock_offsets(world: process_group.World) -> Float64[np.ndarray, " size"]:
    """By how many seconds each rank's clock is ahead of rank 0's: the least of several looks at the same moment."""
    least = np.full(world.size, math.inf)
    for _ in range(5):
        barrier()
        times = all_gather(torch.tensor([time.time()], dtype=torch.float64), group_name(None)).numpy()
        offsets = times - times[0]
        least = np.where(np.abs(offsets) < np.abs(least), offsets, least)
    return least


def _network_fix(run: Run) -> str:
    variable = "GLOO_SOCKET_IFNAME" if run.device == "cpu" else "NCCL_SOCKET_IFNAME (and GLOO_SOCKET_IFNAME)"
    return f"can the nodes reach each other on any port? choose the network interface with {variable}"
