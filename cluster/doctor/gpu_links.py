"""How the GPUs of a node reach each other, by ``nvidia-smi topo -m``, and how fast that should be at least."""

import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

from eyespot.pretrain.distributed.nvidia_devices import SECONDS

FAST, SWITCHED, BY_HOST = 20e9, 6e9, 2e9
"""Least bus bandwidth of an all-reduce, bytes per second; below it something is wrong with the link. NVLink gives more
than 200 GB/s; 16 lanes of PCIe 3 move 13 GB/s, of PCIe 4 25; through the host, where all share its memory and the link
between its sockets, it is a few. Rough on purpose: not measured."""
_ROADS = ("PIX", "PXB", "PHB", "NODE", "SYS")
"""nvidia-smi's words for ways over PCIe, from near to far: the first two pass switches alone, the others the host."""
_STYLE = re.compile(r"\x1b\[[0-9;]*m")


@dataclass(kw_only=True, slots=True, frozen=True)
class Link:
    """The slowest way between two of a node's GPUs: a ring over all of them has to take one as slow."""

    words: str
    slow: float
    """Bytes per second of an all-reduce that it should reach at least."""
    fix: str
    """What to look at where it does not."""


_SEEN = "do the GPUs see each other? nvidia-smi topo -m, nvidia-smi nvlink -s; a container needs --ipc host"
_WIDTH = "nvidia-smi --format=csv --query-gpu=pcie.link.width.current,pcie.link.width.max"
_LANES = f"has a board fewer PCIe lanes than it could? {_WIDTH}"
UNKNOWN = Link(words="", slow=FAST, fix=f"{_SEEN}; PCIe without NVLink gives less")
"""Where nothing says what it is."""


def ask(gpus: Sequence[int]) -> Link:
    """The link between some of the node's GPUs, by nvidia-smi; ``UNKNOWN`` where it does not say."""
    try:
        done = subprocess.run(
            ["nvidia-smi", "topo", "-m"], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=SECONDS
        )
    except (OSError, subprocess.TimeoutExpired):
        return UNKNOWN
    return parse(done.stdout, gpus) if done.returncode == 0 else UNKNOWN


def parse(topology: str, gpus: Sequence[int]) -> Link:
    """Reads the table of ``nvidia-smi topo -m``.

    Args:
        topology: the table: a row and a column for each GPU, then columns for network devices and cores.
        gpus: their numbers in it.
    """
    rows: dict[str, list[str]] = {}
    columns: list[str] = []
    for line in _STYLE.sub("", topology).splitlines():
        words = line.split()
        if words[:1] == ["GPU0"] and "GPU0" not in rows and words[1:2] != ["X"]:
            columns = words
        elif words and words[0] in columns:
            rows[words[0]] = words[1:]
    names = [f"GPU{number}" for number in gpus]
    try:
        ways = [rows[one][columns.index(other)] for one in names for other in names if one != other]
    except (KeyError, ValueError, IndexError):
        return UNKNOWN
    return _slowest(ways)


def as_used(link: Link, transport: str) -> Link:
    """The link as NCCL uses it: boards without P2P, or in a machine that forbids it, go through the host's memory.

    Args:
        link: by nvidia-smi.
        transport: NCCL's word, as in "SHM/direct/direct"; empty = not known.
    """
    if "SHM" not in transport or link.words.startswith("NVLink"):  # an NVLink that is not used is a fault
        return link
    if "P2P" not in transport or not link.words:
        return Link(words=f"{link.words or 'a link'}, without P2P, through the host's memory", slow=BY_HOST, fix=_LANES)
    return Link(words=f"{link.words}, some of it without P2P", slow=BY_HOST, fix=_LANES)


def _slowest(ways: Sequence[str]) -> Link:
    """Of the table's words for some pairs."""
    roads = [way for way in ways if way in _ROADS]
    if roads:
        far = max(roads, key=_ROADS.index)
        some = "PCIe" if len(roads) == len(ways) else "NVLink between some, else PCIe"
        if far in _ROADS[:2]:
            return Link(words=f"{some} through switches ({far})", slow=SWITCHED, fix=_LANES)
        return Link(words=f"{some} through the host ({far})", slow=BY_HOST, fix=_LANES)
    if ways and all(re.fullmatch(r"NV\d+", way) for way in ways):
        fewest = min(int(way[2:]) for way in ways)
        return Link(words=f"NVLink (NV{fewest})", slow=FAST, fix=_SEEN)
    return UNKNOWN
