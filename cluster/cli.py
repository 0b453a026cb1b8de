"""The console command ``eyespot``. Nothing heavy is imported until a subcommand needs it."""

import errno
import importlib
import logging
import os
import select
import sys
from typing import TextIO

from eyespot.cluster.help_text import show_help, unknown_command
from eyespot.data_pipeline.errors import Outage, UserError
from eyespot.data_pipeline.exit_codes import ExitCode
from eyespot.data_pipeline.terminal import brief, filter_output, one_line
from eyespot.pretrain import trusted_recipes
from eyespot.pretrain.redaction import mask_tracebacks, masked

COMMANDS = {
    "shards": "pack images and videos into shards, check them, look at them",
    "curate": "choose what to learn from: duplicates, leaks, balance over clusters, neighbours",
    "pretrain": "train an encoder with a recipe",
    "eval": "judge an encoder: probes, kNN, fine-tuning, segmentation; compare encoders",
    "launch": "submit a run to SLURM, or start it here under torchrun",
    "status": "what the runs are doing: state, nodes, step, loss, time left",
    "web": "the runs as pages in a browser: curves that move, pictures, results, side by side",
    "logs": "read a run's logs, of any rank, as they grow",
    "cancel": "stop a run: it saves a checkpoint first",
    "doctor": "find out before the run what would stop it",
    "plan": "memory, batch, time and cost of a run, before it runs",
    "report": "write a run's report.html",
    "release": "write a run's encoder as a folder that timm loads, with card, provenance and proof",
    "pull": "fetch a release from a folder, an archive, http(s), MLflow or a hub, and verify it",
    "serve": "answer with the features of images over HTTP, by a release that verifies",
    "promote": "move an alias of MLflow's registry to a release that verifies",
    "recipes": "list the recipes",
    "sync": "bring the metrics of an offline run to MLflow, TensorBoard or W&B",
    "completion": "teach a shell to complete commands, recipes and flags",
}
_MODULES = {"completion": "eyespot.cluster.completion.command"}
"""Of commands that lie elsewhere than in commands/."""

USAGE = """usage: eyespot COMMAND ...

Self-supervised pretraining for vision, from shards to a judged encoder.

{commands}

  eyespot COMMAND --help   what a command takes
  eyespot --version        the version
  --trust-recipe MODULE    with any command: run folders may name recipes of this module, which is imported then

A first run:
  eyespot shards pack caltech10 data/caltech10
  eyespot pretrain simclr_r10_caltech10 --data.shards data/caltech10 --run-dir runs/first
  eyespot eval linear runs/first data/caltech10
  eyespot report runs/first

Exit codes: 0 done, 2 the input is wrong (one line says what), 75 stopped by a signal and resumable, 141 nobody reads
the output any more, 1 anything else.
"""


def main(argv: list[str] | None = None) -> int:
    """Runs one subcommand and returns the exit code; quietly, where nobody reads its output any more (``| head``)."""
    try:
        try:
            return _run(sys.argv[1:] if argv is None else argv)
        finally:
            if sys.stdout is not None:  # pyright: ignore[reportUnnecessaryComparison] - closed before: `eyespot ... >&-`
                sys.stdout.flush()  # also of a help text, which ends the process; at its end it would be a traceback
    except OSError as error:
        output = sys.stdout if error.errno == errno.ENOSPC and error.filename is None else None
        if output is not None and _is_full(output):
            os.dup2(os.open(os.devnull, os.O_WRONLY), output.fileno())
            print("eyespot: the output cannot be written: its disk is full; make room there", file=sys.stderr)
            return ExitCode.FAILED
        if not isinstance(error, BrokenPipeError):
            raise
        gone = [stream for stream in (sys.stdout, sys.stderr) if stream and _is_unread(stream.fileno())]
        if not gone:  # another pipe, to a server or a process
            raise
        for stream in gone:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        return ExitCode.UNREAD


def _is_unread(descriptor: int) -> bool:
    """Whether it is a pipe of which the other end is closed."""
    waiting = select.poll()
    waiting.register(descriptor, select.POLLOUT)
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in waiting.poll(0))


def _is_full(stream: TextIO) -> bool:
    """Whether another byte finds no room there; what was not written is no longer known by then."""
    try:
        stream.flush()
        os.write(stream.fileno(), b"\n")
    except OSError as error:
        return error.errno == errno.ENOSPC
    return False


def _run(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help"):
        show_help(USAGE.format(commands="\n".join(f"  {name:<10}  {what}" for name, what in COMMANDS.items())))
        return ExitCode.DONE if argv else ExitCode.WRONG_INPUT
    if argv[0] == "--version":
        from eyespot import __version__

        print(f"eyespot {__version__}")
        return ExitCode.DONE
    filter_output()
    mask_tracebacks()
    try:
        argv = trusted_recipes.take(argv)
        if argv[:1] and argv[0] not in COMMANDS:
            raise UserError(unknown_command(argv[0], list(COMMANDS), "eyespot"))
        command = importlib.import_module(_MODULES.get(argv[0], f"eyespot.cluster.commands.{argv[0]}"))
        return command.main(argv[1:])
    except UserError as error:
        if int(os.environ.get("RANK", 0)) == 0:
            logging.getLogger("eyespot").debug("wrong input", exc_info=True)
            print(brief(one_line(masked(f"eyespot: {error}"))), file=sys.stderr)
        return ExitCode.WRONG_INPUT
    except Outage as error:
        if int(os.environ.get("RANK", 0)) == 0:
            print(brief(one_line(masked(f"eyespot: {error}"))), file=sys.stderr)
        return ExitCode.FAILED
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:  # such a path can only have been given; wherever it is first looked at
            raise
        print(
            brief(one_line(masked(f"eyespot: {error.filename}: {error.strerror}; name another path"))), file=sys.stderr
        )
        return ExitCode.WRONG_INPUT
    except KeyboardInterrupt:
        print("eyespot: interrupted", file=sys.stderr)
        return ExitCode.FAILED


if __name__ == "__main__":
    sys.exit(main())
