"""Counts what went in against what came out: every image is in the index, or named."""

import io
import json
import tarfile
import unicodedata
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

IMAGES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".gif", ".webp", ".bmp", ".dib", ".tif", ".tiff"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".j2k", ".avif", ".heic"),
)


def indexed(labels: dict[str, str | None] | None = None, folder: str = "data") -> Callable[[Path, str], str]:
    """Of ``shards index``: every image in the tars is a row of the index, or is named.

    Args:
        labels: for members, the class that they must have; None = none.
        folder: that was indexed.
    """

    def lost(room: Path, said: str) -> str:
        held, members, rows = _manifest(room / folder), _members(room / folder), _rows(room / folder)
        named = _names(held, said)
        missing = [name for place, name in members.items() if place not in rows and _is_image(name)]
        unsaid = [name for name in missing if not _is_named(name, named)]
        if unsaid and not (len(unsaid) < len(missing) and _has_number(len(missing), held, said)):
            return f"{len(unsaid)} of {len(members)} members are neither in the index nor named: {unsaid[0]!r}"
        for place, name in members.items():
            if labels is not None and place in rows and name in labels:
                number = rows[place]
                got = held["classes"][number] if number >= 0 else None
                if got != labels[name]:
                    return f"{name!r} has label {str(got)[:60]!r}, not {str(labels[name])[:60]!r}"
        return ""

    return lost


def packed(source: str = "source", target: str = "out") -> Callable[[Path, str], str]:
    """Of ``shards pack``: every file of the source folder is in a shard folder, or is named."""

    def lost(room: Path, said: str) -> str:
        files = [path.relative_to(room / source).as_posix() for path in (room / source).rglob("*") if path.is_file()]
        files = [name for name in files if not any(part.startswith(".") for part in name.split("/"))]
        return _uncounted(files, room / target, said)

    return lost


def packed_tar(tar: str, target: str = "out") -> Callable[[Path, str], str]:
    """Of ``shards pack`` of a tar."""

    def lost(room: Path, said: str) -> str:
        with tarfile.open(room / tar, "r:*", ignore_zeros=True) as archive:
            return _uncounted([member.name for member in archive if member.isreg()], room / target, said)

    return lost


def rows_of(count: int, folder: str) -> Callable[[Path, str], str]:
    """There are so many rows."""

    def lost(room: Path, said: str) -> str:
        found = sum(_manifest(path.parent)["num_samples"] for path in (room / folder).rglob("manifest.json"))
        return "" if found == count else f"{found} samples, not {count}"

    return lost


def _uncounted(files: list[str], target: Path, said: str) -> str:
    manifests = [_manifest(path.parent) for path in sorted(target.rglob("manifest.json"))]
    num_packed = sum(held.get("frames", {}).get("num_frames", held["num_samples"]) for held in manifests)
    named = _names(manifests, said)
    num_named = sum(_is_named(name, named) for name in files)
    if len(files) - num_packed <= num_named:
        return ""
    unsaid = sorted((name for name in files if not _is_named(name, named)), key=_is_image)
    return f"of {len(files)} files {num_packed} are packed and {num_named} named: not {unsaid[0]!r}"


def _manifest(folder: Path) -> Any:
    return json.loads((folder / "manifest.json").read_bytes())


def _rows(folder: Path) -> dict[tuple[str, int], int]:
    """Tar and offset of each image, or frame of a clip, and its label."""
    tars = [shard["tar"] for shard in _manifest(folder)["shards"]]
    table = "frames.npy" if "frames" in _manifest(folder) else "index.npy"
    rows = np.load(folder / table, allow_pickle=False)
    return {(tars[row["tar"]], int(row["offset"])): int(row["label"]) for row in rows}


def _members(folder: Path) -> dict[tuple[str, int], str]:
    found = {}
    for tar in sorted(folder.glob("*.tar")):
        with tarfile.open(tar, "r:", ignore_zeros=True) as archive:
            for member in archive:
                if (member.isreg() or member.islnk() or member.issym()) and not _is_hidden(member.name):
                    found[(tar.name, member.offset_data)] = member.name
    return found


def _is_hidden(name: str) -> bool:
    return any(part.startswith(".") and part not in (".", "..") for part in name.split("/")) or "__MACOSX" in name


def _is_image(name: str) -> bool:
    return name.lower().endswith(IMAGES) and not name.endswith(".seg.png")


def _names(held: Any, said: str) -> str:
    """All text in which something may be named."""
    texts = [*_strings(held), *said.splitlines()]
    return "\n".join(texts)


def _strings(value: Any) -> Iterable[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, each in value.items():
            yield str(key)
            yield from _strings(each)
    elif isinstance(value, list):
        for each in value:
            yield from _strings(each)


def _is_named(name: str, text: str) -> bool:
    last = name.rpartition("/")[2]
    printable = last.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    ways = {last, printable, unicodedata.normalize("NFC", last), last.encode("unicode_escape").decode()}
    return any(way in text for way in ways)


def _has_number(count: int, held: Any, said: str) -> bool:
    return f"{count:,} " in said or f" {count}" in json.dumps(held)


def tar_of(entries: Iterable[tuple[Any, bytes]], **options: Any) -> bytes:
    """A tar of (name or TarInfo, content)."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", **options) as archive:
        for name, content in entries:
            info = name if isinstance(name, tarfile.TarInfo) else tarfile.TarInfo(name)
            if info.isreg():
                info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return file.getvalue()
