"""What ``--then eval`` runs once a run is done, and whether it can."""

import typing
from pathlib import Path
from typing import cast

from eyespot.cluster.launch.submission import Submission
from eyespot.cluster.launch.sweep import SweepMember
from eyespot.data_pipeline.augment.views import DepthView, TextView
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.shards.members.sounds import CONTAINERS
from eyespot.data_pipeline.shards.shard_folder import ShardFolder
from eyespot.eval.protocols.clips.needs import OfVideos, lacking
from eyespot.eval.results.result import Protocol
from eyespot.pretrain import trusted_recipes

_PROTOCOLS: tuple[Protocol, ...] = ("linear", "knn")
"""What ``--then eval`` runs where nothing is named."""
_PAIRED = {TextView.extension, DepthView.extension, *CONTAINERS}
_MEMBERS: dict[str, set[str]] = {
    "dense-depth": {DepthView.extension},
    "captions": {TextView.extension},
    "joint-retrieval": _PAIRED,
    "correspondence": _PAIRED,
}
"""What lies beside the images that a protocol judges by: one of these."""


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
    others = [Path(word).expanduser().absolute() for word in words if word not in known]
    if len(others) > 1:
        raise UserError(f"then {others[1].name!r}: neither a protocol ({', '.join(known)}) nor the one shard folder")
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


def check_evaluation(protocol: str, path: str, shards: ShardFolder) -> None:
    """Raises a UserError unless the shards at ``path`` have what the protocol judges by."""
    if (wanted := _MEMBERS.get(protocol)) is not None:
        if not wanted & shards.manifest.members.keys():
            raise UserError(
                f"then eval {protocol}: {path} has no {' or '.join(sorted(wanted))} beside its images; name shards that"
                " have"
            )
    elif protocol.startswith("dense-"):
        if shards.manifest.masks is None:
            raise UserError(
                f"then eval {protocol}: {path} has no masks; name shards that eyespot shards pack --masks made"
            )
    elif protocol == "propagate":
        if shards.manifest.frames is None or not shards.manifest.frames.masks_sha256:
            raise UserError(f"then eval propagate: {path} has no videos with masks of their frames; name such shards")
    elif protocol in ("action", "alignment", "order", "own-head"):
        if why := lacking(cast(OfVideos, protocol), shards.manifest):
            raise UserError(f"then eval {protocol}: shards {path} {why}")
    elif protocol != "unlabeled" and not shards.manifest.num_labeled:
        raise UserError(f"then eval: {path} has no labels; name labelled shards: --then eval linear SHARDS")
