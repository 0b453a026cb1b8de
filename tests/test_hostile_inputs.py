"""A handful of benchmarks/hostile_inputs.py, so that the judge does not rot: what is right, what is wrong, and why."""

import subprocess
import sys
from pathlib import Path

import hostile_inputs
import pytest
from hostile.case import Case, Ended
from hostile.judge import judge

ROOT = Path(__file__).parents[1]
HANDFUL = (
    *("tars/uppercase-suffixes", "tars/cut-in-a-member", "labels/numbers-sort", "images/cmyk", "images/empty"),
    *("manifests/tar-bytes-below-0-verified", "indexes/cut-trained", "weights/start-pickle", "flags/steps-0"),
    *("releases/archive-goes-up", "cluster/watching-nowhere"),
)


def test_every_input_has_a_name_of_its_own_and_there_are_many():
    cases = hostile_inputs.all_cases()
    kinds = {case.kind for case in cases}
    assert len(cases) >= 250 and all(sum(case.kind == kind for case in cases) >= 20 for kind in kinds)


@pytest.mark.long
def test_a_handful_is_judged_right():
    """Real commands: it fails where one of these inputs does what it must not, or where no input reaches them."""
    only = [word for name in HANDFUL for word in ("--only", name)]
    command = [sys.executable, str(ROOT / "benchmarks" / "hostile_inputs.py"), "--patience", "4", *only]
    before = sorted((ROOT / "benchmarks" / "results").iterdir())
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=500)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert f"Hostile inputs: {len(HANDFUL)}, of them wrong 0" in ended.stdout
    assert sorted((ROOT / "benchmarks" / "results").iterdir()) == before, "only the whole corpus may write the page"


def verdict(wants, tmp_path, code: int | None = 0, out: bytes = b"", err: bytes = b"", **options) -> str:
    case = Case(kind="x", name="y", wants=wants, make=lambda room: [], **options)
    why = "time" if code is None else ""
    end = Ended(words=["x"], code=code, why=why, out=out, err=err, seconds=1.0, megabytes=5.0)
    return judge(case, [end], tmp_path).fault


TRACEBACK = b"Traceback (most recent call last):\n  File x\nValueError: y\n"


@pytest.mark.parametrize(
    ("fault", "wants", "said"),
    [
        ("", "taken", dict(out=b"done\n")),
        ("", "refused", dict(code=2, err=b"eyespot: steps 0: must be 1 or more\n")),
        ("", "either", dict(code=2, err=b"eyespot: steps 0: must be 1 or more\n")),
        ("", "told", dict(code=2, out=b"a.tar: cut\nb.tar: cut\n")),
        ("", "failed", dict(code=1, err=b"eyespot: the server cannot be reached\n")),
        ("traceback", "failed", dict(code=1, err=TRACEBACK)),
        ("traceback", "taken", dict(code=0, err=TRACEBACK)),
        ("hang", "taken", dict(code=None)),
        ("crash", "refused", dict(code=-11)),
        ("crash", "refused", dict(code=134)),
        ("wrong code", "refused", dict(code=0)),
        ("wrong code", "refused", dict(code=1, err=b"eyespot: x\n")),
        ("wrong code", "taken", dict(code=2, err=b"eyespot: x\n")),
        ("noise", "refused", dict(code=2)),
        ("noise", "refused", dict(code=2, err=b"eyespot: a\neyespot: b\n")),
        ("noise", "refused", dict(code=2, err=b"a\n" * 60 + b"eyespot: b\n")),
        ("noise", "refused", dict(code=2, err=b"eyespot: something\n", says="steps")),
        ("noise", "taken", dict(out=b"\x1b[31mred\n")),
        ("noise", "taken", dict(out="\x9bred\n".encode())),
        ("silent loss", "taken", dict(lost=lambda room, said: "one of them")),
        ("memory", "taken", dict(megabytes=3)),
        ("foreign code", "refused", dict(code=2, err=b"eyespot: x\n", evil="evil")),
    ],
)
def test_the_judge(fault, wants, said, tmp_path):
    (tmp_path / "evil").touch()
    assert verdict(wants, tmp_path, **said) == fault
