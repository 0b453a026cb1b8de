"""What is in a source or a tar but not among the samples: counted by reason, with some names. Nothing vanishes."""

from collections.abc import Iterable
from pathlib import PurePosixPath

from eyespot.data_pipeline.shards.manifest import MOST_QUARANTINED, Skipped
from eyespot.data_pipeline.shards.members.sounds import CONTAINERS, HAS_SOUNDFILE

MOST_EXAMPLES = 10
MOST_REASONS = 60
"""Reasons name suffixes, and a stranger's tar may have a million of those."""
OTHERS = "other files"
HEIC = frozenset({".heic", ".heif", ".hif"})
SOUNDS = frozenset() if HAS_SOUNDFILE else frozenset(f".{extension}" for extension in CONTAINERS)
_ARCHIVES = frozenset({".tar", ".zip", ".tgz", ".gz", ".bz2", ".xz", ".zst", ".7z", ".rar"})


class Tally:
    """Counts what is skipped. Counts are complete; names are kept of the first few of each reason."""

    def __init__(self) -> None:
        self._found: dict[str, Skipped] = {}

    @classmethod
    def of(cls, listed: Iterable[Skipped]) -> "Tally":
        """One that counted these."""
        tally = cls()
        for one in listed:
            tally._found[one.reason] = one
        return tally

    def add(self, reason: str, name: str, count: int = 1) -> None:
        """One more file or member, left out for this reason; or some more, in the file of that name."""
        self._count(reason, count, [printable(name)])

    def add_all(self, other: "Tally", prefix: str = "") -> None:
        """All that another one counted; ``prefix`` goes before its names."""
        for one in other._found.values():
            self._count(one.reason, one.count, [f"{printable(prefix)}{name}" for name in one.examples])

    def _count(self, reason: str, count: int, names: list[str]) -> None:
        if reason not in self._found and len(self._found) >= MOST_REASONS:
            reason = OTHERS
        one = self._found.setdefault(reason, Skipped(reason=reason, count=0))
        one.count += count
        one.examples += names[: MOST_EXAMPLES - len(one.examples)]

    @property
    def total(self) -> int:
        """How many, for whatever reason."""
        return sum(one.count for one in self._found.values())

    def listed(self) -> list[Skipped]:
        """By reason, the most frequent first."""
        return sorted(self._found.values(), key=lambda one: (-one.count, one.reason))


def quarantined_beyond(quarantined: list[dict[str, str]]) -> list[Skipped]:
    """Those images that a manifest does not name one by one."""
    tally = Tally()
    for bad in quarantined[MOST_QUARANTINED:]:
        tally.add(bad["reason"], bad["source"])
    return tally.listed()


def printable(name: str) -> str:
    """A file name as valid Unicode; bytes that are none are written as \\xNN."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def hidden(parts: tuple[str, ...]) -> str | None:
    """Why a path, split at its slashes, is none of the data; None = it may be."""
    if "__MACOSX" in parts or any(part.startswith("._") for part in parts):
        return "macOS's notes (._*, __MACOSX)"
    if any(part.startswith(".") and part not in (".", "..") for part in parts):
        return "hidden (a name that begins with a dot)"
    return None


def no_image(name: str) -> str:
    """Why a file whose suffix is no image's is left out."""
    suffix = PurePosixPath(name).suffix.lower()
    if suffix in HEIC:
        return f'a HEIC image ({suffix}): needs pillow-heif: pip install "eyespot[heic]"'
    if suffix in SOUNDS:
        return f'a sound ({suffix}): needs soundfile: pip install "eyespot[sound]"'
    if suffix == ".npy":
        return "an array (.npy): packed as bands, with --bands"
    if suffix in _ARCHIVES:
        return f"an archive inside ({suffix}): unpack it first"
    if not suffix:
        return "no extension"
    known = len(suffix) <= 8 and suffix[1:].isascii() and suffix[1:].isalnum() and not suffix[1:].isdecimal()
    return f"not an image ({suffix})" if known else "not an image"
