"""W&B: a run of the same id through all restarts, written by a process of its own.

W&B's client waits for its server when the process that uses it ends, sometimes for ever: so that process is another
one (``wandb_process.py``), which nobody waits for. What it was handed stands in its own logs, RUN/wandb/*/run-ID.wandb,
which say how far it is; a step that comes twice is one row there.
"""

import contextlib
import json
import os
import select
import shlex
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from eyespot.data_pipeline import file_locks
from eyespot.data_pipeline.errors import UserError
from eyespot.pretrain.tracking import metrics_file
from eyespot.pretrain.tracking.metric_groups import grouped
from eyespot.pretrain.tracking.mirror import Writer, step_of
from eyespot.pretrain.tracking.mlflow_record import MlflowRecord

PICTURE_STEP = "pictures_of_step"
REFUSED = "refused: "
"""Before what its process says where asking again will not help."""
_BLOCK = 1 << 15
_EXIT_CODES = {"FINISHED": 0, "FAILED": 1, "KILLED": 143}
_FOLDER = "wandb"
ANSWER_SECONDS = {"init": 120.0, "finish": 600.0}
"""For how long its process may say nothing; else a minute."""


class WandbWriter(Writer):
    """The W&B run of one run folder.

    Args:
        run_dir: the run folder.
        project: of W&B. Where it is sent, and whether at all, is W&B's own business: WANDB_MODE, WANDB_BASE_URL.
    """

    name = "W&B"

    def __init__(self, run_dir: Path, project: str) -> None:
        self._run_dir, self._project = run_dir.resolve(), project
        self.place = f"project {project}"
        self.flag = f"--wandb {shlex.quote(project)}"
        self.is_file = os.environ.get("WANDB_MODE") == "offline"
        self._process: subprocess.Popen[str] | None = None
        self._status = "RUNNING"
        self._pictures: set[int] = set()
        self._lock = -1

    def open(self, record: MlflowRecord) -> int:
        """Starts the process, which begins or resumes the run.

        Raises:
            UserError: another program brings this run to W&B, whose client is the only one of its run.
        """
        self._end()
        self._take()
        last, self._pictures = held(self._run_dir, record.run_key)
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "eyespot.pretrain.tracking.wandb_process"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,  # Ctrl-C is the run's
        )
        config = {"recipe": record.tags.get("recipe", ""), **record.params}
        self._ask(
            "init",
            project=self._project,
            id=record.run_key,
            name=record.name,
            group=record.experiment,
            config=config,
            dir=str(self._run_dir),
            last=last,
        )
        return metrics_file.end_of_step(self._run_dir, last)

    def write(self, lines: list[bytes], offset: int) -> None:
        """A row each; the row's step is the optimiser step."""
        rows = []
        for line in lines:
            values = metrics_file.decode(line)
            if values is not None:
                step = values.pop("step")
                stamp = values.pop("time", 0)
                numbers = {grouped(name): value for name, value in values.items() if isinstance(value, int | float)}
                rows.append([step, {**numbers, "_timestamp": stamp}])
        self._ask("log", rows=rows)

    def tell(self, record: MlflowRecord) -> None:
        """How the run ended, when the process is let go."""
        self._status = record.status

    def lacking(self, pictures: list[Path]) -> list[Path]:
        """Those of a step that the logs do not have."""
        return [path for path in pictures if step_of(path) not in {None, *self._pictures}]

    def picture(self, path: Path) -> None:
        """As ``pictures``."""
        self.pictures([path])

    def pictures(self, paths: list[Path]) -> None:
        """Those of a step: all with the last row, for a row of their own would be taken from the metrics to come."""
        found = {step: str(path) for path in paths if (step := step_of(path)) is not None}
        if new := [(step, path) for step, path in found.items() if step not in self._pictures]:
            self._ask("pictures", pictures=new)
            self._pictures |= {step for step, _ in new}

    def close(self) -> None:
        """Ends the W&B run and waits until it has everything. One that never said its end was killed."""
        self._ask("finish", exit_code=_EXIT_CODES.get(self._status, 1))
        self._end()
        self.drop()

    def drop(self) -> None:
        """Lets another program bring the run."""
        file, self._lock = self._lock, -1
        if file >= 0:
            os.close(file)

    def _take(self) -> None:
        if self._lock >= 0:
            return
        (self._run_dir / _FOLDER).mkdir(exist_ok=True)
        file = os.open(self._run_dir / _FOLDER / "lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW)
        if file_locks.lock(file) == "taken":
            os.close(file)
            raise UserError(f"W&B: another program, perhaps the run itself, brings {self._run_dir} there; wait for it")
        self._lock = file

    def _ask(self, what: str, **told: Any) -> None:
        assert self._process is not None and self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps({"what": what, **told}) + "\n")
        self._process.stdin.flush()
        seconds = ANSWER_SECONDS.get(what, 60.0)
        waiting = select.poll()  # select() takes no file above the 1,024th
        waiting.register(self._process.stdout, select.POLLIN)
        if not waiting.poll(1000 * seconds):
            self._end()
            raise TimeoutError(f"no answer within {seconds:.0f} s")
        answer = self._process.stdout.readline().strip()
        if answer != "done":
            kind = OSError if answer.startswith(REFUSED) else ConnectionError
            raise kind(answer.removeprefix(REFUSED) or "its process has ended")

    def _end(self) -> None:
        """The process goes on alone with what it has; it is waited for where it answers."""
        if self._process is not None and self._process.stdin is not None:
            with contextlib.suppress(OSError):  # it is gone
                self._process.stdin.close()
            self._process = None


def held(run_dir: Path, run_id: str) -> tuple[int, set[int]]:
    """The last step that W&B's logs of a run hold, -1 if none, and which steps' pictures."""
    from wandb.proto.wandb_internal_pb2 import Record  # pyright: ignore[reportAttributeAccessIssue]

    last, pictures = -1, set[int]()
    for path in run_dir.glob(f"{_FOLDER}/*/run-{run_id}.wandb"):
        for data in _records(path):
            row = history_of(Record.FromString(data))
            if PICTURE_STEP in row:
                steps = row[PICTURE_STEP]
                pictures.update(map(int, steps if isinstance(steps, list) else [steps]))
            if row.keys() - {PICTURE_STEP, "pictures"} - {key for key in row if key.startswith("_")}:
                last = max(last, int(row["_step"]))
    return last, pictures


def history_of(record: Any) -> dict[str, Any]:
    """The row of a record of W&B's log; empty where it is of another kind."""
    row: dict[str, Any] = {}
    for item in record.history.item if record.HasField("history") else ():
        first, *rest = item.nested_key or [item.key]
        value = json.loads(item.value_json)
        row[first] = {**row.get(first, {}), ".".join(rest): value} if rest else value
    return {"_step": record.history.step.num, **row} if row else {}


def _records(path: Path) -> Iterator[bytes]:
    """The whole records of W&B's log: LevelDB's log format behind a header of seven bytes."""
    with path.open("rb") as file:
        content = file.read()
    place, parts = 7, b""
    while place + 7 <= len(content):
        if (left := _BLOCK - place % _BLOCK) < 7:
            place += left
            continue
        _, length, kind = struct.unpack_from("<IHB", content, place)
        piece = content[place + 7 : place + 7 + length]
        if len(piece) < length or kind not in (1, 2, 3, 4):
            return
        parts = piece if kind in (1, 2) else parts + piece
        if kind in (1, 4):
            yield parts
        place += 7 + length
