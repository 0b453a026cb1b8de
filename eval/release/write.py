"""Writes a release of a run: the encoder in timm's format, its card, its provenance, and the proof that it is the one
that was trained."""

import json
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import timm
import torch
from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression
from torch import Tensor, nn

from eyespot.data_pipeline.augment.views import center_view
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.progress_bar import working
from eyespot.eval.release.averaging import averaged_encoder, soup_of
from eyespot.eval.release.card import card_of, joint_text
from eyespot.eval.release.decoder import decoder_of
from eyespot.eval.release.exports.onnx_export import export_onnx
from eyespot.eval.release.exports.torch_export import export_pt2
from eyespot.eval.release.golden import golden_of, load_encoder
from eyespot.eval.release.layout import (
    CARD,
    CONFIG,
    DECODER,
    GOLDEN,
    INT8,
    JOINT,
    ONNX,
    OPEN_CLIP,
    PROVENANCE,
    PT2,
    SMALL_STEM,
    WEIGHTS,
    settle,
    sha256,
    write_sums,
)
from eyespot.eval.release.provenance import Origin, origin_of, provenance_of
from eyespot.eval.release.towers.golden_views import VIEW, golden_of_towers, golden_view
from eyespot.eval.release.towers.joint_space import JointSpace
from eyespot.eval.release.towers.open_clip_files import write_open_clip
from eyespot.eval.release.towers.tower_files import read_towers, save_tensors, write_towers
from eyespot.eval.release.verify import verified
from eyespot.pretrain.checkpoints import reader as checkpoint
from eyespot.pretrain.checkpoints.weight_files import EMA
from eyespot.pretrain.loop import initial_weights
from eyespot.pretrain.loop.initial_weights import fresh_objective
from eyespot.pretrain.objective import Objective

Quantizer = Callable[[Path, Origin, nn.Module, dict[str, Tensor]], tuple[str, dict[str, Any], dict[str, Tensor]]]
"""Writes model-int8.onnx into a folder, of the released encoder and its golden tensors; returns what the card and
provenance.json say of it, and its golden answers. ``int8_loss.Int8`` is one: it judges, which no release does."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def release(
    run_dir: Path,
    out: Path,
    *,
    license: str,
    name: str | None = None,
    step: str | None = None,
    ema: bool = False,
    average: tuple[str, ...] = (),
    student: str = "",
    decoder: bool = False,
    onnx: bool = False,
    pt2: bool = False,
    int8: Quantizer | None = None,
    open_clip: bool = False,
    allow_dirty: bool = False,
    evaluated: bool = True,
) -> Path:
    """Writes a release folder, complete and verified, or nothing.

    Args:
        run_dir: the run folder.
        out: the folder to write; must not exist.
        license: SPDX expression, ``apache-2.0``.
        name: of the release; None = the run folder's.
        step: name of the checkpoint, ``step-00000012``; None = the newest.
        ema: the moving average of the encoder's weights in its place.
        average: of these checkpoints the average, see ``soup_of``.
        student: the run's further student of that name; empty = its own encoder.
        decoder: add decoder.safetensors (methods that have one: MAE).
        onnx: add model.onnx (needs ``pip install eyespot[onnx]``).
        pt2: add encoder.pt2, a torch.export program.
        int8: adds model-int8.onnx; None = nobody does.
        open_clip: add both towers as open_clip has them (CLIP, SigLIP; needs ``pip install eyespot[text]``).
        allow_dirty: also a run whose code had uncommitted changes.
        evaluated: refuse a checkpoint that nobody has judged.

    Returns:
        ``out``.

    Raises:
        UserError: something of this is missing, or the written release does not equal the checkpoint.
    """
    license, name = spdx(license), name or run_dir.resolve().name
    if _NAME.fullmatch(name) is None:
        raise UserError(f"--name {name!r}: must consist of letters, digits, '.', '_' and '-'")
    if out.exists():
        raise UserError(f"--out {out}: exists already; a release is never changed, choose another folder")
    origin, encoder = _meant(run_dir, step, student, ema, average, allow_dirty, evaluated)
    objective = two_towered(origin)
    if origin.weights != "trained" and (decoder or objective is not None):
        raise UserError("--weights ema, --average: are of the encoder, and its decoder or tower was not averaged")
    wanted = {DECODER: decoder, ONNX: onnx, PT2: pt2, OPEN_CLIP[1]: open_clip}
    asked = {file for file in wanted if wanted[file]}
    _place(out, lambda folder: _write(folder, origin, encoder, objective, license, name, asked, int8))
    return out


def _place(out: Path, write: Callable[[Path], None]) -> None:
    """The release that ``write`` writes, verified, as a whole folder or not at all."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{out.name}.", suffix=".tmp", dir=out.parent) as room:
            (folder := Path(room) / "release").mkdir()
            with working(f"writing {out}"):
                write(folder)
            verified(folder, f"release {out}")
            settle(folder)
            folder.rename(out)
    except OSError as error:
        raise UserError(f"--out {out}: cannot be written ({error.strerror or error}); choose another folder") from error


def _meant(
    run_dir: Path,
    step: str | None,
    student: str,
    ema: bool,
    average: tuple[str, ...],
    allow_dirty: bool,
    evaluated: bool,
) -> tuple[Origin, nn.Module]:
    """Where the encoder comes from, and it."""
    if student == EMA:
        raise UserError("--student ema: the average of the encoder's weights is no student; say --weights ema")
    if student and (ema or average):
        raise UserError(f"--student {student}: its weights alone can be released; leave --weights and --average out")
    if not average:
        origin = origin_of(run_dir, step, student)
        if ema and not origin.run.optim.ema:
            raise UserError(f"--weights ema: run {run_dir} keeps no average of its weights; train with --optim.ema")
        origin.weights = "ema" if ema else "trained"
        _refuse(origin, allow_dirty, evaluated)
        return origin, trained_encoder(origin)
    if step or ema:
        raise UserError("--average: says which checkpoints; leave --checkpoint and --weights out")
    soup = soup_of(run_dir, average)
    if evaluated:
        raise UserError(
            "--average: has no evaluation before it is written; say --no-evaluation, and judge the release:"
            " eyespot eval linear RELEASE SHARDS"
        )
    for member in soup.members:
        _refuse(member, allow_dirty, evaluated)
    origin = soup.members[-1]
    origin.weights, origin.average = "average", soup.said()
    return origin, _of_timm(averaged_encoder(soup), origin)


def spdx(license: str) -> str:
    """A licence expression as SPDX writes it.

    Raises:
        UserError: SPDX does not know it.
    """
    try:
        return canonicalize_license_expression(license)
    except InvalidLicenseExpression as error:
        raise UserError(
            f"--license {license!r}: no SPDX expression ({error}); write apache-2.0, cc-by-nc-4.0 or LicenseRef-Name"
        ) from error


def trained_encoder(origin: Origin) -> nn.Module:
    """The checkpoint's encoder, all of its tensors and no other, in evaluation mode.

    Raises:
        UserError: timm has no such encoder; the checkpoint is damaged, does not fit, or holds numbers that are not
            finite.
    """
    return _of_timm(initial_weights.trained_encoder(origin.run, origin.folder, origin.part()), origin)


def _of_timm(encoder: nn.Module, origin: Origin) -> nn.Module:
    config = origin.encoder()
    if not type(encoder).__module__.startswith("timm."):
        raise UserError(
            f"encoder.name {config.name!r}: is eyespot's own, and nobody could load the release with timm alone;"
            " keep the run folder, which eyespot eval and report read"
        )
    return encoder.eval().requires_grad_(False)


def two_towered(origin: Origin) -> Objective | None:
    """The checkpoint's objective, in evaluation mode, if its towers embed in one space.

    Raises:
        UserError: the checkpoint is damaged or does not fit.
    """
    if fresh_objective(origin.run).joint is None:
        return None
    return initial_weights.trained_objective(origin.run, origin.folder).eval().requires_grad_(False)


def config_of(origin: Origin, encoder: Any, license: str) -> dict[str, Any]:
    """What config.json says: how timm builds the encoder, and how its images are made.

    Args:
        origin: run and checkpoint.
        encoder: as it was trained.
        license: SPDX.
    """
    asked, known = origin.encoder(), encoder.pretrained_cfg
    size, (mean, std) = asked.image_size, map(list, origin.record.mean_and_std(origin.run_dir))
    arguments: dict[str, Any] = {"img_size": size} if known.get("fixed_input_size") else {}
    if asked.patch_size is not None:
        arguments["patch_size"] = asked.patch_size
    if asked.channels != 3:
        arguments["in_chans"] = asked.channels
    return {
        "architecture": known["architecture"] + (SMALL_STEM if asked.small_stem else ""),
        "num_classes": 0,
        "num_features": encoder.num_features,
        "global_pool": encoder.global_pool if isinstance(getattr(encoder, "global_pool", None), str) else "avg",
        "model_args": arguments,
        "pretrained_cfg": {
            "num_classes": 0,
            "input_size": [asked.channels, size, size],
            "fixed_input_size": bool(known.get("fixed_input_size")),
            "interpolation": "bicubic",
            "crop_pct": 1.0 if center_view(size).resize == size else 0.875,
            "crop_mode": "center",
            "mean": mean,
            "std": std,
            "first_conv": known.get("first_conv") if asked.channels == 3 else None,  # else timm would convert it
            "classifier": known.get("classifier"),
            "license": license.lower(),
        },
    }


def _refuse(origin: Origin, allow_dirty: bool, evaluated: bool) -> None:
    if origin.record.git_diff_sha256 and not allow_dirty:
        raise UserError(
            f"run {origin.run_dir}: was trained by code with uncommitted changes, which nobody else has; commit and"
            " train anew, or say --allow-dirty: the card then tells"
        )
    if evaluated and not origin.results():
        judged = origin.folder if origin.folder != checkpoint.newest(origin.run_dir) else origin.run_dir
        raise UserError(
            f"run {origin.run_dir}: {origin.folder.name} has no evaluation; judge it first: eyespot eval linear"
            f" {judged}{origin.part() and '@'}{origin.part()} SHARDS, or say --no-evaluation: the card then tells"
        )


def _write(
    folder: Path,
    origin: Origin,
    encoder: nn.Module,
    objective: Objective | None,
    license: str,
    name: str,
    wanted: set[str],
    int8: Quantizer | None,
) -> None:
    config = config_of(origin, encoder, license)
    _write_json(folder / CONFIG, config)
    save_tensors(encoder.state_dict(), folder / WEIGHTS)
    golden = golden_of(encoder, config)
    provenance = provenance_of(origin, name, config, sha256(folder / WEIGHTS))
    loaded = load_encoder(folder, f"release {name}")
    _prove(golden, golden_of(loaded, config))
    extras: dict[str, str] = {}
    towers, space = dict[str, Tensor](), None
    if objective is not None:
        towers, provenance["towers"], space = _write_towers(folder, objective, loaded, golden["input"])
        extras[JOINT] = joint_text(space)
    if OPEN_CLIP[1] in wanted:
        extras[OPEN_CLIP[1]] = write_open_clip(folder, space, config, golden | towers)
    if DECODER in wanted:
        tensors, extras[DECODER] = decoder_of(origin)
        save_tensors(tensors, folder / DECODER)
    if ONNX in wanted:
        extras[ONNX] = export_onnx(loaded, golden, folder / ONNX)
    exports = provenance["exports"] = dict[str, dict[str, Any]]()
    if PT2 in wanted:
        extras[PT2], exports[PT2] = export_pt2(loaded, golden, folder / PT2)
    answers = dict[str, Tensor]()
    if int8 is not None:
        extras[INT8], exports[INT8], answers = int8(folder, origin, loaded, golden)
    save_tensors(golden | towers | answers, folder / GOLDEN)
    for file, said in exports.items():
        said["sha256"] = sha256(folder / file)
    _write_json(folder / PROVENANCE, provenance)
    (folder / CARD).write_text(card_of(provenance, config, origin, encoder, extras), encoding="utf-8")
    write_sums(folder)


def _prove(trained: dict[str, Tensor], released: dict[str, Tensor]) -> None:
    """Raises a UserError unless the released encoder answers to the bit as the trained one."""
    for kind, wanted in trained.items():
        if not torch.equal(released[kind], wanted):
            raise UserError(
                f"release: its {kind} features by timm {timm.__version__} are not the checkpoint's; it is not written"
            )


def _write_towers(
    folder: Path, objective: Objective, encoder: nn.Module, images: Tensor
) -> tuple[dict[str, Tensor], dict[str, Any], JointSpace]:
    """Writes the second tower and proves it; returns golden tensors, what provenance says, and both as they load."""
    said = write_towers(folder, objective)
    given = golden_view(objective.views().views)
    answered = golden_of_towers(objective, given[VIEW], images)
    space = read_towers(folder, encoder, "release")
    assert space is not None
    _prove(answered, golden_of_towers(space, given[VIEW], images))
    return given | answered, said, space


def _write_json(path: Path, values: dict[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
