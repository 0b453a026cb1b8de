"""Gates: a method is trained for minutes on two cores, then asked about samples that it never saw.

What the gates of all kinds of methods share: training, asking, figures with their intervals, tables. All intervals are
over samples, 95 %. Gate: better than the same method before its first step and than those it must beat, sample by
sample, beyond doubt, and with every seed. What else stands beside it may be better: then it is said below the table.

The table is written after each training: a run that was broken off goes on where it was, one that is done is only
asked. Methods that are not asked for keep the rows that they have.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from results import RESULTS, write_results
from scipy.stats import t as student
from torch import Tensor

from eyespot.data_pipeline.augment.views import ViewSpec
from eyespot.data_pipeline.loading.batch import Batch
from eyespot.data_pipeline.loading.loader import LoaderSpec, make_pass, make_selection
from eyespot.data_pipeline.shards.shard_folder import ShardFolder
from eyespot.eval.results.significance import wilson
from eyespot.pretrain.checkpoints.folders import folder_of, newest
from eyespot.pretrain.checkpoints.reader import read_module
from eyespot.pretrain.loop.initial_weights import fresh_objective
from eyespot.pretrain.loop.run_data import normalized_views
from eyespot.pretrain.objective import Objective
from eyespot.pretrain.recipe_lookup import make_run
from eyespot.pretrain.run_json import load_run

EYESPOT = str(Path(sys.executable).parent / "eyespot")
BATCH = 40
PASSES = 4
"""Draws of each sample's views that are asked about."""
NETWORKS = ("trained", "untrained")
Found = dict[str, np.ndarray]
"""By who answers: of each sample a number."""


@dataclass(kw_only=True)
class Case:
    """A run, and what it never saw."""

    run_dir: Path
    learned: ShardFolder
    unseen: ShardFolder
    ids: np.ndarray | None = None
    """Of the unseen samples those that are asked about; None = all."""

    @cached_property
    def objectives(self) -> dict[str, Objective]:
        """As trained, and as it was before the first step."""
        _, run = load_run(self.run_dir)
        checkpoint = newest(self.run_dir)
        assert checkpoint is not None
        found = {}
        for name in NETWORKS:
            torch.manual_seed(run.seed)
            found[name] = fresh_objective(run, torch.arange(self.learned.manifest.num_samples)).eval()
        found["trained"].load_state_dict(read_module(checkpoint))
        return found

    @property
    def views(self) -> ViewSpec:
        """Those of the training."""
        return self.normalized(self.objectives["trained"].views())

    def normalized(self, views: ViewSpec) -> ViewSpec:
        """Views in the mean and standard deviation of the training."""
        _, run = load_run(self.run_dir)
        return normalized_views(views, run.data, self.learned.manifest)

    def batches(self, seed: int, views: ViewSpec | None = None, shards: ShardFolder | None = None) -> Iterator[Batch]:
        """One pass over the unseen samples, or others, in order."""
        spec = LoaderSpec(shards=shards or self.unseen, views=views or self.views, batch_size=BATCH, seed=seed)
        chosen = None if shards else self.ids
        with (
            closing(make_pass(spec) if chosen is None else make_selection(spec, chosen)) as loader,
            torch.inference_mode(),
        ):
            yield from loader


def asked(case: Case, answer: Callable[[Objective, Batch], Tensor], passes: int = PASSES) -> Found:
    """Of each sample the mean over so many looks; ``answer`` gives a number for each sample of a batch."""
    found: dict[str, list[np.ndarray]] = {name: [] for name in case.objectives}
    for seed in range(1, 1 + passes):
        for batch in case.batches(seed):
            for name, objective in case.objectives.items():
                found[name].append(answer(objective, batch).double().numpy())
    return {name: np.concatenate(parts).reshape(passes, -1).mean(0) for name, parts in found.items()}


def chance(found: Found, share: float) -> Found:
    """With what luck alone would give."""
    return {**found, "chance": np.full(len(found["trained"]), share)}


def own_question(case: Case) -> Found:
    """Accuracy in what the method asks itself."""
    objective = case.objectives["trained"]
    assert objective.chance is not None
    return chance(asked(case, lambda objective, batch: objective.told(batch)), objective.chance)


@dataclass(frozen=True, kw_only=True)
class Gate:
    """How a method is trained, and what it is asked."""

    steps: int
    asked: str
    """For the table."""
    ask: Callable[[Case], Found]
    must_beat: tuple[str, ...] = ("chance",)
    """Beside itself untrained."""
    low: bool = False
    """Whether less is better."""
    shares: bool = False
    """Whether each sample's number says how much of an answer is right: 0, 1, or the share of several."""
    recipe: str = "tiny"
    changes: str = ""
    """Further flags; {work} in them is the folder of shards and runs."""
    learned: tuple[tuple[str, str], ...]
    """Shards to learn from, and with unseen samples to be asked about."""
    on: str
    told: str = ""
    """What a reader of the table must know of how the question came about."""

    @property
    def settings(self) -> dict[str, Any]:
        """What decides the training."""
        pairs = [list(pair) for pair in self.learned]
        return {"steps": self.steps, "recipe": self.recipe, "changes": self.changes, "learned": pairs}

    def training(self, manifest_sha256: str) -> str:
        """Of what decides a training on shards of that manifest, but its seed, a short hash: gates may share it."""
        settings = {**self.settings, "learned": manifest_sha256}
        return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]


def eyespot(*words: str) -> float:
    """Runs a command: its CPU seconds, which hardly depend on what else the machine does."""
    print("eyespot", *words, flush=True)
    process = subprocess.Popen([EYESPOT, *words])
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, ["eyespot", *words])
    return used.ru_utime + used.ru_stime


def method_of(name: str) -> str:
    """Of a gate: what stands before the slash where a method has several, "clip" in "clip/retrieval"."""
    return name.partition("/")[0]


@dataclass(frozen=True, kw_only=True)
class Gates:
    """The gates of one kind of methods."""

    name: str
    """Of the results' files, and of the script that makes them."""
    title: str
    samples: str
    """What the samples are called."""
    gates: dict[str, Gate]
    """By method; where it is asked several questions, the further ones by "method/question"."""
    pack: Callable[[str, Path, Path], None]
    """Makes the shards of a name in a folder, unless they are there; the last argument is where data lie."""
    shown_in: Path
    """What the package shows of them."""

    def main(self, doc: str | None) -> None:
        """The script."""
        parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
        parser.add_argument("methods", nargs="*", metavar="METHOD", help=f"of {', '.join(self.gates)}; all by default")
        given = os.environ.get("EYESPOT_TEST_DATA", "../shared/data")
        parser.add_argument("--data", type=Path, default=Path(given), help="folder of archives that are not built in")
        parser.add_argument("--work", type=Path, required=True, help="folder for shards and runs")
        parser.add_argument("--seeds", type=int, default=3, help="trainings per method")
        options = parser.parse_args()
        if unknown := set(options.methods) - set(self.gates):
            parser.error(f"unknown methods: {', '.join(sorted(unknown))}")
        seeds: dict[str, dict[str, dict[str, Any]]] = {}
        rows, chosen = self.known(), options.methods or list(self.gates)
        for seed in range(options.seeds):
            for name in chosen:
                seeds.setdefault(name, {})[str(seed)] = self.measure(name, seed, options.work, options.data)
                rows[name] = self.summary(name, seeds[name])
                self.write({each: rows[each] for each in self.gates if each in rows})
        sys.exit(0 if all(rows[name]["passed"] for name in chosen) else 1)

    def known(self) -> dict[str, Any]:
        """The rows of before, of gates that train as they did and ask what they asked."""
        path = RESULTS / f"{self.name}.json"
        rows = json.loads(path.read_text())["methods"] if path.is_file() else {}
        return {
            name: row
            for name, row in rows.items()
            if (gate := self.gates.get(name)) and (gate.settings, gate.asked) == (row["settings"], row["asked"])
        }

    def trained(self, name: str, pair: tuple[str, str], seed: int, work: Path) -> tuple[Path, float]:
        """Trains once, or goes on, or finds that it is done: the run's folder, and its CPU seconds."""
        gate, method = self.gates[name], method_of(name)
        learned = ShardFolder.find(work / pair[0], "train").manifest_sha256
        run_dir = work / "runs" / f"{method}-{seed}-{gate.steps}-{pair[0]}-{gate.training(learned)}"
        spent = run_dir / "cpu_seconds.txt"
        if newest(run_dir) == folder_of(run_dir, gate.steps) and spent.exists():
            return run_dir, float(spent.read_text())
        words = [f"{method}_{gate.recipe}", "--data.shards", str(work / pair[0]), "--run-dir", str(run_dir)]
        words += ["--resume", "auto", "--steps", str(gate.steps), "--seed", str(seed), "--no-track"]
        seconds = eyespot("pretrain", *words, *gate.changes.format(work=work).split())
        seconds += float(spent.read_text()) if spent.exists() else 0.0
        spent.write_text(f"{seconds:.1f}\n")
        return run_dir, seconds

    def measure(self, name: str, seed: int, work: Path, data: Path) -> dict[str, Any]:
        """Trains and asks once with one seed: of each sample a number, by who answers.

        It is always asked anew: what a question is, no settings say.
        """
        gate = self.gates[name]
        found: dict[str, list[float]] = {}
        total = 0.0
        for pair in gate.learned:
            for each in pair:
                self.pack(each, work, data)
            run_dir, seconds = self.trained(name, pair, seed, work)
            total += seconds
            learned, unseen = ShardFolder.find(work / pair[0], "train"), ShardFolder.find(work / pair[1], "test")
            case = Case(run_dir=run_dir, learned=learned, unseen=unseen)
            for who, values in gate.ask(case).items():
                found.setdefault(who, []).extend(values.round(6).tolist())
        return {"settings": gate.settings, "cpu_minutes": round(total / 60, 1), "samples": found}

    def summary(self, name: str, seeds: dict[str, dict[str, Any]]) -> dict[str, Any]:
        """What is told of one method: the figures of each answer, and of the gains sample by sample."""
        gate = self.gates[name]
        first = next(iter(seeds.values()))
        samples = {who: np.array([each["samples"][who] for each in seeds.values()]) for who in first["samples"]}
        means = {who: values.mean(0) for who, values in samples.items()}
        sign = -1 if gate.low else 1
        gains = {who: interval(sign * (means["trained"] - values)) for who, values in means.items() if who != "trained"}
        rivals = [who for who in gains if who == "untrained" or who in gate.must_beat]
        every = all(
            sign * (own.mean() - other.mean()) > 0
            for who in rivals
            for own, other in zip(samples["trained"], samples[who], strict=True)
        )
        told = of_shares if gate.shares else interval
        return {
            "asked": gate.asked,
            "on": gate.on,
            "settings": gate.settings,
            "num_samples": samples["trained"].shape[1],
            "answers": {who: told(values) for who, values in means.items() if who != "chance"},
            "chance": float(means["chance"].mean()) if "chance" in means else None,
            "gains": gains,
            "seeds": {seed: float(values.mean()) for seed, values in zip(seeds, samples["trained"], strict=True)},
            "cpu_minutes": round(float(np.mean([each["cpu_minutes"] for each in seeds.values()])), 1),
            "passed": every and all(gains[who][1] > 0 for who in rivals),
        }

    def shown(self, name: str, row: dict[str, Any]) -> tuple[str, ...]:
        """A row for people."""
        cells = [figure(row["answers"][who]) for who in NETWORKS]
        beside = [f"{who} {values[0]:.3f}" for who, values in row["answers"].items() if who not in NETWORKS]
        beside += [f"chance {row['chance']:.3f}"] if row["chance"] is not None else []
        return (
            name,
            f"{row['asked']}, {row['num_samples']} {self.samples} of {row['on']}",
            "passed" if row["passed"] else "FAILED",
            *cells,
            figure(row["gains"]["untrained"], "+"),
            ", ".join(beside),
            ", ".join(f"{mean:.3f}" for mean in row["seeds"].values()),
            str(row["settings"]["steps"]),
            f"{row['cpu_minutes']:.1f}",
        )

    def notes(self, rows: dict[str, Any]) -> list[str]:
        """How questions came about, and whom the trained network is not better than, beyond doubt."""
        found = [f"- {name}: {self.gates[name].told}." for name in rows if self.gates[name].told]
        for name, row in rows.items():
            for who, gain in row["gains"].items():
                if gain[1] <= 0:
                    said = "is worse than" if gain[2] < 0 else "is not better beyond doubt than"
                    found.append(f"- {name} {said} {who}: {figure(gain, '+')}.")
        return found

    def write(self, rows: dict[str, Any]) -> None:
        """The table for people, the numbers, and the few that the package shows."""
        write_results(
            self.name,
            title=self.title,
            header=HEADER,
            rows=[self.shown(name, row) for name, row in rows.items()],
            details={"methods": rows},
        )
        one = self.samples.removesuffix("s")
        said = (
            f"Gains are paired, {one} by {one}. Intervals say nothing of other seeds: each seed's mean stands beside."
            " Rows of methods that the command does not name were measured by earlier runs of it."
        )
        with (RESULTS / f"{self.name}.md").open("a") as file:
            file.write("\n".join(["", said, "", *self.notes(rows), ""]))
        short = {
            name: {
                "encoder": make_run(f"{name}_{self.gates[name].recipe}").encoder.name,
                "asked": row["asked"],
                "on": row["on"],
                "trained": round(row["answers"]["trained"][0], 3),
                "untrained": round(row["answers"]["untrained"][0], 3),
                "passed": row["passed"],
                "samples": self.samples,
            }
            for name, row in rows.items()
            if name == method_of(name)
        }
        self.shown_in.write_text(json.dumps(short, indent=1) + "\n")


HEADER = (
    "method",
    "asked",
    "gate",
    "trained",
    "untrained",
    "gain",
    "beside it",
    "each seed",
    "steps",
    "CPU minutes",
)


def interval(values: np.ndarray) -> tuple[float, float, float]:
    """Mean over samples, and where it lies with 95 % by Student's t."""
    half = student.ppf(0.975, len(values) - 1) * values.std(ddof=1) / len(values) ** 0.5
    return float(values.mean()), float(values.mean() - half), float(values.mean() + half)


def of_shares(values: np.ndarray) -> tuple[float, float, float]:
    """The same of shares of right answers by Wilson, every sample counting once: they may all be right."""
    return float(values.mean()), *wilson(round(values.sum()), len(values))


def figure(values: tuple[float, float, float], sign: str = "") -> str:
    """A mean with its interval."""
    mean, low, high = (format(value, f"{sign}.3f") for value in values)
    return f"{mean} ({low} to {high})"
