"""``eyespot doctor``: find out before the run what would stop it."""

import json
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from annotated_types import Ge

from eyespot.cluster.help_text import show_help
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.exit_codes import ExitCode
from eyespot.data_pipeline.ranges import check_ranges

if TYPE_CHECKING:
    from eyespot.cluster.doctor.findings import Verdict
    from eyespot.pretrain.config import Run

HELP = """usage: eyespot doctor [--timeout-seconds S]
       eyespot doctor RECIPE --data.shards FOLDER --run-dir RUN [--field value ...] [--ranks N]
       eyespot doctor RUN [--ranks N]

Looks at this machine, and at what the run needs of it: packages, code, GPUs, shards, disk, file system, the data
pipeline, MLflow. A job of eyespot launch looks by itself, on all its nodes together, before it trains.

  eyespot doctor                    what can be seen without a run
  eyespot doctor RECIPE --help      every flag: those of eyespot pretrain, --config too, and doctor's own
  --ranks N                         processes that the run will have, over all nodes
  --timeout-seconds S               for everything; what has not answered by then has failed
  --json                            the findings as JSON instead of a table

  eyespot doctor mae_vitb16_in1k --data.shards /data/in1k --run-dir runs/mae --ranks 16
  eyespot doctor runs/mae

Exit codes: 0 nothing stops the run, 2 something does (the table says what, and what to do), 1 anything else.
"""


@dataclass(kw_only=True, slots=True)
class Options:
    """Doctor's own."""

    ranks: Annotated[int, Ge(1)] = 1
    """Processes that the run will have, over all nodes."""
    timeout_seconds: float = 120.0
    """For everything; what has not answered by then has failed."""
    json: bool = False
    """Print JSON."""

    def __post_init__(self) -> None:
        check_ranges(self)


def main(argv: list[str]) -> int:
    """Looks, and prints."""
    if argv and argv[0] in ("-h", "--help"):
        show_help(HELP)
        return ExitCode.DONE
    if argv and argv[0] == "--probe":
        from eyespot.cluster.doctor.probe import probe

        probe(Path(argv[1]), Path(argv[2]), float(argv[3]))
    if argv and argv[0] == "--probe-gpus":
        from eyespot.cluster.doctor import torch_gpus

        torch_gpus.probe()
        return ExitCode.DONE
    if argv and argv[0] == "--probe-tracking":
        from eyespot.cluster.doctor import tracking

        tracking.probe(argv[1], argv[2])
        return ExitCode.DONE
    return _doctor(argv)


def _doctor(argv: list[str]) -> int:
    # Imported here, because `eyespot doctor --help` and the probes should not wait for each other's libraries.
    from eyespot.cluster.arguments import parse
    from eyespot.data_pipeline.console import Console

    of_files = [word for word in argv if word.partition("=")[0] in ("--config", "--from")]
    if not argv or (argv[0].startswith("-") and not of_files):
        options = parse(Options, argv, "eyespot doctor", default=Options())
        verdict = _examine(options, None, None, {})
    else:
        options, verdict = _doctor_run(argv)
    if options.json:
        print(json.dumps(verdict.values(), indent=1))
    else:
        from eyespot.cluster.doctor.page import print_verdict

        print_verdict(verdict, "doctor on this machine", Console())
        if verdict.ok:
            say_what_is_next(argv)
    return ExitCode.DONE if verdict.ok else ExitCode.WRONG_INPUT


def say_what_is_next(argv: list[str]) -> None:
    """The command that comes after doctor's, of ``argv``, has found nothing in its way."""
    from eyespot.cluster.arguments import parse_known
    from eyespot.cluster.next_steps import say_next

    _, words = parse_known(Options, argv, "eyespot doctor")  # pretrain has not doctor's own
    if not words:
        say_next((["recipes"], "what can be trained here"))
    elif not words[0].startswith("-") and Path(words[0]).is_dir():
        say_next((["launch", "--again", words[0]], "goes on with it"))
    else:
        say_next((["pretrain", *words], "starts it"))


def meant(word: str) -> "tuple[str, Run]":
    """A run folder's run, or a recipe's; and how run folders name the recipe.

    Raises:
        UserError: it is neither.
    """
    from eyespot.cluster.status.records import Records
    from eyespot.pretrain.recipe_lookup import make_run
    from eyespot.pretrain.run_json import load_run
    from eyespot.pretrain.run_record import RunRecord

    where = Path(word)
    saved = next((path for path in (Records(where).run_file, RunRecord.path(where)) if path.is_file()), None)
    if where.is_dir() and saved is None:
        raise UserError(f"run {where}: no run.json inside, so it is not a run folder; or name a recipe")
    if saved is not None:
        return load_run(saved)
    run = make_run(word)
    return run.recipe, run


def _doctor_run(argv: list[str]) -> "tuple[Options, Verdict]":
    """Of a recipe with flags, or of a run folder."""
    from tyro.conf import arg

    from eyespot.cluster.arguments import parse
    from eyespot.cluster.config_files.request import asked
    from eyespot.cluster.run_length import Epochs
    from eyespot.pretrain.config import Run
    from eyespot.pretrain.run_json import to_values
    from eyespot.pretrain.run_record import RunRecord

    request = asked(argv, "eyespot doctor", meant)
    if request.print_config:
        raise UserError("--print-config: is of eyespot pretrain; leave it out")

    @dataclass(kw_only=True, slots=True)
    class Question(Options):
        run: Annotated[Run, arg(name="")]
        epochs: Epochs = None
        """Length of the run in passes over its data, in place of --steps."""

    with request.blamed():
        question = parse(Question, list(request.flags), request.prog, default=Question(run=request.run))
        question.run = request.settled(question.run, question.epochs)
    values = to_values(question.run)
    with tempfile.TemporaryDirectory(prefix="eyespot-doctor-") as folder:
        RunRecord(recipe=request.recipe, run=values).write(Path(folder))
        return question, _examine(question, question.run.run_dir, RunRecord.path(Path(folder)), values)


def _examine(options: Options, run_dir: Path | None, run_file: Path | None, values: dict[str, Any]) -> "Verdict":
    from eyespot.cluster.doctor.examine import examine_here
    from eyespot.data_pipeline.console import Console

    with Console(stderr=True, file=sys.stderr).status("looking"):
        return examine_here(
            run_dir=run_dir,
            run_file=run_file,
            values=values,
            ranks=options.ranks,
            timeout_seconds=options.timeout_seconds,
        )
