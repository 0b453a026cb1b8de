"""How NCCL moves numbers, by what it says itself under NCCL_DEBUG=INFO."""

import re
from pathlib import Path

_CHANNEL = re.compile(r" via (\S+)")
_NUMBER = re.compile(r"/\d+(\(\d+\))?(?=/|$)")
_DEVICES = re.compile(r"NET/\S+ ?: Using (.*)")
_DEVICE = re.compile(r"\[\d+\](?:\{[^}]*\})?([\w.-]+)")
_NETWORK = re.compile(r"Using network (.+?)\s*$", re.MULTILINE)


def transport(log: Path) -> str:
    """As in "NET/IB/GDRDMA (mlx5_0, mlx5_1), P2P/CUMEM": the ways to a rank's neighbours and the network's devices.

    Args:
        log: of one rank, which need not exist.

    Returns:
        Empty where the log does not say it.
    """
    try:
        text = log.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    ways = sorted({_NUMBER.sub("", way) for way in _CHANNEL.findall(text)})
    named = [name for line in _DEVICES.findall(text) for name in _DEVICE.findall(line)]
    networks = _NETWORK.findall(text)
    through = [way for way in ways if way.startswith("NET/")]
    if not ways and networks:  # nothing was sent yet
        through = [f"NET/{networks[-1]}"]
    elif through and networks and f"/{networks[-1]}" not in through[0]:  # a plugin has a name of its own
        through[0] += f" ({networks[-1]})"
    if through and named:
        through[-1] += f" ({', '.join(dict.fromkeys(named))})"
    return ", ".join([*through, *(way for way in ways if not way.startswith("NET/"))])
