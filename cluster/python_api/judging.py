"""``eyespot.evaluate`` and ``eyespot.report``: what the commands of those names do, as values that a notebook shows."""

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from html import escape
from itertools import groupby
from pathlib import Path
from typing import Any, SupportsIndex, overload

from eyespot.cluster.arguments import parse
from eyespot.cluster.commands.eval import Evaluation, carried_out
from eyespot.cluster.config_files.request import Request, length_in_epochs
from eyespot.cluster.config_files.setting_names import leaves, unknown
from eyespot.cluster.eval_commands import finetune, joint
from eyespot.cluster.eval_commands.eval_table import track
from eyespot.cluster.python_api.embedding import LoadedEncoder
from eyespot.cluster.python_api.plain_errors import plain_errors, refuse_kind
from eyespot.cluster.python_api.runs import nested
from eyespot.cluster.start_run import monitors_of, resume_if_restarted
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.shards.shard_folder import ShardFolder
from eyespot.eval.report.report import write_report
from eyespot.eval.results.result import Result
from eyespot.eval.results.tables import score_table
from eyespot.pretrain.config import Run
from eyespot.pretrain.distributed.process_group import World
from eyespot.pretrain.run_json import overlay
from eyespot.pretrain.trainer import Outcome, fit

log = logging.getLogger("eyespot")

_OF_TRAINED = frozenset(field.name for field in fields(finetune.Options))


class Results(Sequence[Result]):
    """What one evaluation found: the encoder's result first, then those of random weights and of raw pixels.

    A notebook shows them as the table that ``eyespot eval`` prints; ``print`` too.
    """

    def __init__(self, results: Iterable[Result]) -> None:
        self._results = tuple(results)

    @overload
    def __getitem__(self, place: SupportsIndex) -> Result: ...
    @overload
    def __getitem__(self, place: slice) -> "Results": ...
    def __getitem__(self, place: SupportsIndex | slice) -> "Result | Results":
        return Results(self._results[place]) if isinstance(place, slice) else self._results[place]

    def __len__(self) -> int:
        return len(self._results)

    def tables(self) -> list[tuple[str, list[str], list[list[str]]]]:
        """Of each protocol in it: title, header and rows, as texts."""
        tables: list[tuple[str, list[str], list[list[str]]]] = []
        for protocol, some in groupby(self._results, lambda result: result.protocol):
            results = list(some)
            tables.append((f"{protocol} on {results[0].data}", *score_table(results)))
        return tables

    def __repr__(self) -> str:
        return "\n\n".join("\n".join([title, *_aligned([header, *rows])]) for title, header, rows in self.tables())

    def _repr_html_(self) -> str:
        return "".join(_html(*table) for table in self.tables())


@plain_errors
def evaluate(protocol: str, model: LoadedEncoder | str | Path, shards: str | Path, **options: Any) -> Results:
    """Judges an encoder, beside random weights and raw pixels, as ``eyespot eval PROTOCOL MODEL SHARDS`` does.

    Args:
        protocol: "linear", "knn", ...: docs/protocols.md says what each one is.
        model: from ``load``, or what that takes.
        shards: a folder with train/ and test/ inside, or one of shards, of which a fifth is held out.
        options: the command's flags: ``seed=1``, ``out="results"``, ``device="cpu"``, ``shots="1%"``, ...; of
            finetune, linear-paper and attentive, which train, those of the run as well, as ``eyespot.recipe`` takes
            them: ``recipe="finetune_tiny"``, ``steps=100``, ``optim={"lr": 1e-3}``.

    Returns:
        The results; on ranks but the first none, and none where a training was stopped by a signal: called again, it
        goes on. They are files as well, and are found again.

    Raises:
        UserError: something about the model, the shards or an option is wrong.
        TrainingError: as ``eyespot.fit``, of the protocols that train.
    """
    refuse_kind("protocol", protocol, str, "name one, as in evaluate('knn', MODEL, SHARDS)")
    refuse_kind("model", model, (LoadedEncoder, str, Path), "give what eyespot.load returns, or takes")
    refuse_kind("shards", shards, (str, Path), "give a shard folder")
    target = model.source if isinstance(model, LoadedEncoder) else str(model)
    if protocol.startswith("-") or "help" in options:
        raise UserError(f"protocol {protocol!r}: name one, as in evaluate('knn', MODEL, SHARDS); see docs/protocols.md")
    words = [protocol, target, str(shards)]
    if protocol in finetune.PROTOCOLS:
        return _trained(words, options)
    words += [word for name, value in options.items() for word in _flag(name.replace("_", "-"), value)]
    if protocol in joint.PROTOCOLS:
        results = joint.carried_out(parse(joint.JointEvaluation, words, "eyespot eval"))
    else:
        results = carried_out(parse(Evaluation, words, "eyespot eval"))
    if results:
        track(target, results)
    return Results(results)


def _trained(words: list[str], options: dict[str, Any]) -> Results:
    """Of a protocol that trains: its own options are words, the run's settings are laid over the recipe."""
    own = {name: value for name, value in options.items() if name in _OF_TRAINED}
    words += [word for name, value in own.items() for word in _flag(name.replace("_", "-"), value)]
    settings = nested({name: value for name, value in options.items() if name not in own and name != "epochs"})
    wanted = finetune.parsed(words)
    wanted.flags = [f"--{name}" for name in leaves(settings)]

    def over(request: Request) -> tuple[Run, float | None]:
        if (wrong := unknown(request.run, settings)) is not None:
            raise UserError(f"{wrong[0]}: there is no such setting in {request.recipe}; {wrong[1]}")
        run = overlay(request.run, settings, words[0], partial=True)
        return run, length_in_epochs(run, options.get("epochs"))

    outcome, results = finetune.carried_out(wanted, over, _train)
    if outcome == "stopped":
        log.warning("%s: stopped before its end; called again, it goes on", words[0])
    if results:
        track(wanted.model, results)
    return Results(results)


def _train(recipe: str, run: Run, then: Callable[[World], None], shards: ShardFolder) -> Outcome:
    resume_if_restarted(run)
    return fit(run, recipe, monitors_of(run), then, shards)


@dataclass(kw_only=True, slots=True, frozen=True)
class Page:
    """A report's file; a notebook shows the page as it is."""

    path: Path

    def _repr_html_(self) -> str:
        page = escape(self.path.read_text(encoding="utf-8"), quote=True)
        title = escape(self.path.name)
        return f'<iframe srcdoc="{page}" width="100%" height="800" style="border:0" title="{title}"></iframe>'


@plain_errors
def report(*runs: str | Path, out: str | Path | None = None, look: bool = True, device: str = "auto") -> Page:
    """Writes one page about a run, or about several side by side, as ``eyespot report`` does.

    Args:
        runs: run folders, at most 8.
        out: the file; None = report.html in the run folder, of several runs in this one.
        look: show the encoders images, which takes seconds to minutes.
        device: where they look at them: "auto", "cpu" or "cuda".

    Raises:
        UserError: there is no run, one is no run folder, or the page cannot be written.
    """
    if not runs:
        raise UserError("runs: there are none; name a run folder")
    for run in runs:
        refuse_kind("runs", run, (str, Path), "give run folders")
    refuse_kind("out", out, (str, Path, type(None)), "give a file")
    path = None if out is None else Path(out)
    return Page(path=write_report([Path(run) for run in runs], path, look=look, device=device).resolve())


def _flag(name: str, value: Any) -> list[str]:
    if value is None:
        return []
    if isinstance(value, bool):
        return [f"--{'' if value else 'no-'}{name}"]
    return [f"--{name}={one}" for one in (value if isinstance(value, list | tuple) else [value])]


def _aligned(rows: list[list[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)) for row in rows]
    return [line.rstrip() for line in lines]


def _html(title: str, header: list[str], rows: list[list[str]]) -> str:
    heads = "".join(f"<th>{escape(text)}</th>" for text in header)
    lines = "".join("<tr>" + "".join(f"<td>{escape(text)}</td>" for text in row) + "</tr>" for row in rows)
    return f"<table><caption>{escape(title)}</caption><thead><tr>{heads}</tr></thead><tbody>{lines}</tbody></table>"
