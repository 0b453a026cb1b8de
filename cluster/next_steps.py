"""The command that comes next: the last line that each command leaves, on standard error, so that pipes stay clean."""

import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from eyespot.data_pipeline.terminal import one_line
from eyespot.pretrain.redaction import masked

FIRST_RECIPES = {
    "digits": "mae_tiny",
    "caltech10": "simclr_r10_caltech10",
    "falling-digits": "frame_order_tiny",
    "cifar10": "simclr_r18_cifar10",
}
"""What the named data sets were made for; for others the person chooses."""


_RGB = 3
"""Channels that every encoder and every method takes."""


def say_next(*steps: tuple[Sequence[str | Path], str]) -> None:
    """Prints commands, each with what it is for; rank 0 alone does.

    Args:
        steps: words of a command without ``eyespot``, and what it does; the likeliest first.
    """
    if int(os.environ.get("RANK", 0)):
        return
    commands = [masked(shlex.join(["eyespot", *map(str, words)])) for words, _ in steps]
    width = max(map(len, commands))
    for place, (command, (_, purpose)) in enumerate(zip(commands, steps, strict=True)):
        begin = "next: " if place == 0 else "      "
        print(one_line(f"{begin}{command:<{width}}   # {purpose}"), file=sys.stderr)


def after_packing(folder: object, name: str, channels: int = _RGB) -> None:
    """What shards are for.

    Args:
        folder: of the shards, or of their splits.
        name: of the data set.
        channels: of its images.
    """
    recipe = FIRST_RECIPES.get(name)
    train = ["pretrain", recipe or "RECIPE", "--data.shards", str(folder), *channels_flag(channels)]
    train += ["--run-dir", "runs/first"]
    if recipe is None and channels != _RGB:
        say_next((train, "trains on them: a recipe of mae, simclr or dino"))
    elif recipe is None:
        say_next((["recipes"], "which methods there are, and their recipes"), (train, "trains one of them"))
    else:
        say_next((train, "trains an encoder"))


def channels_flag(channels: int) -> list[str]:
    """What an encoder of other images than RGB must be told."""
    return [] if channels == _RGB else ["--encoder.channels", str(channels)]


def after_training(run_dir: Path, shards: str | Path | None, *, clips: bool, students: Sequence[str] = ()) -> None:
    """How good the encoder is.

    Args:
        run_dir: of the run that is done.
        shards: that it learned from.
        clips: whether it learned from frames of videos.
        students: names of the further ones that it taught.
    """
    protocol, place = "action" if clips else "linear", "SHARDS" if shards is None else shards
    say_next(
        (["eval", protocol, run_dir, place], "how good is it? (unlabeled: without labels)"),
        *((["eval", protocol, f"{run_dir}@{name}", place], f"and student {name}?") for name in students),
        (["report", run_dir], "one page: curves, views, features"),
    )


def after_evaluation(place: Path, protocol: str, *, run: bool, compared: bool) -> None:
    """Whether it is better than nothing, and all of it on a page.

    Args:
        place: the run folder; of other models the folder of the results.
        protocol: of the newest results.
        run: whether it is a run's.
        compared: whether the protocol's results can be compared sample by sample.
    """
    steps: list[tuple[Sequence[str | Path], str]] = []
    if compared:
        compare = ["eval", "compare", place, "--protocol", protocol]
        steps.append((compare, "is it really better than its baselines?"))
    if run:
        steps.append((["report", place], "one page: results, curves, views"))
    if steps:
        say_next(*steps)
