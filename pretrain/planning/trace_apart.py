"""A trace made in a process of its own: beside a run that trains, whose process group and memory it must not touch."""

import os
import pickle
import subprocess
import sys

import torch

from eyespot.pretrain.config import Run
from eyespot.pretrain.planning.trace import Device, Trace, trace

SECONDS = 180
"""A trace that takes longer is given up where nobody waits for it."""
_LAUNCHERS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_PROGRAM = "from eyespot.pretrain.planning.trace_apart import answer; answer()"


def trace_apart(run: Run, device: Device, seconds: float = SECONDS) -> Trace | None:
    """``trace`` of the run on one rank; None where it fails or takes too long. Uses no GPU; some seconds of a core.

    On one rank: what more of them compare in their losses is missing, which beside an encoder is little.

    Args:
        run: that is traced.
        device: of it.
        seconds: in which it is given up.
    """
    environment = {name: value for name, value in os.environ.items() if name not in _LAUNCHERS}
    environment |= {"PYTHONPATH": os.pathsep.join(path or "." for path in sys.path), "CUDA_VISIBLE_DEVICES": ""}
    given = pickle.dumps((run, device))
    command = [sys.executable, "-P", "-c", _PROGRAM]
    try:
        asked = subprocess.run(command, input=given, capture_output=True, env=environment, timeout=seconds, check=True)
        return pickle.loads(asked.stdout)
    except (OSError, subprocess.SubprocessError, pickle.UnpicklingError, EOFError):
        return None


def answer() -> None:
    """The other process: a pickled run comes in, a pickled trace goes out."""
    run, device = pickle.load(sys.stdin.buffer)
    out, sys.stdout = sys.stdout.buffer, sys.stderr  # whatever is printed must not come between
    torch.set_num_threads(1)
    pickle.dump(trace(run, 1, device), out)
