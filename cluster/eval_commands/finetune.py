"""``eyespot eval finetune | linear-paper | attentive MODEL SHARDS``: the protocols that train."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from eyespot.cluster.arguments import parse, parse_known
from eyespot.cluster.start_run import train
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.exit_codes import ExitCode

if TYPE_CHECKING:
    from eyespot.eval.finetune import Trained
    from eyespot.eval.results.result import Result
    from eyespot.pretrain.config import Run
    from eyespot.pretrain.distributed.process_group import World

PROTOCOLS: "tuple[Trained, ...]" = ("finetune", "linear-paper", "attentive")
HELP = """usage: eyespot eval finetune MODEL SHARDS [--recipe RECIPE] [--scratch] [--field value ...]
       eyespot eval linear-paper MODEL SHARDS [--preset mae|moco|simclr] [--field value ...]
       eyespot eval attentive MODEL SHARDS [--field value ...]

Trains on the labels of train/, then names the images of test/ with the last checkpoint. Nothing is chosen on test.

finetune       encoder and head; the recipe is MAE's for ImageNet, or finetune_cifar10 for images of up to 64 pixels
linear-paper   a linear layer on the frozen encoder, augmented, for many epochs, as in the papers
attentive      learned queries look at all tokens of the frozen encoder

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

    recipe: str | None = None
    preset: Literal["mae", "moco", "simclr"] | None = None
    scratch: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    pretrained: bool = True
    shots: str | None = None
    out: Path | None = None
    run_dir: Path | None = None


def main(argv: list[str]) -> int:
    """Trains and judges; the exit code says how it ended. ``argv`` begins with the protocol."""
    protocol: Trained = next(name for name in PROTOCOLS if name == argv[0])
    if len(argv) == 1 or argv[1] in ("-h", "--help"):
        print(HELP, end="")
        return ExitCode.DONE if len(argv) > 1 else ExitCode.WRONG_INPUT
    if len(argv) < 3 or any(word.startswith("-") for word in argv[1:3]):
        raise UserError(f"eval {protocol}: write MODEL and SHARDS first: eyespot eval {protocol} MODEL SHARDS [flags]")
    model, shards, prog = argv[1], Path(argv[2]), f"eyespot eval {protocol} {argv[1]} {argv[2]}"
    options, flags = parse_known(Options, argv[3:], prog)
    if options.preset is not None and (protocol != "linear-paper" or options.recipe is not None):
        raise UserError(f"preset {options.preset}: names a recipe of linear-paper; leave it or --recipe out")
    if options.shots is not None and protocol != "finetune":
        raise UserError(f"--shots {options.shots}: is of finetune and low-shot; leave it out, or take one of these")
    if options.preset is not None:
        options.recipe = f"linear_paper_{options.preset}"
    return _train_and_judge(protocol, model, shards, options, flags, prog)


def _train_and_judge(
    protocol: "Trained", model: str, shards: Path, options: Options, flags: list[str], prog: str
) -> ExitCode:
    from eyespot.cluster.eval_commands.eval_table import print_place, print_table, track
    from eyespot.cluster.run_length import Length, settled
    from eyespot.eval.finetune import judge_trained, plan, prepare, same_epochs
    from eyespot.eval.protocols.labeled_data import Shots
    from eyespot.pretrain.distributed import process_group

    def changed(recipe: "Run", name: str, images: int) -> "Run":
        found = parse(Length, flags, f"{prog} --recipe {name}", default=Length(run=recipe))
        if found.epochs is None and not any(word.partition("=")[0] == "--steps" for word in flags):
            same_epochs(found.run, recipe)
            return found.run
        return settled(found.run, recipe, flags, found.epochs, images)

    results: list[Result] = []

    def judge(world: "World") -> None:
        results.extend(judge_trained(job, world))

    job = plan(
        protocol,
        model,
        shards,
        recipe=options.recipe,
        scratch=options.scratch,
        pretrained=options.pretrained,
        out=options.out,
        run_dir=options.run_dir,
        shots=None if options.shots is None else Shots(text=options.shots),
        changed=changed,
    )
    code = ExitCode.DONE
    run = job.run
    world = process_group.start(run.device, run.rank_timeout_seconds, deterministic=run.deterministic)
    try:
        if prepare(job, world):
            code = train(job.recipe, job.run, judge, job.data.train.shards)
        else:
            judge(world)
    finally:
        process_group.stop()
    if results:
        print_table(results)
        print_place(model, options.out)
        track(model, results)
    return code
