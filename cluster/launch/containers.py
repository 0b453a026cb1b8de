"""How the job's Python is started: this environment's, or one inside a container by pyxis or Apptainer.

pyxis is a plugin of ``srun``, which gets the image and the mounts as options of its own; Apptainer is a command around
Python. In both, run folder, code and shards are seen at their own paths, and Python is the ``python3`` of the image.
"""

import re
import shlex
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from eyespot.cluster.launch.submission import Submission
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.exit_codes import ExitCode

_REGISTRY = re.compile(r"docker://(?P<registry>[^/#]*[.:][^/#]*|localhost)/(?P<image>.+)")


@dataclass(kw_only=True, slots=True, frozen=True)
class Start:
    """The two halves of ``srun ... python``."""

    python: str
    """A line of shell that acts as Python's command."""
    srun: tuple[str, ...] = ()
    """Options of srun."""


def start_command(submission: Submission, code: Path, writable: Iterable[Path], readable: Iterable[Path]) -> Start:
    """How the supervisor is started on each node.

    Args:
        submission: its container, if any.
        code: the frozen code.
        writable: folders that a container must see and may write to.
        readable: folders that a container must see.

    Raises:
        UserError: the image is of no known form, absent, or not for that runtime.
    """
    path = shlex.quote(str(code))
    if submission.container is None:
        return Start(python=_python(sys.executable, f'PYTHONPATH={path}"${{PYTHONPATH:+:$PYTHONPATH}}"'))
    runtime = runtime_of(submission)
    # Packages of this machine, in PYTHONPATH or the home folder, are not for the image's Python.
    image, python = _image(submission.container), _python("python3", f"PYTHONPATH={path} PYTHONNOUSERSITE=1")
    mounts = [*_mounts(writable, readable), *submission.container_mounts]
    if runtime == "pyxis":
        registry = _REGISTRY.fullmatch(image)
        named = f"docker://{registry['registry']}#{registry['image']}" if registry else image
        options = (f"--container-image={named}", f"--container-mounts={','.join(mounts)}", "--no-container-mount-home")
        return Start(python=python, srun=options)
    gpus = ["--nv"] if submission.gpus_per_node else []
    words = ["apptainer", "exec", *gpus, "--no-home", "--bind", ",".join(mounts), image]
    return Start(python=f"{shlex.join(words)} {python}")


def requeue_lines(max_requeues: int, marks: Iterable[Path]) -> list[str]:
    """The end of a script whose run works in a container: SLURM's commands, hence a requeue, are only outside of it.

    Args:
        max_requeues: at most so many.
        marks: for each run of the array, the file that exists where somebody asked for a stop.
    """
    return [
        "code=$?",
        f"cancelled=({' '.join(shlex.quote(str(mark)) for mark in marks)})",
        f'if [ "$code" = {ExitCode.STOPPED} ] && [ "${{SLURM_RESTART_COUNT:-0}}" -lt {max_requeues} ]'
        ' && [ ! -e "${cancelled[${SLURM_ARRAY_TASK_ID:-0}]}" ]; then',
        '  scontrol requeue "$SLURM_JOB_ID"',
        "fi",
        'exit "$code"',
    ]


def runtime_of(submission: Submission) -> Literal["pyxis", "apptainer"]:
    """What runs the submission's container.

    Raises:
        UserError: it cannot run an image of that form.
    """
    image, chosen = submission.container or "", submission.container_runtime
    if image.endswith(".sif") and chosen == "pyxis":
        raise UserError(f"container {image}: pyxis runs no .sif file; use --container-runtime apptainer")
    if image.endswith(".sqsh") and chosen == "apptainer":
        raise UserError(f"container {image}: of enroot; use --container-runtime pyxis")
    return chosen or ("apptainer" if image.endswith(".sif") else "pyxis")


def _python(python: str, exports: str) -> str:
    """A line of shell that starts Python with the frozen code before all other.

    Until Python has handlers of its own a USR1 would kill it, and SLURM may send one at any time: it is ignored before.
    (``env --ignore-signal`` would be nicer; the coreutils of many clusters are too old for it.) PYTHONSAFEPATH: a
    folder ``cluster`` where the command was typed must not hide ours.
    """
    script = f"""trap "" USR1; export PYTHONSAFEPATH=1 PYTHONUNBUFFERED=1 {exports}; exec "$@\""""
    return f"sh -c {shlex.quote(script)} sh {shlex.quote(python)}"


def _image(image: str) -> str:
    """The image; a file's path made absolute."""
    if image.startswith("docker://"):
        return image
    if not image.endswith((".sqsh", ".sif")):
        raise UserError(f"container {image}: not an image; give docker://..., a .sqsh or a .sif file")
    path = Path(image).expanduser().absolute()
    if not path.is_file():
        raise UserError(f"container {path}: no such file")
    return str(path)


def _mounts(writable: Iterable[Path], readable: Iterable[Path]) -> list[str]:
    """Mounts at their own paths; a folder inside one that is mounted already needs none."""
    chosen: list[tuple[Path, str]] = []
    for folders, flag in ((writable, ""), (readable, ":ro")):
        for folder in sorted(set(folders)):
            if not any(outer == folder or outer in folder.parents for outer, _ in chosen):
                chosen.append((folder, flag))
    if unsayable := [folder for folder, _ in chosen if any(character in str(folder) for character in ",:")]:
        raise UserError(f"container: {unsayable[0]} cannot be mounted, its path has a comma or a colon; rename it")
    return [f"{folder}:{folder}{flag}" for folder, flag in chosen]
