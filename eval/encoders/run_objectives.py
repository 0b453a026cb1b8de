"""The objective of a run, whole: as its checkpoint has it, head included, and as it began."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from eyespot.data_pipeline.errors import UserError
from eyespot.eval.encoders.subject import run_of, split_part
from eyespot.eval.encoders.timm_sources import seeded
from eyespot.pretrain.checkpoints import reader as checkpoint
from eyespot.pretrain.checkpoints.folders import newest
from eyespot.pretrain.checkpoints.weight_files import EMA, check_tensors
from eyespot.pretrain.config import Run
from eyespot.pretrain.loop.initial_weights import check_size, fresh_objective
from eyespot.pretrain.objective import Objective
from eyespot.pretrain.run_json import load_run


@dataclass(kw_only=True, slots=True)
class RunObjectives:
    """Both objectives of one run."""

    run_dir: Path
    recipe: str
    run: Run
    checkpoint: Path
    trained: Objective
    untrained: Objective


def objectives_of(target: str, seed: int, wanted: Callable[[Objective], bool]) -> RunObjectives | None:
    """The run's objective at its newest checkpoint, or at the one that is named, and as it begins by ``seed``.

    Args:
        target: what `subjects_of` takes; the untrained encoder is the one that is random there.
        seed: of the untrained one.
        wanted: whether an objective is.

    Returns:
        None where ``target`` is no run, or its objective is not wanted.

    Raises:
        UserError: the run has no checkpoint, or a damaged one.
    """
    run_dir = run_of(target)
    if run_dir is None:
        return None
    place, part = split_part(target)
    if part == EMA:
        raise UserError(
            f"model {target}: the average is of the encoder, and this asks the run's own head; leave it out"
        )
    recipe, run = load_run(run_dir)
    folder = newest(run_dir) if run_dir == Path(place) else Path(place)
    if folder is None:
        raise UserError(f"run {run_dir}: has no complete checkpoint yet; wait for the first one or train on")
    weights = checkpoint.read_module(folder)
    check_size(run, folder)
    with seeded(seed):
        untrained = fresh_objective(run)
        if not wanted(untrained):
            return None
        trained = fresh_objective(run)
    check_tensors(trained.state_dict(), weights, f"checkpoint {folder}", f"it does not fit the objective of {run_dir}")
    trained.load_state_dict(weights)
    for objective in (trained, untrained):
        objective.eval().requires_grad_(False)
    return RunObjectives(
        run_dir=run_dir, recipe=recipe, run=run, checkpoint=folder, trained=trained, untrained=untrained
    )
