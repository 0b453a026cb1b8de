"""``eyespot pretrain``: train an encoder with a recipe."""

import errno
import os
import sys

from eyespot.cluster.help_text import show_help
from eyespot.cluster.next_steps import after_training
from eyespot.cluster.start_run import is_first, train
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.exit_codes import ExitCode
from eyespot.data_pipeline.progress_bar import working
from eyespot.pretrain.distributed.exit_report import leave_words

HELP = """usage: eyespot pretrain RECIPE --data.shards FOLDER [--field value ...]
       eyespot pretrain --config run.toml [--config more.toml] [--field value ...]
       eyespot pretrain --from RUN/run.json --run-dir NEW [--field value ...]

Trains an encoder. A recipe fills in every setting; a config file changes some, and a flag changes each.

  eyespot recipes                   the recipes there are
  eyespot pretrain RECIPE --help    every flag, with the recipe's values
  --steps N, --epochs N             another length: warm-up, saves and pictures follow when it is shorter, and are said
  package.module:function           names a recipe of your own: a function that returns a Run; the package may lie here
  --config run.toml                 settings as tables: [optim] lr = 1e-3; and recipe = "..." in RECIPE's place
  --print-config > run.toml         writes every setting as such a file, and trains nothing
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
        show_help(HELP)
        return ExitCode.DONE if argv else ExitCode.WRONG_INPUT
    # A rank that dies is told in one line; torch would add a C++ trace of its store's socket on every other.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    try:
        return _pretrain(argv)
    except UserError as error:
        leave_words("wrong input", str(error))
        raise
    except Exception as error:
        full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
        leave_words("training" if full else "crash", f"{type(error).__name__}: {error}")
        raise


def _pretrain(argv: list[str]) -> ExitCode:
    with working("loading torch", shown=is_first()):
        from eyespot.cluster.config_files.request import asked

    request = asked(argv, "eyespot pretrain")
    run = request.with_flags()
    if request.print_config:
        from eyespot.cluster.config_files.toml_text import as_toml, hidden_settings

        print(as_toml(request.recipe, run, request.recipe_run), end="")
        if hidden := hidden_settings(run):
            what = "holds a secret and is" if len(hidden) == 1 else "hold secrets and are"
            print(f"eyespot: warning: {', '.join(hidden)}: {what} written as ***; say it anew", file=sys.stderr)
        return ExitCode.DONE
    with request.blamed():
        code = train(request.recipe, run)
    if code == ExitCode.DONE:
        view = getattr(run.objective, "view", None)
        students = tuple(run.objective.further_encoders(run.encoder.image_size))
        clips = getattr(view, "clip", None) is not None
        after_training(run.run_dir, run.data.shards, clips=clips, students=students)
    return code
