"""Where the ranks post what they do: beats in torch's store, and what can be told from two readings of them."""

import json
import os
import secrets
import socket
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import Literal, TypeVar

from torch.distributed import TCPStore  # pyright: ignore[reportPrivateImportUsage]

from eyespot.data_pipeline import foreign_json
from eyespot.pretrain.distributed.collectives import barrier, gather_objects
from eyespot.pretrain.distributed.process_group import World

STORE_SECONDS = 10.0
"""A store that takes longer to answer is gone."""

T = TypeVar("T")
State = Literal["running", "failed", "ended"]
Finding = Literal["died", "stopped", "silent", "stuck", "network"]


@dataclass(kw_only=True, slots=True, frozen=True)
class RankProcess:
    """A process of the run, as it introduced itself."""

    rank: int
    host: str
    pid: int
    pid_namespace: str
    """Of host and process numbers; empty where /proc does not tell."""

    def __str__(self) -> str:
        return f"rank {self.rank} ({self.host}, process {self.pid})"

    @classmethod
    def this(cls, rank: int) -> "RankProcess":
        """This process."""
        host = socket.gethostname()
        try:
            namespace = f"{host} {Path('/proc/self/ns/pid').readlink()}"
        except OSError:
            namespace = ""
        return cls(rank=rank, host=host, pid=os.getpid(), pid_namespace=namespace)


@dataclass(kw_only=True, slots=True, frozen=True)
class Beat:
    """What one rank said last."""

    number: int
    """Grows by one with every beat: whether a rank lives is told without comparing clocks."""
    state: State
    """running; failed = its main thread met an error; ended = it has left the run, all is well."""
    ticks: int
    """Changes of place since the start. All ranks make the same ones, so fewer means behind."""
    waits: bool
    """Whether the main thread is in an exchange or in the backward pass, where gradients are exchanged."""
    step: int
    place: str
    code: str
    """File and line that the main thread executes."""
    seconds: float
    """Since it came to this place."""
    clock: float
    """Seconds since 1970 on its own host; only to be shown."""

    def __str__(self) -> str:
        return f"step {self.step}, {self.place} ({self.code})"


@dataclass(kw_only=True, slots=True, frozen=True)
class Cause:
    """Why the run is over, and because of whom."""

    ranks: list[int]
    line: str


class Board:
    """A connection to torch's store for one thread: a client serves one at a time, and a blocked one blocks only it.

    All ranks make theirs at the same time. Keys carry a token of this start, since a restart may meet the same store.
    """

    def __init__(self, world: World, first: Beat) -> None:
        introductions = gather_objects((RankProcess.this(world.rank), secrets.token_hex(4)))
        self.members = [member for member, _ in introductions]
        self._rank, self._prefix = world.rank, f"eyespot/{introductions[0][1]}"
        self._store = TCPStore(
            os.environ["MASTER_ADDR"],
            int(os.environ["MASTER_PORT"]),
            is_master=False,
            wait_for_workers=False,
            timeout=timedelta(seconds=STORE_SECONDS),
        )
        self.post(first)
        if world.rank == 0:
            self._store.set(f"{self._prefix}/cause", "null")
        barrier()  # a key that nobody has set yet would block its reader

    def post(self, beat: Beat) -> None:
        """Replaces this rank's beat."""
        self._store.set(f"{self._prefix}/beat/{self._rank}", json.dumps(asdict(beat)))

    def beats(self, ranks: Sequence[int] | None = None) -> list[Beat]:
        """The newest beat of these ranks, or of all; as any reading here, RuntimeError where the store has none."""
        wanted = range(len(self.members)) if ranks is None else ranks
        values = self._store.multi_get([f"{self._prefix}/beat/{rank}" for rank in wanted])
        return [_read(value, Beat) for value in values]

    def cause(self) -> Cause | None:
        """What has been declared."""
        return _cause(self._store.get(f"{self._prefix}/cause"))

    def declare(self, cause: Cause) -> Cause:
        """Declares it, unless somebody was first: what holds for all."""
        return _cause(self._store.compare_set(f"{self._prefix}/cause", "null", json.dumps(asdict(cause)))) or cause

    def claim(self, what: str) -> bool:
        """Whether this rank is the first to claim it."""
        me = str(self._rank)
        return self._store.compare_set(f"{self._prefix}/{what}", "", me).decode() == me


def _cause(value: bytes) -> Cause | None:
    return None if value == b"null" else _read(value, Cause)


def _read(value: bytes, kind: type[T]) -> T:
    """What a rank has posted. Anybody on the network may write there: what is no beat is as good as no answer."""
    try:
        return foreign_json.parse(value, kind, "torch's store")
    except foreign_json.ForeignJsonError as error:
        raise RuntimeError(str(error)) from error


def process_state(member: RankProcess, me: RankProcess) -> Finding | None:
    """What this host's kernel knows of a process: "died", "stopped" (SIGSTOP), or None if it runs or is elsewhere."""
    if not member.pid_namespace or member.pid_namespace != me.pid_namespace:
        return None
    try:
        letter = Path(f"/proc/{member.pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "died"
    if letter in "ZX":
        return "died"
    return "stopped" if letter in "Tt" else None


def find_culprits(before: list[Beat], after: list[Beat], processes: list[Finding | None]) -> tuple[Finding, list[int]]:
    """Who is to blame for a failed exchange.

    Args:
        before: each rank's beat when the exchange failed.
        after: and some beats later.
        processes: what the kernel knows of each, where it is this host's.
    """
    left = [rank for rank, beat in enumerate(after) if beat.state != "ended"]
    if died := [rank for rank in left if processes[rank] == "died"]:
        return "died", died
    if silent := [rank for rank in left if after[rank].number == before[rank].number]:
        stopped = all(processes[rank] == "stopped" for rank in silent)
        return "stopped" if stopped else "silent", silent
    if working := [rank for rank in left if after[rank].state == "running"]:
        return "stuck", furthest_behind(after, working)
    return "network", []


def furthest_behind(beats: list[Beat], among: Sequence[int]) -> list[int]:
    """The ranks that the others wait for: fewest ticks, and of those the ones that do not wait themselves."""
    lowest = min((beats[rank].ticks, beats[rank].waits) for rank in among)
    return [rank for rank in among if (beats[rank].ticks, beats[rank].waits) == lowest]


def position(thread: int) -> tuple[bool, str]:
    """Where a thread is: (in an exchange or the backward pass?, innermost line outside torch)."""
    frame, waits, code = sys._current_frames().get(thread), False, ""
    while frame is not None:
        file = frame.f_code.co_filename
        waits = waits or file.endswith(("distributed/distributed_c10d.py", "autograd/graph.py"))
        if not code and "/torch/" not in file and not file.startswith("<"):
            code = f"{Path(file).name}:{frame.f_lineno}"
        frame = frame.f_back
    return waits, code
