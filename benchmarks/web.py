"""How fast ``eyespot web`` shows many long runs, beside what reading all of their files takes.

    python benchmarks/web.py --runs 100 --lines 100000

A server in a process of its own is asked as a browser asks; "cold" is the first request after its start, with the files
dropped from the machine's cache where it may do so. Written into results/web.md.
"""

import argparse
import gzip
import http.client
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import quote

from watching import line, write_run

NUM_BROWSERS = 8


class Asked:
    """What a request cost."""

    def __init__(self, port: int, path: str) -> None:
        begin = time.monotonic()
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
        connection.request("GET", path, headers={"Accept-Encoding": "gzip"})
        answer = connection.getresponse()
        self.body = answer.read()
        self.seconds = time.monotonic() - begin
        assert answer.status == 200, answer.status
        self.packed = answer.headers["Content-Encoding"] == "gzip"

    def json(self) -> dict:
        return json.loads(gzip.decompress(self.body) if self.packed else self.body)


def drop_cache(folder: Path) -> None:
    for path in folder.rglob("metrics.jsonl"):
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def naive(runs: Path) -> tuple[float, int]:
    """Seconds and bytes of one browser that gets every point of every loss: what the pages avoid."""
    begin, num_bytes = time.monotonic(), 0
    for path in sorted(runs.rglob("metrics.jsonl")):
        points = []
        with path.open() as file:
            for text in file:
                values = json.loads(text)
                points.append([values["step"], values["loss"]])
        num_bytes += len(json.dumps(points))
    return time.monotonic() - begin, num_bytes


def peak_mb(pid: int) -> float:
    found = re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    return int(found[1]) / 1024 if found else 0.0


def curve(port: int, run: str, epoch: str = "", after: int = -1) -> tuple[float, float, dict, int]:
    """Seconds until the first points are there, until all of the file is read, the last answer and its bytes."""
    begin, first = time.monotonic(), 0.0
    words = f"curves.json?run={quote(run)}&name=loss&name=lr&name=grad_norm&bins=800"
    words += f"&epoch={epoch}&after={after}" if epoch else ""
    while True:
        asked = Asked(port, f"/{words}")
        told = asked.json()
        first = first or time.monotonic() - begin
        if told["read"] == 1:
            return first, time.monotonic() - begin, told, len(asked.body)


def look(port: int, runs: Path, lines: int, row: Callable[[str, float, float], None]) -> None:
    """Asks as browsers do."""
    for what in ("list of runs, cold", "list of runs, again"):
        answer = Asked(port, "/")
        row(what, answer.seconds, len(answer.body))
    time.sleep(max(4.0, 12 * answer.seconds))
    answer = Asked(port, "/")
    row("list of runs, looked at anew, nothing changed", answer.seconds, len(answer.body))
    first, whole, told, size = curve(port, "run-000")
    row("first points of three curves of a run", first, size)
    row("all of them", whole, size)
    names = sorted(run.name for run in runs.iterdir())
    for name in names:
        with (runs / name / "metrics.jsonl").open("ab") as file:
            file.write(line(lines))
    _, seconds, _, size = curve(port, "run-000", told["epoch"], told["last"])
    row("three curves, one line later", seconds, size)
    time.sleep(4.0)
    answer = Asked(port, "/")
    row("list of runs, every run one line later", answer.seconds, len(answer.body))
    begin = time.monotonic()
    with ThreadPoolExecutor(NUM_BROWSERS) as browsers:
        sizes = browsers.map(lambda run: len(Asked(port, "/").body) + curve(port, run)[3], names[-NUM_BROWSERS:])
        size = sum(sizes)
    row(f"{NUM_BROWSERS} browsers at once: the list, and all of another run each", time.monotonic() - begin, size)


def main() -> None:
    """Makes the runs, looks at them, prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--lines", type=int, default=100_000)
    asked = parser.parse_args()
    rows = []

    def row(what: str, seconds: float, num_bytes: float) -> None:
        rows.append([what, f"{seconds:.3f}", f"{num_bytes / 1024:,.0f}"])
        print(*rows[-1], flush=True)

    with tempfile.TemporaryDirectory() as folder:
        runs = Path(folder) / "runs"
        write_run(runs / "run-000", asked.lines)
        text = (runs / "run-000" / "metrics.jsonl").read_bytes()
        for number in range(1, asked.runs):
            write_run(runs / f"run-{number:03d}", 1)
            (runs / f"run-{number:03d}" / "metrics.jsonl").write_bytes(text)
        drop_cache(runs)
        words = [sys.executable, "-m", "eyespot.cluster.cli", "web", str(runs), "--port", "0"]
        begin = time.monotonic()
        process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        found = re.search(r":(\d+)/", process.stdout.readline())
        assert found is not None
        row("start of the command", time.monotonic() - begin, 0)
        look(int(found[1]), runs, asked.lines, row)
        memory = peak_mb(process.pid)
        process.terminate()
        process.wait()
        drop_cache(runs)
        row("every file read whole and every loss sent", *naive(runs))
    from results import write_results  # only now: it imports torch

    rows.append([f"the server's peak of memory: {memory:,.0f} MB", "", ""])
    header = ["what", "seconds", "KB sent"]
    details = {"runs": asked.runs, "lines of each": asked.lines}
    write_results("web", title="Looking at many long runs in a browser", header=header, rows=rows, details=details)


if __name__ == "__main__":
    main()
