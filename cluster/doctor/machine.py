"""What is installed on a node, and what its system allows. Nothing heavy is imported."""

import hashlib
import importlib.metadata
import os
import platform
import re
import resource
import shutil
from collections.abc import Iterator
from pathlib import Path

import eyespot
from eyespot.cluster.doctor.checks import CheckContext
from eyespot.cluster.doctor.findings import Finding
from eyespot.data_pipeline.terminal import plural

SHM = Path("/dev/shm")
SHM_BYTES = 1 << 30
"""Free shared memory below which NCCL and others may fail; containers have 64 MiB unless told otherwise."""
FILES, FILES_PER_RANK = 512, 8
"""Open files that a process needs: shards, libraries, logs; and connections to each other rank."""


def packages(context: CheckContext) -> Iterator[Finding]:
    """Leaves the versions of Python and of every installed package; the nodes are compared later."""
    versions = {"python": platform.python_version()}
    for package in importlib.metadata.distributions():
        name = package.metadata["Name"]
        if name:  # the first found is the one that is imported
            versions.setdefault(_normal(name), package.version)
    context.facts["packages"] = versions
    context.facts["needed"] = sorted(needed("eyespot") & versions.keys() | {"python"})
    yield context.ok("packages", f"Python {versions['python']}, {len(versions) - 1} packages")


def needed(package: str) -> set[str]:
    """The packages that ``package`` needs, directly or not, without its extras; itself included."""
    found: set[str] = set()
    waiting = [_normal(package)]
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        found.add(name)
        try:
            requirements = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        waiting += [
            _normal(re.split(r"[^\w.-]", line, maxsplit=1)[0]) for line in requirements if "extra ==" not in line
        ]
    return found


def code(context: CheckContext) -> Iterator[Finding]:
    """Which eyespot is imported: in a job it must be the run's frozen copy, the same on all nodes."""
    package = Path(eyespot.__file__).parent.resolve()
    digest = hashlib.sha256()
    parts = [folder.parent for folder in package.glob("*/__init__.py")]  # a checkout holds more than the package
    for path in sorted([*package.glob("*.py"), *(path for part in parts for path in part.rglob("*.py"))]):
        digest.update(f"{path.relative_to(package)}\0".encode() + path.read_bytes())
    context.facts["code"] = digest.hexdigest()
    frozen = context.run_dir / "cluster" / "code" / "eyespot" if context.run_dir else None
    if context.place.job and frozen and frozen.is_dir() and frozen.resolve() != package:
        yield context.fail(
            "code",
            f"eyespot is imported from {package}, not from the run's frozen copy",
            f"PYTHONPATH must begin with {frozen.parent}: look for --setup lines or modules that change it",
        )
    else:
        yield context.ok("code", f"eyespot {eyespot.__version__} in {package}, sha256 {context.facts['code'][:12]}")


def limits(context: CheckContext) -> Iterator[Finding]:
    """Shared memory, and how many files a process may have open."""
    free = shutil.disk_usage(SHM).free if SHM.is_dir() else 0
    if free < SHM_BYTES:
        yield context.warn(
            "limits",
            f"{free / 2**20:.0f} MiB free in {SHM}",
            "free it (files there outlive their processes), or start the container with --shm-size 8g or --ipc host",
        )
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = FILES + FILES_PER_RANK * context.ranks
    if soft != resource.RLIM_INFINITY and soft < wanted:
        yield context.fail(
            "limits",
            f"a process may have {soft} files open; {plural(context.ranks, 'rank')} need {wanted}",
            f"add --setup 'ulimit -n {wanted}'"
            if hard == resource.RLIM_INFINITY or hard >= wanted
            else f"the hard limit is {hard}: have it raised in limits.conf or slurmd's LimitNOFILE",
        )
    files = "no limit of" if soft == resource.RLIM_INFINITY else f"{soft}"
    yield context.ok("limits", f"{free / 2**30:.1f} GiB shared memory, {files} open files, {os.cpu_count()} CPUs")


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
