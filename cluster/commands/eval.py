"""``eyespot eval PROTOCOL MODEL SHARDS``."""

from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

from annotated_types import Ge, Le
from tyro.conf import Positional, arg

from eyespot.cluster.arguments import parse
from eyespot.cluster.eval_commands import compare, finetune, joint, select
from eyespot.cluster.eval_commands.eval_table import print_next, print_place, print_table, track
from eyespot.cluster.help_text import unknown_command
from eyespot.data_pipeline.augment.views import MOST_FRAMES
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.exit_codes import ExitCode
from eyespot.data_pipeline.ranges import check_ranges

if TYPE_CHECKING:
    from eyespot.eval.results.result import Result
    from eyespot.pretrain.distributed.process_group import World

OF_TOWERS = ("linear", "knn", "retrieval", "clustering")
OF_FRAMES: tuple[Literal["action", "alignment", "order"], ...] = ("action", "alignment", "order")
"""What takes --frames."""
Frozen = Literal[
    "linear",
    "knn",
    "retrieval",
    "clustering",
    "unlabeled",
    "dense-linear",
    "dense-knn",
    "dense-depth",
    "linear-grid",
    "layers",
    "low-shot",
    "propagate",
    "action",
    "alignment",
    "order",
    "own-head",
    "captions",
]
"""Protocols that look at a frozen encoder, or ask a run's own head."""
PROTOCOLS: tuple[str, ...] = get_args(Frozen)


@dataclass(kw_only=True, slots=True)
class Evaluation:
    """Judges an encoder, beside the same encoder with random weights and beside raw pixels.

    The encoder stays frozen. Its features are computed once and cached. Every choice (penalty, k, class token or mean
    of patches) is made on a tenth of train; the accuracy on test comes with its 95% interval. docs/protocols.md has
    the exact settings.

    linear: multinomial logistic regression on standardised features, to its optimum.

    linear-grid: many linear classifiers trained together (rates, decays, last block or last four, class token, mean).

    layers: the linear probe of every block's features: at which depth does the encoder know most?

    low-shot: the linear probe of few labelled images (--shots of each class), mean over several fixed draws of them.

    knn: each test image takes the class of its nearest training images (weighted vote, no training).

    retrieval: is a test image of the same class among the 1, 5, 10 nearest other test images? And mAP.

    clustering: k-means on the test images, as many clusters as classes, against the labels: NMI, ARI, accuracy.

    unlabeled: rank, spread and collapse of the features (RankMe, alpha-ReQ, uniformity, ...). Needs no labels.

    dense-linear: a linear classifier of patch tokens draws segmentation masks: mean IoU. Needs shards with masks.

    dense-knn: each patch takes the classes of its nearest training patches. Needs shards with masks, too.

    dense-depth: a linear function of patch tokens says how far away things are: delta, AbsRel, RMSE, beside the mean
    depth of train. Needs shards with depth maps.

    propagate: how far do patches carry the first frame's mask through a video? J and F, beside colours and the mask
    unmoved. Needs videos whose frames have masks; or their key points (--keypoints): PCK.

    action: linear probe and nearest neighbours of the mean over a video's frames, and attentive probes of frames and
    patches. Needs videos with labels.

    alignment: does a frame find its moment in the other camera's frames? Needs videos of two cameras.

    order: can a linear classifier tell forwards from backwards? And, of a run that asks about time, own-head too.

    own-head: how well does a run's own head answer its method's question (frame_order, odd_one_out, arrow_of_time,
    audio_visual) about videos, or images with sound, that it has not seen?

    captions: how well does a run that describes images (virtex) foretell captions? Perplexity, beside that with other
    images and that of counted words. Needs shards with captions.

    Results of a run appear in MLflow as children of the run, each once.

    For example:

    eyespot eval linear runs/first data/digits

    eyespot eval knn vit_small_patch14_dinov2 data/photos

    torchrun --no-python --nproc-per-node 8 eyespot eval knn runs/large data/imagenet

    eyespot eval compare runs/first runs/second          which is better? See eyespot eval compare --help

    eyespot eval finetune runs/first data/digits         and linear-paper, attentive: see eyespot eval finetune --help

    eyespot eval select runs/first                       which checkpoint? Without labels: eyespot eval select --help

    eyespot eval zero-shot runs/clip data/photos         and joint-retrieval, correspondence, of runs of images and
    text, sound or depth: see eyespot eval zero-shot --help
    """

    protocol: Annotated[
        Frozen,
        Positional,
        arg(
            metavar="{linear,knn,retrieval,clustering,unlabeled,dense-linear,dense-knn,dense-depth,linear-grid,layers,"
            "low-shot,propagate,action,alignment,order,own-head,captions}"
        ),
    ]
    """How to judge."""
    model: Annotated[str, Positional, arg(metavar="MODEL")]
    """A run folder (its newest checkpoint is judged), RUN/checkpoints/step-..., with @ema behind either the average of
    its weights (--optim.ema), with @NAME a further student of it; a release, a folder that timm saved,
    models:/NAME@ALIAS of MLflow's registry, hf://ORG/NAME of a model hub, or the name of a timm model: with its
    published weights, or as NAME@FILE with those of a file."""
    shards: Annotated[Path, Positional, arg(metavar="SHARDS")]
    """A folder with train/ and test/ inside, or one of shards, of which a fifth is held out. With labels, but for
    unlabeled; dense-linear, dense-knn and propagate want masks (eyespot shards pack --masks), dense-depth wants depth
    maps (a.depth.png beside a.png); propagate, action, alignment, order and own-head want videos, all but action
    without labels; captions wants captions in both parts."""
    out: Path | None = None
    """Where results and cached features go; by default RUN/eval, or eval-<MODEL> where that is no run."""
    seed: Annotated[int, Ge(0)] = 0
    """Of the random weights, of what is held out and of what low-shot draws."""
    shots: str | None = None
    """low-shot: how many training images of each class, 5, or which share, 1% or 10%; by default 1%."""
    draws: int | None = None
    """low-shot: how many draws; by default 5, the fewest."""
    frames: Annotated[int, Ge(1), Le(MOST_FRAMES)] | None = None
    """action, alignment, order: how many frames of each video, from all over it; by default 8; 32, or as many as the
    shortest has; 4."""
    keypoints: Path | None = None
    """propagate: a JSON file of the videos' key points, which are carried in place of masks; the score is PCK.
    docs/protocols.md says what stands in it."""
    image_size: Annotated[int, Ge(1), "must be 1 or more; without it, as the encoder was trained"] | None = None
    """Pixels: shows the encoder images of another size than it was trained on: whole ones to an encoder that learned
    from tiles, say. Vision transformers resample their positions. propagate: the frames' shorter side."""
    noise_level: Annotated[int, Ge(1), Le(1000), "is a time of DDPM's, so it must lie in 1..1000"] | None = None
    """layers: adds noise to the images first, DDPM's of that time: what learned to take it away may know most where
    there is a little of it."""
    tower: Literal["sound"] | None = None
    """linear, knn, retrieval, clustering: judges the sound tower of a run in place of its encoder, by the sounds."""
    pretrained: bool = True
    """For timm models: with their published weights, which are downloaded the first time."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto = a GPU where there is one; one that torch cannot use stops the command. cpu = the CPU is meant."""
    precision: Literal["fp32", "tf32"] = "fp32"
    """tf32 = a GPU rounds what it multiplies to TF32: faster, and other features than fp32's. On a CPU it is fp32."""

    def __post_init__(self) -> None:
        check_ranges(self, "--")


def main(argv: list[str]) -> int:
    """Runs one evaluation, prints its table, and returns the exit code; ``compare`` has a parser of its own."""
    if argv[:1] == ["compare"]:
        return compare.main(argv[1:])
    if argv[:1] == ["select"]:
        return select.main(argv)
    if argv[:1] and argv[0] in finetune.PROTOCOLS:
        return finetune.main(argv)
    if argv[:1] and argv[0] in joint.PROTOCOLS:
        return joint.main(argv)
    if argv[:1] and not argv[0].startswith("-") and argv[0] not in PROTOCOLS:
        known = [*PROTOCOLS, *finetune.PROTOCOLS, *joint.PROTOCOLS, "compare", "select"]
        raise UserError(unknown_command(argv[0], known, "eyespot eval"))
    wanted = parse(Evaluation, argv, "eyespot eval")
    results = carried_out(wanted)
    if results:
        for _, table in groupby(results, lambda result: result.protocol):
            print_table(list(table))
        print_place(wanted.model, wanted.out)
        track(wanted.model, results)
        print_next(wanted.model, wanted.out, results)
    return ExitCode.DONE


def carried_out(wanted: Evaluation) -> "list[Result]":
    """The results, on rank 0; on the other ranks none.

    Raises:
        UserError: something about the model or the shards is wrong, or a flag is another protocol's.
    """
    if wanted.protocol != "low-shot" and (wanted.shots, wanted.draws) != (None, None):
        raise UserError(
            f"--shots, --draws: {wanted.protocol} learns from all of train; leave them out, or take low-shot"
        )
    if wanted.keypoints is not None and wanted.protocol != "propagate":
        raise UserError(
            f"--keypoints: {wanted.protocol} carries no points through videos; leave it out, or take propagate"
        )
    if wanted.frames is not None and wanted.protocol not in OF_FRAMES:
        raise UserError(f"--frames: {wanted.protocol} looks at no clips; leave it out, or take {', '.join(OF_FRAMES)}")
    if wanted.noise_level is not None and wanted.protocol != "layers":
        raise UserError(f"--noise-level: {wanted.protocol} adds no noise; leave it out, or take layers")
    if wanted.tower is not None and (wanted.protocol not in OF_TOWERS or wanted.image_size is not None):
        raise UserError(
            f"--tower {wanted.tower}: is judged by {', '.join(OF_TOWERS)}, and hears no images of any --image-size;"
            " leave one of them out"
        )
    from eyespot.pretrain.distributed import process_group
    from eyespot.pretrain.distributed.arithmetic import set_arithmetic

    world = process_group.start(wanted.device)
    try:
        set_arithmetic(world.device, wanted.precision)
        return judged(wanted, world)
    finally:
        process_group.stop()


def judged(wanted: Evaluation, world: "World") -> "list[Result]":
    """The results, on rank 0."""
    from eyespot.eval.evaluate import judge
    from eyespot.eval.low_shot import judge_low_shot
    from eyespot.eval.protocols.labeled_data import MIN_DRAWS, Shots

    shots = Shots(text=wanted.shots or "1%", num_draws=MIN_DRAWS if wanted.draws is None else wanted.draws)
    known: dict[str, Any] = {name: getattr(wanted, name) for name in ("out", "seed", "pretrained", "image_size")}
    if wanted.protocol == "low-shot":
        return judge_low_shot(wanted.model, wanted.shards, shots=shots, world=world, **known)
    if wanted.protocol == "propagate":
        from eyespot.eval.propagate import judge_propagation

        return judge_propagation(wanted.model, wanted.shards, world=world, keypoints=wanted.keypoints, **known)
    if wanted.protocol in OF_FRAMES:
        from eyespot.eval.clips import judge_clips

        found = judge_clips(wanted.protocol, wanted.model, wanted.shards, frames=wanted.frames, world=world, **known)
        return found + (_of_own_head(wanted, world, required=False) if wanted.protocol == "order" else [])
    if wanted.protocol == "own-head":
        return _of_own_head(wanted, world, required=True)
    if wanted.protocol == "captions":
        from eyespot.eval.captions import judge_captions

        _refuse_size(wanted)
        return judge_captions(wanted.model, wanted.shards, out=wanted.out, seed=wanted.seed, world=world)
    known |= {"noise_level": wanted.noise_level, "tower": wanted.tower}
    return judge(wanted.protocol, wanted.model, wanted.shards, world=world, **known)


def _of_own_head(wanted: Evaluation, world: "World", *, required: bool) -> "list[Result]":
    from eyespot.eval.own_head import judge_own_head

    if required:
        _refuse_size(wanted)
    return judge_own_head(wanted.model, wanted.shards, out=wanted.out, seed=wanted.seed, world=world, required=required)


def _refuse_size(wanted: Evaluation) -> None:
    if wanted.image_size is not None:
        raise UserError(f"--image-size {wanted.image_size}: {wanted.protocol} shows what training showed; leave it out")
