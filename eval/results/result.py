"""Result: how one subject did by one protocol, as a file of RUN/eval holds it. Reading one needs no torch."""

import logging
import math
import re
import sys
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Bool

import eyespot
from eyespot.data_pipeline import foreign_json
from eyespot.eval.results.significance import wilson
from eyespot.pretrain.redaction import masked_values

log = logging.getLogger("eyespot")


def slug(name: str) -> str:
    """The name, fit for a file."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", name).strip("-") or "data"


Protocol = Literal[
    "linear",
    "knn",
    "retrieval",
    "clustering",
    "unlabeled",
    "dense-linear",
    "dense-knn",
    "dense-depth",
    "finetune",
    "linear-paper",
    "attentive",
    "linear-grid",
    "layers",
    "low-shot",
    "propagate",
    "propagate-points",
    "action",
    "alignment",
    "order",
    "own-head",
    "captions",
    "zero-shot",
    "joint-retrieval",
    "correspondence",
]
Role = Literal["encoder", "random", "pixels"]
FORMAT = "eyespot-result/2"
DRAW = "draw "
"""How the scores of single draws begin, where the result is a mean over draws."""
EACH = "mean over videos"
"""What the score is called that says of each video what the accuracy is the mean of, where it is neither 0 nor 1."""
RMSE = "RMSE"
"""What the score is called that is no share, but in the unit of what is measured."""
OF_VIDEOS = ("propagate", "propagate-points", "action", "alignment", "order", "own-head")
"""Protocols whose samples are videos."""
LARGEST = 64 * 2**20
"""Bytes of a result's file: one with a value for each of a million samples has 20 MB."""
_READABLE = ("eyespot-result/1", FORMAT)
_HEXADECIMAL = re.compile("(?:[0-9a-fA-F]{2})*")
_SHARES = {
    "retrieval": "recall@1",
    "dense-linear": "mIoU",
    "dense-knn": "mIoU",
    "dense-depth": "delta1",
    "propagate": "J&F",
    "propagate-points": "PCK@0.1",
    "alignment": "alignment",
    "captions": "likelier beside its own image",
    "joint-retrieval": "recall@1 (image asks)",
}  # what the share of right answers is called where it is not "accuracy"


@dataclass(kw_only=True, slots=True)
class Score:
    """One number that a protocol gives beside the accuracy, or instead of it."""

    value: float
    interval: tuple[float, float] | None = None
    """Of 95 %, where one is known."""
    correct: str | None = None
    """Which test samples were right, as in `Result.correct`, where it is a share of them."""
    values: list[float] | None = None
    """Of each test sample, in id order, where it is their mean."""

    @classmethod
    def of(cls, right: Bool[np.ndarray, " m"]) -> "Score":
        """The share of test samples that are right, with Wilson's interval.

        Args:
            right: whether each test sample is, in id order.
        """
        num_right = int(right.sum())
        interval = wilson(num_right, len(right))
        return cls(value=num_right / len(right), interval=interval, correct=packed(right))


def packed(right: Bool[np.ndarray, " m"]) -> str:
    """Yes or no for each test sample, as hexadecimal, most significant bit first."""
    return np.packbits(right).tobytes().hex()


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
    num_correct: int | None
    """This and the next two: None where a protocol asks nothing that a sample could get right ("unlabeled")."""
    accuracy: float | None
    """Share of test samples that are right, 0..1; `share` says what it is called."""
    interval: tuple[float, float] | None
    """Wilson's 95 % interval of the accuracy."""
    settings: dict[str, float | str]
    """What was chosen on the held-out tenth of train."""
    validation: float | None
    """What it was chosen by: the accuracy there (clustering: NMI); None where nothing is chosen."""
    metrics: dict[str, float]
    """Test accuracy, and every other score, of every setting that was a candidate; nothing is chosen by these."""
    correct: str | None
    """Which test samples were right, in id order: hexadecimal, most significant bit first."""
    seed: int
    seconds: float
    """Time of the protocol itself, without the features."""
    train_sha256: str = ""
    """Of the samples it learned from (`Part.digest`); empty in results of older versions."""
    test_sha256: str = ""
    """Of the samples it was tested on: only where it agrees can two results be compared sample by sample."""
    scores: dict[str, Score] = field(default_factory=dict)
    """What the reported setting gives beside the accuracy: {"recall@5": ..., "mAP": ...}."""
    alarms: list[str] = field(default_factory=list)
    """What is wrong with the features, in plain words."""
    samples: Literal["", "images", "videos"] = ""
    """What the test samples are called, as most of the protocol are where nobody says otherwise."""
    argv: list[str] = field(default_factory=lambda: masked_values(sys.argv))
    created: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    eyespot: str = eyespot.__version__
    format: str = FORMAT

    def __post_init__(self) -> None:
        self.samples = self.samples or ("videos" if self.protocol in OF_VIDEOS else "images")

    @property
    def share(self) -> str:
        """What the accuracy is called: "accuracy", in retrieval "recall@1"."""
        return _SHARES.get(self.protocol, "accuracy")

    @property
    def tested(self) -> str:
        """What the test samples are, in words."""
        return f"{self.num_test:,} test {self.samples}"

    def all_scores(self) -> dict[str, Score]:
        """Every number of the reported setting: the accuracy, where there is one, and then the others."""
        if self.accuracy is None:
            return self.scores
        return {self.share: Score(value=self.accuracy, interval=self.interval, correct=self.correct), **self.scores}

    def answers(self) -> list[str]:
        """Which test samples were right, as `correct` has it: of each draw, or of the only one; empty if unknown."""
        draws = [score.correct for name, score in self.scores.items() if name.startswith(DRAW)]
        return [answers for answers in draws or [self.correct] if answers]

    def graded(self) -> tuple[str, list[float]] | None:
        """Name and values of a score that each test sample has for itself, where samples are more or less right."""
        return next(((name, score.values) for name, score in self.scores.items() if score.values), None)

    def guesses(self) -> list[str]:
        """Of the settings those that say what guessing gets: shares, 0..1."""
        return [name for name in self.settings if name == "largest class" or name.split(" @")[0] == "chance"]

    def chosen(self) -> str:
        """The other settings in short: "mean, λ 0.001", "cls, k 20"."""
        names = {"features": "", "lambda": "λ "}
        shown = {name: _short(value) for name, value in self.settings.items() if name not in self.guesses()}
        return ", ".join(f"{names.get(name, f'{name} ')}{value}" for name, value in shown.items())


def _short(value: object) -> str:
    """Two digits, but all of a whole number: those that a file gives back are floats."""
    if not isinstance(value, float):
        return str(value)
    return f"{value:,.0f}" if value >= 1 and value.is_integer() else f"{value:.2g}"


def read_result(path: Path, inside: Path | None = None) -> Result | None:
    """The result in a file; None where there is none, or one that is damaged, which the log then says.

    Args:
        path: the file.
        inside: a folder above it, out of which no link may lead.
    """
    found: Result | None = None
    try:
        found = foreign_json.read(path, Result, LARGEST, inside)
        odd = _oddity(found) if found.format in _READABLE else f"format {found.format[:40]!r}, made by a newer eyespot"
    except FileNotFoundError:
        return None
    except foreign_json.ForeignJsonError as error:
        odd = error.why
    except OSError as error:
        odd = error.strerror or str(error)
    if odd:
        log.warning("%s: left out, no result that this version reads: %s", path, odd)
        return None
    return found


def _oddity(result: Result) -> str:
    """What cannot be right in a file of the right kinds; empty where nothing is."""
    scores = {"accuracy": Score(value=0.0, interval=result.interval, correct=result.correct), **result.scores}
    for name, score in scores.items():
        low, high = score.interval or (0.0, 0.0)
        if not (math.isfinite(low) and math.isfinite(high) and low <= high):
            return f"interval of {name}: {low} to {high}"
        if score.correct and not _HEXADECIMAL.fullmatch(score.correct):
            return f"correct of {name}: not hexadecimal, two digits a byte"
    if result.interval and not (result.interval[0] >= -1 and result.interval[1] <= 2):
        return f"interval of accuracy: {result.interval[0]} to {result.interval[1]}"
    if not isinstance(step := result.origin.get("step", 0), int):
        return f"origin.step: {step!r:.40}"
    return ""


def results_in(run_dir: Path) -> list[Result]:
    """The results in RUN/eval."""
    found = (read_result(path) for path in sorted((run_dir / "eval").glob("*.json")))
    return [result for result in found if result is not None]
