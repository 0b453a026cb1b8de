"""Runs the command in forked children of a process that has imported everything already: 5 seconds a command saved."""

import atexit
import contextlib
import ctypes
import gc
import importlib
import os
import pkgutil
import resource
import signal
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from hostile.case import Case, Ended, Room, Verdict
from hostile.judge import judge

ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "CUDA_VISIBLE_DEVICES": "",
    "MLFLOW_TRACKING_URI": "none",
    "HF_HUB_OFFLINE": "1",
    "COLUMNS": "200",
    "PYTHONDONTWRITEBYTECODE": "1",
}
LARGEST_FILE = 4 << 30
SPACE = 12 << 30
"""Address space beyond what the libraries take: what asks for more at once fails by itself."""
_PART = 0.02


def import_all() -> None:
    """Every module of the product and what it loads late, so that no child has to."""
    os.environ.update(ENVIRONMENT)
    for heavy in ("torch", "timm", "torch._dynamo", "torch.distributed.checkpoint", "mlflow", "matplotlib.pyplot"):
        importlib.import_module(heavy)
    for heavy in ("nvidia.dali.fn", "sklearn.linear_model", "sklearn.datasets", "scipy.stats", "rich.progress", "tyro"):
        importlib.import_module(heavy)
    import eyespot

    for found in pkgutil.walk_packages(eyespot.__path__, "eyespot."):
        if found.name.split(".")[1] in ("data_pipeline", "pretrain", "eval", "cluster"):
            importlib.import_module(found.name)
    gc.collect()
    gc.freeze()  # else a collection in a child touches, and so copies, every page


def run_case(case: Case, folder: Path, fixtures: Path, *, patience: float, program: str | None) -> Verdict:
    """Makes an input, runs its commands, judges. In a process of its own.

    Args:
        case: which.
        folder: an empty one.
        fixtures: see ``Room``.
        patience: how much longer than on a quiet core a command may take.
        program: path of ``eyespot``, to start it anew for each command; None = fork.
    """
    room = Room(path=folder, fixtures=fixtures, name=f"{case.kind}/{case.name}")
    ended: list[Ended] = []
    for words in case.make(room):
        ended.append(run(list(words), folder, case.seconds * patience, case.megabytes * 1.5, program))
        if ended[-1].code != 0:
            break
    return judge(case, ended, folder)


def run(words: list[str], folder: Path, seconds: float, megabytes: float, program: str | None = None) -> Ended:
    """Runs one command, in a session of its own, and watches its time and memory."""
    outputs = [folder.parent / f"{folder.name}.{name}" for name in ("out", "err")]
    usual, begun, peak, why = _megabytes(os.getpid(), "VmRSS"), time.monotonic(), 0.0, ""
    child = os.fork()
    if child == 0:
        _be_the_command(words, folder, outputs, program)
    while True:
        ended, status, usage = os.wait4(child, os.WNOHANG)
        if ended:
            break
        peak = max([peak, *(_megabytes(process, "VmRSS") - usual for process in _descendants(child))])
        why = why or ("memory" if peak > megabytes else "time" if time.monotonic() - begun > seconds else "")
        if why:
            for process in [*_descendants(child), child]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
        time.sleep(_PART if time.monotonic() - begun < 2 else 5 * _PART)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child, signal.SIGKILL)  # what it left behind
    out, err = (path.read_bytes()[: 8 << 20] for path in outputs)
    for path in outputs:
        path.unlink()
    return Ended(
        words=words,
        code=None if why else os.waitstatus_to_exitcode(status),
        why=why,
        out=out,
        err=err,
        seconds=time.monotonic() - begun,
        megabytes=max(peak, usage.ru_maxrss / 1024 - usual),
    )


def die_with_parent() -> None:
    """Leaves nothing behind when the one that watches is killed."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def _be_the_command(words: list[str], folder: Path, outputs: Sequence[Path], program: str | None) -> None:
    """What the child does; it does not come back."""
    os.setsid()
    die_with_parent()
    for number, path in enumerate([Path(os.devnull), *outputs]):
        os.dup2(os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC), number)
    os.chdir(folder)
    os.environ["HOME"] = str(folder)
    os.environ["PYTHONPATH"] = os.pathsep.join([os.environ.get("PYTHONPATH", ""), str(folder / "on_path")])
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (LARGEST_FILE, LARGEST_FILE))
    if program is not None:
        os.execv(program, ["eyespot", *words])
    space = int(_megabytes(os.getpid(), "VmSize") * 2**20) + SPACE
    resource.setrlimit(resource.RLIMIT_AS, (space, space))
    sys.path.append(str(folder / "on_path"))
    sys.stdin, sys.stdout, sys.stderr = (
        open(number, mode, errors=errors, buffering=1, closefd=False)  # noqa: SIM115
        for number, mode, errors in ((0, "r", "strict"), (1, "w", "strict"), (2, "w", "backslashreplace"))
    )
    sys.argv = ["eyespot", *words]
    code = 70
    try:
        code = _main(words)
    finally:
        os._exit(code)


def _main(words: list[str]) -> int:
    """As the interpreter does around the console command, to its end."""
    from eyespot.cluster.cli import main

    try:
        code = main(words)
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        if isinstance(stop.code, str):
            print(stop.code, file=sys.stderr)
    except BaseException:
        sys.excepthook(*sys.exc_info())  # pyright: ignore[reportArgumentType]
        code = 1
    threading._shutdown()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):
            stream.flush()
    return int(code or 0)


def _descendants(process: int) -> list[int]:
    found = [process]
    for each in found:
        with contextlib.suppress(OSError, ValueError):
            found += [
                int(word)
                for task in Path(f"/proc/{each}/task").iterdir()
                for word in (task / "children").read_text().split()
            ]
    return found


def _megabytes(process: int, name: str) -> float:
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{process}/status").read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) / 1024
    return 0.0
