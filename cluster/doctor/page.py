"""The verdict as a table, and what to do about what is wrong."""

from rich.table import Table
from rich.text import Text

from eyespot.cluster.doctor.findings import Finding, Level, Verdict
from eyespot.data_pipeline.console import Console

ORDER = (
    *("nodes", "signals", "run folder", "disk space", "renames", "clocks", "packages", "code", "limits", "GPUs"),
    *("GPU links", "GPUs in torch", "nvJPEG", "device"),
    *("GPU health", "GPU memory", "driver", "shards", "read speed", "samples", "mixing"),
    *("imports", "recipe", "data pipeline"),
    *("all-reduce", "MLflow"),
)
SHOWN: dict[Level, Text] = {"ok": Text("ok", "green"), "warn": Text("warn", "yellow"), "fail": Text("FAIL", "bold red")}
MOST_FIXES, MOST_NODES = 20, 8


def print_verdict(verdict: Verdict, title: str, console: Console) -> None:
    """One row per check, with the node where it stands worst; then every fix."""
    table = Table(title=title, title_justify="left", box=None, padding=(0, 2, 0, 0))
    table.add_column("", no_wrap=True)
    table.add_column("check", no_wrap=True)
    table.add_column("node", no_wrap=True)
    table.add_column("s", justify="right", no_wrap=True)
    table.add_column("found", overflow="fold")
    rows = _rows(verdict.findings)
    several = len({finding.node for finding in verdict.findings}) > 1
    for findings in rows:
        worst = max(findings, key=lambda finding: finding.badness)
        same = {finding.node for finding in findings if finding.badness == worst.badness}
        node = worst.node if worst.badness or len(same) == 1 or not several else "all"
        more = f" ({len(same) - 1} more)" if worst.badness and len(same) > 1 else ""
        seconds = max(finding.seconds for finding in findings)
        table.add_row(SHOWN[worst.level], worst.check, node + more, f"{seconds:.1f}", worst.found)
    console.print(table)
    _print_fixes(verdict.findings, console)
    end = "the run can start" if verdict.ok else f"{len(verdict.failed)} failed: the run must not start"
    console.print(f"doctor: {end} ({verdict.seconds:.1f} s)")


def _print_fixes(findings: list[Finding], console: Console) -> None:
    """What is the same on several nodes is told once."""
    nodes: dict[tuple[Level, str, str, str], list[str]] = {}
    for finding in sorted(findings, key=lambda finding: -finding.badness):
        if finding.badness:
            nodes.setdefault((finding.level, finding.check, finding.found, finding.fix), []).append(finding.node)
    for (level, check, found, fix), where in list(nodes.items())[:MOST_FIXES]:
        title = f"{check} ({', '.join(where[:MOST_NODES])}{', ...' if len(where) > MOST_NODES else ''}): {found}"
        console.print(SHOWN[level] + Text(f" {title}\n     {fix}"))
    if len(nodes) > MOST_FIXES:
        console.print(f"... and {len(nodes) - MOST_FIXES} more")


def _rows(findings: list[Finding]) -> list[list[Finding]]:
    by_check: dict[str, list[Finding]] = {}
    for finding in findings:
        by_check.setdefault(finding.check, []).append(finding)
    known = [by_check.pop(name) for name in ORDER if name in by_check]
    return known + list(by_check.values())
