"""What a release folder holds.

    config.json, model.safetensors   timm's local format: ``timm.create_model("local-dir:FOLDER", pretrained=True)``
    README.md                        the model card
    provenance.json                  run, data, code, machine, versions, results
    golden.safetensors               images, what the encoder is given of them, the features that it must answer
    decoder.safetensors, model.onnx, model-int8.onnx, encoder.pt2  where they were asked for
    SHA256SUMS                       of all of them, as ``sha256sum --check`` reads it

Where a method has two towers, beside those:

    tower-text.json, tower-text.safetensors      the second tower, which reads captions; or tower-sound, tower-depth
    tokenizer.json                               what makes token ids of captions, in Hugging Face's format
    joint.safetensors                            what brings both into one space; what cosines are multiplied by there
    open_clip_config.json, open_clip_model.safetensors  where they were asked for: all of it, for open_clip

Nothing else lies in it, no folder and no link. The sha256 of SHA256SUMS names the release as a whole: its digest.
"""

import hashlib
import os
import re
import stat
from pathlib import Path

from eyespot.data_pipeline import foreign_json
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.loading.members.tokenizer import LARGEST
from eyespot.pretrain import run_record

FORMAT = "eyespot-release/1"
CONFIG = "config.json"
WEIGHTS = "model.safetensors"
CARD = "README.md"
PROVENANCE = "provenance.json"
GOLDEN = "golden.safetensors"
DECODER = "decoder.safetensors"
ONNX = "model.onnx"
INT8 = "model-int8.onnx"
PT2 = "encoder.pt2"
EXPORTS = frozenset({INT8, PT2})
"""Whose sha256 stands in provenance.json too, with how they were made."""
TOWERS = {kind: (f"tower-{kind}.json", f"tower-{kind}.safetensors") for kind in ("text", "sound", "depth")}
"""By the kind of view that a second tower reads."""
TOKENIZER = "tokenizer.json"
JOINT = "joint.safetensors"
OPEN_CLIP = ("open_clip_config.json", "open_clip_model.safetensors")
SUMS = "SHA256SUMS"
REQUIRED = frozenset({CONFIG, WEIGHTS, CARD, PROVENANCE, GOLDEN})
FILES = (
    REQUIRED
    | EXPORTS
    | {DECODER, ONNX, TOKENIZER, JOINT, *OPEN_CLIP, *(name for pair in TOWERS.values() for name in pair)}
)
"""Every name that SHA256SUMS may list."""
SMALL_STEM = "_small_stem"
"""Follows the architecture's name where timm cannot build it by itself: timm then refuses the folder, and the card
says how it is built."""
MAX_TEXT_BYTES = 1 << 24
"""Of the files that are no tensors, and no tokenizer."""

_LINE = re.compile(r"([0-9a-f]{64})  ([A-Za-z0-9][A-Za-z0-9._-]*)")


def most_bytes(name: str) -> int | None:
    """Of a file of that name; None = tensors, which may be of any number."""
    if name == TOKENIZER:
        return LARGEST
    return None if name.endswith((".safetensors", ".onnx", ".pt2")) else MAX_TEXT_BYTES


def digest_of(folder: Path) -> str:
    """The release's digest: sha256 of SHA256SUMS."""
    return sha256(folder / SUMS)


def sha256(path: Path) -> str:
    """sha256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_sums(folder: Path) -> None:
    """Writes SHA256SUMS over all files of the folder."""
    names = sorted(path.name for path in folder.iterdir() if path.name != SUMS)
    (folder / SUMS).write_text("".join(f"{sha256(folder / name)}  {name}\n" for name in names), encoding="utf-8")


def settle(folder: Path) -> None:
    """Makes all files readable by everybody (safetensors writes for its user alone) and forces them to disk."""
    for path in folder.iterdir():
        path.chmod(0o644)
        with path.open("rb") as file:
            os.fsync(file.fileno())
    folder.chmod(0o755)


def parse_sums(text: str, source: str) -> dict[str, str]:
    """The digest of each file that SHA256SUMS lists.

    Args:
        text: of the file.
        source: what it is the list of, for errors.

    Raises:
        UserError: it lists something that a release does not have, something twice, or lacks a required file.
    """
    sums: dict[str, str] = {}
    for line in text.splitlines():
        matched = _LINE.fullmatch(line)
        if matched is None or matched[2] not in FILES or matched[2] in sums:
            raise UserError(f"{source}: {SUMS} has the line {line[:120]!r}, which no release has; fetch it anew")
        sums[matched[2]] = matched[1]
    if lacking := sorted(REQUIRED - sums.keys()):
        raise UserError(f"{source}: {SUMS} does not list {lacking[0]}, so it is no whole release; fetch it anew")
    return sums


def check_files(folder: Path, source: str) -> None:
    """Holds every file of the folder against SHA256SUMS, and the folder's content against both.

    Args:
        folder: of the release.
        source: what to call it in errors.

    Raises:
        UserError: the first file that is missing, unknown, no regular file, or another than the list says.
    """
    if (folder / run_record.NAME).is_file() and not (folder / SUMS).is_file():
        raise UserError(f"{source}: is a run; make a release of it: eyespot release {folder} --license SPDX")
    for path in sorted(folder.iterdir()):
        if not stat.S_ISREG(path.lstat().st_mode) or path.name not in FILES | {SUMS}:
            what = "does not belong to a release" if path.name not in FILES | {SUMS} else "is no regular file"
            raise UserError(f"{source}: {path.name} {what}; remove it or fetch the release anew")
    sums = parse_sums(_text(folder / SUMS, source), source)
    there = {path.name for path in folder.iterdir()} - {SUMS}
    if odd := sorted(there ^ sums.keys()):
        what = "is not in SHA256SUMS" if odd[0] in there else "is missing"
        raise UserError(f"{source}: {odd[0]} {what}; fetch the release anew")
    for name, wanted in sums.items():
        _refuse_pickles(folder / name, source)
        if sha256(folder / name) != wanted:
            raise UserError(f"{source}: {name} is damaged or swapped (sha256 differs); fetch the release anew")


def _refuse_pickles(path: Path, source: str) -> None:
    """A pickle is code that runs when it is read: torch.save writes a zip, older versions a bare pickle."""
    with path.open("rb") as file:
        start = file.read(9)
    if path.suffix != ".safetensors" or start[8:] == b"{":  # after eight bytes of length, which may be any, comes JSON
        return
    if start[:1] == b"\x80" or start[:2] == b"PK":
        raise UserError(
            f"{source}: {path.name} is a pickle, not safetensors, and could run code when it is read; do not load it"
        )


def _text(path: Path, source: str) -> str:
    try:
        if path.stat().st_size > MAX_TEXT_BYTES:
            raise UserError(f"{source}: {path.name} has more than {MAX_TEXT_BYTES >> 20} MiB; fetch the release anew")
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise UserError(
            f"{source}: no {path.name} inside, so it is no release; make one with eyespot release"
        ) from error
    except (OSError, ValueError) as error:
        raise UserError(f"{source}: {path.name} cannot be read; fetch the release anew") from error


def read_json(path: Path, source: str) -> dict[str, object]:
    """A file that holds one JSON object.

    Raises:
        UserError: it does not.
    """
    try:
        return foreign_json.parse(_text(path, source), dict, path)
    except foreign_json.ForeignJsonError as error:
        raise UserError(f"{source}: {path.name}: {error.why[:100]}; fetch the release anew") from error
