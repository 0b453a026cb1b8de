"""``eyespot.recipe`` and ``eyespot.fit``: what ``eyespot pretrain`` does, from Python."""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from eyespot.cluster.config_files.request import laid, length_in_epochs, named_in
from eyespot.cluster.config_files.setting_names import leaves, unknown
from eyespot.cluster.config_files.toml_file import read_toml
from eyespot.cluster.python_api.plain_errors import plain_errors, refuse_kind
from eyespot.cluster.start_run import monitors_of, resume_if_restarted
from eyespot.data_pipeline.errors import UserError
from eyespot.pretrain.config import Run
from eyespot.pretrain.recipe_lookup import all_names, make_run
from eyespot.pretrain.run_json import overlay, to_values
from eyespot.pretrain.tracking.metrics_file import read_metrics
from eyespot.pretrain.trainer import Outcome
from eyespot.pretrain.trainer import fit as train

MOST_SHOWN = 12
"""Metrics of a run that a notebook shows."""
NOT_SHOWN = ("time", "sample_digest")
"""They say nothing to whoever looks on."""


def recipes() -> list[str]:
    """The names of all recipes, as ``eyespot recipes`` lists them, with those of installed packages."""
    return sorted(all_names())


@plain_errors
def recipe(
    name: str | None = None,
    settings: Mapping[Any, Any] | None = None,
    /,
    *,
    config: str | Path | Sequence[str | Path] = (),
    epochs: float | int | None = None,
    **more: Any,
) -> Run:
    """The settings of a run: a recipe's, with those that are given in place of its own.

        eyespot.recipe("mae_tiny", steps=300, data={"shards": "data/digits"}, optim={"lr": 1e-3})
        eyespot.recipe("mae_tiny", {"data.shards": "data/digits", "optim.lr": 1e-3}, steps=300)
        eyespot.recipe(config="run.toml", steps=300)

    They are checked as flags are; warm-up, saves and pictures follow where the run becomes shorter, and are said.

    Args:
        name: of the recipe; ``package.module:function`` for one of your own; None = the one that ``config`` names.
        settings: by the names of the flags of ``eyespot pretrain NAME``, as dicts in dicts or with dots.
        config: a TOML file of settings, or several, of which the last wins; those given here win over it.
        epochs: the length in passes over the data, in place of ``steps``.
        more: as ``settings``, for names without dots.

    Returns:
        A fresh Run; its fields may be changed further.

    Raises:
        UserError: there is no such recipe or setting, or a value is of another kind or out of its range.
    """
    refuse_kind("recipe", name, (str, type(None)), "give its name, as in recipe('mae_tiny')")
    refuse_kind("settings", settings, (Mapping, type(None)), "give a dict, or settings by name: steps=300")
    refuse_kind("config", config, (str, Path, list, tuple), "give a TOML file, or a list of them")
    files = [read_toml(Path(one)) for one in ([config] if isinstance(config, str | Path) else config)]
    if name is None:
        found = next(filter(None, map(named_in, reversed(files))), None)
        if found is None:
            where = f"{files[-1].path} names none" if files else "none is given"
            raise UserError(f"recipe: {where}; give its name: eyespot.recipe('mae_tiny', ...)")
        name, base = found
    else:
        base = make_run(name)
    values = nested({**(settings or {}), **more})
    if (wrong := unknown(base, values)) is not None:
        raise UserError(f"recipe {name}: there is no setting {wrong[0]}; {wrong[1]}")
    request = laid(name, base, files, [f"--{path}" for path in leaves(values)])
    run = overlay(request.run, values, f"recipe {name}", partial=True)
    with request.blamed():
        run = request.settled(run, length_in_epochs(base, epochs))
    run.recipe = base.recipe
    return run


@dataclass(kw_only=True, slots=True, frozen=True)
class Trained:
    """A run that ``fit`` has trained; a notebook shows its last metrics and its newest picture."""

    run_dir: Path
    outcome: Outcome
    """"done"; or "stopped", by a signal or ``run.stop_after``: the run goes on where it is told ``resume="auto"``."""

    def metrics(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl: {"step": ..., "loss": ..., ...}."""
        return list(read_metrics(self.run_dir))

    def _repr_html_(self) -> str:
        last = (self.metrics() or [{}])[-1]
        shown = [(key, value) for key, value in last.items() if key not in NOT_SHOWN][:MOST_SHOWN]
        rows = "".join(f"<tr><td>{escape(str(key))}</td><td>{escape(_said(value))}</td></tr>" for key, value in shown)
        return f"<p>{escape(str(self.run_dir))}: {self.outcome}</p><table>{rows}</table>{self._picture()}"

    def _picture(self) -> str:
        from eyespot.eval.report.rendering import inlined

        newest = max(self.run_dir.glob("pictures/step-*.png"), default=None)
        return "" if newest is None else f'<img alt="newest picture" src="{inlined(newest)}">'


@plain_errors
def fit(run: Run, *, recipe: str = "") -> Trained:
    """Trains, as ``eyespot pretrain`` does: to the end, or to a signal. Under torchrun all processes call it.

    Ctrl-C, or a notebook's "interrupt", saves a checkpoint and stops.

    Args:
        run: as ``eyespot.recipe`` made it, or any Run.
        recipe: what the run is called after, and read back by; "" = the recipe that ``run`` was made by.

    Raises:
        UserError: a setting, the data or the run folder is wrong; or nobody says by which recipe it was made.
        TrainingError: the loss stays not finite, or checkpoints cannot be written.
        Outage: a file system or another machine does not answer.
    """
    if threading.current_thread() is not threading.main_thread():
        raise UserError("fit: runs in the main thread only, for it listens to signals; start another process")
    refuse_kind("run", run, Run, "make it with eyespot.recipe(NAME)")
    refuse_kind("recipe", recipe, str, "give the name of a recipe")
    overlay(run, to_values(run), "run", partial=True)  # it may have been changed since it was made
    name = recipe or run.recipe
    if not name:
        raise UserError("recipe '': the run was made by none; make it with eyespot.recipe(NAME), or name one like it")
    resume_if_restarted(run)
    outcome = train(run, name, monitors_of(run))
    return Trained(run_dir=run.run_dir, outcome=outcome)


def nested(settings: Mapping[Any, Any]) -> dict[str, Any]:
    """Settings as dicts in dicts of plain values: ``{"data.shards": Path("d")}`` is ``{"data": {"shards": "d"}}``.

    Raises:
        UserError: one is given twice.
    """
    found: dict[str, Any] = {}
    for name, value in settings.items():
        if not isinstance(name, str):
            raise UserError(f"setting {name!r}: is no name; write it as text")
        first, _, rest = name.partition(".")
        plain = nested({rest: value} if rest else value) if rest or isinstance(value, Mapping) else _plain(value)
        merged = _merged(found[first], plain, first) if first in found else plain
        found[first] = merged
    return found


def _merged(one: Any, other: Any, name: str) -> Any:
    if not (isinstance(one, dict) and isinstance(other, dict)):
        raise UserError(f"{name}: is given twice; leave one of them out")
    both = {key: _merged(one[key], other[key], f"{name}.{key}") for key in one.keys() & other.keys()}
    return {**one, **other, **both}


def _plain(value: Any) -> Any:
    """A value as run.json would hold it: configs become dicts, paths text, NumPy's numbers Python's."""
    return value.tolist() if isinstance(value, np.generic | np.ndarray) else to_values(value)


def _said(value: Any) -> str:
    return f"{value:.5g}" if isinstance(value, float) else str(value)
