"""Where the files inside a tar lie, whoever wrote it: USTAR, GNU and PAX headers, long names."""

import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from eyespot.data_pipeline.errors import UserError

BLOCK = 512


class Member(NamedTuple):
    """A regular file inside a tar."""

    name: str
    offset: int
    """Of its bytes (not of its header), from the start of the tar."""
    size: int


@dataclass(kw_only=True, slots=True)
class Scan:
    """What a plain tar holds."""

    files: list[Member]
    problem: str | None
    """One line; None = the tar is whole."""


def scan(path: Path) -> Scan:
    """Reads all headers of a plain (not compressed) tar.

    Raises:
        UserError: it is no plain tar.
    """
    files: list[Member] = []
    try:
        with tarfile.open(path, "r:", bufsize=1 << 16) as archive:
            while True:
                try:
                    member = archive.next()
                except tarfile.TarError as error:
                    return Scan(files=files, problem=f"truncated or damaged after {len(files)} files ({error})")
                if member is None:
                    break
                if member.isreg() and not member.issparse():
                    files.append(Member(member.name, member.offset_data, member.size))
                archive.members = []  # pyright: ignore[reportAttributeAccessIssue]  # else a list of a million headers grows
            return Scan(files=files, problem=_end_problem(archive, path, len(files)))
    except (tarfile.TarError, EOFError) as error:
        raise UserError(f"{path}: not a plain tar ({error})") from error


def _end_problem(archive: Any, path: Path, num_files: int) -> str | None:
    """A tar ends with a block of zeros; one that was cut at a member's border does not."""
    with path.open("rb") as file:
        file.seek(archive.offset)
        end = file.read(BLOCK)
    if end == bytes(BLOCK):
        return None
    return f"truncated or damaged after {num_files} files (no end-of-archive block)"


def idx_text(samples: list[list[tuple[str, int, int, str]]]) -> str:
    """The index that DALI's ``wds2idx`` would write, format v1.2, read by ``fn.readers.webdataset``.

    Args:
        samples: for each sample its members: extension, offset, size, name.
    """
    lines = (" ".join(" ".join(map(str, member)) for member in sample) for sample in samples)
    return "".join(f"{line}\n" for line in (f"v1.2 {len(samples)}", *lines))
