"""The bar is for terminals only."""

import os
import pty
import subprocess
import sys

PROGRAM = """
from eyespot.data_pipeline.progress_bar import progress
with progress("packing things", 3) as advance:
    for _ in range(3):
        advance()
print("done")
"""


def test_nothing_is_drawn_into_a_pipe():
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("done\n", "")


def test_a_terminal_gets_a_bar():
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100"}
    done = subprocess.run([sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, stderr=theirs, env=environment)
    os.close(theirs)
    drawn = os.read(ours, 1 << 16).decode()
    os.close(ours)
    assert done.stdout == b"done\n" and "packing things" in drawn and "3/3" in drawn
