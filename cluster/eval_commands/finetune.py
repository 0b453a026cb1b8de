"""``eyespot eval finetune | linear-paper | attentive MODEL SHARDS``: the protocols that train."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TypeVar

import tyro

from eyespot.cluster.arguments import parse, parse_known
from eyespot.cluster.help_text import show_help
from eyespot.cluster.start_run import train
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.exit_codes import ExitCode

if TYPE_CHECKING:
    from eyespot.cluster.config_files.request import Request
    from eyespot.cluster.config_files.toml_file import TomlFile
    from eyespot.data_pipeline.shards.shard_folder import ShardFolder
    from eyespot.eval.finetune import Trained
    from eyespot.eval.results.result import Result
    from eyespot.pretrain.config import Run
    from eyespot.pretrain.distributed.process_group import World

T = TypeVar("T")

PROTOCOLS: "tuple[Trained, ...]" = ("finetune", "linear-paper", "attentive")
HELP = """usage: eyespot eval finetune MODEL SHARDS [--recipe RECIPE] [--scratch] [--field value ...]
       eyespot eval linear-paper MODEL SHARDS [--preset mae|moco|simclr] [--field value ...]
       eyespot eval attentive MODEL SHARDS [--field value ...]

Trains on the labels of train/, then names the images of test/ with the last checkpoint. Nothing is chosen on test.

finetune       encoder and head; the recipe is MAE's for ImageNet, or finetune_cifar10 for images of up to 64 pixels
linear-paper   a linear layer on the frozen encoder, augmented, for many epochs, as in the papers
attentive      learned queries look at all tokens of the frozen encoder

  --config run.toml     settings of a file, as for eyespot pretrain; flags win over it
  --recipe RECIPE       another recipe (eyespot recipes); its epochs become steps with the number of your images
  --preset PRESET       linear-paper's recipe: mae (default), moco or simclr
  --scratch             begin with random weights: what MODEL's are worth under the same budget
  --shots SHOTS         finetune: learn from 1% or 10% of the images of each class, or from 5 of each; --seed draws them
  --run-dir DIR         the training's own run folder; by default beside RUN, with the result's name after its own
  --out DIR             where the result goes; by default RUN/eval, or eval-<name> for other models
  --no-pretrained       timm models: random weights, no download

  eyespot eval finetune MODEL SHARDS --help     every other flag: those of eyespot pretrain, with the recipe's values

It is a run like any other: engines, ranks, checkpoints, signals. Called again it goes on where it stopped, and where it
had ended it shows the result. --data.batch-size keeps the epochs, --epochs and --steps change them.

  eyespot eval finetune runs/first data/digits --recipe finetune_tiny
  eyespot eval finetune runs/first data/digits --recipe finetune_tiny --scratch
  eyespot eval finetune runs/first data/imagenet --shots 1% --epochs 60
  torchrun --standalone --nproc-per-node 8 --no-python eyespot eval finetune runs/b16 data/imagenet

Exit codes: 0 done, 2 the input is wrong, 75 stopped by a signal (run it again), 1 anything else.
"""


@dataclass(kw_only=True, slots=True)
class Options:
    """What is not the run's."""

    config: Annotated[tuple[Path, ...], tyro.conf.UseAppendAction] = ()
    recipe: str | None = None
    preset: Literal["mae", "moco", "simclr"] | None = None
    scratch: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    pretrained: bool = True
    shots: str | None = None
    out: Path | None = None
    run_dir: Path | None = None


@dataclass(kw_only=True, slots=True)
class Wanted:
    """What the words ask for."""

    protocol: "Trained"
    model: str
    shards: Path
    options: Options
    flags: list[str]
    """Those of the run."""
    prog: str


def main(argv: list[str]) -> int:
    """Trains and judges; the exit code says how it ended. ``argv`` begins with the protocol."""
    if len(argv) == 1 or argv[1] in ("-h", "--help"):
        show_help(HELP)
        return ExitCode.DONE if len(argv) > 1 else ExitCode.WRONG_INPUT
    wanted = parsed(argv)

    def of_flags(request: "Request") -> "tuple[Run, float | None]":
        from eyespot.cluster.run_length import Length

        found = parse(Length, wanted.flags, f"{wanted.prog} --recipe {request.recipe}", default=Length(run=request.run))
        return found.run, found.epochs

    code, results = carried_out(wanted, of_flags, train)
    if results:
        from eyespot.cluster.eval_commands.eval_table import print_next, print_place, print_table, track

        print_table(results)
        print_place(wanted.model, wanted.options.out)
        track(wanted.model, results)
        print_next(wanted.model, wanted.options.out, results)
    return ExitCode.DONE if code is None else code


def parsed(argv: list[str]) -> Wanted:
    """The protocol, MODEL, SHARDS and options; the flags of the run are left.

    Raises:
        UserError: one is missing, or goes with another protocol.
    """
    protocol: Trained = next(name for name in PROTOCOLS if name == argv[0])
    if len(argv) < 3 or any(word.startswith("-") for word in argv[1:3]):
        raise UserError(f"eval {protocol}: write MODEL and SHARDS first: eyespot eval {protocol} MODEL SHARDS [flags]")
    prog = f"eyespot eval {protocol} {argv[1]} {argv[2]}"
    options, flags = parse_known(Options, argv[3:], prog)
    if options.preset is not None and (protocol != "linear-paper" or options.recipe is not None):
        raise UserError(f"preset {options.preset}: names a recipe of linear-paper; leave it or --recipe out")
    if options.shots is not None and protocol != "finetune":
        raise UserError(f"--shots {options.shots}: is of finetune and low-shot; leave it out, or take one of these")
    if options.preset is not None:
        options.recipe = f"linear_paper_{options.preset}"
    return Wanted(protocol=protocol, model=argv[1], shards=Path(argv[2]), options=options, flags=flags, prog=prog)


def carried_out(
    wanted: Wanted,
    settings: "Callable[[Request], tuple[Run, float | None]]",
    train: "Callable[[str, Run, Callable[[World], None], ShardFolder], T]",
) -> "tuple[T | None, list[Result]]":
    """What ``train`` returned, None where nothing was left to train; and the result, on rank 0.

    Args:
        wanted: what to do.
        settings: lays what the user says over a recipe with config files: the run, and its length in epochs if said.
        train: trains a run of a recipe, and calls back when it is done.

    Raises:
        UserError: the model, the shards or a setting is wrong.
    """
    from eyespot.cluster.config_files.request import laid
    from eyespot.cluster.config_files.toml_file import read_toml
    from eyespot.eval.finetune import judge_trained, plan, prepare, same_epochs
    from eyespot.eval.protocols.labeled_data import Shots
    from eyespot.pretrain.distributed import process_group

    options, files = wanted.options, [read_toml(path) for path in wanted.options.config]

    def changed(recipe: "Run", name: str, images: int) -> "Run":
        request = laid(name, recipe, files, wanted.flags)
        with request.blamed():
            run, epochs = settings(request)
            if epochs is None and not request.says_length():
                same_epochs(run, recipe)
                return run
            return request.settled(run, epochs, images)

    results: list[Result] = []

    def judge(world: "World") -> None:
        results.extend(judge_trained(job, world))

    job = plan(
        wanted.protocol,
        wanted.model,
        wanted.shards,
        recipe=options.recipe or _recipe_in(files),
        scratch=options.scratch,
        pretrained=options.pretrained,
        out=options.out,
        run_dir=options.run_dir,
        shots=None if options.shots is None else Shots(text=options.shots),
        changed=changed,
    )
    trained: T | None = None
    run = job.run
    world = process_group.start(run.device, run.rank_timeout_seconds, deterministic=run.deterministic)
    try:
        if prepare(job, world):
            trained = train(job.recipe, job.run, judge, job.data.train.shards)
        else:
            judge(world)
    finally:
        process_group.stop()
    return trained, results


def _recipe_in(files: "list[TomlFile]") -> str | None:
    from eyespot.cluster.config_files.request import named_in

    return next((found[0] for file in reversed(files) if (found := named_in(file)) is not None), None)
