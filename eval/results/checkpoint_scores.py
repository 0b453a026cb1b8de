"""What ``eyespot eval select`` leaves in RUN/eval/select: scores of checkpoints, and which to take. Needs no torch."""

import logging
import math
import sys
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import eyespot
from eyespot.data_pipeline import foreign_json
from eyespot.eval.results.result import LARGEST, Score
from eyespot.pretrain.redaction import masked_values

log = logging.getLogger("eyespot")

FOLDER = "select"
"""Of RUN/eval."""
FORMAT = "eyespot-select/1"
NAMES = {"rankme": "RankMe", "alpha_req": "α-ReQ", "lidar": "LiDAR", "knn": "kNN agreement"}
"""What the scores are called, in the order of the table."""


@dataclass(kw_only=True, slots=True)
class CheckpointScores:
    """Of one checkpoint."""

    checkpoint: str
    """Its folder's name."""
    step: int
    scores: dict[str, Score]
    """By the keys of ``NAMES``, with intervals of 95 %."""
    kept: float | None
    """Share of the images' neighbours that were neighbours at the checkpoint before, 0..1; None = it is the first."""
    alarms: list[str] = field(default_factory=list)
    """What is wrong with its features, in plain words; such a checkpoint is not chosen."""


@dataclass(kw_only=True, slots=True)
class Verdict:
    """Which checkpoint one score would take."""

    taken: str
    best: str
    """With the best score."""
    alike: list[str]
    """Those that the score cannot tell from the best, oldest first."""
    words: str
    """Why, in a sentence."""


@dataclass(kw_only=True, slots=True)
class Selection:
    """One file of RUN/eval/select."""

    key: str
    """Digest of all that determines the numbers."""
    data: str
    shards: str
    split: str
    num_images: int
    num_views: int
    checkpoints: list[CheckpointScores]
    """Oldest first."""
    verdicts: dict[str, Verdict]
    """By the keys of ``NAMES``; empty where all checkpoints have collapsed."""
    seed: int
    averaged: bool = False
    """Whether the encoders are moving averages (``--optim.ema``)."""
    argv: list[str] = field(default_factory=lambda: masked_values(sys.argv))
    created: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    eyespot: str = eyespot.__version__
    format: str = FORMAT


def read_selection(path: Path) -> Selection | None:
    """The content of a file; None where there is none, or one that is damaged, which the log then says."""
    try:
        found = foreign_json.read(path, Selection, LARGEST)
        odd = "" if found.format == FORMAT else f"format {found.format[:40]!r}, made by a newer eyespot"
        numbers = [
            number
            for each in found.checkpoints
            for score in each.scores.values()
            for number in (score.value, *(score.interval or ()))
        ]
        odd = odd or ("" if all(map(math.isfinite, numbers)) else "a score that is no finite number")
    except FileNotFoundError:
        return None
    except foreign_json.ForeignJsonError as error:
        found, odd = None, error.why
    except OSError as error:
        found, odd = None, error.strerror or str(error)
    if odd:
        log.warning("%s: left out, no selection that this version reads: %s", path, odd)
        return None
    return found


def selections_in(run_dir: Path) -> list[Selection]:
    """Those in RUN/eval/select, by file name."""
    found = (read_selection(path) for path in sorted((run_dir / "eval" / FOLDER).glob("*.json")))
    return [selection for selection in found if selection is not None]


def table(found: Selection) -> tuple[list[str], list[list[str]]]:
    """Header and rows as texts, a row for each checkpoint."""
    header = ["checkpoint", *NAMES.values(), "neighbours kept"]
    rows = [
        [
            each.checkpoint,
            *(_said(each.scores[name]) if name in each.scores else "" for name in NAMES),
            "" if each.kept is None else f"{each.kept:.0%}",
        ]
        for each in found.checkpoints
    ]
    return header, rows


def _said(score: Score) -> str:
    low, high = score.interval or (score.value, score.value)
    return f"{score.value:.3g} ± {(high - low) / 2:.2g}"
