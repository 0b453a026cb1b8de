"""The run folder's file system: is it writable, are renames whole, when do other nodes see them, what is free."""

import contextlib
import errno
import fcntl
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from eyespot.cluster.doctor.checks import CheckContext
from eyespot.cluster.doctor.findings import Finding
from eyespot.data_pipeline.atomic_files import write_bytes

FOLDERS = ("checkpoints", "logs", "pictures", "eval", "cluster")
"""Of the run folder, that a run writes to."""
VERSIONS, PAGE = 20, 1 << 14
"""A file is renamed over so many times; each version is so many bytes."""
WRITE_SECONDS = 2.0
SEEN_SECONDS = 5.0
"""A file that another node sees later than this makes every meeting of the nodes slow."""
MOST_SECONDS = 30.0
"""What has not been seen by then counts as never."""


def existing(path: Path) -> Path:
    """The path itself, or the nearest folder above it that is there."""
    path = path.resolve()
    return next(folder for folder in (path, *path.parents) if folder.is_dir())


def writable(context: CheckContext) -> Iterator[Finding]:
    """Makes, locks and removes a file in every folder that the run writes to."""
    assert context.run_dir is not None
    folders = [existing(context.run_dir), *(context.run_dir / name for name in FOLDERS)]
    for folder in folders:
        if folder.is_dir():
            try:
                _try_file(context, folder / f".doctor-{context.node}-{os.getpid()}")
            except OSError as error:
                yield unwritable(context, folder, error)
                return
    context.facts["files"] = _free(existing(context.run_dir))
    context.facts["checkpoint_bytes"] = sum(
        path.stat().st_size for path in context.run_dir.glob("checkpoints/step-*/*")
    )
    yield context.ok("run folder", f"{context.run_dir} can be written to and locked")


def unwritable(context: CheckContext, folder: Path, error: OSError) -> Finding:
    """The finding for a folder that refuses."""
    if error.errno in (errno.ENOLCK, errno.EOPNOTSUPP):
        fix = "mount the file system with locks, or choose another --run-dir"
    elif error.errno in (errno.ENOSPC, errno.EDQUOT):
        fix = "free some space or raise the quota, or choose another --run-dir"
    else:
        fix = f"mount it for writing on {context.node} and let this user write to it, or choose another --run-dir"
    return context.fail("run folder", f"{folder} cannot be written to ({error.strerror or error})", fix)


def _try_file(context: CheckContext, path: Path) -> None:
    try:
        before = time.time()
        with path.open("wb") as file:
            file.write(b"x")
            file.flush()
            os.fsync(file.fileno())
            after = time.time()
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # How far the file server's clock is ahead of this node's, seconds; the write's own time is not known better.
        context.facts["server_ahead"] = path.stat().st_mtime - (before + after) / 2
        context.facts["server_unsure"] = (after - before) / 2
    finally:
        with contextlib.suppress(OSError):
            path.unlink()


def _free(folder: Path) -> dict[str, int | None]:
    """What this user may still write; file systems that make files as they need them have no number of those."""
    known = os.statvfs(folder)
    return {"bytes": known.f_bavail * known.f_frsize, "number": known.f_favail if known.f_files else None}


def renames(context: CheckContext) -> Iterator[Finding]:
    """Renames a file over itself while the next node reads it: a reader must see one version or another, never half."""
    there = [node for node in context.place.nodes if node not in context.missing]
    whose = there[(there.index(context.node) + 1) % len(there)]
    own, other = (context.folder / f"rename-{node}" for node in (context.node, whose))
    threading.Thread(target=_keep_renaming, args=(own, context.until), daemon=True).start()
    torn, last, late = _keep_reading(other, min(context.until, time.monotonic() + MOST_SECONDS))
    if torn:
        yield context.fail(
            "renames",
            f"a reader saw {torn} while {whose} renamed a new version into place",
            "checkpoints would not be safe there: put the run folder on a file system that renames as POSIX says",
        )
    elif last < VERSIONS:
        yield context.fail(
            "renames",
            f"{context.node} does not see what {whose} renamed into place ({_seen(last)})",
            "the run folder must be one file system that all nodes share: compare the mounts",
        )
    elif late > SEEN_SECONDS:
        yield context.warn(
            "renames",
            f"{context.node} saw a file of {whose} {late:.0f} s late",
            "shorten the attribute cache of the mount (NFS: actimeo=3)",
        )
    else:
        seen = f", seen by the next node {late:.1f} s later" if len(there) > 1 else ""
        yield context.ok("renames", f"whole at every moment{seen}")


def _seen(last: int) -> str:
    return "nothing of it" if last < 0 else f"only version {last} of {VERSIONS}"


def _keep_renaming(path: Path, until: float) -> None:
    """Versions 0, 1, ... and at last ``VERSIONS``, which says how long all took: the nodes' clocks may differ."""
    begin = time.monotonic()
    with contextlib.suppress(OSError):  # the reader misses them and says so
        for version in range(VERSIONS):
            write_bytes(path, _page(version, 0.0))
            if time.monotonic() > min(begin + WRITE_SECONDS, until):
                break
        write_bytes(path, _page(VERSIONS, time.monotonic() - begin))


def _keep_reading(path: Path, until: float) -> tuple[str, int, float]:
    """What was seen that must not be, the last version seen, and by how much it was late, seconds.

    Writer and reader begin together, give or take what the nodes' meeting takes.
    """
    last, begin = -1, time.monotonic()
    while time.monotonic() < until:
        try:
            page = path.read_bytes()
        except FileNotFoundError:
            if last >= 0:
                return "no file", last, 0.0
            time.sleep(0.05)
            continue
        except OSError as error:
            if error.errno != errno.ESTALE:  # NFS's word for "renamed over meanwhile": ask again
                raise
            continue
        version, took = _read_page(page)
        if version is None:
            return f"a broken file of {len(page)} bytes", last, 0.0
        last = max(last, version)
        if last == VERSIONS:
            return "", last, max(0.0, time.monotonic() - begin - took)
        time.sleep(0.002)
    return "", last, 0.0


def _page(version: int, took: float) -> bytes:
    return f"{version:<6} {took:<25}".encode() * (PAGE // 32)


def _read_page(page: bytes) -> tuple[int | None, float]:
    """Its version, if it is whole, and the seconds that it tells."""
    if len(page) != PAGE or page != page[:32] * (PAGE // 32):
        return None, 0.0
    version, took = page[:32].split()
    return int(version), float(took)
