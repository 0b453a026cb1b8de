"""Freezes what a run is made of: a queued job runs the code and the settings that were submitted, and no later ones.

``RUN/cluster/code`` holds the package ``eyespot`` (of a checkout: what git knows, with its uncommitted changes, and new
files that it does not ignore; else the installed files), the sources of a recipe that lives elsewhere, ``diff.patch``
(the uncommitted changes) and ``frozen.json`` (where all of it comes from, and what of it git does not know). Data and
environments are never copied, links out of the tree are not followed, and what looks like a secret stays where it is.
"""

import hashlib
import importlib.util
import json
import re
import secrets
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import eyespot
from eyespot.cluster.status.records import Records
from eyespot.data_pipeline.atomic_files import write_bytes
from eyespot.data_pipeline.errors import UserError
from eyespot.pretrain.config import Run
from eyespot.pretrain.loop.environment import code_state, own_code_state
from eyespot.pretrain.redaction import masked
from eyespot.pretrain.run_json import to_values
from eyespot.pretrain.run_record import NAME, RunRecord

MAX_FILE_BYTES = 10_000_000
"""A larger file is data, not code: it is left out, and named in frozen.json."""
_SECRET = re.compile(
    r"\.env(\..*|rc)?|.*\.(pem|key|p12|pfx|jks|keystore|kdbx|ppk|asc|gpg|ovpn)|id_(rsa|dsa|ecdsa|ed25519).*|\.?netrc"
    r"|_netrc|\.(npmrc|pypirc|pgpass|my\.cnf|htpasswd|git-credentials|dockercfg|dockerconfigjson|boto|s3cfg|vault.*)"
    r"|.*(credential|secret|password|passwd|api[-_]?key)s?.*|.*(^|[-_.])tokens?($|[-_.](?!iz)).*"
    r"|.*kube_?config.*|service[-_]?account.*\.json",
    re.IGNORECASE,
)
"""Names of files that hold secrets."""
_SECRET_FOLDERS = {".aws", ".azure", ".docker", ".gcloud", ".gnupg", ".kube", ".ssh", ".vault", "secrets"}
_SOURCE = {".py", ".pyi", ".pyx", ".c", ".h", ".cc", ".cpp", ".cu", ".j2"}
"""``tokens.py`` is code that speaks of them."""
MOST_NAMED = 10
MAX_FILES = 20_000
MAX_BYTES = 200_000_000
_NOT_CODE = {"pyvenv.cfg", NAME, "frozen.json", "manifest.json"}
"""Files that mark a folder as an environment, a run, a frozen copy or shards, where git does not track it."""


def freeze(run_dir: Path, recipe: str, run: Run) -> None:
    """Copies the code and the resolved Run into ``RUN/cluster``; what an earlier submission froze is replaced.

    Raises:
        UserError: as ``freeze_code`` and ``write_run``.
    """
    freeze_code(Records(run_dir).code, recipe)
    write_run(run_dir, recipe, run)


def write_run(run_dir: Path, recipe: str, run: Run) -> None:
    """Writes ``RUN/cluster/run.json``, as ``eyespot pretrain --from`` reads it.

    Raises:
        UserError: the run's settings hold a secret of the environment, which would be kept in the file.
    """
    record = RunRecord(recipe=recipe, run=to_values(run))
    if masked(text := record.text()) != text:
        line = next(line.strip() for line in text.splitlines() if masked(line) != line)
        raise UserError(
            f"run: {masked(line).rstrip(',')} holds a secret that the environment has too, and run.json is kept;"
            " give it another value"
        )
    record.write(Records(run_dir).folder)
    Records(run_dir).run_file.chmod(0o600)


def freeze_code(code: Path, recipe: str) -> list[str]:
    """Copies the code of eyespot, and of a recipe that lives elsewhere, to ``code``: whole or not at all.

    Args:
        code: the folder to make; another frozen copy there is replaced.
        recipe: its name, or ``package.module:function``.

    Returns:
        What the user should know, a line each: which files were left out, and which git does not track.

    Raises:
        UserError: the folder cannot be written, or there is more than code is ever made of.
    """
    root = Path(eyespot.__file__).parent
    temporary = code.with_name(f".{code.name}-{secrets.token_hex(4)}")
    try:
        temporary.mkdir(parents=True)
        sources, left_out = [str(root)], _copy(_files(root, root / "__init__.py"), root, temporary / "eyespot")
        if (own := recipe.partition(":")[0]) != recipe and own.partition(".")[0] != "eyespot":
            folder, more = _copy_recipe(own.partition(".")[0], temporary)
            sources, left_out = [*sources, str(folder)], left_out + more
        (temporary / "diff.patch").write_bytes(_git(root, "diff", "HEAD") if _is_checkout(root) else b"")
        roots = [Path(source) for source in sources]
        new = sorted(str(path) for home in roots for path in _new_files(home) if str(path) not in left_out)
        names = {"own_code": own_code_state(recipe), "source": sources, "left_out": left_out, "untracked": new}
        record = {**code_state(), **names, "sha256": _digest(temporary)}
        write_bytes(temporary / "frozen.json", (json.dumps(record, indent=1) + "\n").encode())
        _put_in_place(temporary, code)
    except OSError as error:
        raise UserError(f"run_dir {code.parents[1]}: the code cannot be copied there ({error.strerror})") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    why = "left out of the frozen code (too large, a link out of the tree, or named like a secret)"
    said = ((why, left_out), ("frozen though git does not track them", new))
    return [f"{words}: {_some(paths)}" for words, paths in said if paths]


def _put_in_place(temporary: Path, code: Path) -> None:
    if code.is_symlink():
        code.unlink()
    old = code.with_name(f".{code.name}-old")
    shutil.rmtree(old, ignore_errors=True)
    if code.exists():
        code.rename(old)
    temporary.rename(code)
    shutil.rmtree(old, ignore_errors=True)


def _copy_recipe(package: str, code: Path) -> tuple[Path, list[str]]:
    """Copies the sources of a top-level package, and in a git tree all that can be imported beside it."""
    spec = importlib.util.find_spec(package)
    found = [*(spec.submodule_search_locations or [])] if spec is not None else []
    if not found and spec is not None and spec.has_location and spec.origin is not None:
        found = [spec.origin]
    if not found:
        raise UserError(f"recipe {package}: has no source files that could be copied for the job")
    path = Path(found[0]).resolve()  # the package's folder, or the module's file
    home, own = path.parent, path / "__init__.py" if path.is_dir() else path
    importable = home in {Path(entry).resolve() for entry in sys.path}
    beside = _git_files(home) if importable else set()
    if own in beside:
        taken = {"eyespot", *sys.stdlib_module_names}  # PYTHONPATH comes before the standard library
        kept = [file for file in beside if _module(file.relative_to(home)) not in taken]
        return home, _copy(kept, home, code)
    if path.is_dir():
        return path, _copy(_files(path, own), path, code / package)
    return path, _copy([path], home, code)


def _files(root: Path, own: Path) -> Iterable[Path]:
    """The files of the package at ``root``: what git knows where it knows ``own``, else all but caches."""
    if own in (known := _git_files(root)):
        return known
    walk = (path for path in root.rglob("*") if "__pycache__" not in path.parts)
    return _without_foreign([path for path in walk if path.is_file() or path.is_symlink()], root)


def _git_files(root: Path) -> set[Path]:
    """Tracked files and new ones that git does not ignore, below ``root``; none outside of git trees."""

    return {*_listed(root, "--cached"), *_new_files(root)}


def _new_files(root: Path) -> set[Path]:
    """Files that git neither tracks nor ignores."""
    return _without_foreign(_listed(root, "--others"), root)


def _listed(root: Path, kind: str) -> list[Path]:
    names = _git(root, "ls-files", "-z", "--exclude-standard", kind).decode(errors="surrogateescape").split("\0")
    paths = [root / name for name in names if name]
    return [path for path in paths if path.is_file() or path.is_symlink()]


def _without_foreign(files: list[Path], root: Path) -> set[Path]:
    """Without what lies in environments, runs, frozen copies and shards."""
    foreign = {file.parent for file in files if file.name in _NOT_CODE} - {root}
    return {file for file in files if not foreign.intersection(file.parents)}


def _copy(files: Iterable[Path], root: Path, target: Path) -> list[str]:
    """Copies ``files`` with their places below ``root``; returns those that stay: what is no code, and secrets."""
    left_out, num_files, num_bytes, top = [], 0, 0, root.resolve()
    for file in sorted(files):
        real = file.resolve()
        outside = not real.is_relative_to(top) or not real.is_file()
        if outside or _is_secret(file, root) or _is_secret(real, top) or (size := real.stat().st_size) > MAX_FILE_BYTES:
            left_out.append(str(file))
            continue
        num_files, num_bytes = num_files + 1, num_bytes + size
        if num_files > MAX_FILES or num_bytes > MAX_BYTES:
            raise UserError(
                f"code {root}: more than {MAX_FILES:,} files or {MAX_BYTES // 1_000_000} MB would be copied for the"
                f" job, at {file.parent}; put what is not code elsewhere, or into .gitignore"
            )
        place = target / file.relative_to(root)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(file, place)
    return left_out


def _module(file: Path) -> str:
    """The top-level module that a file is, or is part of; empty where it is none."""
    return file.parts[0] if len(file.parts) > 1 else file.stem if file.suffix == ".py" else ""


def _is_secret(file: Path, root: Path) -> bool:
    """Whether it is named like a file of passwords, keys or tokens, or lies where such are kept."""
    named = file.suffix.lower() not in _SOURCE and _SECRET.fullmatch(file.name) is not None
    return named or not _SECRET_FOLDERS.isdisjoint(file.relative_to(root).parts[:-1])


def _some(paths: list[str]) -> str:
    more = f" and {len(paths) - MOST_NAMED} more, see frozen.json" if len(paths) > MOST_NAMED else ""
    return f"{', '.join(paths[:MOST_NAMED])}{more}"


def _digest(folder: Path) -> str:
    """sha256 of all names and contents below ``folder``."""
    digest = hashlib.sha256()
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        digest.update(f"{file.relative_to(folder)}\0".encode(errors="surrogateescape"))
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


def _is_checkout(root: Path) -> bool:
    """Whether git's tree begins at ``root``: an installed package may lie inside somebody else's."""
    top = _git(root, "rev-parse", "--show-toplevel").decode(errors="surrogateescape").strip()
    return bool(top) and Path(top).resolve() == root.resolve()


def _git(root: Path, *words: str) -> bytes:
    """What git says; nothing where there is no git or no git tree."""
    try:
        return subprocess.run(["git", "-C", str(root), *words], capture_output=True, timeout=60, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return b""
