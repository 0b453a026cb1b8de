"""``eyespot release RUN --license SPDX`` and ``eyespot release RELEASE --to hf://ORG/NAME``."""

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

from tyro.conf import FlagCreatePairsOff, Positional, arg

from eyespot.cluster.arguments import parse
from eyespot.cluster.next_steps import say_next
from eyespot.data_pipeline.errors import Outage, UserError
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

    With --to it is pushed to a model hub as well, in one commit; HF_TOKEN says whose account it is. With --to and
    --transformers a release that is written already may stand in place of RUN; it is verified first.

    For example:

    eyespot release runs/first --license apache-2.0

    eyespot release runs/first --license cc-by-nc-4.0 --register digits --alias candidate

    eyespot release runs/first/release --to hf://my-lab/digits --tag v1
    """

    source: Annotated[Path, Positional, arg(metavar="RUN")]
    """Run folder; with --to or --transformers also a release folder."""
    license: str | None = None
    """Of the weights, as SPDX writes it: apache-2.0, cc-by-nc-4.0, LicenseRef-Internal. A run's release needs it."""
    checkpoint: str | None = None
    """One of RUN/checkpoints, step-00001000; by default the newest."""
    weights: Literal["trained", "ema"] = "trained"
    """ema = the moving average of the encoder's weights (--optim.ema) in their place."""
    average: tuple[str, ...] = ()
    """The average of several checkpoints: last:3, names of RUN's, or paths of those of other runs of its architecture
    and method. Running statistics of batch norm are taken anew from the run's images."""
    student: str = ""
    """Of a run that trained several students (distill), the further one of that name; by default its own encoder."""
    name: str | None = None
    """What it is called; by default as the run folder."""
    out: Path | None = None
    """The folder to write, which must not exist; by default RUN/release, of a student RUN/release-NAME."""
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
    transformers: Annotated[Path | None, arg(metavar="DIR")] = None
    """Write the encoder into this folder too, as transformers has it: AutoModel.from_pretrained, without code. In place
    of RUN a release may stand then. Needs pip install eyespot[transformers]."""
    register: str | None = None
    """Make it a version of this model in MLflow's registry, where the run is tracked."""
    alias: str | None = None
    """With --register: let this alias mean it, once a downloaded copy has been verified."""
    to: str | None = None
    """Push it to a model hub: hf://ORG/NAME, or hf://ORG/NAME@BRANCH. What is not there is made. Needs pip install
    eyespot[hub]."""
    public: FlagCreatePairsOff[bool] = False
    """With --to: a repository that is made is for everybody; without it for you or your organisation alone. A push to
    one that is public already must say it too."""
    replace: FlagCreatePairsOff[bool] = False
    """With --to: put it in the place of what else lies there. The commits before stay."""
    tag: str | None = None
    """With --to: a tag for what is pushed, v1, which never moves."""
    allow_dirty: bool = False
    """Release it although the code that trained it had uncommitted changes."""
    evaluation: bool = True
    """Refuse a checkpoint that has no result in RUN/eval."""


_PUSH = ("to", "public", "replace", "tag")


def main(argv: list[str]) -> int:
    """Writes the release, registers and pushes it where that is asked for, and returns the exit code."""
    wanted = parse(Releasing, argv, "eyespot release")
    _check(wanted)
    with working("loading torch"):
        from eyespot.eval.release.layout import SUMS
    out, written = wanted.source, (wanted.source / SUMS).is_file()
    if written:
        _check_written(wanted)
    _check_targets(wanted)
    if not written:
        out = _write(wanted)
    if wanted.register:
        with _going_on(f"{out} is written: to register it, remove it first"):
            _register(wanted, out)
    if wanted.transformers:
        from eyespot.eval.release.transformers_layout.folder import write_transformers

        with _going_on("" if written else _rest(wanted, out, "transformers", *_PUSH)):
            print(write_transformers(out, wanted.transformers).resolve())
    if wanted.to:
        with _going_on("" if written else _rest(wanted, out, *_PUSH)):
            _push(wanted, out)
    else:
        name = wanted.name or wanted.source.resolve().name
        say_next((["pull", out, f"models/{name}"], "what others do: fetch it, verify it, load it"))
    return ExitCode.DONE


def _check(wanted: Releasing) -> None:
    if wanted.alias and not wanted.register:
        raise UserError(f"--alias {wanted.alias}: goes with --register NAME")
    for name in _PUSH[1:]:
        if getattr(wanted, name) and not wanted.to:
            raise UserError(f"--{name}: goes with --to hf://ORG/NAME")


def _check_targets(wanted: Releasing) -> None:
    """What could be known of them only when the release is written is asked then."""
    if wanted.to:
        from eyespot.eval.release.hub.push_checks import check_push

        check_push(wanted.to, wanted.tag)
    if wanted.transformers:
        from eyespot.eval.release.transformers_layout.folder import check

        check(wanted.transformers)


@contextmanager
def _going_on(how: str) -> Iterator[None]:
    """What fails after the release was written says how to go on: the same command would find that it exists."""
    try:
        yield
    except (UserError, Outage) as error:
        if not how:
            raise
        kind = UserError if isinstance(error, UserError) else Outage
        raise kind(f"{error}; {how}") from error


def _rest(wanted: Releasing, out: Path, *names: str) -> str:
    """The command that does what is left."""
    words = ["eyespot", "release", str(out)]
    for name in names:
        if value := getattr(wanted, name):
            words += [f"--{name}"] if value is True else [f"--{name}", str(value)]
    return f"{out} is written: go on with {shlex.join(words)}"


def _check_written(wanted: Releasing) -> None:
    """Of what says how a release is written, nothing can be meant."""
    about_others = {"source", "to", "public", "replace", "tag", "transformers"}
    odd = [f.name for f in fields(wanted) if f.name not in about_others and getattr(wanted, f.name) != f.default]
    if odd:
        name = "no-evaluation" if odd[0] == "evaluation" else odd[0].replace("_", "-")
        raise UserError(f"--{name}: {wanted.source} is a release already, and never changes; name a run folder")
    if not wanted.to and not wanted.transformers:
        raise UserError(
            f"{wanted.source}: is a release already; push it with --to hf://ORG/NAME, write it for"
            " transformers with --transformers DIR, or name a run folder"
        )


def _write(wanted: Releasing) -> Path:
    from eyespot.eval.encoders.subject import split_part
    from eyespot.eval.release.layout import INT8, PROVENANCE, digest_of, read_json
    from eyespot.eval.release.registry import check
    from eyespot.eval.release.write import release
    from eyespot.pretrain.checkpoints.weight_files import EMA

    if not wanted.license:
        raise UserError("--license: under which licence are the weights? As SPDX writes it: apache-2.0, cc-by-nc-4.0")
    if wanted.register:
        check(wanted.register, wanted.source)
    if (part := split_part(str(wanted.source))[1]) and not wanted.source.exists():
        which = "--weights ema" if part == EMA else f"--student {part}"
        raise UserError(f"{wanted.source}: is an encoder of a run; name the run, and say {which}")
    out = wanted.out or wanted.source / (f"release-{wanted.student}" if wanted.student else "release")
    release(
        wanted.source,
        out,
        license=wanted.license,
        name=wanted.name,
        step=wanted.checkpoint,
        ema=wanted.weights == "ema",
        average=wanted.average,
        student=wanted.student,
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
    provenance = cast(Any, read_json(out / PROVENANCE, str(out)))
    for loss in provenance.get("exports", {}).get(INT8, {}).get("losses", ()):
        low, high = (f"{100 * end:+.2f}" for end in loss["interval"])
        print(
            f"{INT8}: {loss['probe']} probe {100 * loss['float32']:.2f} -> {100 * loss['int8']:.2f} %"
            f" (difference, 95 %: {low} to {high} points)"
        )
    return out


def _int8(shards: Path) -> "Quantizer":
    from eyespot.eval.int8_loss import Int8
    from eyespot.eval.release.exports.onnx_export import require

    require("--int8")
    return Int8(shards)


def _register(wanted: Releasing, out: Path) -> None:
    from eyespot.eval.release.registry import promote, register
    from eyespot.pretrain.tracking.mlflow_mirror import tracking_uri

    found = register(out, wanted.source, wanted.register or "")
    print(f"{found.address} in MLflow")
    if wanted.alias:
        promote(found, wanted.alias, tracking_uri(wanted.source))
        print(f"models:/{found.name}@{wanted.alias} is version {found.version}")


def _push(wanted: Releasing, folder: Path) -> None:
    from eyespot.eval.release.hub.push import push

    done = push(folder, wanted.to or "", public=wanted.public, replace=wanted.replace, tag=wanted.tag)
    print(f"{done.address}" if done.new else f"{done.address} (was there already)")
    print(done.page)
    say_next((["pull", str(wanted.to)], "what others do: fetch it, verify it, load it"))
