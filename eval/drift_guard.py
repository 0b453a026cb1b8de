"""DriftGuard: whether a run that began with somebody's weights still knows what these knew.

Pretraining that goes on from a public encoder can ruin it (k-NN from 80 to 10 % in threads of DINOv2's users). So the
start itself is measured before the first step, and each look of the monitor is compared with it, sample by sample: on
the run's own samples where these have labels, or on those of ``start.guard``.
"""

import json
import logging
import math
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from eyespot.data_pipeline import foreign_json
from eyespot.data_pipeline.atomic_files import write_bytes
from eyespot.data_pipeline.errors import UserError
from eyespot.eval.online_probe import OnlineProbe
from eyespot.pretrain.checkpoints.folders import newest
from eyespot.pretrain.distributed.collectives import agreed, gather_objects
from eyespot.pretrain.distributed.process_group import World
from eyespot.pretrain.loop.first_checks import guard_shards
from eyespot.pretrain.loop.run_data import RunData
from eyespot.pretrain.loop.run_end import TrainingError
from eyespot.pretrain.objective import Objective

log = logging.getLogger("eyespot")

FILE = "drift.json"
"""In the run's folder: which test samples the start answered rightly."""
DEVIATIONS = 2.576
"""Half an interval, in standard errors: 99 %, for a run is looked at many times."""

Correct = dict[str, Bool[Tensor, " n"]]


class DriftGuard(OnlineProbe):
    """A monitor: ``OnlineProbe``, and how far its accuracies are from those of the weights that the run began with.

    Metrics: ``drift/knn`` and ``drift/linear``, share of the test samples that are right now minus the share that were
    at the start, on the same samples, by the same settings. One that is below zero by more than the 99 % interval of
    the paired difference is a drift: a warning when it begins, the end of the run with ``run.stop_on_drift``. Looking
    at other samples than the run's own, it says these metrics alone.

    Args:
        data: of the run that is watched.
    """

    def __init__(self, data: RunData) -> None:
        super().__init__(data)
        if guard := data.run.start.guard:
            with agreed():
                self._shards = guard_shards(guard, hashes=data.world.local_rank == 0)
        self._path = data.run.run_dir / FILE
        self._start: Correct = {}
        self._since = 0
        self._warned: set[str] = set()

    def begin(self, objective: Objective, world: World, step: int) -> None:
        """Measures the start, or reads what an earlier part of the run measured. All ranks call it.

        Args:
            objective: as it is before the step.
            world: this process.
            step: how many steps lie behind.

        Raises:
            UserError: the run is to stop on drift, or has samples for it, and nothing can be measured.
        """
        with agreed():
            kept = _kept(self._path) if world.rank == 0 else None
        known = gather_objects(kept)[0]
        if known is None:
            known = gather_objects((step, self.correct(objective, world)))[0]
            with agreed():
                if world.rank == 0 and known[1]:
                    _keep(self._path, *known)
        self._since, self._start = known
        if not self._start:
            if guard := self._data.run.start.guard:
                raise UserError(f"start.guard {guard}: drift is measured on labelled samples; name shards with labels")
            if self._data.run.stop_on_drift:
                raise UserError(
                    "stop_on_drift True: needs labelled samples to measure drift on; leave it out, or name some by"
                    " --start.guard SHARDS"
                )
        if self._start and world.rank == 0:
            shares = ", ".join(f"{_named(name)} {_share(right)}" for name, right in self._start.items())
            log.info("drift is measured from step %d on: %s", self._since, shares)

    def judged(self, correct: Correct, world: World) -> dict[str, float]:
        """The metrics of one look, once it is known which samples were answered rightly."""
        found, fallen = dict[str, float](), dict[str, str]()
        if self._shards is self._data.shards:
            found = super().judged(correct, world)
        for name, before in self._start.items():
            now = correct.get(name)
            if now is None or len(now) == 0 or len(now) != len(before):
                continue
            change, half = paired(now, before)
            found[f"drift/{_named(name)}"] = change
            if change + half < 0:
                fallen[name] = (
                    f"{_named(name)} {_share(now)}, {_share(before)} at the start (step {self._since}):"
                    f" {100 * change:+.1f} +- {100 * half:.1f} points"
                )
        self._tell(fallen, world)
        return found

    def _tell(self, fallen: dict[str, str], world: World) -> None:
        what = f"the encoder has fallen below the weights that it began with: {'; '.join(fallen.values())}"
        if fallen.keys() - self._warned:
            log.warning("drift: %s. What usually helps: a lower learning rate, a longer warm-up, optim.stages", what)
        elif self._warned and not fallen:
            log.info("drift: the encoder is no longer below the weights that it began with")
        self._warned = set(fallen)
        if self._data.run.stop_on_drift and (said := gather_objects(what if fallen else "")[0]):
            last = newest(self._data.run.run_dir)
            kept = f"{last.name} is from before" if last else "no checkpoint is from before: --save-every more often"
            raise TrainingError(f"stopped by --stop-on-drift: {said}; {kept}")


def paired(now: Bool[Tensor, " n"], before: Bool[Tensor, " n"]) -> tuple[float, float]:
    """Mean difference of two answers to the same questions, and half of its interval."""
    change = now.double() - before.double()
    error = change.std().item() / math.sqrt(len(change)) if len(change) > 1 else math.inf
    return change.mean().item(), DEVIATIONS * error


def _named(metric: str) -> str:
    return metric.rpartition("/")[2]


def _share(right: Bool[Tensor, " n"]) -> str:
    return f"{100 * right.double().mean().item():.1f} %"


def _kept(path: Path) -> tuple[int, Correct] | None:
    """What lies in the run's folder; None where there is none."""
    try:
        held: dict[str, Any] = foreign_json.read(path, dict)
        right = {str(name): torch.tensor([one == "1" for one in text]) for name, text in held["right"].items()}
        return int(held["step"]), right
    except FileNotFoundError:
        return None
    except (foreign_json.ForeignJsonError, OSError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{path}: damaged ({error}); remove it, and drift is measured from here on") from error


def _keep(path: Path, step: int, right: Correct) -> None:
    text = {name: "".join("01"[int(one)] for one in answers) for name, answers in right.items()}
    try:
        write_bytes(path, (json.dumps({"step": step, "right": text}) + "\n").encode())
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror})") from error
