"""How long a run is: ``--steps``, or ``--epochs`` in its place; and what follows when a recipe is shortened.

A recipe's warm-up is a part of its length, and so is how often it saves, draws and looks. A shorter run keeps their
proportion, where the user has not said otherwise; longer runs keep the recipe's numbers.
"""

import dataclasses
import functools
import math
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, cast

from annotated_types import Gt, Le
from tyro.conf import arg

from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.ranges import check_ranges
from eyespot.data_pipeline.terminal import plural
from eyespot.pretrain.config import Run
from eyespot.pretrain.loop.run_data import began_with, chosen_ids, open_shards
from eyespot.pretrain.run_record import RunRecord

MOST_OFTEN = 10
"""A shortened run saves, draws and looks at most so many times on the way."""

FOLLOWERS = ("optim.warmup_steps", "save_every", "picture_every", "monitor_every")
"""Numbers of steps that are parts of the whole."""

Epochs = Annotated[float, Gt(0), Le(100_000)] | None


@dataclass(kw_only=True, slots=True)
class Length:
    """Every setting of the run. What stands as its default is the recipe's value; a flag changes it.

    For example:

    --steps 500 --data.batch-size 128 --optim.lr 1e-3
    """

    run: Annotated[Run, arg(name="")]
    epochs: Epochs = None
    """Length of the run in passes over its data, in place of --steps."""

    def __post_init__(self) -> None:
        check_ranges(self)


def settled(
    run: Run,
    recipe: Run,
    words: Sequence[str],
    epochs: float | int | None,
    images: int | None = None,
    said: Sequence[str] = (),
    said_steps: int | None = None,
) -> Run:
    """The run with its steps, and what follows from them.

    Args:
        run: as the flags made it.
        recipe: as it was before.
        words: that the user typed: what he says himself follows nothing.
        epochs: how long it is, where steps do not say it.
        images: of an epoch; None = as the run's data have.
        said: what a config file says: that is the user's own as well, but follows the length that ``words`` change.
        said_steps: the length for which the file says it; None = the recipe's.

    Raises:
        UserError: --steps and --epochs are both given, or the warm-up is longer than the run.
    """
    given, own = settings_named_in(words), settings_named_in([*said, *words])
    steps = run.steps
    if epochs is not None:
        if "steps" in given:
            raise UserError(f"epochs {epochs:g}: --steps {run.steps} says how long the run is; leave one of them out")
        images = _num_images(run) if images is None else images
        steps = max(1, round(epochs * images / run.data.batch_size))
    of_file = dict.fromkeys(settings_named_in(said), recipe.steps if said_steps is None else said_steps)
    lengths = {name: of_file.get(name, recipe.steps) for name in FOLLOWERS}
    changes = _followers(run, lengths, steps, given)
    before = max((lengths[name] for name in changes), default=recipe.steps)
    recorded = _recorded_warmup(run, steps)
    if recorded is not None and "optim.warmup_steps" not in own:
        changes["optim.warmup_steps"] = recorded  # what a run began with, it keeps
    run = _changed(run, before, steps, changes)
    _check_warmup(run, recorded is not None or not ({"steps", "epochs", "optim.warmup_steps"} & own))
    return run


def settings_named_in(words: Iterable[str]) -> set[str]:
    """The settings that flags give: of ``--data.batch-size=8`` "data.batch_size", of ``--no-track`` "track"."""
    names = (word.partition("=")[0].removeprefix("--").replace("-", "_") for word in words if word.startswith("--"))
    return {name.replace(".no_", ".").removeprefix("no_") for name in names}


def _changed(run: Run, before: int, steps: int, changes: dict[str, int]) -> Run:
    """The run with other numbers of steps, which are said."""
    said = ", ".join(
        f"{name} {value} (was {was})" for name, value in changes.items() if (was := _value(run, name)) != value
    )
    if said and steps != before and int(os.environ.get("RANK", 0)) == 0:
        _say(f"eyespot: {plural(steps, 'step')}, not {before:,}; hence {said}")
    others = dict(changes)
    optim = dataclasses.replace(run.optim, warmup_steps=others.pop("optim.warmup_steps", run.optim.warmup_steps))
    return dataclasses.replace(run, steps=steps, optim=optim, **cast(Any, others))


@functools.cache  # once: launch settles a run where it is typed, and again for its job
def _say(line: str) -> None:
    print(line, file=sys.stderr)


def _followers(run: Run, lengths: Mapping[str, int], steps: int, given: set[str]) -> dict[str, int]:
    """The numbers of steps that change where the run is shorter than that for which they were said, but ``given``."""
    found: dict[str, int] = {}
    for name, before in lengths.items():
        if steps >= before:
            continue
        value = _value(run, name)
        scaled = round(value * steps / before)
        if name != "optim.warmup_steps" and value:
            scaled = min(value, max(scaled, math.ceil(steps / MOST_OFTEN)))
        if name not in given and scaled != value:
            found[name] = scaled
    return found


def _value(run: Run, name: str) -> int:
    return run.optim.warmup_steps if name == "optim.warmup_steps" else getattr(run, name)


def _recorded_warmup(run: Run, steps: int) -> int | None:
    """Of the run that goes on in this folder, if it is as long; None where there is none."""
    if run.resume != "auto":
        return None
    try:
        values = RunRecord.read(RunRecord.path(run.run_dir)).run
        recorded = values["optim"]["warmup_steps"] if values["steps"] == steps else None
    except (UserError, OSError, KeyError, TypeError):
        return None  # who opens the folder says what is wrong with it
    return recorded if isinstance(recorded, int) and recorded >= 0 else None


def _check_warmup(run: Run, begun: bool) -> None:
    """A run whose rate never arrives is a mistake; one that has begun so, or whose recipe is so, may go on."""
    if run.optim.warmup_steps <= run.steps:
        return
    words = (
        f"optim.warmup_steps {run.optim.warmup_steps}: the warm-up is longer than the run of"
        f" {plural(run.steps, 'step')}"
    )
    if not begun:
        raise UserError(f"{words}; lower it or raise --steps")
    if int(os.environ.get("RANK", 0)) == 0:
        print(f"eyespot: warning: {words}, so the learning rate never arrives", file=sys.stderr)


def _num_images(run: Run) -> int:
    """Of the run's shards as it began with them: what was added since makes its epochs no longer."""
    if run.data.shards is None:
        raise UserError("epochs: are of a number of images; add --data.shards FOLDER, or write --steps")
    shards = open_shards(run.data, hashes=False, versions=began_with(run))
    ids = chosen_ids(run.data, shards)
    return shards.manifest.num_samples if ids is None else len(ids)
