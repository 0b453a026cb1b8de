import signal
import subprocess
import sys
import time
from pathlib import Path

RANK = """
import os, signal, sys, time
from pathlib import Path
what, folder = sys.argv[1], Path(sys.argv[2])
(folder / f"started-{os.environ['RANK']}-of-{os.environ['WORLD_SIZE']}").touch()
def save(number, frame):
    time.sleep(1)
    (folder / f"saved-{os.environ['RANK']}").touch()
    sys.exit(75)
if what == "wait":
    signal.signal(signal.SIGTERM, save)
    (folder / f"waits-{os.environ['RANK']}").touch()
    time.sleep(60)
restarts = int(os.environ["TORCHELASTIC_RESTART_COUNT"])
sys.exit(0 if what == "second" and restarts else 1 if what == "second" else int(what))
"""


def start(folder: Path, *whats: str, max_restarts: int = 0) -> subprocess.Popen[str]:
    """``run_here``, once for each, in a process of its own; a program of this file stands in for eyespot's command."""
    package = folder / "code" / "eyespot" / "cluster"
    package.mkdir(parents=True)
    for each in (package, package.parent):
        (each / "__init__.py").touch()
    (package / "cli.py").write_text(RANK)
    settings = f"Path({str(folder / 'code')!r}), processes=2, max_restarts={max_restarts}"
    script = f"""
from pathlib import Path
from eyespot.cluster.launch.torchrun import run_here
for what in {whats!r}:
    print(run_here([what, {str(folder)!r}], {settings}))
"""
    command = [sys.executable, "-c", script]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_the_exit_code_is_that_of_the_ranks(tmp_path):
    codes = ("0", "1", "2", "75")
    assert start(tmp_path, *codes).communicate(timeout=120) == ("".join(f"{code}\n" for code in codes), "")
    assert {path.name for path in tmp_path.glob("started-*")} == {"started-0-of-2", "started-1-of-2"}


def test_ranks_that_fail_start_again(tmp_path):
    assert start(tmp_path, "second", max_restarts=1).communicate(timeout=120) == ("0\n", "")


def test_a_signal_lets_the_ranks_save(tmp_path):
    process = start(tmp_path, "wait")
    until = time.monotonic() + 120
    while len(list(tmp_path.glob("waits-*"))) < 2 and time.monotonic() < until:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert process.communicate(timeout=120) == ("75\n", "")
    assert len(list(tmp_path.glob("saved-*"))) == 2
