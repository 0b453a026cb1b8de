"""Results that somebody else wrote, for ``eyespot eval compare``, tables and the report."""

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hostile.case import Case, Room, Wants, Words

COMPARE: Sequence[Words] = (["eval", "compare", "run", "--baselines"],)
COMPARE_JSON: Sequence[Words] = (["eval", "compare", "run", "--baselines", "--json"],)
REPORT: Sequence[Words] = (["report", "run", "--out", "page.html", "--no-look"],)


def spoilt(change: Callable[[dict[str, Any]], Any], commands: Sequence[Words]) -> Any:
    """Changes the result of the newest checkpoint."""

    def make(room: Room) -> Sequence[Words]:
        path = next((room.take("run") / "eval").glob("*step-00000003.json"))
        held = json.loads(path.read_bytes())
        changed = change(held)
        if isinstance(changed, bytes):
            path.write_bytes(changed)
        elif callable(changed):
            path.unlink()
            changed(path)
        else:
            path.write_text(json.dumps(held))
        return commands

    return make


def named(room: Path, said: str) -> str:
    """A result that cannot be read is not left out without a word."""
    page = room / "page.html"
    texts = [said, page.read_text(errors="replace") if page.exists() else ""]
    shown = any(word in text for text in texts for word in ("step-00000003.json", "mae_tiny, step 3"))
    return "" if shown else "the result was left out without a word"


UNREADABLE: dict[str, Callable[[dict[str, Any]], Any]] = {
    "nothing": lambda held: b"",
    "cut": lambda held: json.dumps(held).encode()[:300],
    "not-utf8": lambda held: b'{"format": "\xff"}',
    "a-list": lambda held: b"[1, 2]",
    "deep": lambda held: b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "a-folder": lambda held: lambda path: path.mkdir(),
    "a-pipe": lambda held: lambda path: os.mkfifo(path),
    "zeros": lambda held: lambda path: path.symlink_to("/dev/zero"),
    "accuracy-text": lambda held: held.update(accuracy="high"),
    "accuracy-list": lambda held: held.update(accuracy=[0.5]),
    "interval-text": lambda held: held.update(interval="ab"),
    "interval-of-three": lambda held: held.update(interval=[0.1, 0.2, 0.3]),
    "correct-not-hex": lambda held: held.update(correct="zz"),
    "correct-number": lambda held: held.update(correct=5),
    "num-test-text": lambda held: held.update(num_test="16"),
    "num-test-10^30": lambda held: held.update(num_test=10**30),
    "num-test-below-0": lambda held: held.update(num_test=-5),
    "name-list": lambda held: held.update(name=["x"]),
    "origin-list": lambda held: held.update(origin=[1]),
    "origin-text": lambda held: held.update(origin="x"),
    "scores-list": lambda held: held.update(scores=[1]),
    "scores-of-text": lambda held: held.update(scores={"mAP": {"value": "x"}}),
    "scores-values-text": lambda held: held.update(scores={"mIoU": {"value": 0.5, "values": ["a"]}}),
    "settings-list": lambda held: held.update(settings=[1]),
    "metrics-null": lambda held: held.update(metrics=None),
    "protocol-unknown": lambda held: held.update(protocol="magic"),
    "role-unknown": lambda held: held.update(role="magic"),
    "seed-text": lambda held: held.update(seed="x"),
    "alarms-text": lambda held: held.update(alarms="x"),
}
ODD: dict[str, Callable[[dict[str, Any]], Any]] = {
    "sound": lambda held: None,
    "accuracy-nan": lambda held: held.update(accuracy=float("nan")),
    "accuracy-1e308": lambda held: held.update(accuracy=1e308),
    "accuracy-below-0": lambda held: held.update(accuracy=-0.5),
    "interval-backwards": lambda held: held.update(interval=[0.9, 0.1]),
    "interval-inf": lambda held: held.update(interval=[float("-inf"), float("inf")]),
    "correct-short": lambda held: held.update(correct="f"),
    "correct-long": lambda held: held.update(correct="f" * 4_000_000),
    "correct-empty": lambda held: held.update(correct=""),
    "name-escapes": lambda held: held.update(name="\x1b[31mred\x07", data="\x1b]0;x\x07"),
    "name-markup": lambda held: held.update(name="[bold]x[/bold] [/] <script>alert(1)</script>"),
    "name-of-1-mb": lambda held: held.update(name="x" * 1_000_000),
    "metric-markup": lambda held: held.update(metric="[/]"),
    "alarms-escapes": lambda held: held.update(alarms=["\x1b[31m", "[/]"]),
    "scores-nan": lambda held: held.update(scores={"mAP": {"value": float("nan")}}),
    "scores-name-escapes": lambda held: held.update(scores={"\x1b[31m": {"value": 0.5}}),
    "seconds-inf": lambda held: held.update(seconds=float("inf")),
    "of-other-data": lambda held: held.update(test_sha256="0" * 64),
    "format-99": lambda held: held.update(format="eyespot-result/99"),
    "created-garbage": lambda held: held.update(created="never"),
}


def cases() -> list[Case]:
    """All of this file."""
    found = [_case(name, spoilt(change, COMPARE), how="compared", lost=named) for name, change in UNREADABLE.items()]
    found += [_case(name, spoilt(change, COMPARE), how="compared") for name, change in ODD.items()]
    shown = ("deep", "accuracy-text", "interval-of-three", "settings-list", "origin-list", "scores-of-text", "zeros")
    found += [_case(name, spoilt(UNREADABLE[name], REPORT), how="reported", lost=named) for name in shown]
    odd = (
        "accuracy-nan",
        "interval-inf",
        "name-escapes",
        "name-markup",
        "correct-short",
        "scores-nan",
        "created-garbage",
    )
    found += [_case(name, spoilt(ODD[name], REPORT), how="reported", lost=_no_script) for name in odd]
    found += [_case(name, spoilt(ODD[name], COMPARE_JSON), how="as-json") for name in ("accuracy-nan", "seconds-inf")]
    places: dict[str, tuple[Wants, Sequence[Words]]] = {
        "nowhere": ("refused", (["eval", "compare", "not-there"],)),
        "nothing-named": ("refused", (["eval", "compare"],)),
        "a-device": ("refused", (["eval", "compare", "/dev/zero"],)),
        "protocol-unknown": ("refused", (["eval", "compare", "run", "--protocol", "magic"],)),
        "plot-nowhere": ("either", (["eval", "compare", "run", "--baselines", "--plot", "no/such/place.png"],)),
        "plot-odd-suffix": ("refused", (["eval", "compare", "run", "--baselines", "--plot", "x.exe"],)),
        "plot-onto-a-folder": ("either", (["eval", "compare", "run", "--baselines", "--plot", "run"],)),
    }
    given = [
        _case(f"place-{name}", lambda room, words=words: (room.take("run"), words)[1], wants=wants)
        for name, (wants, words) in places.items()
    ]
    return [*found, *given]


def _case(name: str, make: Any, wants: Wants = "either", how: str = "", **options: Any) -> Case:
    return Case(kind="results", name=f"{name}-{how}" if how else name, wants=wants, make=make, **options)


def _no_script(room: Path, said: str) -> str:
    page = (room / "page.html").read_text(errors="replace")
    return "a script of the result runs on the page" if "<script>alert(1)" in page else ""
