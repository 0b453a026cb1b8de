"""What NT-Xent costs, forward + backward: ours, the full matrix, and two published formulations.

- Memory: the peak of the resident set above what it was before, each case in a process of its own (Linux's VmHWM, set
  back before the case).
- Time: the median of several rounds in that process, after one warm-up.
- Two ranks on gloo: CPU time per rank, and bytes received through its sockets (Linux's TCP_INFO) in units of one
  all-gather of the embeddings.

"lightly" is the published package, installed into a temporary folder (without its dependencies; the loss needs torch
only); "solo-learn" is that library's formulation written anew: exp of the whole matrix, masks of positives and
negatives by sample, one logarithm of their ratio. On two ranks lightly runs with its gathering switched on.

    python benchmarks/contrast_loss.py [--largest 65536] [--rounds 5] [--seconds 60]
"""

import argparse
import json
import math
import multiprocessing
import os
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from results import RESULTS, write_results
from torch import Tensor

DIM, TEMPERATURE = 128, 0.1
WAYS = ("ours", "naive", "lightly", "solo-learn")
RANKS_IMAGES = 4096
MIB = 2**20

Loss = Callable[[Tensor, Tensor], Tensor]


def naive(one: Tensor, other: Tensor) -> Tensor:
    """Cross-entropy over the whole matrix of similarities."""
    z = F.normalize(torch.cat([one, other]), dim=1)
    logits = (z @ z.T / TEMPERATURE).fill_diagonal_(-math.inf)
    return F.cross_entropy(logits, torch.arange(len(z)).roll(len(one)))


def solo_learn(one: Tensor, other: Tensor) -> Tensor:
    """exp of the matrix, then what masks of equal and unequal samples leave of it."""
    z, sample = F.normalize(torch.cat([one, other]), dim=1), torch.arange(len(one)).repeat(2)
    weights = torch.exp(z @ z.T / TEMPERATURE)
    same = sample[:, None] == sample[None]
    negatives = (weights * ~same).sum(dim=1)
    positives = (weights * same.fill_diagonal_(False)).sum(dim=1)
    return -torch.log(positives / (positives + negatives)).mean()


def choose(way: str, *, gather: bool = False) -> Loss:
    """The loss of that name."""
    if way == "ours":
        from eyespot.pretrain.losses.contrastive import nt_xent_loss

        return lambda one, other: nt_xent_loss([one, other], TEMPERATURE)
    if way == "lightly":
        from lightly.loss import NTXentLoss  # pyright: ignore[reportMissingImports]

        return NTXentLoss(TEMPERATURE, gather_distributed=gather)
    return naive if way == "naive" else solo_learn


def make_views(images: int, seed: int) -> list[Tensor]:
    """Embeddings of two views; alike, as those of a trained encoder are."""
    generator = torch.Generator().manual_seed(seed)
    sample, *noise = (torch.randn(images, DIM, generator=generator) for _ in range(3))
    return [(sample + 0.5 * part).requires_grad_() for part in noise]


def forward_backward(loss: Loss, views: list[Tensor]) -> float:
    for view in views:
        view.grad = None
    value = loss(*views)
    value.backward()
    return float(value.detach())


def resident(name: str) -> int:
    """VmRSS or VmHWM in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(name))


def measure_alone(way: str, images: int, rounds: int, seconds: float) -> dict[str, Any]:
    """Peak memory of the first round at this size, then seconds per round."""
    loss = choose(way)
    forward_backward(loss, make_views(64, 0))
    views = make_views(images, 1)
    Path("/proc/self/clear_refs").write_text("5")
    before, times = resident("VmRSS"), []
    begun = time.perf_counter()
    value = forward_backward(loss, views)
    peak = resident("VmHWM") - before
    first = time.perf_counter() - begun
    while len(times) < rounds and (sum(times) + first) < seconds:
        begun = time.perf_counter()
        forward_backward(loss, views)
        times.append(time.perf_counter() - begun)
    return {"peak": peak, "seconds": times or [first], "loss": value}


def received() -> int:
    """Bytes that this process's TCP sockets have received."""
    total = 0
    for entry in Path("/proc/self/fd").iterdir():
        try:
            if not str(entry.readlink()).startswith("socket:"):
                continue
            with socket.socket(fileno=os.dup(int(entry.name))) as connection:
                if connection.family in (socket.AF_INET, socket.AF_INET6):
                    info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
                    total += struct.unpack_from("Q", info, 128)[0]
        except OSError:
            continue
    return total


def one_rank(rank: int, way: str, rounds: int, folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/{way}", rank=rank, world_size=2)
    loss, views = choose(way, gather=True), make_views(RANKS_IMAGES // 2, rank)
    forward_backward(loss, views)
    cpu, wire, values = [], [], []
    for _ in range(rounds):
        dist.barrier()
        begun, bytes_before = time.process_time(), received()
        values.append(forward_backward(loss, views))
        cpu.append(time.process_time() - begun)
        dist.barrier()
        wire.append((received() - bytes_before) / views[0].nbytes / 2)
    (folder / f"{way}{rank}.json").write_text(json.dumps({"cpu": cpu, "wire": wire, "loss": values[0]}))
    dist.destroy_process_group()


def measure_ranks(way: str, rounds: int) -> dict[str, list[float]]:
    """CPU seconds per rank and step, and all-gathers received per rank and step."""
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        processes = [context.Process(target=one_rank, args=(rank, way, rounds, Path(folder))) for rank in range(2)]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
        found = [json.loads((Path(folder) / f"{way}{rank}.json").read_text()) for rank in range(2)]
    return {key: [sum(pair) / 2 for pair in zip(found[0][key], found[1][key], strict=True)] for key in ("cpu", "wire")}


def install_lightly(folder: str) -> str:
    """Its version; it lands in this process's and its children's import path."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    subprocess.run([*command, "--target", folder, "lightly", "lightly_utils"], check=True)
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [folder, os.environ.get("PYTHONPATH")]))
    sys.path.append(folder)
    import lightly  # pyright: ignore[reportMissingImports]

    return lightly.__version__


def measure_sizes(options: argparse.Namespace) -> dict[str, dict[int, dict[str, Any]]]:
    """Every way at every size that fits into memory, four times the last one's peak; all ways of a size in turn."""
    found: dict[str, dict[int, dict[str, Any]]] = {way: {} for way in WAYS}
    sizes = [1024 * 2**step for step in range(int(math.log2(options.largest / 1024)) + 1)]
    available = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for images in sizes:
        for way in WAYS:
            last = found[way].get(images // 2)
            too_large = way != "ours" and images > options.largest_matrix
            if too_large or (images > 1024 and (last is None or 4 * last["peak"] > available)):
                continue
            command = [sys.executable, __file__, "--case", way, str(images)]
            limits = ["--rounds", str(options.rounds), "--seconds", str(options.seconds)]
            output = subprocess.run([*command, *limits], check=True, capture_output=True, text=True).stdout
            found[way][images] = json.loads(output)
            print(way, images, f"{found[way][images]['peak'] / MIB:.0f} MiB", found[way][images]["seconds"], flush=True)
    return found


def exponent(cases: dict[int, dict[str, Any]]) -> float:
    """The slope of log(peak) against log(images), from 4,096 images on: below, fixed costs weigh."""
    points = [(math.log(images), math.log(case["peak"])) for images, case in cases.items() if images >= 4096]
    if len(points) < 2:
        return math.nan
    return statistics.linear_regression(*zip(*points, strict=True)).slope


def plot(found: dict[str, dict[int, dict[str, Any]]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (memory, seconds) = plt.subplots(1, 2, figsize=(10, 4.2), layout="constrained")
    for way, cases in found.items():
        images = list(cases)
        memory.loglog(images, [case["peak"] / MIB for case in cases.values()], "o-", label=way, base=2)
        seconds.loglog(images, [statistics.median(case["seconds"]) for case in cases.values()], "o-", label=way, base=2)
    for axes, title in ((memory, "peak memory, MiB"), (seconds, "seconds")):
        axes.set(title=f"NT-Xent, forward + backward: {title}", xlabel="images in the batch")
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.4g}")
        axes.grid(alpha=0.3)
    memory.legend()
    figure.savefig(path, dpi=130)


def cells(cases: dict[str, float | None], digits: str) -> list[str]:
    """One cell per way; where it is not ours, with how many times ours it is."""
    ours = cases["ours"]
    return [
        "-" if value is None else f"{value:{digits}}" + (f" ({value / ours:.3g}x)" if way != "ours" and ours else "")
        for way, value in cases.items()
    ]


def table(found: dict[str, dict[int, dict[str, Any]]], ranks: dict[str, dict[str, list[float]]]) -> list[list[str]]:
    """Rows: what, a cell per way, the target."""
    rows = []
    targets = {
        8192: ("<= 1.5 % of naive", "naive >= 3.5x, lightly >= 5x"),
        65536: ("< 300", ""),
        1024: ("", "naive >= 1x"),
    }
    for images in found["ours"]:
        cases = {way: found[way].get(images) for way in WAYS}
        peak = {way: case and case["peak"] / MIB for way, case in cases.items()}
        seconds = {way: case and statistics.median(case["seconds"]) for way, case in cases.items()}
        memory_target, time_target = targets.get(images, ("", ""))
        rows.append([f"{images:,} images: peak, MiB", *cells(peak, ",.0f"), memory_target])
        rows.append([f"{images:,} images: seconds", *cells(seconds, ".3g"), time_target])
    rows.append(["memory grows with images to the power", *(f"{exponent(found[way]):.2f}" for way in WAYS), "< 1.05"])
    for key, what, target in (
        ("cpu", "CPU seconds per rank", "lightly >= 3.5x"),
        ("wire", "received per rank, in all-gathers", "<= 1.1"),
    ):
        medians = {way: statistics.median(ranks[way][key]) if way in ranks else None for way in WAYS}
        rows.append([f"2 ranks, {RANKS_IMAGES:,} images: {what}", *cells(medians, ".3g"), target])
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--largest", type=int, default=65536, help="images; powers of two from 1024")
    parser.add_argument("--largest-matrix", type=int, default=16384, help="the same, for what stores the matrix")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=60, help="time after which a case gets no further round")
    parser.add_argument("--case", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case:
        print(json.dumps(measure_alone(options.case[0], int(options.case[1]), options.rounds, options.seconds)))
        return
    with tempfile.TemporaryDirectory() as folder:
        version = install_lightly(folder)
        found = measure_sizes(options)
        ranks = {way: measure_ranks(way, options.rounds) for way in ("ours", "lightly")}
    plot(found, RESULTS / "contrast_loss.png")
    write_results(
        "contrast_loss",
        title=f"NT-Xent, forward + backward, dimension {DIM}, lightly {version}: times ours in brackets",
        header=("what", *WAYS, "target"),
        rows=table(found, ranks),
        details={"cases": found, "ranks": ranks},
    )


if __name__ == "__main__":
    main()
