"""Do scores without labels foretell the linear probe? Checkpoints of several methods of the zoo, on CIFAR-10.

Trains each method as its gate in the zoo says, but for half the steps, and keeps six checkpoints, evenly spread. Each
is scored by ``eyespot eval select`` on images without labels, and judged by the linear probe. Then, for each score:

    within      Spearman's rank correlation with the probe over the checkpoints of a run; mean over the runs
    across      the same over the last checkpoints of all runs: can it compare methods?
    regret      accuracy of the best checkpoint minus that of the one that the score takes, in points; mean over the
                runs; beside it, that of always taking the last

Intervals are of 95 %: a bootstrap over the runs. What has been trained in --work stays.

    python benchmarks/select_correlation.py --data ../shared/data/cifar10-images.tar.gz --work /tmp/zoo simclr byol
"""

import argparse
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from results import write_results
from scipy.stats import spearmanr
from zoo import GATES, eyespot, pack

from eyespot.data_pipeline.loading.loader import LoaderSpec
from eyespot.data_pipeline.loading.mixtures.mixed_shards import find_shards
from eyespot.eval.checkpoint_choice.choice import select
from eyespot.eval.checkpoint_choice.scores import merit
from eyespot.eval.encoders.subject import subjects_of
from eyespot.eval.protocols import linear
from eyespot.eval.protocols.labeled_data import labeled_data
from eyespot.eval.protocols.task import Task
from eyespot.eval.results.checkpoint_scores import NAMES
from eyespot.pretrain.checkpoints.folders import complete
from eyespot.pretrain.distributed.process_group import World
from eyespot.pretrain.loop.fixed_samples import FixedSamples
from eyespot.pretrain.networks.encoders import features
from eyespot.pretrain.recipes.gate import TENTH

NAME = "select_correlation"
LOOKS = 6
DRAWS = 10_000
ONE = World(rank=0, size=1, device=torch.device("cpu"))
NUM_TRAIN, NUM_TEST = 4000, 4000
"""Images of the probe."""


def train(method: str, seed: int, work: Path) -> Path:
    """Half the steps of the method's gate; its folder."""
    gate, run_dir = GATES[method], work / "runs" / f"{method}-{seed}"
    steps = gate.steps // 2
    recipe, *changes = gate.settings.replace(TENTH, str(work / "tenth.txt")).split()
    if not (run_dir / "checkpoints" / f"step-{steps:08d}").exists():
        places = ["--data.shards", str(work / "shards"), "--run-dir", str(run_dir), "--resume", "auto", "--no-track"]
        kept = ["--save-every", str(-(-steps // LOOKS)), "--keep-checkpoints", str(LOOKS), "--picture-every", "0"]
        eyespot("pretrain", recipe, *places, *changes, "--steps", str(steps), *kept, "--seed", str(seed))
    return run_dir


class Probe:
    """The linear probe of checkpoints of one run, on the same images."""

    def __init__(self, folder: Path, work: Path) -> None:
        data = labeled_data(find_shards(work / "probe", "train"), 0)
        views = subjects_of(str(folder), seed=0)[0].views
        self._samples: list[FixedSamples] = []
        for part, count in ((data.train, NUM_TRAIN), (data.test, NUM_TEST)):
            spec = LoaderSpec(shards=part.shards, views=views, batch_size=1)
            self._samples.append(FixedSamples(spec, part.rows[:count], ONE))

    def accuracy(self, folder: Path) -> float:
        """Of a checkpoint's features."""
        encoder = subjects_of(str(folder), seed=0)[0].encoder
        parts = [each.encode_all(encoder, look=lambda images: features(encoder, images)) for each in self._samples]
        (train, train_labels), (test, test_labels) = (part for part in parts if part is not None)
        task = Task(
            train={"features": train[0]},
            train_labels=train_labels,
            test={"features": test[0]},
            test_labels=test_labels,
            num_classes=10,
            seed=0,
        )
        best = max(linear.candidates(task), key=lambda candidate: candidate.validation or 0.0)
        return float((best.predictions == test_labels.numpy()).mean())


def judge(run_dir: Path, work: Path, images: int) -> dict[str, Any]:
    """Scores and accuracy of each checkpoint, and what the scores would take."""
    found = select(str(run_dir), work / "probe", num_images=images, seed=0, world=ONE)
    assert found is not None
    probe = Probe(complete(run_dir)[0], work)
    rows = [
        {
            "checkpoint": each.checkpoint,
            "linear": probe.accuracy(run_dir / "checkpoints" / each.checkpoint),
            "kept": each.kept,
            "alarms": each.alarms,
            **{name: score.value for name, score in each.scores.items()},
        }
        for each in found.checkpoints
    ]
    return {"checkpoints": rows, "taken": {name: verdict.taken for name, verdict in found.verdicts.items()}}


def correlation(name: str, rows: list[dict[str, Any]]) -> float:
    """Spearman's, of the score's merit with the accuracy."""
    return float(
        cast(Any, spearmanr([merit(name, row[name]) for row in rows], [row["linear"] for row in rows])).statistic
    )


def regret(run: dict[str, Any], taken: str) -> float:
    """Points lost."""
    accuracies = {row["checkpoint"]: 100 * row["linear"] for row in run["checkpoints"]}
    return max(accuracies.values()) - accuracies[taken]


def with_interval(number: Callable[[list[dict[str, Any]]], float], runs: list[dict[str, Any]]) -> list[float]:
    """A number of runs, and its percentile interval when runs are drawn again."""
    generator = np.random.default_rng(0)
    draws = [number([runs[place] for place in generator.integers(len(runs), size=len(runs))]) for _ in range(DRAWS)]
    return [number(runs), *np.nanpercentile(draws, [2.5, 97.5]).tolist()]


def summary(runs: list[dict[str, Any]]) -> dict[str, dict[str, list[float]]]:
    """Of each score: within, across and regret, each with its interval; and the regret of the last checkpoint."""
    found: dict[str, dict[str, list[float]]] = {}
    for name in NAMES:
        of_runs = [
            {"rho": correlation(name, run["checkpoints"]), "lost": regret(run, run["taken"][name])} for run in runs
        ]
        lasts = [run["checkpoints"][-1] for run in runs]
        found[name] = {
            "within": with_interval(lambda some: float(np.mean([one["rho"] for one in some])), of_runs),
            "across": with_interval(lambda some, name=name: correlation(name, some), lasts),
            "regret": with_interval(lambda some: float(np.mean([one["lost"] for one in some])), of_runs),
        }
    last = [{"lost": regret(run, run["checkpoints"][-1]["checkpoint"])} for run in runs]
    return found | {"the last": {"regret": with_interval(lambda some: float(np.mean([o["lost"] for o in some])), last)}}


def write(found: dict[str, dict[str, Any]]) -> None:
    """The table for people, and every number."""
    runs = list(found.values())
    numbers = summary(runs)
    rows = []
    for name, each in numbers.items():
        told = [NAMES.get(name, name)]
        for key, digits in (("within", 2), ("across", 2), ("regret", 1)):
            told.append("" if key not in each else "{:.{d}f} ({:.{d}f} to {:.{d}f})".format(*each[key], d=digits))
        rows.append(tuple(told))
    checkpoints = sum(len(run["checkpoints"]) for run in runs)
    write_results(
        NAME,
        title=f"CIFAR-10, {len(runs)} methods, {checkpoints} checkpoints: scores without labels and the linear probe",
        header=("score", "Spearman within a run", "across methods", "regret, points"),
        rows=rows,
        details={"summary": numbers, "runs": found},
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("methods", nargs="+", metavar="METHOD", help=f"of {', '.join(GATES)}")
    parser.add_argument("--data", default="cifar10", help="CIFAR-10, as eyespot shards pack takes it")
    parser.add_argument("--work", type=Path, required=True, help="folder for shards and runs, the zoo's or another")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--images", type=int, default=1024, help="that the scores see")
    options = parser.parse_args()
    if unknown := set(options.methods) - set(GATES):
        parser.error(f"unknown methods: {', '.join(sorted(unknown))}")
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    if not (options.work / "probe" / "test" / "manifest.json").exists():
        pack(options.data, options.work)
    found: dict[str, dict[str, Any]] = {}
    for method in options.methods:
        run_dir = train(method, options.seed, options.work)
        kept = run_dir / f"{NAME}.json"
        if not kept.exists():
            kept.write_text(json.dumps(judge(run_dir, options.work, options.images)))
        found[method] = json.loads(kept.read_text())
        write(found)


if __name__ == "__main__":
    main()
