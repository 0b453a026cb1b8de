"""Runs that are killed: kill -9 of a random rank at a random moment, then a restart, again and again on every engine.

Each round trains a tiny MAE on two processes and kills one of them while it starts, while it trains or while a
checkpoint is being written. The other one must stop by itself, the newest checkpoint must be whole, and the run that
goes on from it must log, at every step, the very loss and the very samples of a run that nothing interrupted, and end
with its weights.

    python benchmarks/kill_drill.py [--rounds 200] [--data SHARDS]
"""

import argparse
import json
import os
import random
import shutil
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ranks import Start, start_ranks

ENGINES = ("ddp", "fsdp", "deepspeed 1", "deepspeed 2", "deepspeed 3")
MOMENTS = ("saving", "training", "starting")
TOO_LATE = "too late"  # the run had ended
STEPS, SAVE_EVERY, RANKS = 16, 2, 2
RANK_TIMEOUT_SECONDS = 30.0


@dataclass(kw_only=True, slots=True)
class Round:
    """How one kill went."""

    engine: str
    moment: str
    """starting, training, saving, or too late."""
    victim: int
    last_step: int
    """Logged before the kill."""
    resumed_from: int
    """Step of the newest checkpoint; 0 where there was none."""
    stop_seconds: float
    """From the kill to the end of the other process."""


def train(shards: Path, run_dir: Path, engine: str) -> None:
    """What each rank does; leaves with the exit code of ``eyespot pretrain``."""
    import torch

    from eyespot.data_pipeline.exit_codes import ExitCode
    from eyespot.pretrain.recipe_lookup import make_run
    from eyespot.pretrain.trainer import fit

    torch.set_num_threads(1)
    sys.stderr = (run_dir.parent / f"{run_dir.name}-{os.environ['RANK']}.txt").open("a")
    run = make_run("mae_tiny")
    run.engine, _, stage = engine.partition(" ")
    run.deepspeed.stage = int(stage or 2)
    run.data.shards, run.data.batch_size, run.run_dir, run.resume = str(shards), 16, run_dir, "auto"
    run.steps, run.save_every, run.log_every, run.picture_every = STEPS, SAVE_EVERY, 1, 0
    run.optim.warmup_steps, run.track, run.device, run.precision = 2, False, "cpu", "fp32"
    run.rank_timeout_seconds = RANK_TIMEOUT_SECONDS
    try:
        sys.exit(ExitCode.DONE if fit(run, "mae_tiny") == "done" else ExitCode.STOPPED)
    except Exception as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        sys.exit(ExitCode.FAILED)


def straight(start: Start, shards: Path, folder: Path, engine: str) -> Path:
    """The run that nothing interrupts."""
    run_dir = folder / f"straight-{engine.replace(' ', '')}"
    _finish(start(train, RANKS, shards, run_dir, engine), run_dir)
    return run_dir


def drill(start: Start, shards: Path, folder: Path, engine: str, seed: int, expected: Path) -> Round:
    """One kill and one restart; ``expected`` is the run that nothing interrupted.

    Raises:
        AssertionError: something was lost, changed or unreadable.
    """
    from eyespot.pretrain.checkpoints import reader as checkpoint

    generator = random.Random(seed)
    moment = MOMENTS[seed // len(ENGINES) % len(MOMENTS)]
    victim, step = generator.randrange(RANKS), generator.randrange(1, STEPS - 5)
    run_dir = folder / f"killed-{seed}"
    processes = start(train, RANKS, shards, run_dir, engine)
    _wait_for_the_moment(moment, run_dir, step, generator, processes)
    logged = len(_metrics(run_dir))
    processes[victim].kill()
    killed_at = time.monotonic()
    for process in processes:
        process.join(RANK_TIMEOUT_SECONDS + 90)  # on a busy machine it may not even have met the other
        assert process.exitcode is not None, "the other rank did not stop"
    stop_seconds = time.monotonic() - killed_at
    moment = TOO_LATE if processes[victim].exitcode == 0 else moment
    newest = checkpoint.newest(run_dir)
    if newest is not None:
        checkpoint.read_encoder(newest)
    resumed_from = 0 if newest is None else checkpoint.read_meta(newest).step
    _finish(start(train, RANKS, shards, run_dir, engine), run_dir)
    _assert_same(run_dir, expected)
    shutil.rmtree(run_dir)
    return Round(
        engine=engine,
        moment=moment,
        victim=victim,
        last_step=logged,
        resumed_from=resumed_from,
        stop_seconds=stop_seconds,
    )


def _wait_for_the_moment(moment: str, run_dir: Path, step: int, generator: random.Random, processes: list[Any]) -> None:
    if moment == "starting":
        time.sleep(2 * generator.random())
        return

    def reached() -> bool:
        return len(_metrics(run_dir)) >= step

    def saving() -> bool:
        return reached() and any((run_dir / "checkpoints").glob("*.tmp"))

    until = time.monotonic() + 120
    while not (saving() if moment == "saving" else reached()):
        assert time.monotonic() < until, "the run never came so far"
        if all(process.exitcode is not None for process in processes):
            break  # it was faster than the look-out
        time.sleep(0.0005)
    time.sleep(generator.random() * (0.005 if moment == "saving" else 0.06))


def _finish(processes: list[Any], run_dir: Path) -> None:
    for process in processes:
        process.join(180)
    codes = [process.exitcode for process in processes]
    said = "".join(path.read_text()[-2000:] for path in run_dir.parent.glob(f"{run_dir.name}-*.txt"))
    assert codes == [0] * len(codes), f"exit codes {codes}: {said}"


def _assert_same(run_dir: Path, expected: Path) -> None:
    from eyespot.pretrain.checkpoints import reader as checkpoint

    for name in ("step", "loss", "sample_digest"):
        found, wanted = ([line[name] for line in _metrics(folder)] for folder in (run_dir, expected))
        assert found == wanted, f"{name}: {found} is not {wanted}"
    found, wanted = (checkpoint.read_encoder(checkpoint.newest(folder)) for folder in (run_dir, expected))  # pyright: ignore[reportArgumentType]
    assert all(bool((found[name] == tensor).all()) for name, tensor in wanted.items()), "the weights differ"


def _metrics(run_dir: Path) -> list[dict[str, Any]]:
    """The complete lines of metrics.jsonl."""
    path = run_dir / "metrics.jsonl"
    text = path.read_text() if path.exists() else ""
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--data", type=Path, help="shards; without it, scikit-learn's digits")
    options = parser.parse_args()
    from results import write_results
    from rich.progress import track

    from eyespot.data_pipeline.shards.pack import pack

    rounds: list[Round] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if options.data is None:
            pack("digits", folder / "digits", workers=1)
        shards = options.data or folder / "digits"
        expected = {engine: straight(start_ranks, shards, folder, engine) for engine in ENGINES}
        for seed in track(range(options.rounds), "killing"):
            engine = ENGINES[seed % len(ENGINES)]
            rounds.append(drill(start_ranks, shards, folder, engine, seed, expected[engine]))
    table = [_row(engine, [each for each in rounds if each.engine == engine]) for engine in ENGINES]
    num_kills = sum(each.moment != TOO_LATE for each in rounds)
    title = f"{num_kills} kills of one of {RANKS} ranks: all went on exactly, no checkpoint was unreadable"
    details = {"rounds": [asdict(each) for each in rounds]}
    rows = [list(row.values()) for row in table]
    write_results("kill_drill", title=title, header=list(table[0]), rows=rows, details=details)


def _row(engine: str, rounds: list[Round]) -> dict[str, str]:
    slowest = max((each.stop_seconds for each in rounds), default=0.0)
    lost = sum(max(0, each.last_step - each.resumed_from) for each in rounds) / max(1, len(rounds))
    return {
        "engine": engine,
        "kills": str(len(rounds)),
        **{f"while {moment}": str(sum(each.moment == moment for each in rounds)) for moment in MOMENTS},
        TOO_LATE: str(sum(each.moment == TOO_LATE for each in rounds)),
        "steps done twice, mean": f"{lost:.1f}",
        "seconds until the other rank stopped, longest": f"{slowest:.2f}",
    }


if __name__ == "__main__":
    main()
