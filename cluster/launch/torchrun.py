"""``eyespot launch --local``: the ranks of a run on this machine, under torchrun, with the exit code of the run."""

import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from eyespot.data_pipeline.exit_codes import ExitCode

SAVE_SECONDS = 600
"""For the ranks to save after a signal: torchrun would kill them after 30."""


def run_here(words: Sequence[str], code: Path, *, processes: int, max_restarts: int) -> int:
    """Runs ``eyespot WORDS`` in each of ``processes`` ranks, and returns what they return.

    torchrun starts all of them again when one fails. Called in this process, it leaves the exit code to us: by itself
    it turns every failure into 1, and a Ctrl-C into a traceback of its own.

    Args:
        words: of the command.
        code: the folder in which the ranks find eyespot.
        processes: how many ranks.
        max_restarts: how often they may be started again.
    """
    from torch.distributed import run as torchrun
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    for name in logging.root.manager.loggerDict:
        if name.startswith(("torch.distributed.elastic", "torch.distributed.run")):
            logging.getLogger(name).setLevel(logging.CRITICAL)  # the ranks say why they end
    path = os.pathsep.join([str(code), *filter(None, [os.environ.get("PYTHONPATH")])])
    os.environ.update({"PYTHONPATH": path, "PYTHONSAFEPATH": "1"})
    limits = [f"--nproc-per-node={processes}", f"--max-restarts={max_restarts}", f"--shutdown-timeout={SAVE_SECONDS}"]
    signals = "--signals-to-handle=SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1"
    command = ["--standalone", signals, *limits, "-m", "eyespot.cluster.cli", *words]
    sys.stdout.flush()
    try:
        torchrun.run(torchrun.parse_args(command))
    except SignalException:
        return ExitCode.STOPPED  # the ranks were told, and have saved
    except ChildFailedError as error:
        codes = {failure.exitcode for failure in error.failures.values()}
        return next((code for code in (ExitCode.WRONG_INPUT, ExitCode.STOPPED) if code in codes), ExitCode.FAILED)
    return ExitCode.DONE
