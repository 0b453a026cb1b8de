"""Says whether what the commands did with an input is right, and if not, which fault it is."""

import re
from collections.abc import Sequence
from pathlib import Path

from hostile.case import Case, Ended, Verdict

FAULTS = ("traceback", "hang", "crash", "memory", "foreign code", "silent loss", "wrong code", "noise")
"""From the worst to the mildest. "wrong code": refused what users need, took what is wrong, or ended with another exit
code. "noise": more than one line, none that says what is meant, or control characters."""
MOST_LINES = 40
"""Of a refusal, with the log lines before it."""
LONGEST = 2500
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def judge(case: Case, ended: Sequence[Ended], room: Path) -> Verdict:
    """The verdict on a case.

    Args:
        case: what was expected.
        ended: its commands, in turn.
        room: where they ran.
    """
    out, err = (b"".join(getattr(end, name) for end in ended).decode("utf-8", "replace") for name in ("out", "err"))
    fault, line = _fault(case, ended, out, err, room)
    how = {0: "taken", 2: "told" if case.wants == "told" else "refused"}.get(ended[-1].code or 0, "failed")
    return Verdict(
        kind=case.kind,
        name=case.name,
        wants=case.wants,
        fault=fault,
        how=_plain(line) if fault else how,
        commands=[" ".join(["eyespot", *end.words]) for end in ended],
        seconds=sum(end.seconds for end in ended),
        megabytes=max(end.megabytes for end in ended),
    )


def _fault(case: Case, ended: Sequence[Ended], out: str, err: str, room: Path) -> tuple[str, str]:
    last = ended[-1]
    if last.code is None:
        reached = f"{last.seconds:.0f} s, {last.megabytes:,.0f} MB" if last.why == "memory" else f"{last.seconds:.0f} s"
        return {"time": "hang", "memory": "memory"}[last.why], f"stopped after {reached}: {_telling(err or out)}"
    if last.code < 0 or last.code in (134, 135, 137, 139):
        return "crash", f"signal {-last.code if last.code < 0 else last.code - 128}: {_telling(err or out)}"
    if "Traceback (most recent call last)" in out + err:
        return "traceback", _telling(err)
    if last.megabytes > case.megabytes:
        return "memory", f"{last.megabytes:,.0f} MB: {_telling(err or out)}"
    if case.evil and (room / case.evil).exists():
        return "foreign code", f"{case.evil} is there: {_telling(err or out)}"
    allowed = {"taken": {0}, "refused": {2}, "either": {0, 2}, "told": {2}, "failed": {1, 2}}[case.wants]
    if last.code not in allowed:
        return (
            "wrong code",
            f"exit code {last.code}, not {' or '.join(map(str, sorted(allowed)))}: {_telling(err or out)}",
        )
    if last.code == 0 and case.lost is not None and (lost := case.lost(room, out + err)):
        return "wrong code" if lost.startswith("left out") else "silent loss", lost
    return _noise(case, last, out, err)


def _noise(case: Case, last: Ended, out: str, err: str) -> tuple[str, str]:
    if found := _CONTROL.search(out + err):
        return "noise", f"control character {found[0]!r}: {_telling((out + err)[max(found.start() - 80, 0) :])}"
    if last.code == 0:
        return "", ""
    lines = [line for line in err.splitlines() if line.startswith("eyespot: ")]
    told = (case.wants == "told" or last.words[:2] == ["shards", "verify"]) and last.out.strip()
    if len(lines) != 1 and not told:
        return "noise", f"{len(lines)} lines begin with 'eyespot: ': {_telling(err or out)}"
    num_lines = len(last.err.splitlines()) + (0 if told else len(last.out.splitlines()))
    if num_lines > MOST_LINES:
        return "noise", f"{num_lines} lines: {_telling(err)}"
    said = lines[0] if lines else last.out.decode("utf-8", "replace")
    if len(lines) == 1 and len(said) > LONGEST:
        return "noise", f"a line of {len(said):,} characters: {said[:120]}"
    if case.says and not re.search(case.says, said, re.I):
        return "noise", f"does not say {case.says!r}: {said}"
    return "", ""


def _telling(text: str) -> str:
    """The line of an output that says most: the error, else the last one of a traceback, else the first."""
    lines = [line for line in text.splitlines() if line.strip()]
    named = [line for line in lines if line.startswith("eyespot: ")]
    if "Traceback (most recent call last)" in text and not named:
        named = [line for line in lines if re.match(r"[\w.]+(Error|Exception|Exit|Interrupt|Warning)\b", line)][-1:]
    return (named or lines or [""])[0]


def _plain(line: str) -> str:
    return _CONTROL.sub("?", line).encode("utf-8", "replace").decode()[:300]
