"""tests/test_gpu.py on the photographs: the loader against the CPU's, and a run that trains, resumes and is judged."""

import os
import re
import subprocess
import sys
import tarfile
from pathlib import Path

from gpu.instruments import WORK, Note, photographs

ROOT = Path(__file__).parents[2]
PATIENCE_SECONDS = 60
"""Of a test that takes longer suite.txt says where its threads stand."""


def run(note: Note) -> None:
    data = WORK / "data"
    data.mkdir(parents=True, exist_ok=True)
    with tarfile.open(data / "caltech10-images.tar", "w") as archive:
        archive.add(photographs(), arcname=".")
    command = [sys.executable, "-m", "pytest", "-v", "-rfE", "--tb=short", str(ROOT / "tests" / "test_gpu.py")]
    command += ["-o", f"faulthandler_timeout={PATIENCE_SECONDS}"]
    environment = {**os.environ, "EYESPOT_TEST_DATA": str(data.resolve()), "COLUMNS": "200", "PYTHONUNBUFFERED": "1"}
    last = "pytest said nothing"
    with (
        (WORK / "suite.txt").open("w") as said,  # all of it: why a test failed, and where one that hangs stands
        subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as process,
    ):
        for line in process.stdout or ():
            said.write(line)
            said.flush()
            if found := re.match(r"\S+::(.+) (FAILED|ERROR) ", line):  # at once: who comes later may hang
                note(found[1], found[2].lower())
            if line.startswith(("FAILED", "ERROR")) and " - " in line:
                note(*line.split("::")[-1].split(" - ", 1))
            last = line.strip("= \n") or last
    note("tests/test_gpu.py", last)
