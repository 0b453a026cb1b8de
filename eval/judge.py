"""Judges an encoder by a protocol, beside its randomly initialised twin and raw pixels; one JSON file per result."""

import hashlib
import json
import re
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import numpy as np
import torch

import eyespot
from eyespot.data_pipeline.atomic import write_bytes
from eyespot.data_pipeline.errors import UserError
from eyespot.eval import knn, linear
from eyespot.eval.features import features_key, features_of
from eyespot.eval.intervals import wilson
from eyespot.eval.labels import LabeledData, Part, labeled_data
from eyespot.eval.subject import Role, Subject, is_run, subjects_of
from eyespot.eval.task import Candidate, Task
from eyespot.pretrain.dist import World, any_rank
from eyespot.pretrain.secrets import masked, masked_values

Protocol = Literal["knn", "linear"]
PROTOCOLS: dict[Protocol, Callable[[Task], list[Candidate]]] = {"knn": knn.candidates, "linear": linear.candidates}
FORMAT = "eyespot-result/1"


@dataclass(kw_only=True, slots=True)
class Result:
    """How one subject did: the content of one file in RUN/eval."""

    key: str
    """Digest of all that determines the numbers: a result with the same key is not computed again."""
    protocol: Protocol
    metric: str
    """Full name of the reported metric: "knn/k20_T0.07_cls_l2", "linear/mean"."""
    name: str
    """Of the subject."""
    role: Role
    origin: dict[str, str | int]
    data: str
    shards: str
    split: str
    num_train: int
    num_test: int
    num_classes: int
    num_correct: int
    accuracy: float
    """On test, 0..1."""
    interval: tuple[float, float]
    """Wilson's 95 % interval of the accuracy."""
    settings: dict[str, float | str]
    """What was chosen on the held-out tenth of train."""
    validation: float
    """Accuracy there."""
    metrics: dict[str, float]
    """Test accuracy of every setting that was a candidate; the reported one is not chosen by these."""
    correct: str
    """Which test samples were right, in id order: hexadecimal, most significant bit first."""
    seed: int
    seconds: float
    """Time of the protocol itself, without the features."""
    argv: list[str] = field(default_factory=lambda: masked_values(sys.argv))
    created: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    eyespot: str = eyespot.__version__
    format: str = FORMAT

    def chosen(self) -> str:
        """The settings in short: "mean, λ 0.001", "cls, k 20"."""
        names = {"features": "", "lambda": "λ "}
        shown = {
            name: f"{value:.2g}" if isinstance(value, float) else str(value) for name, value in self.settings.items()
        }
        return ", ".join(f"{names.get(name, f'{name} ')}{value}" for name, value in shown.items())


def judge(
    protocol: Protocol, target: str, shards: Path, *, out: Path | None, seed: int, pretrained: bool, world: World
) -> list[Result]:
    """Judges ``target``, its random twin and raw pixels on ``shards``; writes and returns the results.

    All ranks compute features; rank 0 alone runs the protocol and returns something.

    Args:
        protocol: "knn" or "linear".
        target: run folder or timm name.
        shards: labelled shards.
        out: folder for results and cached features; None = RUN/eval, or eval-<name> for a timm name.
        seed: of the random twin and of what is held out.
        pretrained: timm names: with published weights.
        world: this process.

    Raises:
        UserError: something about the target, the shards or the folder is wrong.
    """
    data = labeled_data(shards, seed)
    out = out or (Path(target) / "eval" if is_run(target) else Path(f"eval-{_slug(target)}"))
    folders = sorted({part.folder for part in (data.train, data.test)})
    subjects = subjects_of(target, seed=seed, pretrained=pretrained)
    jobs: list[tuple[Subject, Path, str, Result | None, dict[Path, dict[str, np.ndarray]]]] = []
    for subject in subjects:
        path = out / f"{protocol}_{_slug(data.name)}-{data.test.manifest.index_sha256[:6]}_{subject.tag}.json"
        key, known = _key(protocol, subject, data, seed), read_result(path)
        fresh = any_rank([world.rank == 0 and (known is None or known.key != key)])[0]
        cached = {folder: features_of(subject, folder, out / "features", world) for folder in folders if fresh}
        jobs.append((subject, path, key, None if fresh else known, cached))
    if world.rank != 0:
        return []
    results = []
    for subject, path, key, known, cached in jobs:
        if known is None:
            known = _run(protocol, subject, data, cached, seed, world, key)
            write_bytes(path, (json.dumps(asdict(known), indent=1) + "\n").encode())
        results.append(known)
    return results


def read_result(path: Path) -> Result | None:
    """The result in a file; None where there is none of this format."""
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        if fields.get("format") != FORMAT:
            return None
        return Result(**{**fields, "interval": tuple(fields["interval"])})
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None


def _run(
    protocol: Protocol,
    subject: Subject,
    data: LabeledData,
    cached: dict[Path, dict[str, np.ndarray]],
    seed: int,
    world: World,
    key: str,
) -> Result:
    start = time.monotonic()
    task = Task(
        train=_rows(cached[data.train.folder], data.train, world.device),
        train_labels=torch.from_numpy(data.train.labels).to(world.device),
        test=_rows(cached[data.test.folder], data.test, world.device),
        test_labels=torch.from_numpy(data.test.labels).to(world.device),
        num_classes=max(len(data.classes), int(data.train.labels.max()) + 1),
        seed=seed,
    )
    for kind, values in [*task.train.items(), *task.test.items()]:
        if not values.isfinite().all():
            raise UserError(f"model {subject.name}: its {kind} features are not all finite; the weights are broken")
    found = PROTOCOLS[protocol](task)
    best = max(found, key=lambda candidate: candidate.validation)
    correct = {candidate.metric: candidate.predictions == data.test.labels for candidate in found}
    num_correct, num_test = int(correct[best.metric].sum()), len(data.test.labels)
    return Result(
        key=key,
        protocol=protocol,
        metric=best.metric,
        name=subject.name,
        role=subject.role,
        origin=masked_values(subject.origin),
        data=data.name,
        shards=masked(str(data.train.folder.parent if data.train.folder != data.test.folder else data.train.folder)),
        split=data.split,
        num_train=len(data.train.labels),
        num_test=num_test,
        num_classes=len(np.unique(data.train.labels)),
        num_correct=num_correct,
        accuracy=num_correct / num_test,
        interval=wilson(num_correct, num_test),
        settings=best.settings,
        validation=best.validation,
        metrics={metric: float(right.mean()) for metric, right in correct.items()},
        correct=np.packbits(correct[best.metric]).tobytes().hex(),
        seed=seed,
        seconds=round(time.monotonic() - start, 3),
    )


def _rows(features: dict[str, np.ndarray], part: Part, device: torch.device) -> dict[str, torch.Tensor]:
    return {kind: torch.from_numpy(values[part.rows]).to(device) for kind, values in features.items()}


def _key(protocol: Protocol, subject: Subject, data: LabeledData, seed: int) -> str:
    parts = [FORMAT, protocol, str(seed), data.split]
    parts += [features_key(subject, part.folder) for part in (data.train, data.test)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]


def _slug(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", name).strip("-") or "data"
