"""``eyespot pretrain``: train an encoder with a recipe."""

import errno
import os

from eyespot.cluster.start_run import requested, train
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.exit_codes import ExitCode
from eyespot.pretrain.distributed.exit_report import leave_words

HELP = """usage: eyespot pretrain RECIPE --data.shards FOLDER [--field value ...]
       eyespot pretrain --from RUN/run.json --run-dir NEW [--field value ...]

Trains an encoder. A recipe fills in every setting; each can be changed by its flag.

  eyespot recipes                   the recipes there are
  eyespot pretrain RECIPE --help    every flag, with the recipe's values
  --steps N, --epochs N             another length: warm-up, saves and pictures follow when it is shorter, and are said
  package.module:function           names a recipe of your own: a function that returns a Run; the package may lie here
  --from RUN --trust-recipe MODULE  RUN names a recipe of this module, which is not eyespot's: it is imported

  eyespot pretrain mae_tiny --data.shards data/digits --run-dir runs/first
  eyespot pretrain mae_tiny --data.shards data/digits --run-dir runs/first --resume auto
  torchrun --standalone --nproc-per-node 8 --max-restarts 3 --no-python eyespot pretrain RECIPE ...

torchrun starts all processes again when one dies; a run that it restarts goes on by itself. On SLURM: eyespot launch.

Exit codes: 0 done, 2 the input is wrong, 75 stopped by a signal (run it again with --resume auto), 1 anything else.
"""


def main(argv: list[str]) -> int:
    """Parses, trains, and says by the exit code how it ended."""
    if not argv or argv[0] in ("-h", "--help"):
        print(HELP, end="")
        return ExitCode.DONE if argv else ExitCode.WRONG_INPUT
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
