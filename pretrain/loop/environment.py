"""What a run computes with: the machine, the packages, the code."""

import hashlib
import importlib.metadata
import platform
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import eyespot
from eyespot.data_pipeline import foreign_json
from eyespot.data_pipeline.loading.cpu_share import own_cores

PACKAGES = ("torch", "torchvision", "timm", "nvidia-dali-cuda130", "webdataset", "mlflow", "deepspeed", "numpy")


@dataclass(kw_only=True, slots=True)
class _Frozen:
    """What of frozen.json is read."""

    git_commit: str
    git_diff_sha256: str
    own_code: dict[str, Any] | None = None


def versions() -> dict[str, str]:
    """Of Python, and of those PACKAGES that are installed."""
    found = {"python": sys.version.split()[0]}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def hardware() -> dict[str, Any]:
    """What this machine computes with: its processor, the cores that we may use, its GPUs."""
    cpu_info = Path("/proc/cpuinfo")
    names = re.findall(r"^model name\s*: (.+)$", cpu_info.read_text(), re.MULTILINE) if cpu_info.is_file() else []
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0  # it counts those that cannot be used, too
    gpus = [torch.cuda.get_device_name(number) for number in range(count)]
    return {"cpu": names[0] if names else platform.processor(), "cores": own_cores(), "gpus": gpus}


def own_code_state(recipe: str) -> dict[str, Any] | None:
    """Of a recipe that lives elsewhere: its file, sha256, and git commit and uncommitted diff of its checkout.

    Args:
        recipe: its name; None is returned for eyespot's own, and for what is not imported.
    """
    if (frozen := _frozen()) is not None:
        return frozen.own_code
    module = sys.modules.get(recipe.partition(":")[0]) if ":" in recipe else None
    path = Path(module.__file__) if module is not None and module.__file__ else None
    if path is None or not path.is_file() or recipe.startswith("eyespot."):
        return None
    top = (_git(path.parent, "rev-parse", "--show-toplevel") or b"").decode().strip()
    state = _checkout_state(path.parent) if top else {"git_commit": "", "git_diff_sha256": ""}
    return {"file": str(path.resolve()), "sha256": hashlib.sha256(path.read_bytes()).hexdigest(), **state}


def code_state() -> dict[str, str]:
    """Git commit and hash of the uncommitted diff of the code, where it runs from a checkout or its frozen copy.

    Raises:
        UserError: the frozen copy's frozen.json is damaged.
    """
    root = Path(eyespot.__file__).parent
    if (frozen := _frozen()) is not None:
        return {"git_commit": frozen.git_commit, "git_diff_sha256": frozen.git_diff_sha256}
    top = _git(root, "rev-parse", "--show-toplevel")
    if top is None or Path(top.decode().strip()).resolve() != root.resolve():
        return {"git_commit": "", "git_diff_sha256": ""}
    return _checkout_state(root)


def _frozen() -> _Frozen | None:
    """What the code was frozen from; None where it is no frozen copy."""
    path = Path(eyespot.__file__).parent.parent / "frozen.json"
    return foreign_json.read(path, _Frozen) if path.is_file() else None


def _git(folder: Path, *words: str) -> bytes | None:
    """What git says; None where there is no git, no checkout or no commit."""
    try:
        done = subprocess.run(["git", "-C", str(folder), *words], capture_output=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def _checkout_state(folder: Path) -> dict[str, str]:
    commit = _git(folder, "rev-parse", "HEAD")
    if commit is None:
        return {"git_commit": "", "git_diff_sha256": ""}
    diff = _git(folder, "diff", "HEAD") or b""
    return {"git_commit": commit.decode().strip(), "git_diff_sha256": hashlib.sha256(diff).hexdigest() if diff else ""}
