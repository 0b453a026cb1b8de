"""What a cache of releases knows of hubs: which commit a revision meant, and which digest the release there has."""

import hashlib
import re
from pathlib import Path
from urllib.parse import quote

import huggingface_hub.constants as settings

from eyespot.data_pipeline.atomic_files import write_bytes
from eyespot.eval.release.hub.address import HubAddress

_LINE = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")


class HubNotes:
    """Of one repository of the hub that is asked now (HF_ENDPOINT), in CACHE/hub: another hub's answers are its own.

    Args:
        cache: the folder of releases.
        address: of the repository, at any revision.
    """

    def __init__(self, cache: Path, address: HubAddress) -> None:
        hub = hashlib.sha256(settings.ENDPOINT.encode()).hexdigest()[:16]
        self._folder = cache / "hub" / hub / address.repo.replace("/", "--")

    def commit_of(self, revision: str) -> str | None:
        """The commit that a revision meant when the hub was last asked; None where it never was."""
        return _read(self._folder / "revisions" / quote(revision, safe=""))

    def digest_of(self, commit: str) -> str | None:
        """The digest of the release that a commit holds; None where it is not known."""
        return _read(self._folder / "commits" / commit)

    def write(self, revision: str, commit: str, digest: str) -> None:
        """Notes both."""
        for path, text in (("revisions", quote(revision, safe="")), commit), (("commits", commit), digest):
            place = self._folder.joinpath(*path)
            place.parent.mkdir(parents=True, exist_ok=True)
            write_bytes(place, text.encode())


def _read(path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            text = file.read(65).decode("ascii", "replace")
    except OSError:
        return None
    return text if _LINE.fullmatch(text) else None
