"""``eyespot eval select RUN [SHARDS]``: which checkpoint to take, without labels."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from annotated_types import Ge, Le
from tyro.conf import Positional, arg

from eyespot.cluster.arguments import parse
from eyespot.cluster.next_steps import say_next
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.exit_codes import ExitCode
from eyespot.data_pipeline.ranges import check_ranges
from eyespot.data_pipeline.terminal import one_line

if TYPE_CHECKING:
    from eyespot.eval.results.checkpoint_scores import Selection


@dataclass(kw_only=True, slots=True)
class Selecting:
    """Scores every checkpoint that a run has kept, without labels, and says which one to take, and why.

    RankMe: how many directions the features use. alpha-ReQ: how fast their eigenvalues decay; 1 is best. LiDAR: how
    many directions tell images apart beyond their views. kNN agreement: whether two views of the images agree about
    which others are near. Intervals are of 95 %, of which images there are; docs/protocols.md has the formulas, and how
    well each score foretells the linear probe.

    It takes the newest of the checkpoints that the score (--by) cannot tell from the best. How many a run keeps, it is
    told when it is trained: --keep-checkpoints.

    For example:

    eyespot eval select runs/first

    eyespot eval select runs/first data/photos --by rankme

    torchrun --no-python --nproc-per-node 8 eyespot eval select runs/large
    """

    run: Annotated[str, Positional, arg(metavar="RUN")]
    """A run folder; RUN@ema scores the averages of its weights (--optim.ema)."""
    shards: Annotated[Path | None, Positional, arg(metavar="SHARDS")] = None
    """A folder with test/ or train/ inside, or one of shards; by default the test split of what the run learned from,
    where there is one."""
    by: Literal["rankme", "alpha-req", "lidar", "knn"] = "knn"
    """The score that decides: by default the one that foretold the linear probe best. All are shown."""
    images: Annotated[int, Ge(32), Le(100_000)] = 2048
    """How many images at most, a random choice. No rank of features exceeds it."""
    seed: Annotated[int, Ge(0)] = 0
    """Of that choice, of the views and of the draws."""
    out: Path | None = None
    """Where the scores go; by default RUN/eval/select."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto = a GPU where there is one; one that torch cannot use stops the command. cpu = the CPU is meant."""

    def __post_init__(self) -> None:
        check_ranges(self, "--")


def main(argv: list[str]) -> int:
    """Scores, prints the table and the choice, and returns the exit code; ``argv`` begins with the word select."""
    wanted = parse(Selecting, argv[1:], "eyespot eval select")
    from eyespot.eval.checkpoint_choice.choice import select
    from eyespot.pretrain.distributed import process_group
    from eyespot.pretrain.distributed.arithmetic import set_arithmetic

    world = process_group.start(wanted.device)
    try:
        set_arithmetic(world.device, "fp32")
        found = select(
            wanted.run, wanted.shards, num_images=wanted.images, seed=wanted.seed, world=world, out=wanted.out
        )
    finally:
        process_group.stop()
    if found is not None:
        show(wanted, found)
    return ExitCode.DONE


def show(wanted: Selecting, found: "Selection") -> None:
    """Prints the table, the choice, and what comes next.

    Raises:
        UserError: the score that shall decide is no number here.
    """
    from rich.table import Table

    from eyespot.data_pipeline.console import Console
    from eyespot.eval.results.checkpoint_scores import NAMES, table

    header, rows = table(found)
    shown = Table(title=f"checkpoints on {found.data}, without labels", title_justify="left")
    for place, column in enumerate(header):
        shown.add_column(column, justify="right" if place else "left", overflow="fold")
    for row in rows:
        shown.add_row(*row)
    Console().print(shown)
    for each in found.checkpoints:
        for alarm in each.alarms:
            print(one_line(f"Alarm, {each.checkpoint}: {alarm}"))
    drawn = found.split.removeprefix("all of ").removeprefix("all samples of ")
    print(one_line(f"{found.num_images:,} images of {drawn}, {found.num_views} views of each."))
    by = wanted.by.replace("-", "_")
    for name, verdict in sorted(found.verdicts.items(), key=lambda pair: pair[0] != by):
        begin = "Take" if name == by else f"By {NAMES[name]}, which decides nothing here,"
        print(one_line(f"{begin} {verdict.taken}: {verdict.words}."))
    if not found.verdicts:
        print("None to take: all of them have collapsed.")
        return
    if by not in found.verdicts:
        known = ", ".join(name.replace("_", "-") for name in found.verdicts)
        raise UserError(f"--by {wanted.by}: is no number for any sound checkpoint on these images; take {known}")
    taken = found.verdicts[by].taken
    say_next(*next_steps(wanted.run, taken, wanted.shards))


def next_steps(target: str, taken: str, shards: Path | None) -> tuple[tuple[list[str], str], ...]:
    """What to do with the checkpoint, each a command and why.

    Args:
        target: the run, or RUN@NAME.
        taken: name of the checkpoint.
        shards: that were asked for; None = those that the run learned from.
    """
    from eyespot.eval.encoders.subject import split_part
    from eyespot.pretrain.checkpoints.weight_files import EMA
    from eyespot.pretrain.run_json import load_run

    run, part = split_part(target)
    place = str(shards or load_run(Path(run))[1].data.shards)
    which = ["--weights", "ema"] if part == EMA else ["--student", part] if part else []
    return (
        (["eval", "linear", f"{run}/checkpoints/{taken}{target[len(run) :]}", place], "how good is it?"),
        (
            ["release", run, "--checkpoint", taken, *which, "--license", "SPDX"],
            "hands it out, under the licence that you name (SPDX: apache-2.0, ...)",
        ),
    )
