"""What says, without CUDA, that a machine has NVIDIA devices, and what driver they have. Nothing heavy is imported."""

import os
import re
import shutil
import subprocess
from pathlib import Path

SECONDS = 30
"""For nvidia-smi: the first question after a start may take long."""
OLDEST_DRIVER = {"11": "450", "12": "525", "13": "580"}
"""By the major version of CUDA that a program was built with (NVIDIA's table of compatibility)."""
_HIDDEN = {"", "-1", "none", "void", "nodevfiles"}
"""Values of CUDA_VISIBLE_DEVICES that name no device; the last is SLURM's."""


def sign_of_devices(root: Path = Path("/")) -> str:
    """The first thing that says that there are NVIDIA devices, in words; empty where nothing does.

    Device files, the kernel's driver (which a container sees that was started without its GPUs), what SLURM gave, an
    nvidia-smi that finds some, and last, because anybody may have left it there, what CUDA was told to show.

    Args:
        root: of the file system.
    """
    if files := sorted((root / "dev").glob("nvidia[0-9]*")):
        return f"/dev/{files[0].name}"
    if any((root / "proc/driver/nvidia/gpus").glob("*")):
        return "/proc/driver/nvidia/gpus"
    for name in ("SLURM_JOB_GPUS", "SLURM_STEP_GPUS"):
        if chosen := os.environ.get(name, ""):
            return f"{name}={chosen}"
    if _listed():
        return "nvidia-smi"
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    return f"CUDA_VISIBLE_DEVICES={chosen}" if chosen.strip().lower() not in _HIDDEN else ""


def is_denied(path: str) -> bool:
    """Whether this process may not open a device file: SLURM's cgroup keeps GPUs from a job that asked for none."""
    try:
        os.close(os.open(path, os.O_RDWR))
    except PermissionError:
        return True
    except OSError:
        return False
    return False


def hidden_by(root: Path = Path("/")) -> str:
    """The setting by which somebody hides all devices from CUDA, as in ``CUDA_VISIBLE_DEVICES=``; empty = none.

    CUDA stops reading at the first number that it does not have: in a container that is shown the fourth GPU alone,
    which is its first, "3" hides it.

    Args:
        root: of the file system.
    """
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is None:
        return ""
    first, count = chosen.partition(",")[0].strip(), len(list((root / "dev").glob("nvidia[0-9]*")))
    beyond = first.isdecimal() and 0 < count <= int(first)
    return f"CUDA_VISIBLE_DEVICES={chosen}" if beyond or chosen.strip().lower() in _HIDDEN else ""


def driver_version(root: Path = Path("/")) -> str:
    """Of the kernel's driver, as in "580.82.07"; empty where it does not say.

    Args:
        root: of the file system.
    """
    try:
        said = (root / "proc/driver/nvidia/version").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    found = re.search(r"\s(\d{3,}(?:\.\d+)+)\s", said)
    return found[1] if found else ""


def oldest_driver(cuda: str) -> str:
    """The first driver that runs what is built with this CUDA, as in "13.0" -> "580"; empty where that is not known."""
    return OLDEST_DRIVER.get(cuda.partition(".")[0], "")


def _listed() -> bool:
    """Whether nvidia-smi is there, works and lists a device."""
    if shutil.which("nvidia-smi") is None:
        return False
    try:
        done = subprocess.run(
            ["nvidia-smi", "-L"], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=SECONDS
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0 and re.search(r"GPU |<gpu ", done.stdout) is not None  # some list in XML alone
