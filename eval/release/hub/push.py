"""Pushes a verified release to a hub: one commit with all of its files, or none where the hub has them already.

Every try begins with what the hub holds now, so a push that broke off, or whose answer was lost, is just done again.
Afterwards the hub must hold, file by file, what lies in the folder.
"""

import json
import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import huggingface_hub
import huggingface_hub.constants as settings
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled, RepositoryNotFoundError
from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
from huggingface_hub.utils.sha import git_hash

import eyespot
from eyespot.data_pipeline.errors import BUSY, Outage, UserError, is_network_outage
from eyespot.eval.release.download import TIMEOUT_SECONDS, patiently, retry_after
from eyespot.eval.release.hub.address import MAIN, HubAddress
from eyespot.eval.release.hub.push_checks import check_push
from eyespot.eval.release.hub.reading import refusal, without_token
from eyespot.eval.release.layout import PROVENANCE, SUMS, digest_of, read_json, sha256
from eyespot.eval.release.verify import verified

TRIES = 3
"""How often it is begun while the hub does not answer; its client asks five times more for some of it."""
_GIT = ".gitattributes"
"""The hub's own file in each repository."""
_CHANGED = (409, 412)
"""What a hub answers to a commit on top of what is no longer the newest."""


@dataclass(kw_only=True, slots=True, frozen=True)
class Pushed:
    """Where a release lies now."""

    address: HubAddress
    """With the commit."""
    new: bool
    """Whether this push made the commit."""
    page: str
    """For a browser."""


@dataclass(kw_only=True, slots=True, frozen=True)
class _Push:
    """What is wanted."""

    folder: Path
    to: HubAddress
    public: bool
    replace: bool
    tag: str | None


def push(folder: Path, address: str, *, public: bool = False, replace: bool = False, tag: str | None = None) -> Pushed:
    """Pushes a release, once it has been verified.

    Args:
        folder: the release.
        address: ``hf://ORG/NAME``, or ``hf://ORG/NAME@BRANCH``. A repository or branch that is not there is made.
        public: whether a repository that is made is for everybody. A push to a public one must say so.
        replace: whether other files may lie there, which are then deleted in the same commit.
        tag: a tag for the commit.

    Raises:
        UserError: the release does not verify, the hub refuses, or something else lies there.
        Outage: the hub does not answer.
    """
    to = check_push(address, tag)
    verified(folder)
    wanted = _Push(folder=folder, to=to, public=public, replace=replace, tag=tag)
    with _quietly():
        return patiently(lambda: _asked(wanted), TRIES)


def _asked(wanted: _Push) -> Pushed:
    """One try; whatever the client raises becomes one line."""
    what = f"--to {wanted.to}"
    try:
        return _push(
            wanted, HfApi(endpoint=settings.ENDPOINT, library_name="eyespot", library_version=eyespot.__version__)
        )
    except (UserError, Outage):
        raise
    except OfflineModeIsEnabled as error:
        raise UserError(f"{what}: HF_HUB_OFFLINE is set, so no hub is asked; unset it") from error
    except Exception as error:  # of three libraries, without a common base
        status = getattr(getattr(error, "response", None), "status_code", 0)
        said = without_token(_brief(error))
        if status in _CHANGED:
            raise Outage(f"{what}: somebody else changed it in the meantime ({said})") from error
        if status in BUSY or is_network_outage(error) or _is_transport(error):
            pause = f"; it asks to wait {seconds:,.0f} s" if (seconds := retry_after(error)) else ""
            raise Outage(f"{what}: the hub does not answer as it should ({said}){pause}") from error
        response = getattr(error, "response", None)
        code = response.headers.get("X-Error-Code", "") if response is not None else ""
        raise UserError(f"{what}: {refusal(status, code, wanted.to) or said}") from error


def _push(wanted: _Push, api: HfApi) -> Pushed:
    repo, branch = wanted.to.repo, wanted.to.revision
    _find_or_make(wanted, api)
    refs = api.list_repo_refs(repo)
    tags = {ref.name: ref.target_commit for ref in refs.tags}
    if branch in tags:
        raise UserError(f"--to {wanted.to}: {branch} is a tag, and a push goes to a branch; say --tag for a new one")
    heads = {ref.name: ref.target_commit for ref in refs.branches}
    if branch not in heads:
        api.create_branch(repo, branch=branch, exist_ok=True)
    ours, (head, there) = _digests(wanted.folder), _held(api, repo, branch)
    commit = head
    if new := not _same(ours, there):
        # A branch that was made, by this push or one that broke off, is where main is, and holds nothing of its own.
        only_made = branch != MAIN and head == heads.get(MAIN)
        if there and not wanted.replace and not only_made:
            what = "another release" if SUMS in there else f"{min(there)} and is no release"
            raise UserError(
                f"--to {wanted.to}: holds {what}; say --replace to put this one in its place (the commits before stay),"
                f" or push to a branch: hf://{repo}@NAME"
            )
        _refuse_moved_tag(wanted, tags, None)
        commit = _commit(wanted, api, head, [name for name in there if name not in ours])
        if not _same(ours, _held(api, repo, commit)[1]):
            raise UserError(
                f"--to {wanted.to}: at {commit} the hub holds something else than {wanted.folder}; push anew"
            )
    _refuse_moved_tag(wanted, tags, commit)
    if wanted.tag and wanted.tag not in tags:
        api.create_tag(repo, tag=wanted.tag, revision=commit)
    return Pushed(address=wanted.to.at(commit), new=new, page=f"{settings.ENDPOINT}/{repo}/tree/{commit}")


def _find_or_make(wanted: _Push, api: HfApi) -> None:
    """A repository that is there keeps its visibility, which must be what was asked for."""
    repo = wanted.to.repo
    try:
        private = bool(api.model_info(repo, timeout=TIMEOUT_SECONDS).private)
    except RepositoryNotFoundError:
        api.create_repo(repo, private=not wanted.public, exist_ok=True)
        return
    if not private and not wanted.public:
        raise UserError(f"--to {wanted.to}: is public: everybody could read the release; say --public if that is meant")
    if private and wanted.public:
        raise UserError(
            f"--to {wanted.to}: is private; leave out --public, or change it first: {settings.ENDPOINT}/{repo}/settings"
        )


def _refuse_moved_tag(wanted: _Push, tags: dict[str, str], commit: str | None) -> None:
    if wanted.tag in tags and tags[wanted.tag] != commit:
        raise UserError(f"--tag {wanted.tag}: is there already and means commit {tags[wanted.tag]}; choose another")


def _commit(wanted: _Push, api: HfApi, head: str, gone: list[str]) -> str:
    said: Any = read_json(wanted.folder / PROVENANCE, str(wanted.folder))
    operations: list[Any] = [CommitOperationDelete(path_in_repo=name, is_folder=False) for name in gone]
    for path in sorted(wanted.folder.iterdir()):
        operations.append(CommitOperationAdd(path_in_repo=path.name, path_or_fileobj=path))
    done = api.create_commit(
        wanted.to.repo,
        operations,
        commit_message=f"{said['name']}, {said['recipe']}, step {said['step']:,}",
        commit_description=f"Release {digest_of(wanted.folder)} by eyespot {eyespot.__version__}",
        revision=wanted.to.revision,
        parent_commit=head,
    )
    return str(done.oid)


def _held(api: HfApi, repo: str, revision: str) -> tuple[str, dict[str, str]]:
    """The commit, and the digest of each of its files as the hub says it: sha256 of large ones, git's of the others."""
    info = api.model_info(repo, revision=revision, files_metadata=True, timeout=TIMEOUT_SECONDS)
    files = {one.rfilename: one.lfs.sha256 if one.lfs else str(one.blob_id) for one in info.siblings or []}
    files.pop(_GIT, None)
    return str(info.sha), files


def _digests(folder: Path) -> dict[str, tuple[str, str]]:
    """Both digests that a hub may tell of each file."""
    found = {}
    for path in folder.iterdir():
        small = path.stat().st_size <= 1 << 24  # git's needs the whole file; hubs keep large ones outside of git
        found[path.name] = (sha256(path), git_hash(path.read_bytes()) if small else "")
    return found


def _same(ours: dict[str, tuple[str, str]], there: dict[str, str]) -> bool:
    return ours.keys() == there.keys() and all(there[name] in ours[name] for name in ours)


def _is_transport(error: BaseException | None) -> bool:
    """Whether the client's own library for HTTP failed on the way, however it is called in this version."""
    while error is not None:
        names = {kind.__name__ for kind in type(error).__mro__}
        if names & {"TransportError", "RequestException"} and not names & {"UnsupportedProtocol", "InvalidURL"}:
            return "HTTPStatusError" not in names
        error = error.__cause__
    return False


def _brief(error: BaseException) -> str:
    if isinstance(error, HfHubHTTPError):
        return " ".join(f"{error.response.status_code} {error.server_message or ''}".split())[:200]
    if isinstance(error, json.JSONDecodeError | KeyError | TypeError):
        return f"{settings.ENDPOINT} answers as no model hub does ({type(error).__name__}); see HF_ENDPOINT"
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]


@contextmanager
def _quietly() -> Iterator[None]:
    """The client logs addresses, which hold secrets, and draws bars where nobody looks; and it would wait for ever."""
    loggers = [logging.getLogger(name) for name in ("huggingface_hub", "httpx", "httpx2")]
    levels, bars = [logger.level for logger in loggers], are_progress_bars_disabled()
    session = huggingface_hub.utils.get_session()
    timeout = session.timeout
    try:
        session.timeout = TIMEOUT_SECONDS
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        if not sys.stderr.isatty():
            disable_progress_bars()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        session.timeout = timeout
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        if not bars and settings.HF_HUB_DISABLE_PROGRESS_BARS is None:
            enable_progress_bars()
