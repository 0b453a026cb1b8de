"""tests/test_gpu.py on the photographs: the loader against the CPU's, and a run that trains, resumes and is judged."""

import os
import subprocess
import sys
import tarfile
from pathlib import Path

from gpu.instruments import WORK, Note, photographs

ROOT = Path(__file__).parents[2]


def run(note: Note) -> None:
    data = WORK / "data"
    data.mkdir(parents=True, exist_ok=True)
    with tarfile.open(data / "caltech10-images.tar", "w") as archive:
        archive.add(photographs(), arcname=".")
    command = [sys.executable, "-m", "pytest", "-rfE", str(ROOT / "tests" / "test_gpu.py")]
    environment = {**os.environ, "EYESPOT_TEST_DATA": str(data.resolve())}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    lines = done.stdout.strip().splitlines() or [f"pytest ended with {done.returncode}"]
    for line in lines:
        if line.startswith(("FAILED", "ERROR")):
            note(*line.split(" - ", 1)) if " - " in line else note(line, "failed")
    note("tests/test_gpu.py", lines[-1].strip("= "))
