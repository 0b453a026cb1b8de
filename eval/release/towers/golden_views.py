"""What both towers of a release must answer: golden images as the encoder's, and golden captions, sounds or depth maps.

The captions are kept as text beside their token ids, so that the tokenizer answers for itself.
"""

from pathlib import Path

import torch
from torch import Tensor, nn

from eyespot.data_pipeline.augment.views import TextView, View
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.loading.members.tokenizer import load_tokenizer
from eyespot.eval.release.golden import MAX_VIEWS, NUM_IMAGES, TOLERANCE, TOWERS_PREFIX, check_kind, distance, same
from eyespot.eval.release.layout import GOLDEN
from eyespot.eval.release.towers.joint_space import JointSpace
from eyespot.eval.release.towers.tokenizer_trial import GOLDEN_TEXTS
from eyespot.eval.release.towers.tower_files import load_tensors
from eyespot.pretrain.networks.towers.tower import TextTower
from eyespot.pretrain.objective import Objective

TEXTS, VIEW, EMBEDDING = (f"{TOWERS_PREFIX}{name}" for name in ("texts", "view", "embedding"))


def golden_of_towers(objective: Objective | JointSpace, view: Tensor, images: Tensor) -> dict[str, Tensor]:
    """What both towers answer: "towers.embedding.image", and that of the second tower's kind.

    Args:
        objective: in evaluation mode.
        view: what the second tower is given.
        images: what the encoder is given.
    """
    assert objective.joint is not None
    with torch.inference_mode():
        found = {
            kind: objective.embed_joint(kind, seen) for kind, seen in zip(objective.joint, (images, view), strict=True)
        }
    return {f"{EMBEDDING}.{kind}": rows.clone() for kind, rows in found.items()}


def golden_view(views: tuple[View, ...]) -> dict[str, Tensor]:
    """What the second tower is given, "towers.view"; for captions also their bytes, a line each: "towers.texts".

    Args:
        views: the objective's; the second one is that tower's.
    """
    view = views[1]
    if isinstance(view, TextView):
        ids = torch.from_numpy(load_tokenizer(view.tokenizer, view.context)(GOLDEN_TEXTS))
        return {VIEW: ids, TEXTS: _golden_texts()}
    coarse = torch.rand(NUM_IMAGES, view.shape(views)[0], 5, 5, generator=torch.Generator().manual_seed(1))
    return {VIEW: nn.functional.interpolate(coarse, view.shape(views)[1:], mode="bilinear", align_corners=True)}


def check_golden_towers(folder: Path, space: JointSpace | None, source: str) -> None:
    """Computes tokens and embeddings anew and compares.

    Args:
        folder: of the release, whose encoder has been checked.
        space: its towers; None = it has one tower only.
        source: what to call it in errors.

    Raises:
        UserError: one of them is another than when the release was written.
    """
    golden = load_tensors(folder / GOLDEN, source)
    held = {name for name in golden if name.startswith(TOWERS_PREFIX)}
    wanted = set[str]()
    if space is not None:
        wanted = {VIEW, *(f"{EMBEDDING}.{kind}" for kind in space.joint), *([TEXTS] if space.tokenizer else [])}
    if odd := sorted(held ^ wanted):
        raise UserError(f"{source}: {GOLDEN}: {odd[0]} {'lacks' if odd[0] in wanted else 'belongs to no tower'}")
    if space is None:
        return
    view, where = golden[VIEW], f"{source}: {GOLDEN}: {VIEW}"
    _check_view(view, space, where)
    if space.tokenizer is not None:
        _check_texts(golden[TEXTS], view, space, source)
    try:
        answered = golden_of_towers(space, view, golden["input"])
    except (AssertionError, RuntimeError) as error:
        why = " ".join(str(error).split())[:200]
        raise UserError(f"{where}: the tower for {space.joint[1]} cannot read it ({why}); fetch it anew") from error
    for name, found in answered.items():
        check_kind(golden[name], found, name, source)
        far = distance(found, golden[name])
        if not far <= TOLERANCE:
            raise UserError(
                f"{source}: the golden {name.rpartition('.')[2]} embeddings are off by {far:.1e} of the largest number"
                f" (at most {TOLERANCE:.0e}); towers, {GOLDEN} and joint.safetensors do not belong together"
            )


def _check_view(view: Tensor, space: JointSpace, where: str) -> None:
    """That the tower can be given it at all."""
    if isinstance(space.config, TextTower):
        shape, dtype, most = (space.config.context,), torch.int64, space.config.num_tokens
    else:
        shape, dtype, most = space.config.shape, torch.float32, None
    if view.dtype != dtype or view.shape[1:] != shape or not 1 <= len(view) <= MAX_VIEWS:
        raise UserError(f"{where} is {tuple(view.shape)!s:.100} {view.dtype}, its tower sees {shape} {dtype}")
    if most is not None and not 0 <= int(view.min()) <= int(view.max()) < most:
        raise UserError(f"{where}: ids must lie below {most:,}; fetch the release anew")


def _check_texts(said: Tensor, ids: Tensor, space: JointSpace, source: str) -> None:
    assert space.tokenizer is not None
    if not same(said, _golden_texts()):  # whoever could choose them, could choose some that the trial did not meet
        raise UserError(f"{source}: {GOLDEN}: {TEXTS} holds other captions than every release has; do not use it")
    if not torch.equal(torch.from_numpy(space.tokenizer(GOLDEN_TEXTS)), ids):
        raise UserError(f"{source}: tokenizer.json makes other tokens of the golden captions than {GOLDEN} has")


def _golden_texts() -> Tensor:
    """Their bytes, a line each."""
    return torch.tensor(list("\n".join(GOLDEN_TEXTS).encode()), dtype=torch.uint8)
