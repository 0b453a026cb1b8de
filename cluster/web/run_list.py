"""RunList: the runs that the pages show. Folders are looked at when somebody asks, at most every few seconds."""

import hashlib
import os
import re
import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from eyespot.cluster.status.run_state import is_run
from eyespot.cluster.status.survey import Status, runs_inside, survey
from eyespot.cluster.web.growing_metrics import GrowingMetrics
from eyespot.cluster.web.run_files import RunFiles
from eyespot.cluster.web.sketches import Sketch
from eyespot.data_pipeline.terminal import plural
from eyespot.pretrain.redaction import masked

FRESH_SECONDS = 3.0
"""A look at all runs holds for as long, and for ten times as long as it took."""
SEARCH_SECONDS = 15.0
"""As long holds which run folders there are."""
MOST_RUNS = 5000
MEMORY_BYTES = 1 << 30
"""Of the curves of all runs together; those that nobody has looked at for longest are read again when asked for."""
_PLAIN_NAME = re.compile(r"[^\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]{1,200}")


@dataclass(kw_only=True, slots=True)
class Seen:
    """One run, as it was seen last."""

    id: str
    """What stands for it in an address: its name, where that is plain text."""
    name: str
    """Its path below the folder that all runs share."""
    run_dir: Path
    sketch: Sketch
    status: Status | None = None
    problem: str = ""
    """Why there is no status."""
    looked: float = 0.0
    """When it was looked at; the clock of ``time.monotonic``."""
    inode: tuple[int, int] | None = None
    """Device and number of the folder that the last search found."""

    def is_another(self) -> bool:
        """Whether something else has taken its folder's place since: a link, which may lead anywhere."""
        found = _inode(self.run_dir)
        return found is not None and found != self.inode


@dataclass(kw_only=True, slots=True, frozen=True)
class Look:
    """All runs at one moment."""

    runs: dict[str, Seen]
    """By id, in the order of their names."""
    problems: tuple[str, ...]
    """Folders that cannot be read, SLURM that does not answer."""


class RunList:
    """Run folders and folders of runs.

    Args:
        places: they.
    """

    def __init__(self, places: Sequence[Path]) -> None:
        self.places = [place.absolute() for place in places]
        self._root: str | None = None
        self._looking, self._reading = threading.Lock(), threading.Lock()
        self._look: Look | None = None
        self._fresh_until = self._search_at = 0.0
        self._found: list[Path] = []
        self._unread: list[str] = []
        self._known: dict[Path, Seen] = {}
        self._metrics: OrderedDict[str, GrowingMetrics] = OrderedDict()
        self._files: OrderedDict[str, tuple[tuple[object, ...], RunFiles]] = OrderedDict()
        self._pool = ThreadPoolExecutor(8, "look")  # a network disk answers many questions in the time of one

    def look(self) -> Look:
        """All runs. While somebody else's look lasts (a disk that does not answer), the last one is given."""
        if (known := self._look) is not None and time.monotonic() < self._fresh_until:
            return known
        if not self._looking.acquire(blocking=known is None):
            assert known is not None
            return known
        try:
            if self._look is None or time.monotonic() >= self._fresh_until:
                begin = time.monotonic()
                self._look = self._look_again()
                self._fresh_until = time.monotonic() + max(FRESH_SECONDS, 10 * (time.monotonic() - begin))
            return self._look
        finally:
            self._looking.release()

    def find(self, run: str, *, fresh: bool) -> tuple[Look, Seen] | None:
        """A run by its id, in the last look at all runs.

        Args:
            run: the id.
            fresh: whether its status is wanted as it is now; the others are not looked at for it.
        """
        look = self._look or self.look()
        if run not in look.runs:
            look = self.look()
        if (seen := look.runs.get(run)) is None or seen.is_another():
            return None
        if fresh and time.monotonic() - seen.looked > FRESH_SECONDS and self._looking.acquire(blocking=False):
            try:
                seen.sketch.look()
                self._ask([seen])
            finally:
                self._looking.release()
        return look, seen

    def metrics(self, seen: Seen) -> GrowingMetrics:
        """Its numbers, of which nothing is read yet the first time."""
        with self._reading:
            metrics = self._metrics.setdefault(seen.id, GrowingMetrics(seen.run_dir))
            self._metrics.move_to_end(seen.id)
            while len(self._metrics) > 1 and sum(one.nbytes for one in self._metrics.values()) > MEMORY_BYTES:
                self._metrics.popitem(last=False)
            return metrics

    def files(self, seen: Seen) -> RunFiles:
        """Its files; what was read of them is kept until they change."""
        state = (files := RunFiles(seen.run_dir)).state()
        with self._reading:
            known = self._files.get(seen.id)
            if known is None or known[0] != state:
                self._files[seen.id] = state, files
            self._files.move_to_end(seen.id)
            while len(self._files) > 32:
                self._files.popitem(last=False)
            return self._files[seen.id][1]

    def _look_again(self) -> Look:
        if time.monotonic() >= self._search_at:
            begin = time.monotonic()
            self._search()
            self._search_at = time.monotonic() + max(SEARCH_SECONDS, 20 * (time.monotonic() - begin))
        seen = [self._known[path] for path in self._found]
        list(self._pool.map(lambda one: one.is_another() or one.sketch.look(), seen))
        slurm_error = self._ask(seen)
        problems = [*self._unread, *([f"SLURM does not answer ({slurm_error})"] if slurm_error else [])]
        return Look(runs={one.id: one for one in seen}, problems=tuple(problems))

    def _search(self) -> None:
        errors: list[OSError] = []
        found = list(dict.fromkeys(run for place in self.places for run in runs_inside(place, errors)))
        self._root = self._root or os.path.commonpath([_outside(place) for place in self.places])
        self._unread = [f"{error.filename}: cannot be read ({error.strerror})" for error in errors[:8]]
        if len(found) > MOST_RUNS:
            self._unread.append(
                f"{plural(len(found), 'run')}: only the first {MOST_RUNS:,} are shown; name fewer folders"
            )
        still = set(found)
        gone = [path for path in self._found if path not in still and self._known[path].status is not None]
        for path in found[:MOST_RUNS]:
            self._known.setdefault(path, self._new(path)).inode = _inode(path)
        self._found = sorted([*found, *gone][:MOST_RUNS])
        self._known = {path: self._known[path] for path in self._found}

    def _new(self, path: Path) -> Seen:
        name = os.path.relpath(path, self._root)
        plain = _PLAIN_NAME.fullmatch(name) and masked(name) == name and not name.startswith("~")
        key = name if plain else f"~{hashlib.sha256(os.fsencode(name)).hexdigest()[:16]}"
        return Seen(id=key, name=name, run_dir=path, sketch=Sketch(path))

    def _ask(self, seen: list[Seen]) -> str | None:
        """Puts its status into each whose folder is there."""
        there = [one for one in seen if not one.is_another()]
        found = survey([one.run_dir for one in there], links=False)
        for one in seen:
            one.looked, one.problem = time.monotonic(), "its folder is not there any more"
        for one, status in zip(there, found.runs, strict=True):
            one.status, one.problem = status, "" if one.run_dir.is_dir() else one.problem
        return found.slurm_error


def _inode(folder: Path) -> tuple[int, int] | None:
    try:
        found = folder.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _outside(place: Path) -> str:
    """The folder that the names of the runs of a place begin below."""
    try:
        return str(place.parent if is_run(place) else place)
    except OSError:
        return str(place)
