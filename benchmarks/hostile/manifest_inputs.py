"""Shard folders whose manifest, index or tars do not tell the truth: verified, looked at and trained on."""

import hashlib
import io
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from hostile.case import TRAIN, Case, Room, Wants, Words

VERIFY: Sequence[Words] = (["shards", "verify", "shards", "--workers", "1"],)
INFO: Sequence[Words] = (["shards", "info", "shards"],)
TRAINED: Sequence[Words] = (TRAIN,)
DEEP = '{"a":' * 100_000 + "1" + "}" * 100_000

Spoil = Callable[[Path], Any]
"""Changes shards/train."""


def spoilt(spoil: Spoil, commands: Sequence[Words]) -> Any:
    def make(room: Room) -> Sequence[Words]:
        spoil(room.take("shards") / "train")
        return commands

    return make


def of_manifest(change: Callable[[dict[str, Any]], Any]) -> Spoil:
    def spoil(train: Path) -> None:
        path = train / "manifest.json"
        held = json.loads(path.read_bytes())
        changed = change(held)
        path.write_text(changed if isinstance(changed, str) else json.dumps(held))

    return spoil


def with_values(**values: Any) -> Spoil:
    return of_manifest(lambda held: held.update(values))


def of_rows(change: Callable[[np.ndarray], np.ndarray | bytes | None], *, told: bool = True) -> Spoil:
    """Changes the index; ``told`` = the manifest then has its sha256, as a liar would write it."""

    def spoil(train: Path) -> None:
        rows = np.load(train / "index.npy")
        changed = change(rows)
        changed = rows if changed is None else changed
        content = changed if isinstance(changed, bytes) else npy(changed)
        (train / "index.npy").write_bytes(content)
        if told:
            with_values(index_sha256=hashlib.sha256(content).hexdigest())(train)

    return spoil


def npy(rows: np.ndarray, **options: Any) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array(file, rows, **options)
    return file.getvalue()


def set_field(name: str, value: int) -> Callable[[np.ndarray], None]:
    def change(rows: np.ndarray) -> None:
        rows[name][:] = value

    return change


def cases() -> list[Case]:
    """All of this file."""
    return [*_manifests(), *_indexes(), *_tars()]


def _three(name: str, spoil: Spoil, says: str = "", wants: Wants = "told", also: str = "vit") -> list[Case]:
    """One spoilt folder, met by verify, info and training, each as ``also`` names it."""
    commands = {"v": ("verified", VERIFY, wants), "i": ("shown", INFO, "either"), "t": ("trained", TRAINED, "either")}
    return [
        Case(kind="manifests", name=f"{name}-{how}", wants=asked, make=spoilt(spoil, words), says=says)  # pyright: ignore[reportArgumentType]
        for how, words, asked in (commands[letter] for letter in also)
    ]


def first_tar(**values: Any) -> Spoil:
    return of_manifest(lambda held: held["shards"][0].update(values))


def stats(**values: Any) -> Spoil:
    return of_manifest(lambda held: held["image_stats"].update(values))


def digits(held: dict[str, Any]) -> str:
    return json.dumps(held).replace(f'"num_samples": {held["num_samples"]}', '"num_samples": 1' + "0" * 5000, 1)


MANIFESTS_TABLE: dict[str, tuple[Spoil, str]] = {
    "deep": (of_manifest(lambda held: json.dumps(held)[:-1] + ', "packing": ' + DEEP + "}"), "v"),
    "a-list": (of_manifest(lambda held: "[]"), "vt"),
    "empty": (of_manifest(lambda held: ""), "v"),
    "cut": (of_manifest(lambda held: json.dumps(held)[:200]), "t"),
    "null": (of_manifest(lambda held: "null"), "v"),
    "number-of-5000-digits": (of_manifest(digits), "v"),
    "num-samples-text": (with_values(num_samples="48"), "vt"),
    "num-samples-half": (with_values(num_samples=48.5), "v"),
    "num-samples-below-0": (with_values(num_samples=-1), "vt"),
    "num-samples-2^40": (with_values(num_samples=2**40), "vt"),
    "num-labeled-null": (with_values(num_labeled=None), "v"),
    "classes-null": (with_values(classes=None), "vt"),
    "classes-numbers": (with_values(classes=[1, 2, 3, 4]), "v"),
    "classes-too-few": (with_values(classes=["a"]), "vi"),
    "classes-twice": (with_values(classes=["a", "a", "b", "c"]), "v"),
    "classes-escapes": (with_values(classes=["\x1b[31ma", "b\x07", "c\n", "\x9bd"]), "vi"),
    "name-5": (with_values(name=5), "v"),
    "name-escapes": (with_values(name="\x1b]0;x\x07"), "it"),
    "shards-null": (with_values(shards=None), "v"),
    "shards-empty": (with_values(shards=[]), "vt"),
    "shards-of-text": (with_values(shards=["a.tar"]), "v"),
    "tar-5": (first_tar(tar=5), "v"),
    "tar-goes-up": (first_tar(tar="../../../../etc/passwd"), "vt"),
    "tar-absolute": (first_tar(tar="/etc/passwd"), "v"),
    "tar-of-a-device": (first_tar(tar="/dev/zero"), "vt"),
    "tar-nul": (first_tar(tar="a\0b.tar"), "vt"),
    "tar-escapes": (first_tar(tar="\x1b[2J.tar"), "v"),
    "tar-bytes-below-0": (first_tar(bytes=-5), "v"),
    "tar-samples-wrong": (first_tar(num_samples=7), "v"),
    "tar-sha256-null": (first_tar(sha256=None), "v"),
    "mean-of-two": (stats(mean=[0.5, 0.5]), "v"),
    "mean-nan": (stats(mean=[float("nan")] * 3), "v"),
    "std-0": (stats(std=[0, 0, 0]), "v"),
    "height-text": (stats(height=["a", "b", "c"]), "vi"),
    "quarantined-numbers": (with_values(quarantined=[1, 2]), "v"),
    "quarantined-escapes": (with_values(quarantined=[{"source": "\x1b[31mx", "reason": "\x07"}]), "i"),
    "converted-list": (with_values(converted=["cmyk"]), "vi"),
    "packing-text": (with_values(packing="x"), "v"),
    "masks-list": (with_values(masks=[1]), "v"),
    "masks-not-there": (
        with_values(masks={"num_masks": 3, "ignored": 255, "pixels": [1, 2], "sha256": "0" * 64}),
        "v",
    ),
    "format-unknown": (with_values(format="eyespot-shards/99"), "vt"),
    "format-a-list": (with_values(format=[1]), "v"),
    "unknown-field": (with_values(more=1), ""),
}


def _manifests() -> list[Case]:

    harmless = ("classes-twice", "classes-escapes")
    found = [
        case
        for name, (spoil, also) in MANIFESTS_TABLE.items()
        for case in _three(name, spoil, also=also, wants="either" if name in harmless else "told")
    ]
    told_later = Case(
        kind="manifests", name="unknown-field-verified", wants="either", make=spoilt(with_values(more=1), VERIFY)
    )
    std_0 = spoilt(stats(std=[0, 0, 0]), ([*TRAIN, "--data.normalize", "dataset"],))
    files: dict[str, Spoil] = {
        "a-folder": lambda train: ((train / "manifest.json").unlink(), (train / "manifest.json").mkdir()),
        "a-pipe": lambda train: ((train / "manifest.json").unlink(), os.mkfifo(train / "manifest.json")),
        "a-link-loop": lambda train: (
            (train / "manifest.json").unlink(),
            (train / "manifest.json").symlink_to("manifest.json"),
        ),
        "zeros-without-end": lambda train: (
            (train / "manifest.json").unlink(),
            (train / "manifest.json").symlink_to("/dev/zero"),
        ),
        "of-600-mb-of-holes": lambda train: os.truncate(train / "manifest.json", 600 << 20),
        "not-utf8": lambda train: (train / "manifest.json").write_bytes(b'{"format": "\xff"}'),
        "gone": lambda train: (train / "manifest.json").unlink(),
    }
    return [
        *found,
        told_later,
        Case(kind="manifests", name="std-0-trained-on", wants="refused", make=std_0, says="std"),
        *(case for name, spoil in files.items() for case in _three(f"file-{name}", spoil, "manifest|none", also="v")),
    ]


def fortran(rows: np.ndarray) -> bytes:
    return npy(rows.view("V29") if rows.dtype.itemsize == 29 else rows.view(np.uint8))


def header(text: bytes) -> Callable[[np.ndarray], bytes]:
    padded = text.ljust(118, b" ") + b"\n"
    return lambda rows: b"\x93NUMPY\x01\x00" + len(padded).to_bytes(2, "little") + padded + rows.tobytes()


def objects(rows: np.ndarray) -> bytes:
    return npy(np.array([{"a": 1}], dtype=object), allow_pickle=True)


LIES: dict[str, tuple[Any, str]] = {
    "height-huge": (set_field("height", 65535), "vt"),
    "width-0": (set_field("width", 0), "vt"),
    "both-swapped": (lambda rows: _swap(rows), "vt"),
    "offset-beyond": (set_field("offset", 2**40), "vt"),
    "offset-2^63": (set_field("offset", 2**63), "vt"),
    "size-4-gb": (set_field("size", 2**32 - 1), "vt"),
    "size-0": (set_field("size", 0), "vt"),
    "tar-99": (set_field("tar", 99), "vt"),
    "label-beyond": (set_field("label", 1000), "vti"),
    "label-below": (set_field("label", -7), "v"),
    "crc-wrong": (set_field("crc32", 1), "vt"),
    "all-the-same-row": (lambda rows: np.repeat(rows[:1], len(rows)), "v"),
}


def _indexes() -> list[Case]:

    descr = b"{'descr': '|u1', 'fortran_order': False, 'shape': (%s,)}"
    kinds: dict[str, tuple[Any, str]] = {
        "shorter": (lambda rows: rows[:-3], "vt"),
        "empty-array": (lambda rows: rows[:0], "vt"),
        "of-floats": (lambda rows: np.zeros(len(rows)), "vt"),
        "two-dimensions": (lambda rows: rows.reshape(2, -1), "v"),
        "of-bytes": (fortran, "v"),
        "pickled": (objects, "vt"),
        "cut": (lambda rows: npy(rows)[:300], "vt"),
        "cut-in-header": (lambda rows: npy(rows)[:20], "v"),
        "no-npy": (lambda rows: b"x" * 500, "vt"),
        "nothing": (lambda rows: b"", "v"),
        "version-2": (lambda rows: npy(rows, version=(2, 0)), ""),
        "version-9": (lambda rows: b"\x93NUMPY\x09\x00" + npy(rows)[8:], "v"),
        "says-2^60-rows": (header(descr % b"1152921504606846976"), "vt"),
        "says-minus-5-rows": (header(descr % b"-5"), "v"),
        "header-is-code": (header(b"__import__('os').system('touch evil')"), "v"),
        "header-deep": (header(b"(" * 100), "v"),
    }
    files: dict[str, Spoil] = {
        "a-folder": lambda train: ((train / "index.npy").unlink(), (train / "index.npy").mkdir()),
        "a-pipe": lambda train: ((train / "index.npy").unlink(), os.mkfifo(train / "index.npy")),
        "gone": lambda train: (train / "index.npy").unlink(),
    }
    # The sizes, labels and places of rows are LIES of the file itself: a run must end with a line, not with a signal.
    found = [
        Case(
            kind="indexes",
            name=f"{name}-{how}",
            wants=wants,  # pyright: ignore[reportArgumentType]
            make=spoilt(of_rows(change), words),
            evil="evil",
        )
        for name, (change, also) in (LIES | kinds).items()
        for letter, how, words, wants in (
            ("v", "verified", VERIFY, "told"),
            ("t", "trained", TRAINED, "failed" if name not in ("label-beyond", "both-swapped") else "either"),
            ("i", "shown", INFO, "either"),
        )
        if letter in also
    ]
    found += [
        Case(kind="indexes", name=f"file-{name}-trained", wants="refused", make=spoilt(spoil, TRAINED), says="index")
        for name, spoil in files.items()
    ]
    version = spoilt(of_rows(lambda rows: npy(rows, version=(2, 0))), VERIFY)
    found.append(Case(kind="indexes", name="version-2-verified", wants="either", make=version))
    untold = spoilt(of_rows(set_field("height", 7), told=False), TRAINED)
    return [
        *found,
        Case(kind="indexes", name="of-another-manifest-trained", wants="refused", make=untold, says="index"),
    ]


def _swap(rows: np.ndarray) -> None:
    rows["height"][:], rows["width"][:] = rows["width"].copy(), rows["height"].copy()


def _tars() -> list[Case]:
    def tar(train: Path) -> Path:
        return next(iter(sorted(train.glob("*.tar"))))

    def zeroed(train: Path) -> None:
        with tar(train).open("r+b") as file:
            file.seek(600)
            file.write(bytes(20_000))

    files: dict[str, Spoil] = {
        "gone": lambda train: tar(train).unlink(),
        "cut": lambda train: os.truncate(tar(train), 3000),
        "nothing": lambda train: os.truncate(tar(train), 0),
        "zeroed": zeroed,
        "a-folder": lambda train: (tar(train).rename(train / "x"), (train / "shard-000000.tar").mkdir()),
        "a-pipe": lambda train: (tar(train).unlink(), os.mkfifo(train / "shard-000000.tar")),
        "a-link-to-zero": lambda train: (tar(train).unlink(), (train / "shard-000000.tar").symlink_to("/dev/zero")),
    }
    found = [
        Case(kind="indexes", name=f"tar-{name}-{how}", wants=wants, make=spoilt(spoil, words), says="tar|damaged|read")  # pyright: ignore[reportArgumentType]
        for name, spoil in files.items()
        for how, words, wants in (
            ("verified", VERIFY, "told"),
            ("trained", TRAINED, "failed" if name != "zeroed" else "either"),
        )
    ]
    evaluated = (["eval", "knn", "run", "shards", "--out", "judged"],)

    def with_run(spoil: Spoil) -> Any:
        def make(room: Room) -> Sequence[Words]:
            room.take("run")
            return spoilt(spoil, evaluated)(room)

        return make

    return [
        *found,
        Case(kind="indexes", name="tar-zeroed-evaluated", wants="failed", make=with_run(zeroed)),
        Case(
            kind="indexes",
            name="label-beyond-evaluated",
            wants="failed",
            make=with_run(of_rows(set_field("label", 99))),
        ),
        Case(
            kind="indexes",
            name="height-huge-evaluated",
            wants="failed",
            make=with_run(of_rows(set_field("height", 60000))),
        ),
    ]
