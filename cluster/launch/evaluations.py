"""What ``--then eval`` runs once a run is done, and whether it can."""

import typing
from collections.abc import Callable
from pathlib import Path
from typing import cast

from eyespot.cluster.launch.submission import Submission
from eyespot.cluster.launch.sweep import SweepMember
from eyespot.data_pipeline.augment.views import DepthView
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.loading.mixtures.mix import whole_shards
from eyespot.data_pipeline.loading.mixtures.mixed_shards import find_shards
from eyespot.data_pipeline.loading.sample_files import complete_samples
from eyespot.data_pipeline.shards.paged.file_sizes import MissingShards
from eyespot.data_pipeline.shards.shard_folder import ShardFolder
from eyespot.eval.captions import captioned_splits
from eyespot.eval.joint.pairs import judged_ids
from eyespot.eval.joint.towers import still_views
from eyespot.eval.own_head import has_question
from eyespot.eval.protocols.clips.needs import OfVideos, lacking
from eyespot.eval.results.result import Protocol
from eyespot.pretrain import trusted_recipes
from eyespot.pretrain.config import Run
from eyespot.pretrain.loop.first_checks import objective_of
from eyespot.pretrain.objective import Objective

_PROTOCOLS: tuple[Protocol, ...] = ("linear", "knn")
"""What ``--then eval`` runs where nothing is named."""


def evaluations(submission: Submission, member: SweepMember) -> list[tuple[str, ...]]:
    """The commands that ``--then`` asks for, one per protocol.

    Raises:
        UserError: it asks for something else.
    """
    if not submission.then:
        return []
    what, *words = submission.then
    known: tuple[str, ...] = typing.get_args(Protocol)
    if what != "eval":
        raise UserError(f"then {what!r}: only eval can follow; write: --then eval {' '.join(_PROTOCOLS)}")
    protocols = [word for word in words if word in known] or list(_PROTOCOLS)
    others = [whole_shards(word, home=True) for word in words if word not in known]
    if len(others) > 1:
        raise UserError(
            f"then {Path(others[1]).name!r}: neither a protocol ({', '.join(known)}) nor the one shard folder"
        )
    shards = others[0] if others else member.run.data.shards
    if "low-shot" in protocols:
        raise UserError(
            "then eval low-shot: cannot say how many shots; afterwards: eyespot eval low-shot ... --shots 1%"
        )
    if "propagate-points" in protocols:
        raise UserError(
            "then eval propagate-points: cannot say where the points are; afterwards: eyespot eval propagate ..."
            " --keypoints FILE"
        )
    trust = trusted_recipes.flags(member.recipe)
    return [("eval", protocol, str(member.run.run_dir), str(shards), *trust) for protocol in protocols]


def others(path: str) -> ShardFolder:
    """Shards that ``--then eval`` names, other than the run's own.

    Raises:
        UserError: there are none; a protocol may have been meant.
    """
    try:
        return find_shards(path)
    except MissingShards as error:
        known = ", ".join(typing.get_args(Protocol))
        raise UserError(f"then eval {Path(path).name!r}: not a protocol ({known}); and no folder: {error}") from error


ASKS: dict[str, Callable[[Objective], bool]] = {
    "captions": lambda objective: objective.scores_captions,
    "own-head": has_question,
    "zero-shot": lambda objective: objective.joint is not None and objective.joint[1] == "text",
    "joint-retrieval": lambda objective: objective.joint is not None,
    "correspondence": lambda objective: objective.joint is not None,
}
"""Of the protocols that ask a method something of its own: whether it can be asked."""

_JUDGED = {
    "captions": "it judges runs that foretell captions, such as virtex",
    "own-head": "it judges runs whose head answers a question, such as frame_order",
    "zero-shot": "it judges runs with towers of images and text, such as clip",
    "joint-retrieval": "it judges runs with two towers that meet in one space, such as clip",
    "correspondence": "it judges runs with two towers that meet in one space, such as clip",
}


def check_evaluation(protocol: str, path: str, shards: ShardFolder, run: Run) -> None:
    """Whether a protocol can judge a run by some shards.

    Args:
        protocol: which.
        path: where the shards are.
        shards: of train, where they are split.
        run: that is judged.

    Raises:
        UserError: the shards lack what the protocol judges by, or the run's method what it asks.
    """
    if protocol in ASKS and (objective := objective_of(run)) is not None:
        if not ASKS[protocol](objective):
            raise UserError(
                f"then eval {protocol}: {type(objective).__name__} has not what it asks; {_JUDGED[protocol]}; leave it"
                " out"
            )
        try:
            _check_members(protocol, Path(path), objective)
        except UserError as error:
            raise UserError(f"then eval {protocol}: {error}") from error
    if protocol == "dense-depth":
        if DepthView.extension not in shards.manifest.members:
            raise UserError(f"then eval dense-depth: {path} has no depth.png beside its images; name shards that have")
    elif protocol.startswith("dense-"):
        if shards.manifest.masks is None:
            raise UserError(
                f"then eval {protocol}: {path} has no masks; name shards that eyespot shards pack --masks made"
            )
    elif protocol == "propagate":
        if shards.manifest.frames is None or not shards.manifest.frames.masks_sha256:
            raise UserError(f"then eval propagate: {path} has no videos with masks of their frames; name such shards")
    elif protocol in ("action", "alignment", "order"):
        if why := lacking(cast(OfVideos, protocol), shards.manifest):
            raise UserError(f"then eval {protocol}: shards {path} {why}")
    elif (
        protocol not in ("captions", "joint-retrieval", "correspondence", "own-head", "unlabeled")
        and not shards.manifest.num_labeled
    ):
        raise UserError(f"then eval: {path} has no labels; name labelled shards: --then eval linear SHARDS")


def _check_members(protocol: str, path: Path, objective: Objective) -> None:
    """Whether the samples that are asked about have what the method's views show beside their images."""
    if protocol == "captions":
        captioned_splits(path, hashes=False)
    elif protocol in ("joint-retrieval", "correspondence"):
        judged_ids(find_shards(path, "test", "train", hashes=False), still_views(objective), 2)
    elif protocol == "own-head":
        complete_samples(objective.views(), find_shards(path, "test", "train", hashes=False))
