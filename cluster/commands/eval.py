"""``eyespot eval PROTOCOL MODEL SHARDS``."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import Positional, arg

from eyespot.cluster.arguments import parse

if TYPE_CHECKING:
    from eyespot.eval.judge import Result


@dataclass(kw_only=True, slots=True)
class Evaluation:
    """Judges an encoder on labelled shards, beside the same encoder with random weights and beside raw pixels.

    The encoder stays frozen. Its features are computed once and cached. Every choice (penalty, k, class token or mean
    of patches) is made on a tenth of train; the accuracy on test comes with its 95% interval.

    knn: each test image takes the class of its nearest training images (weighted vote, no training).

    linear: multinomial logistic regression on standardised features, to its optimum.

    For example:

    eyespot eval linear runs/first data/digits

    eyespot eval knn vit_small_patch14_dinov2 data/photos

    torchrun --no-python --nproc-per-node 8 eyespot eval knn runs/large data/imagenet
    """

    protocol: Annotated[Literal["knn", "linear"], Positional, arg(metavar="{knn,linear}")]
    """How to judge."""
    model: Annotated[str, Positional, arg(metavar="MODEL")]
    """A run folder (its newest checkpoint is judged) or the name of a timm model."""
    shards: Annotated[Path, Positional, arg(metavar="SHARDS")]
    """Labelled shards: a folder with train/ and test/ inside, or one folder, of which a fifth is held out."""
    out: Path | None = None
    """Where results and cached features go; by default RUN/eval, or eval-<name> for a timm model."""
    seed: int = 0
    """Of the random weights and of what is held out."""
    pretrained: bool = True
    """For timm models: with their published weights, which are downloaded the first time."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto = a GPU where there is one."""


def main(argv: list[str]) -> int:
    """Runs one evaluation, prints its table, and returns the exit code."""
    wanted = parse(Evaluation, argv, "eyespot eval")
    from eyespot.eval.judge import judge
    from eyespot.pretrain import dist

    world = dist.start(wanted.device)
    try:
        results = judge(
            wanted.protocol,
            wanted.model,
            wanted.shards,
            out=wanted.out,
            seed=wanted.seed,
            pretrained=wanted.pretrained,
            world=world,
        )
    finally:
        dist.stop()
    if results:
        print_table(results)
    return 0


def print_table(results: "list[Result]") -> None:
    """The results of one protocol on one data set, side by side."""
    from rich.console import Console
    from rich.table import Table

    first = results[0]
    table = Table(title=f"{first.protocol} on {first.data}: {first.num_classes} classes", title_justify="left")
    for column, justify in [("", "left"), ("accuracy", "right"), ("95% interval", "right"), ("chosen", "left")]:
        table.add_column(column, justify=justify)  # pyright: ignore[reportArgumentType]
    for result in results:
        low, high = result.interval
        table.add_row(result.name, f"{result.accuracy:.2%}", f"{low:.2%} to {high:.2%}", result.chosen())
    Console().print(table)
    print(f"{first.num_train:,} images to learn from, {first.num_test:,} to test on ({first.split}).")
