"""The processes of one node: started, signalled, and asked how they ended."""

import contextlib
import ctypes
import fcntl
import json
import os
import selectors
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Any

from eyespot.pretrain.distributed.exit_report import LAST_WORDS

_PR_SET_PDEATHSIG = 1
_SIOCGIFADDR = 0x8915
_LIBC = ctypes.CDLL(None)


@dataclass(kw_only=True, slots=True, frozen=True)
class Place:
    """This node among those of a job."""

    index: int
    """0 is the first node: it hosts rank 0, and decides."""
    nodes: tuple[str, ...]
    """All of them, as SLURM names them."""
    processes: int
    """Ranks per node."""
    job: str
    """SLURM's id: "123", or "123_4" in an array."""
    requeues: int
    """How often SLURM had requeued the job when it was started."""

    @property
    def node(self) -> str:
        """This node's name."""
        return self.nodes[self.index]

    def ranks_of(self, node: str) -> range:
        """The ranks that run on a node."""
        first = self.nodes.index(node) * self.processes
        return range(first, first + self.processes)


@dataclass(kw_only=True, slots=True, frozen=True)
class Words:
    """Why a rank ended, in its own words (``pretrain/distributed/exit_report.py``)."""

    kind: str
    """wrong input, training, another rank, crash."""
    text: str
    ranks: tuple[int, ...] = ()
    """Whom it blames."""


class Ranks:
    """``python -m eyespot.cluster.cli WORDS``, once per rank of this node.

    A rank dies with the process that started it. It starts with SIGTERM and SIGUSR1 ignored: SLURM sends them to every
    process of a step, and one that comes while torch is imported, before the run listens, must not kill. Hence whoever
    wants the ranks to stop sends the signal again until they have ended.

    Args:
        words: of the command, as in ``("pretrain", "mae_tiny", ...)``.
        place: of this node.
        port: at which rank 0 listens.
        env: variables besides those of this process.
        stdout: for all of them; None is this process's.
        stderr: likewise.
    """

    def __init__(
        self,
        words: Sequence[str],
        place: Place,
        port: int,
        env: Mapping[str, str] = {},
        stdout: IO[Any] | int | None = None,
        stderr: IO[Any] | int | None = None,
    ) -> None:
        self.first = place.index * place.processes
        shared = {**os.environ, **meeting_point(place, port), **env}
        self._processes: list[subprocess.Popen[bytes]] = []
        self._pipes: list[int] = []
        try:
            for local_rank in range(place.processes):
                listen, speak = os.pipe()
                self._pipes.append(listen)
                own = {"RANK": self.first + local_rank, "LOCAL_RANK": local_rank, LAST_WORDS: speak}
                try:
                    process = subprocess.Popen(
                        [sys.executable, "-P", "-u", "-m", "eyespot.cluster.cli", *words],
                        env={**shared, **{name: str(value) for name, value in own.items()}},
                        stdin=subprocess.DEVNULL,
                        stdout=stdout,
                        stderr=stderr,
                        pass_fds=(speak,),
                        preexec_fn=_before_exec,
                    )
                finally:
                    os.close(speak)
                self._processes.append(process)
        except BaseException:
            self.kill()
            raise
        self._said: dict[int, Words] = {}

    def poll(self) -> list[int | None]:
        """Exit code of each rank; None while it runs, -N where signal N killed it."""
        return [process.poll() for process in self._processes]

    def send(self, signal_number: int) -> None:
        """Sends a signal to those that still run."""
        for process in self._processes:
            process.send_signal(signal_number)

    def kill(self) -> None:
        """Ends those that still run, whatever they do. One that waits for a dead disk stays."""
        self.send(signal.SIGKILL)
        for process in self._processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)

    def wait(self, timeout_seconds: float) -> list[int | None]:
        """Waits until all have ended, or the time is over; what ``poll`` says then."""
        until = time.monotonic() + timeout_seconds
        for process in self._processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, until - time.monotonic()))
        return self.poll()

    def words(self) -> list[Words | None]:
        """What each rank said of its end; None where it said nothing."""
        for local_rank, pipe in enumerate(self._pipes):
            if local_rank not in self._said and (words := _first_line(pipe)) is not None:
                self._said[local_rank] = words
        return [self._said.get(local_rank) for local_rank in range(len(self._pipes))]

    def close(self) -> None:
        """Ends what still runs and lets go of the pipes."""
        self.kill()
        for pipe in self._pipes:
            os.close(pipe)
        self._pipes = []


def meeting_point(place: Place, port: int) -> dict[str, str]:
    """The variables by which the ranks of all nodes find each other.

    gloo would listen at the address that the node's own name stands for, which is 127.0.1.1 on many systems: it is told
    the interface by which the nodes reach each other, unless the user has chosen one.
    """
    alone = len(place.nodes) == 1
    found = {
        "MASTER_ADDR": "127.0.0.1" if alone else place.nodes[0],
        "MASTER_PORT": str(port),
        "WORLD_SIZE": str(len(place.nodes) * place.processes),
        "LOCAL_WORLD_SIZE": str(place.processes),
    }
    if "GLOO_SOCKET_IFNAME" not in os.environ:
        interface = "lo" if alone else interface_towards(place.nodes[1 if place.index == 0 else 0])
        if interface is not None:
            found["GLOO_SOCKET_IFNAME"] = interface
    return found


def interface_towards(host: str) -> str | None:
    """The network interface whose address this machine uses towards a host; None where that cannot be told."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((host, 9))  # sends nothing: the kernel looks up the route
        own = probe.getsockname()[0]
        for _, name in socket.if_nameindex():
            with contextlib.suppress(OSError):
                request = struct.pack("256s", name.encode()[:15])
                if socket.inet_ntoa(fcntl.ioctl(probe.fileno(), _SIOCGIFADDR, request)[20:24]) == own:
                    return name
    return None


def free_port() -> int:
    """A port that nobody uses on this machine at this moment."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        return probe.getsockname()[1]


def _before_exec() -> None:
    """In the child, before it becomes a rank."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _first_line(pipe: int) -> Words | None:
    with selectors.DefaultSelector() as ready:  # the pipe may be held open by a process that the rank has left behind
        ready.register(pipe, selectors.EVENT_READ)
        if not ready.select(0):
            return None
    line, _, _ = os.read(pipe, 1 << 16).partition(b"\n")
    try:
        said = json.loads(line)
        return Words(kind=said["kind"], text=said["text"], ranks=tuple(said["ranks"]))
    except (ValueError, KeyError, TypeError):
        return None
