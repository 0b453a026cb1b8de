"""How long does saving hold up the training? Synchronous against asynchronous, and torch's own writer in a thread.

    python benchmarks/checkpoint_stall.py [--megabytes 300] [--rounds 4]

Two gloo ranks, each with that much state of its own. The stall is the time inside the call that saves; the pause is the
longest time that another Python thread stood still until the checkpoint was written, because the lock was held.
"""

import argparse
import os
import socket
import statistics
import tempfile
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
import torch.multiprocessing
from results import write_results
from torch import distributed
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter

from eyespot.pretrain.checkpoints.reader import Meta
from eyespot.pretrain.checkpoints.writer import CheckpointWriter
from eyespot.pretrain.distributed import process_group
from eyespot.pretrain.distributed.collectives import barrier

RANKS = 2
TENSORS = 30
WAYS = ("synchronous", "asynchronous", "torch's writer in a thread")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=300, help="of state per rank")
    parser.add_argument("--rounds", type=int, default=4, help="saves of each way after the first")
    options = parser.parse_args()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(probe.getsockname()[1])}
    answers = torch.multiprocessing.get_context("spawn").SimpleQueue()
    torch.multiprocessing.spawn(rank_main, (options.megabytes, options.rounds, answers), RANKS)  # pyright: ignore[reportPrivateImportUsage]
    report(answers.get(), options.megabytes)


def rank_main(rank: int, megabytes: int, rounds: int, answers: Any) -> None:
    """Both ranks run every way in turn; rank 0 answers with its times."""
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(RANKS), "LOCAL_RANK": str(rank)}
    torch.set_num_threads(1)
    process_group.start("cpu")
    numbers = megabytes * 1_000_000 // 4 // TENSORS
    tensors = {f"model.{rank}.{number}": torch.randn(numbers) for number in range(TENSORS)}
    times = {}
    with tempfile.TemporaryDirectory(dir=".") as folder:
        runs: list[Any] = [folder]
        distributed.broadcast_object_list(runs)
        for way in WAYS:
            save = make_way(way, Path(runs[0]) / way.replace(" ", "-").replace("'", ""), tensors)
            times[way] = [timed(save, step) for step in range(1, rounds + 2)]
        barrier()
    if rank == 0:
        answers.put(times)
    process_group.stop()


Save = Callable[[int], Callable[[], None]]


def make_way(way: str, run_dir: Path, tensors: dict[str, torch.Tensor]) -> Save:
    """``save(step)`` returns when training may go on, with what waits for the rest."""
    if way == WAYS[2]:
        return torchs_writer(run_dir, tensors)
    writer = CheckpointWriter(run_dir, keep=2)

    def save(step: int) -> Callable[[], None]:
        meta = Meta(step=step, loader={}, world_size=RANKS, run_key="")
        writer.save(tensors, meta, wait=way == WAYS[0])
        return writer.close

    return save


def torchs_writer(run_dir: Path, tensors: dict[str, torch.Tensor]) -> Save:
    """A copy into memory that is used again, then torch's safetensors writer: neither synced, hashed nor atomic."""
    group = distributed.new_group(backend="gloo")
    copies = {name: torch.empty_like(tensor) for name, tensor in tensors.items()}

    def write(folder: Path) -> None:
        with warnings.catch_warnings(action="ignore"):
            writer = HuggingFaceStorageWriter(str(folder), save_distributed=True)
            dcp.save(copies, storage_writer=writer, process_group=group)  # pyright: ignore[reportPrivateImportUsage]

    def save(step: int) -> Callable[[], None]:
        for name, tensor in tensors.items():
            copies[name].copy_(tensor)
        folder = run_dir / str(step % 2)
        folder.mkdir(parents=True, exist_ok=True)
        thread = threading.Thread(target=write, args=(folder,))
        thread.start()
        return thread.join

    return save


def timed(save: Save, step: int) -> tuple[float, float, float]:
    """Seconds: the stall, until it is written, and the longest pause of another thread after the stall."""
    barrier()
    begun = time.perf_counter()
    wait = save(step)
    stall = time.perf_counter() - begun
    done = threading.Event()
    waiter = threading.Thread(target=lambda: (wait(), done.set()))
    waiter.start()
    last, pause = time.perf_counter(), 0.0
    while not done.is_set():
        time.sleep(0.001)
        now = time.perf_counter()
        last, pause = now, max(pause, now - last)
    waiter.join()
    return stall, time.perf_counter() - begun, pause


def report(times: dict[str, list[tuple[float, float, float]]], megabytes: int) -> None:
    """A row per way. Shares are of a later synchronous save, the first save's too: a cold disk would flatter it."""
    later = {way: [statistics.median(column) for column in zip(*rows[1:], strict=True)] for way, rows in times.items()}
    rows = []
    for way in WAYS:
        first, (stall, written, pause) = times[way][0][0], later[way]
        shares = [f"{value / later[WAYS[0]][0]:.1%}" for value in (first, stall)]
        seconds = [f"{value:.3f}" for value in (first, stall, written)]
        rows.append([way, *seconds, *shares, "-" if way == WAYS[0] else f"{pause:.3f}"])
    write_results(
        "checkpoint_stall",
        title=f"Saving {megabytes} MB per rank on {RANKS} ranks: seconds that training stands still",
        header=["way", "first", "later (median)", "until written", "share, first", "share, later", "longest pause"],
        rows=rows,
        details={"seconds": times},
    )


if __name__ == "__main__":
    main()
