"""``eyespot release RUN --license SPDX``."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import Positional, arg

from eyespot.cluster.arguments import parse
from eyespot.cluster.next_steps import say_next
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.exit_codes import ExitCode
from eyespot.data_pipeline.progress_bar import working

if TYPE_CHECKING:
    from eyespot.eval.release.write import Quantizer


@dataclass(kw_only=True, slots=True)
class Releasing:
    """Writes a run's encoder as a folder that timm loads in one line, with its card, its provenance and proof.

    The written encoder is loaded by timm and must answer to the last bit as the checkpoint does. sha256 of every file
    and golden features let whoever gets it check the same. docs/releases.md says what lies in the folder.

    It prints the release's digest: who is told it can fetch the release from anywhere (eyespot pull --sha256).

    For example:

    eyespot release runs/first --license apache-2.0

    eyespot release runs/first --license cc-by-nc-4.0 --register digits --alias candidate
    """

    run: Annotated[Path, Positional, arg(metavar="RUN")]
    """Run folder."""
    license: str
    """Of the weights, as SPDX writes it: apache-2.0, cc-by-nc-4.0, LicenseRef-Internal."""
    checkpoint: str | None = None
    """One of RUN/checkpoints, step-00001000; by default the newest."""
    name: str | None = None
    """What it is called; by default as the run folder."""
    out: Path | None = None
    """The folder to write, which must not exist; by default RUN/release."""
    decoder: bool = False
    """Add what the method has besides the encoder (MAE's decoder)."""
    onnx: bool = False
    """Add the encoder as ONNX; needs pip install eyespot[onnx]."""
    pt2: bool = False
    """Add the encoder as a torch.export program: torch alone loads it, without timm."""
    int8: Annotated[Path | None, arg(metavar="SHARDS")] = None
    """Add the encoder in 8-bit integers, as ONNX; needs pip install eyespot[onnx], and labelled shards on which probes
    say what it loses."""
    open_clip: bool = False
    """Add both towers (of CLIP, SigLIP) as open_clip has them: it loads them in one line. Needs pip install
    eyespot[text]."""
    register: str | None = None
    """Make it a version of this model in MLflow's registry, where the run is tracked."""
    alias: str | None = None
    """With --register: let this alias mean it, once a downloaded copy has been verified."""
    allow_dirty: bool = False
    """Release it although the code that trained it had uncommitted changes."""
    evaluation: bool = True
    """Refuse a checkpoint that has no result in RUN/eval."""


def main(argv: list[str]) -> int:
    """Writes the release, registers it where that is asked for, and returns the exit code."""
    wanted = parse(Releasing, argv, "eyespot release")
    if wanted.alias and not wanted.register:
        raise UserError(f"--alias {wanted.alias}: goes with --register NAME")
    with working("loading torch"):
        from eyespot.eval.release.layout import digest_of
        from eyespot.eval.release.registry import check
        from eyespot.eval.release.write import release

    if wanted.register:
        check(wanted.register, wanted.run)
    out = wanted.out or wanted.run / "release"
    release(
        wanted.run,
        out,
        license=wanted.license,
        name=wanted.name,
        step=wanted.checkpoint,
        decoder=wanted.decoder,
        onnx=wanted.onnx,
        pt2=wanted.pt2,
        int8=_int8(wanted.int8) if wanted.int8 else None,
        open_clip=wanted.open_clip,
        allow_dirty=wanted.allow_dirty,
        evaluated=wanted.evaluation,
    )
    print(out.resolve())
    print(f"sha256 {digest_of(out)}")
    if wanted.register:
        _register(wanted, out)
    say_next(
        (
            ["pull", out, f"models/{wanted.name or wanted.run.resolve().name}"],
            "what others do: fetch it, verify it, load it",
        )
    )
    return ExitCode.DONE


def _int8(shards: Path) -> "Quantizer":
    from eyespot.eval.int8_loss import Int8
    from eyespot.eval.release.exports.onnx_export import require

    require("--int8")
    return Int8(shards)


def _register(wanted: Releasing, out: Path) -> None:
    from eyespot.eval.release.registry import promote, register
    from eyespot.pretrain.tracking.mlflow_mirror import tracking_uri

    found = register(out, wanted.run, wanted.register or "")
    print(f"{found.address} in MLflow")
    if wanted.alias:
        promote(found, wanted.alias, tracking_uri(wanted.run))
        print(f"models:/{found.name}@{wanted.alias} is version {found.version}")
