"""``eyespot pretrain``: train an encoder with a recipe."""

import errno
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from eyespot.cluster.arguments import parse
from eyespot.data_pipeline.errors import UserError
from eyespot.pretrain.secrets import masked
from eyespot.pretrain.supervised import leave_words

if TYPE_CHECKING:
    from collections.abc import Callable

    from eyespot.pretrain.config import Run
    from eyespot.pretrain.dist import World

HELP = """usage: eyespot pretrain RECIPE --data.shards FOLDER [--field value ...]
       eyespot pretrain --from RUN/run.json --run-dir NEW [--field value ...]

Trains an encoder. A recipe fills in every setting; each can be changed by its flag.

  eyespot recipes                   the recipes there are
  eyespot pretrain RECIPE --help    every flag, with the recipe's values
  package.module:function           names a recipe of your own: a function that returns a Run

  eyespot pretrain mae_tiny --data.shards data/digits --run-dir runs/first
  eyespot pretrain mae_tiny --data.shards data/digits --run-dir runs/first --resume auto
  torchrun --standalone --nproc-per-node 8 --max-restarts 3 --no-python eyespot pretrain RECIPE ...

torchrun starts all processes again when one dies; a run that it restarts goes on by itself. On SLURM: eyespot launch.

Exit codes: 0 done, 2 the input is wrong, 75 stopped by a signal (run it again with --resume auto), 1 anything else.
"""
STOPPED = 75  # EX_TEMPFAIL of sysexits.h: try again later


def main(argv: list[str]) -> int:
    """Parses, trains, and says by the exit code how it ended."""
    if not argv or argv[0] in ("-h", "--help"):
        print(HELP, end="")
        return 0 if argv else 2
    # A rank that dies is told in one line; torch would add a C++ trace of its store's socket on every other.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    try:
        return train(*requested(argv))
    except UserError as error:
        leave_words("wrong input", str(error))
        raise
    except Exception as error:
        full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
        leave_words("training" if full else "crash", f"{type(error).__name__}: {error}")
        raise


def train(recipe: str, run: "Run", then: "Callable[[World], None] | None" = None) -> int:
    """Trains, calls ``then`` while all ranks are still together, and says by the exit code how it ended."""
    from eyespot.pretrain.rank_watch import RankFailure
    from eyespot.pretrain.rendezvous import restarted
    from eyespot.pretrain.trainer import TrainingError, fit

    if restarted() and run.resume == "never":
        run.resume = "auto"
    monitors = []
    if run.monitor_every:
        from eyespot.eval.online import OnlineProbe
        from eyespot.pretrain.health import Health

        monitors = [Health(run), OnlineProbe(run)]
    try:
        return 0 if fit(run, recipe, monitors, then) == "done" else STOPPED
    except RankFailure as error:  # it has been said
        leave_words("another rank", str(error), error.ranks)
        return 1
    except TrainingError as error:
        leave_words("training", str(error))
        if int(os.environ.get("RANK", 0)) == 0:
            print(masked(f"eyespot: {error}; see {run.run_dir / 'logs'}"), file=sys.stderr)
        return 1


def requested(argv: list[str]) -> "tuple[str, Run]":
    """The recipe's name and the resolved Run that the words after ``eyespot pretrain`` ask for.

    Raises:
        UserError: one of them is wrong.
    """
    # Imported here, because `eyespot pretrain --help` should not wait for torch.
    from eyespot.pretrain.config import load_run, make_run

    if argv[0] == "--from":
        if len(argv) < 2:
            raise UserError("--from: needs the run.json (or run folder) to repeat")
        recipe, run = load_run(Path(argv[1]))
        prog, flags = f"eyespot pretrain --from {argv[1]}", argv[2:]
        run.resume, run.stop_after = "never", None
    elif argv[0].startswith("-"):
        raise UserError(f"recipe: missing before {argv[0]}; write: eyespot pretrain RECIPE {argv[0]} ...")
    else:
        recipe, run = argv[0], make_run(argv[0])
        prog, flags = f"eyespot pretrain {argv[0]}", argv[1:]
    return recipe, parse(type(run), flags, prog, default=run)
