"""``eyespot eval zero-shot | joint-retrieval | correspondence RUN SHARDS``: runs whose two towers meet in one space."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro
from annotated_types import Ge, Le
from tyro.conf import Positional, arg

from eyespot.cluster.arguments import parse
from eyespot.cluster.eval_commands.eval_table import print_next, print_place, print_table, track
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.exit_codes import ExitCode
from eyespot.data_pipeline.ranges import check_ranges

if TYPE_CHECKING:
    from eyespot.eval.results.result import Result
    from eyespot.pretrain.distributed.process_group import World

PROTOCOLS = ("zero-shot", "joint-retrieval", "correspondence")


@dataclass(kw_only=True, slots=True)
class JointEvaluation:
    """Judges a run of images and text, sound or depth by what both of its towers say, beside the run as it began.

    Nothing is learned. docs/protocols.md has the exact settings.

    zero-shot: images take the class whose prompts lie closest to them. Needs labels; class names are the manifest's.

    joint-retrieval: how many images find their caption (sound, depth map) among the first 1, 5, 10 of all, and how
    many captions their image? What is identical counts as one.

    correspondence: does an image lie closer to what is beside it than to what is beside another? Chance is a half.

    For example:

    eyespot eval zero-shot runs/clip data/photos --prompt "a photo of a {}." --prompt "a drawing of a {}."

    eyespot eval joint-retrieval runs/clip data/captions --images 1000
    """

    protocol: Annotated[
        Literal["zero-shot", "joint-retrieval", "correspondence"],
        Positional,
        arg(metavar="{zero-shot,joint-retrieval,correspondence}"),
    ]
    """How to judge."""
    run: Annotated[str, Positional, arg(metavar="RUN")]
    """A run folder (its newest checkpoint is judged), or RUN/checkpoints/step-..."""
    shards: Annotated[Path, Positional, arg(metavar="SHARDS")]
    """A folder with test/ inside, or one of shards. With labels for zero-shot; else with what the run learned from
    beside the images: captions, sound or depth."""
    prompt: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """zero-shot: a sentence with {} for the name of the class; several make an ensemble. By default seven of ours."""
    prompts: Path | None = None
    """zero-shot: a file of further ones, one a line."""
    class_names: Path | None = None
    """zero-shot: a file of names, one a line in the order of the classes; by default the manifest's, with blanks for
    underscores."""
    images: Annotated[int, Ge(2), Le(100_000)] | None = None
    """joint-retrieval, correspondence: how many images at most, spread evenly over the shards; by default 5000. Recall
    depends on it, and every image is compared with all: 100000 at most."""
    out: Path | None = None
    """Where results go; by default RUN/eval."""
    seed: Annotated[int, Ge(0)] = 0
    """Of the random weights; correspondence: of the false pairs."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto = a GPU where there is one; one that torch cannot use stops the command. cpu = the CPU is meant."""
    precision: Literal["fp32", "tf32"] = "fp32"
    """tf32 = a GPU rounds what it multiplies to TF32. On a CPU it is fp32."""

    def __post_init__(self) -> None:
        check_ranges(self, "--")


def main(argv: list[str]) -> int:
    """Judges, prints the table, and returns the exit code; ``argv`` begins with the protocol."""
    wanted = parse(JointEvaluation, argv, "eyespot eval")
    results = carried_out(wanted)
    if results:
        print_table(results)
        print_place(wanted.run, wanted.out)
        track(wanted.run, results)
        print_next(wanted.run, wanted.out, results)
    return ExitCode.DONE


def carried_out(wanted: JointEvaluation) -> "list[Result]":
    """The results, on rank 0; on the other ranks none.

    Raises:
        UserError: something about the run or the shards is wrong, or a flag is another protocol's.
    """
    if wanted.protocol == "zero-shot" and wanted.images is not None:
        raise UserError(f"--images {wanted.images}: zero-shot judges all labelled images; leave it out")
    if wanted.protocol != "zero-shot" and (wanted.prompt, wanted.prompts, wanted.class_names) != ((), None, None):
        raise UserError(
            f"--prompt, --prompts, --class-names: {wanted.protocol} names no classes; leave them out, or take zero-shot"
        )
    from eyespot.pretrain.distributed import process_group
    from eyespot.pretrain.distributed.arithmetic import set_arithmetic

    world = process_group.start(wanted.device)
    try:
        set_arithmetic(world.device, wanted.precision)
        return judged(wanted, world)
    finally:
        process_group.stop()


def judged(wanted: JointEvaluation, world: "World") -> "list[Result]":
    """The results, on rank 0."""
    from eyespot.eval.joint.pairs import judge_pairs
    from eyespot.eval.joint.prompts import Wording
    from eyespot.eval.joint.zero_shot import judge_zero_shot

    if wanted.protocol == "zero-shot":
        wording = Wording(prompts=wanted.prompt, prompts_file=wanted.prompts, names_file=wanted.class_names)
        return judge_zero_shot(
            wanted.run, wanted.shards, wording=wording, out=wanted.out, seed=wanted.seed, world=world
        )
    return judge_pairs(
        wanted.protocol,
        wanted.run,
        wanted.shards,
        num_samples=wanted.images,
        out=wanted.out,
        seed=wanted.seed,
        world=world,
    )
