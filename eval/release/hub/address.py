"""``hf://ORG/NAME@REVISION``: a repository of models on a hub, and one of its branches, tags or commits."""

import re
from dataclasses import dataclass, replace

from eyespot.data_pipeline.errors import UserError
from eyespot.pretrain.redaction import masked

SCHEME = "hf://"
MAIN = "main"
_PART = r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9_])?"
_ADDRESS = re.compile(rf"hf://({_PART}/{_PART})(?:@([A-Za-z0-9_][A-Za-z0-9_./+-]*))?")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_MOST_LETTERS, _MOST_OF_REVISION = 96, 200


@dataclass(slots=True, frozen=True)
class HubAddress:
    """A repository and one of its revisions."""

    repo: str
    """ORG/NAME."""
    revision: str = MAIN
    """A branch, a tag or a commit."""

    def __str__(self) -> str:
        return f"{SCHEME}{self.repo}" + (f"@{self.revision}" if self.revision != MAIN else "")

    @property
    def commit(self) -> str | None:
        """The commit, where the revision is one in full: what it holds never changes."""
        return self.revision if _COMMIT.fullmatch(self.revision) else None

    def at(self, revision: str) -> "HubAddress":
        """The same repository at another revision."""
        return replace(self, revision=revision)


def is_hub(address: str) -> bool:
    """Whether an address is one of a hub."""
    return address.startswith(SCHEME)


def parse_address(address: str) -> HubAddress:
    """Takes ``hf://ORG/NAME`` or ``hf://ORG/NAME@REVISION`` apart.

    Raises:
        UserError: it is written otherwise, or hubs allow no such name.
    """
    matched = _ADDRESS.fullmatch(address)
    if matched is None:
        raise UserError(
            f"{masked(address)!s:.200}: write it as hf://ORG/NAME or hf://ORG/NAME@REVISION, a branch, tag or commit"
        )
    repo, revision = matched[1], matched[2] or MAIN
    if len(repo) > _MOST_LETTERS or "--" in repo or ".." in repo or repo.endswith(".git"):
        raise UserError(
            f"{address!s:.200}: hubs allow names of up to {_MOST_LETTERS} letters, without '--' and '..' and no '.git'"
            " at the end; choose another"
        )
    if (
        ".." in revision
        or "//" in revision
        or revision.endswith(("/", ".lock", "."))
        or len(revision) > _MOST_OF_REVISION
    ):
        raise UserError(f"{address!s:.300}: git allows no revision of that name; name a branch, a tag or a commit")
    return HubAddress(repo, revision)
