"""Which task this is, as a person or a SLURM array says it."""

import pytest

from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.shards.parts.task import Task


def in_array(monkeypatch: pytest.MonkeyPatch, **values: int) -> None:
    for name in ("ID", "MIN", "MAX", "COUNT"):
        monkeypatch.delenv(f"SLURM_ARRAY_TASK_{name}", raising=False)
    for name, value in values.items():
        monkeypatch.setenv(f"SLURM_ARRAY_TASK_{name}", str(value))


def test_by_numbers(monkeypatch):
    in_array(monkeypatch, ID=5)
    assert Task.parse("0/1") == (0, 1) and Task.parse("7/8") == (7, 8) and str(Task(7, 8)) == "7/8"
    assert Task.parse("auto/8") == (5, 8)


def test_of_an_array(monkeypatch):
    in_array(monkeypatch, ID=3, MIN=0, MAX=6, COUNT=7)
    assert Task.parse("auto") == (3, 7)


@pytest.mark.parametrize(
    ("text", "array", "message"),
    [
        ("8/8", {}, "tasks count from 0, so the last of 8 is 7/8"),
        ("1/0", {}, "of 0 tasks"),
        ("0/10001", {}, "may be 1 to 10,000"),
        ("3", {}, "write it as I/N"),
        ("-1/3", {}, "write it as I/N"),
        ("1/3\n", {}, "write it as I/N"),
        ("auto", {}, "SLURM_ARRAY_TASK_ID is not set here"),
        ("auto/4", {}, "SLURM_ARRAY_TASK_ID is not set here"),
        ("auto/4", {"ID": 4}, "the last of 4 is 3/4"),
        ("auto", {"ID": 3, "MIN": 3, "MAX": 5, "COUNT": 2}, "say how many there are in all: --task auto/N"),
        ("auto", {"ID": 1, "MIN": 1, "MAX": 8, "COUNT": 8}, "submit --array=0-8"),
    ],
)
def test_what_is_none_is_one_line(monkeypatch, text, array, message):
    in_array(monkeypatch, **array)
    with pytest.raises(UserError) as caught:
        Task.parse(text)
    assert message in str(caught.value) and "\n" not in str(caught.value)
