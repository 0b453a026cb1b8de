"""mlflow.json: what mirrors are told about a run besides its metrics, in the words that MLflow allows."""

import json
import posixpath
import re
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from eyespot.data_pipeline import foreign_json
from eyespot.data_pipeline.atomic_files import write_bytes
from eyespot.data_pipeline.errors import UserError
from eyespot.pretrain.redaction import masked

Status = Literal["RUNNING", "FINISHED", "FAILED", "KILLED"]

_KEY_LENGTH = 250
_PARAM_LENGTH = 6000
TAG_LENGTH = 8000
NUM_EVENTS = 20
LARGEST = 16 * 2**20
"""Bytes that mlflow.json may have; ours have some thousand."""


@dataclass(kw_only=True, slots=True)
class MlflowRecord:
    """mlflow.json: what MLflow is told about a run besides its metrics. It survives resumes and waits for a network."""

    run_key: str
    name: str
    experiment: str
    params: dict[str, str] = field(default_factory=dict)
    """Parameters, flat; MLflow never lets one change, so each keeps the value that it had first."""
    tags: dict[str, str] = field(default_factory=dict)
    status: Status = "RUNNING"
    start_ms: int = field(default_factory=lambda: _now_ms())
    """Wall clock of the first start, milliseconds."""
    end_ms: int | None = None
    """Wall clock of the last end, milliseconds; None while the run goes on."""

    @staticmethod
    def path(run_dir: Path) -> Path:
        """Where it stands."""
        return run_dir / "mlflow.json"

    @classmethod
    def read(cls, run_dir: Path) -> "MlflowRecord":
        """Reads mlflow.json.

        Raises:
            UserError: it is missing or damaged.
        """
        path = cls.path(run_dir)
        try:
            return foreign_json.read(path, cls, LARGEST)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise UserError(
                f"run folder {run_dir}: no mlflow.json inside; name a folder that a run has written"
            ) from error
        except foreign_json.ForeignJsonError as error:
            raise UserError(
                f"{path}: damaged ({error.why}); delete it and resume the run, which writes it anew"
            ) from error

    def write(self, run_dir: Path) -> None:
        """Writes mlflow.json; a kill leaves the old one or the new one."""
        write_bytes(self.path(run_dir), (json.dumps(asdict(self), indent=1) + "\n").encode())

    def update(self, params: Mapping[str, object], tags: Mapping[str, str]) -> None:
        """Takes in what a (re)started run says: a new tag wins, a changed parameter becomes ``changed.<name>``."""
        self.tags.update({legal_name(name): masked(value)[:TAG_LENGTH] for name, value in tags.items()})
        for name, value in flatten(params).items():
            changed = legal_name(f"changed.{name}")
            if self.params.setdefault(name, value) != value or changed in self.tags:
                self.tags[changed] = value
        self.status, self.end_ms = "RUNNING", None

    def add_event(self, text: str) -> None:
        """Notes what happened to the run, with the time, as a tag ``event.<number>``; the newest 20 are kept."""
        number = 1 + max((int(name[6:]) for name in self.tags if name.startswith("event.")), default=0)
        self.tags.pop(f"event.{number - NUM_EVENTS:04d}", None)
        self.tags[f"event.{number:04d}"] = f"{time.strftime('%Y-%m-%d %H:%M:%S')} {masked(text)}"[:TAG_LENGTH]

    def end(self, status: Status) -> None:
        """Notes how and when the run ended."""
        self.status, self.end_ms = status, _now_ms()


def flatten(params: Mapping[str, object], prefix: str = "") -> dict[str, str]:
    """Nested dicts as one dict with dotted names, values as masked text, both cut to what MLflow accepts."""
    flat: dict[str, str] = {}
    for name, value in params.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[legal_name(f"{prefix}{name}")] = masked(str(value))[:_PARAM_LENGTH]
    return flat


def legal_name(name: str) -> str:
    """``name`` in the letters that MLflow allows, shaped like a path without detours."""
    legal = re.sub(r"[^\w\-. :/]", "_", name)
    return posixpath.normpath(f"/{legal}").strip("/")[:_KEY_LENGTH] or "_"


def _now_ms() -> int:
    return round(time.time() * 1000)
