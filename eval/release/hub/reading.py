"""Reads from a hub: which commit a revision means, and the files of a release as that commit has them.

Files come by this package's own bounded download: a hub's client takes what it is sent, however much and however slow.
Of the client are the address, the token and the cache (HF_ENDPOINT, HF_TOKEN, HF_HOME, HF_HUB_OFFLINE): offline, a
release comes out of that cache, where ``hf download ORG/NAME`` has put it.
"""

import shutil
import tempfile
import urllib.error
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import huggingface_hub
import huggingface_hub.constants as settings
from huggingface_hub.utils import build_hf_headers

import eyespot
from eyespot.data_pipeline import foreign_json
from eyespot.data_pipeline.errors import UserError
from eyespot.eval.release.download import Way, download, download_folder
from eyespot.eval.release.hub.address import HubAddress, parse_address
from eyespot.eval.release.layout import MAX_TEXT_BYTES, SUMS, parse_sums
from eyespot.pretrain.redaction import masked

TRIES = 5
"""How often a file is asked for while the hub does not answer."""


def pinned(address: str) -> HubAddress:
    """The address at the commit that its revision means now.

    Args:
        address: ``hf://ORG/NAME`` or ``hf://ORG/NAME@REVISION``.

    Raises:
        UserError: there is no such repository or revision, or this account may not see it.
        Outage: the hub does not answer.
    """
    wanted = parse_address(address)
    if wanted.commit:
        return wanted
    if is_offline():
        return wanted.at(_in_cache(wanted, SUMS).parent.name)
    found = wanted.at(str(_info(wanted).get("sha")))
    if not found.commit:
        raise UserError(f"{_source(wanted)}: the hub names no commit; is {masked(settings.ENDPOINT)} a model hub?")
    return found


def download_release(address: str, folder: Path, max_bytes: int) -> None:
    """Brings the files of a release into an empty folder; whether they are one is for others to verify.

    Args:
        address: ``hf://ORG/NAME@REVISION``.
        folder: the folder.
        max_bytes: more is refused.

    Raises:
        UserError: as ``pinned``; or there is no release.
        Outage: the hub does not answer.
    """
    at = pinned(address)
    source = _source(at)
    if is_offline():
        _copy_from_cache(at, folder, max_bytes)
        return
    try:
        with _explained(at):
            download_folder(lambda name: _address_of(at, name), folder, _way(at), max_bytes)
    except UserError as error:
        if (folder / SUMS).exists() or _code(error) != 404:
            raise
        raise UserError(f"{source}: {_what_it_is(at)}") from error


def is_offline() -> bool:
    """Whether HF_HUB_OFFLINE says that no hub is asked."""
    return settings.HF_HUB_OFFLINE


def headers() -> dict[str, str]:
    """What the hub is told with every question: who asks, and the token where there is one."""
    return build_hf_headers(library_name="eyespot", library_version=eyespot.__version__)


def _source(address: HubAddress) -> str:
    return f"release {address}"


def _way(address: HubAddress) -> Way:
    # The files of a hub lie with others, whose hosts change; what comes is held against SHA256SUMS.
    return Way(_source(address), allow_redirect=True, headers=headers(), tries=TRIES)


def _address_of(at: HubAddress, name: str) -> str:
    return f"{settings.ENDPOINT}/{at.repo}/resolve/{quote(at.revision, safe='')}/{quote(name)}"


def _info(wanted: HubAddress) -> dict[str, Any]:
    """What the hub says of a repository at a revision."""
    address = f"{settings.ENDPOINT}/api/models/{wanted.repo}/revision/{quote(wanted.revision, safe='')}"
    with tempfile.TemporaryDirectory() as room:
        path = Path(room) / "description"
        with _explained(wanted):
            download(address, path, _way(wanted), MAX_TEXT_BYTES)
        try:
            return foreign_json.read(path, dict, MAX_TEXT_BYTES)
        except foreign_json.ForeignJsonError as error:
            raise UserError(
                f"{_source(wanted)}: {masked(settings.ENDPOINT)} answers as no model hub does ({error.why:.100}); see"
                " HF_ENDPOINT"
            ) from error


def _what_it_is(at: HubAddress) -> str:
    """Of a repository that has no SHA256SUMS."""
    library = str(_info(at).get("library_name"))
    if library == "timm":
        return f"has no {SUMS}, so it is no release, but a model of timm: name it hf-hub:{at.repo}"
    if library == "transformers":
        return f"has no {SUMS}, so it is no release, but a model of transformers, which eyespot does not load"
    return f"has no {SUMS}, so it is no release; make one with: eyespot release RUN --to hf://ORG/NAME"


@contextmanager
def _explained(at: HubAddress) -> Iterator[None]:
    """What the hub's refusals mean, and the token out of all errors."""
    try:
        yield
    except UserError as error:
        if not isinstance(error.__cause__, urllib.error.HTTPError):
            raise
        why = refusal(error.__cause__.code, error.__cause__.headers.get("X-Error-Code", ""), at)
        raise UserError(f"{_source(at)}: {why}" if why else without_token(str(error))) from error.__cause__


def refusal(status: int, code: str, at: HubAddress) -> str:
    """What the hub means; empty where its own words say it.

    Args:
        status: HTTP's.
        code: its header X-Error-Code.
        at: what was asked for.
    """
    page, token = f"{settings.ENDPOINT}/{at.repo}", huggingface_hub.get_token()
    if code == "GatedRepo":
        return f"is gated: ask for access at {page}, and set HF_TOKEN to a token of the account that has it"
    if code == "RevisionNotFound":
        return f"the repository has no branch, tag or commit {at.revision}"
    if status == 401 and code != "RepoNotFound" and token:
        return "the hub does not take the token that is set (401); see HF_TOKEN, or: hf auth login"
    if status in (401, 404) and code in ("RepoNotFound", ""):
        who = "the account of the token that is set may not see it" if token else "it is private: set HF_TOKEN"
        return f"there is no such repository, or {who}"
    if status == 403:
        return (
            "the account of the token that is set may not do that (403)"
            if token
            else "is not for everybody (403): set HF_TOKEN"
        )
    return ""


def without_token(text: str) -> str:
    """The text, in which a server may repeat what it was sent, without secrets."""
    token = huggingface_hub.get_token()
    return masked(text.replace(token, "***") if token else text)


def _code(error: BaseException) -> int:
    return getattr(error.__cause__, "code", 0)


def _in_cache(at: HubAddress, name: str) -> Path:
    found = huggingface_hub.try_to_load_from_cache(at.repo, name, revision=at.revision)
    if not isinstance(found, str):
        raise UserError(
            f"{_source(at)}: HF_HUB_OFFLINE is set, and {settings.HF_HUB_CACHE} has no {name} of it; bring it where"
            f" there is a network: hf download {at.repo} --revision {at.revision}"
        )
    return Path(found)


def _copy_from_cache(at: HubAddress, folder: Path, max_bytes: int) -> None:
    """As ``download_folder``, out of the client's cache, whose files are links."""
    names, left = [SUMS], max_bytes
    for name in names:
        path = _in_cache(at, name)
        if path.stat().st_size > (MAX_TEXT_BYTES if name == SUMS else left):
            raise UserError(f"{_source(at)}: {name} has {path.stat().st_size:,} bytes; too large")
        left -= path.stat().st_size
        shutil.copyfile(path, folder / name)
        if name == SUMS:
            names += parse_sums(path.read_text(encoding="utf-8", errors="replace"), _source(at))
