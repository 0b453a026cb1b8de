"""Saving while the training goes on: exact, atomic, by any ranks for any ranks; failures and deaths are survived."""

import contextlib
import logging
import os
import random
import resource
import signal
import threading
import time
from pathlib import Path

import pytest
import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Replicate, Shard, distribute_tensor

from eyespot.pretrain.checkpoints import reader as checkpoint
from eyespot.pretrain.checkpoints.folders import complete, folder_of, newest
from eyespot.pretrain.checkpoints.reader import Meta
from eyespot.pretrain.checkpoints.writer import CheckpointWriter
from eyespot.pretrain.distributed import process_group

BIG = 4_000_000
"""Numbers in a tensor that takes a while to write."""


def meta(step: int) -> Meta:
    return Meta(step=step, loader={"samples_consumed": step * 8}, world_size=1, run_key="k")


def big(step: int) -> dict[str, torch.Tensor]:
    return {f"model.{name}": torch.full((BIG,), step + number / 8) for number, name in enumerate("abcd")}


def load_into(tensors: dict[str, torch.Tensor], folder: Path) -> Meta:
    return checkpoint.load(folder, lambda read: read(tensors))


def names(run_dir: Path) -> list[str]:
    return sorted(path.name for path in (run_dir / "checkpoints").iterdir())


def test_it_returns_before_it_is_written_and_later_changes_stay_out(tmp_path):
    writer, tensors = CheckpointWriter(tmp_path, keep=2), big(1)
    writer.save(tensors, meta(1))
    assert complete(tmp_path) == []
    for tensor in tensors.values():
        tensor.fill_(-1)
    writer.close()
    assert load_into(tensors, newest(tmp_path)).step == 1
    assert all(torch.equal(tensors[name], tensor) for name, tensor in big(1).items())


def test_one_is_in_flight_and_the_newest_are_kept(tmp_path):
    writer = CheckpointWriter(tmp_path, keep=2)
    for step in (1, 2, 3):
        writer.save(big(step), meta(step))
        assert newest(tmp_path) == (folder_of(tmp_path, step - 1) if step > 1 else None)
    writer.close()
    assert [thread.name for thread in threading.enumerate() if thread.name == "writer"] == []
    assert names(tmp_path) == ["latest", "step-00000002", "step-00000003"]
    assert (tmp_path / "checkpoints" / "latest").read_text() == "step-00000003"


def test_a_step_that_is_saved_is_left_as_it_is(tmp_path):
    writer = CheckpointWriter(tmp_path, keep=2)
    for value in (1.0, 2.0):
        writer.save({"model.a": torch.tensor(value)}, meta(5), wait=True)
    got = {"model.a": torch.tensor(0.0)}
    load_into(got, newest(tmp_path))
    assert got["model.a"] == 1


def test_a_half_written_one_is_never_seen_and_swept(tmp_path):
    half = tmp_path / "checkpoints" / "step-00000002.tmp"
    half.mkdir(parents=True)
    (half / "meta.json").write_text("{}")
    (half / "rank-00007.safetensors").write_text("of a run on more ranks")
    assert newest(tmp_path) is None
    CheckpointWriter(tmp_path, keep=2).save({"model.a": torch.ones(3)}, meta(2), wait=True)
    assert names(tmp_path) == ["latest", "step-00000002"]
    load_into({"model.a": torch.ones(3)}, newest(tmp_path))


def test_a_state_that_grows_gets_new_memory(tmp_path):
    writer = CheckpointWriter(tmp_path, keep=2)
    writer.save({"model.a": torch.ones(3)}, meta(1))
    writer.save({"model.a": torch.ones(3), "model.b": torch.ones(2)}, meta(2), wait=True)
    load_into({"model.a": torch.ones(3), "model.b": torch.ones(2)}, newest(tmp_path))


def full_state() -> dict[str, torch.Tensor]:
    """Rows that no number of ranks divides; fewer rows than ranks; no rows."""
    generator = torch.Generator().manual_seed(3)
    rows = {"model.encoder.w": (7, 3), "model.encoder.one": (1, 5), "model.v": (5,), "optim.state.w.exp_avg": (7, 3)}
    tensors = {name: torch.randn(shape, generator=generator) for name, shape in rows.items()}
    return {**tensors, "model.count": torch.tensor(9), "model.none": torch.empty(0), "model.on": torch.tensor([True])}


def as_held(kind: str, world: process_group.World, full: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A state as an engine hands it over: whole, cut (a DTensor per weight), cut in nodes of two, or dealt by name."""
    if kind == "whole" or world.size == 1:
        return full
    if kind == "dealt":
        return {name: tensor for number, (name, tensor) in enumerate(full.items()) if number % world.size == world.rank}
    nodes = kind == "cut in nodes"
    mesh = init_device_mesh("cpu", (world.size // 2, 2) if nodes else (world.size,))
    placements = [Replicate(), Shard(0)] if nodes else [Shard(0)]
    return {
        name: distribute_tensor(tensor, mesh, placements) if tensor.is_floating_point() and tensor.numel() else tensor
        for name, tensor in full.items()
    }


def write_kinds(world: process_group.World, folder: Path, kinds: list[str]) -> list[int]:
    """Bytes of this rank's file of each."""
    sizes = []
    for kind in kinds:
        run_dir = folder / f"{kind} {world.size}"
        CheckpointWriter(run_dir, keep=2).save(as_held(kind, world, full_state()), meta(4), wait=True)
        file = newest(run_dir) / f"rank-{world.rank:05d}.safetensors"
        sizes.append(file.stat().st_size if file.exists() else 0)
    return sizes


def read_kinds(world: process_group.World, folder: Path) -> list[str]:
    """What came back wrong, of every checkpoint there is, read whole, cut and one by one."""
    wrong, full = [], full_state()
    for run_dir in sorted(folder.iterdir()):
        for kind in ("whole", "cut", "one by one"):
            blank = as_held(
                kind if kind == "cut" else "whole", world, {n: torch.zeros_like(t) for n, t in full.items()}
            )

            def load(read, blank=blank, by_one=kind == "one by one"):
                for part in [{name: tensor} for name, tensor in blank.items()] if by_one else [blank]:
                    read(part)

            assert checkpoint.restore(run_dir, "auto", load).loader == {"samples_consumed": 32}
            got = {n: t.full_tensor() if hasattr(t, "full_tensor") else t for n, t in blank.items()}
            wrong += [f"{run_dir.name} read {kind}: {n}" for n, t in got.items() if not torch.equal(t, full[n])]
    return wrong


def test_any_ranks_read_what_any_ranks_wrote(on_ranks, tmp_path):
    write_kinds(process_group.World(rank=0, size=1, device=torch.device("cpu")), tmp_path, ["whole"])
    on_ranks(write_kinds, 2, tmp_path, ["whole", "cut", "dealt"])
    on_ranks(write_kinds, 4, tmp_path, ["cut", "cut in nodes"])
    assert read_kinds(process_group.World(rank=0, size=1, device=torch.device("cpu")), tmp_path) == []
    assert on_ranks(read_kinds, 3, tmp_path) == [[], [], []]


def write_with_a_full_disk(world: process_group.World, run_dir: Path) -> tuple[list[str], list[str], list[str]]:
    """Rank 1's disk fills up (a limit on file size stands for it), is freed, and fills up again."""
    said: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())
    logging.getLogger("eyespot").addHandler(handler)
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]

    def limit(size: int) -> None:
        if world.rank == 1:
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))

    writer, raised, kept = CheckpointWriter(run_dir, keep=2), [], []

    def save(step: int, *, wait: bool = False) -> None:
        try:
            writer.save(
                {"model.a": torch.full((9000,), step * 1.0), "model.b": torch.ones(9000)}, meta(step), wait=wait
            )
        except OSError as error:
            raised.append(f"at {step}: {error}")

    save(1, wait=True)
    limit(20_000)
    for step in (2, 3):
        save(step)
    writer.close()
    kept = names(run_dir)
    limit(resource.RLIM_INFINITY)
    save(4, wait=True)
    limit(20_000)
    for step in (5, 6, 7, 8):
        save(step)
    save(9, wait=True)
    return raised, said, [*kept, *names(run_dir)]


def test_a_full_disk_on_one_rank_is_known_to_all_and_survived(on_ranks, tmp_path):
    ranks = on_ranks(write_with_a_full_disk, 2, tmp_path)
    for raised, said, kept in ranks:
        assert kept == ["latest", "step-00000001", "latest", "step-00000001", "step-00000004"]
        assert len(raised) == 2, raised
        assert raised[0].startswith("at 8: checkpoint step-00000007 not written: OSError: [Errno 27]"), raised
        assert raised[1].startswith("at 9: checkpoint step-00000009 not written"), raised
        assert all("(rank 1)" in text and "the last good checkpoint is kept" in text for text in raised)
        assert [text.split()[1] for text in said] == [f"step-0000000{step}" for step in (2, 3, 5, 6, 7, 9)]
    assert ranks[0] == ranks[1]


def test_a_folder_that_cannot_be_made_is_a_failed_save(tmp_path):
    (tmp_path / "checkpoints").write_text("a file stands here")
    writer = CheckpointWriter(tmp_path, keep=2)
    with pytest.raises(OSError, match="step-00000001 not written"):
        writer.save({"model.a": torch.ones(3)}, meta(1), wait=True)


def save_without_end(run_dir: Path, timeout_seconds: float) -> None:
    process_group.start("cpu", timeout_seconds=60.0)
    last = newest(run_dir)
    step = checkpoint.read_meta(last).step if last is not None else 0
    writer = CheckpointWriter(run_dir, keep=2, timeout_seconds=timeout_seconds)
    while True:
        step += 1
        writer.save(big(step), meta(step))


def is_being_written(run_dir: Path, since: float) -> bool:
    """Whether a checkpoint is, and not just left over from the ranks that were killed before."""
    for path in run_dir.glob("checkpoints/step-*.tmp/*"):
        with contextlib.suppress(FileNotFoundError):
            if path.stat().st_mtime > since:
                return True
    return False


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_a_lost_rank_in_the_middle_of_a_save(start_ranks, tmp_path, how):
    """A rank is killed, or hangs: the other stops by itself, and what stands there always loads."""
    draw, steps = random.Random(0), []
    for _ in range(3 if how == signal.SIGKILL else 1):
        since = time.time()
        processes = start_ranks(save_without_end, 2, tmp_path, 60.0 if how == signal.SIGKILL else 4.0)
        while not is_being_written(tmp_path, since):
            assert all(process.is_alive() for process in processes)
            time.sleep(0.005)
        time.sleep(draw.uniform(0, 0.1))
        lost = draw.randrange(2)
        os.kill(processes[lost].pid, how)
        processes[1 - lost].join(30)
        assert processes[1 - lost].exitcode == 1, "it still runs, or ended well"
        processes[lost].kill()
        processes[lost].join()
        if (last := newest(tmp_path)) is not None:
            got = {name: torch.zeros_like(tensor) for name, tensor in big(0).items()}
            steps.append(load_into(got, last).step)
            assert all(torch.equal(got[name], tensor) for name, tensor in big(steps[-1]).items())
    assert steps == sorted(steps)
