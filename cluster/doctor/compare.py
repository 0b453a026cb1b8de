"""What can only be seen beside each other: versions, code, data, clocks; and what the whole run needs of the disk."""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

from eyespot.cluster.doctor.checks import CheckContext
from eyespot.cluster.doctor.findings import Answer, Finding
from eyespot.data_pipeline.terminal import plural

T = TypeVar("T")

SKEW_WARN_SECONDS, SKEW_FAIL_SECONDS = 2.0, 60.0
FILES_PER_RANK, OTHER_FILES = 1, 1000
"""Of a checkpoint; and logs, pictures, records and what a rename needs for a moment."""
NUM_NAMED = 5


def compare(context: CheckContext, answers: Mapping[str, Answer]) -> list[Finding]:
    """Findings about the nodes' facts; the first node calls it."""
    facts = {node: answer.facts for node, answer in answers.items()}
    return [
        *_packages(facts),
        *_same(
            facts,
            "code",
            "code",
            "eyespot's code",
            "all nodes must see the same run folder: its cluster/code is what runs",
        ),
        *_same(facts, "driver", "driver", "the GPU driver", "leave the node out (--exclude), or have it updated"),
        *_same(facts, "cuda", "driver", "the driver's CUDA", "leave the node out (--exclude), or have it updated"),
        *_same(facts, "gpus", "GPUs", "the list of GPUs", "ask for one kind of node: --constraint or --partition"),
        *_same(facts, "manifest", "shards", "manifest.json", "copy the shards there again, or mount the same folder"),
        *_clocks(context, facts),
        *_disk(context, facts),
    ]


def odd_ones(values: Mapping[str, T]) -> tuple[T | None, dict[str, T]]:
    """The value that most nodes have (of two equally common, the first node's), and the nodes that have another."""
    if not values:
        return None, {}
    counts = Counter(map(repr, values.values()))
    usual = max(values.values(), key=lambda value: counts[repr(value)])
    return usual, {node: value for node, value in values.items() if value != usual}


def _packages(facts: Mapping[str, dict[str, Any]]) -> Iterator[Finding]:
    """Each node that differs, with the packages in which it does."""
    versions = {node: values["packages"] for node, values in facts.items() if "packages" in values}
    needed = {package for values in facts.values() for package in values.get("needed", ())}
    differing: dict[str, list[tuple[str, str]]] = {}
    for package in sorted({package for values in versions.values() for package in values}):
        usual, odd = odd_ones({node: values.get(package, "none") for node, values in versions.items()})
        for node, version in odd.items():
            differing.setdefault(node, []).append((package, f"{package} {version} (elsewhere {usual})"))
    for node, packages in differing.items():
        ours = [text for package, text in packages if package in needed]
        named = ours or [text for _, text in packages]
        more = f" and {len(named) - NUM_NAMED} more" if len(named) > NUM_NAMED else ""
        found = f"{', '.join(named[:NUM_NAMED])}{more}"
        fix = f"make {node}'s environment the same as the others': one environment on a shared disk, or one container"
        yield Finding(check="packages", node=node, level="fail" if ours else "warn", found=found, fix=fix)


def _same(facts: Mapping[str, dict[str, Any]], name: str, check: str, what: str, fix: str) -> Iterator[Finding]:
    usual, odd = odd_ones({node: values[name] for node, values in facts.items() if name in values})
    for node, value in odd.items():
        found = f"{what} is another: {_brief(value)} (elsewhere {_brief(usual)})"
        yield Finding(check=check, node=node, level="fail", found=found, fix=fix)


def _brief(value: Any) -> str:
    """Digests are cut short, lists joined."""
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    text = str(value)
    return text[:12] if len(text) == 64 else text


def _clocks(context: CheckContext, facts: Mapping[str, dict[str, Any]]) -> Iterator[Finding]:
    """Between nodes, as their ranks saw it at the same moment; and against the file server, whose times files bear."""
    ahead = {node: values["clocks"] for node, values in facts.items() if "clocks" in values}
    first = next(iter(ahead.values()), [])
    offsets = {node: first[context.place.ranks_of(node)[0]] for node in context.place.nodes} if first else {}
    # Against the middle one: if the first node is wrong, the others are not to be named.
    middle = sorted(offsets.values())[len(offsets) // 2] if offsets else 0.0
    worst = 0.0
    for node, offset in offsets.items():
        worst = max(worst, abs(offset - middle))
        yield from _skew(node, offset - middle, "the other nodes' clocks")
    for node, values in facts.items():
        behind = -values.get("server_ahead", 0.0)
        if abs(behind) > values.get("server_unsure", 0.0) + SKEW_WARN_SECONDS:
            yield from _skew(node, behind, "the file server's clock")
    if offsets:
        yield context.ok("clocks", f"within {worst:.2f} s of each other")


def _skew(node: str, seconds: float, whose: str) -> Iterator[Finding]:
    if abs(seconds) < SKEW_WARN_SECONDS:
        return
    level = "fail" if abs(seconds) >= SKEW_FAIL_SECONDS else "warn"
    found = f"{abs(seconds):.1f} s {'ahead of' if seconds > 0 else 'behind'} {whose}"
    fix = f"times in logs and status would be wrong: have time synchronised on {node} (chronyc tracking)"
    yield Finding(check="clocks", node=node, level=level, found=found, fix=fix)


def _disk(context: CheckContext, facts: Mapping[str, dict[str, Any]]) -> Iterator[Finding]:
    """Whether the checkpoints that the run keeps, and one more while it is written, fit beside what is there."""
    own = facts.get(context.node, {})
    if "state_bytes" not in own or "files" not in own:
        return
    state, free = own["state_bytes"], own["files"]
    count = context.values["keep_checkpoints"] + 1
    there = own.get("checkpoint_bytes", 0)
    missing = max(state, count * state - there)
    found = f"{_gb(free['bytes'])} free; {plural(count, 'checkpoint')} of {_gb(state)} need {_gb(missing)}"
    if free["bytes"] < missing:
        yield context.fail(
            "disk space", f"{found}", "free some space, lower --keep-checkpoints, or choose another --run-dir"
        )
    elif free["number"] is not None and free["number"] < (
        files := count * context.ranks * FILES_PER_RANK + OTHER_FILES
    ):
        yield context.fail(
            "disk space",
            f"{free['number']} more files (inodes) may be made; the run needs about {files}",
            "remove old runs' files, or choose another --run-dir",
        )
    else:
        yield context.ok("disk space", found)


def _gb(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:.1f} GB" if num_bytes >= 5e7 else f"{num_bytes / 1e6:.1f} MB"
