"""Where benchmarks leave what they measured: a table for people, JSON for machines, and on what machine it was."""

import json
import os
import platform
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

RESULTS = Path(__file__).parent / "results"


def machine() -> str:
    """Processor, cores and torch's version."""
    info = Path("/proc/cpuinfo")
    names = [line.split(":")[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
    cores = len(os.sched_getaffinity(0))
    return f"{names[0] if names else platform.processor()}, {cores} cores, torch {torch.__version__}"


def write_results(
    name: str,
    *,
    title: str,
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    details: dict[str, Any],
    script: str | None = None,
    folder: Path = RESULTS,
) -> None:
    """Prints the table and writes ``<name>.md`` and ``.json`` into it; made by ``script``, or the one of that name."""
    table = Table(*header, title=title)
    for row in rows:
        table.add_row(*row)
    Console(width=120).print(table)
    lines = [f"| {' | '.join(row)} |" for row in (header, ["---"] * len(header), *rows)]
    threads = [f"OMP_NUM_THREADS={os.environ['OMP_NUM_THREADS']}"] if "OMP_NUM_THREADS" in os.environ else []
    command = f"`{' '.join([*threads, 'python', f'benchmarks/{script or name}.py', *sys.argv[1:]])}`"
    text = "\n".join([f"# {title}", "", *lines, "", f"Measured by {command} on {machine()}.", ""])
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.md").write_text(text)
    record = {"title": title, "machine": machine(), "rows": [dict(zip(header, row, strict=True)) for row in rows]}
    (folder / f"{name}.json").write_text(json.dumps({**record, **details}, indent=1) + "\n")
