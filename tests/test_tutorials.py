"""What the tutorials say is done as it stands there, and comes out so."""

from pathlib import Path

import pytest
from tutorial_pages import follow, pattern, steps

FOLDER = Path(__file__).parents[1] / "docs" / "tutorials"
PAGES = sorted(path.stem for path in FOLDER.glob("*.md"))
ON_A_CLUSTER = "two_node_slurm"
AS_PIP_INSTALLS_IT = {"GIT_DIR": "/nonexistent"}
"""Not as a checkout, whose uncommitted changes a release would refuse."""
SAMPLE = """
```toml title="a/settings.toml"
rate = 1
```

```console
$ cat a/settings.toml
rate = 27
$ export WORD=later; cd a
$ echo one; echo 2.5 two; echo three 0123456789abcdef; \\
    echo $WORD
one
...
three ffffffffffffffff
later
$ test -f nothing
$ echo $?
1
```

```python
import os
number = 4
```
```python
print(number, os.getcwd())
```
```text
5 ...work
```

<!-- not run: it needs a network -->
```python
raise OSError
```

```
$ false
```
"""


def test_a_page_is_followed(tmp_path):
    kinds = [step.kind for step in steps(SAMPLE)]
    assert kinds == ["file", *["console"] * 5, "python", "python"]
    said = follow(SAMPLE, tmp_path, seconds=60)
    assert (tmp_path / "work" / "a" / "settings.toml").read_text() == "rate = 1\n"
    assert said[-1].split()[0] == "4"


@pytest.mark.parametrize(
    ("page", "words"),
    [
        ("```console\n$ false\n```\n", "ended with 1"),
        ("```console\n$ test -f x\n$ true\n```\n", "ended with 1"),
        ("```console\n$ echo one\ntwo\n```\n", "should print"),
        ("```console\n$ echo one; echo two\ntwo\none\n```\n", "should print"),
        ("```console\n$ sleep 60\n```\n", "took over 1 seconds"),
        ("```python\n1 / 0\n```\n", "ZeroDivisionError"),
        ("```python\nprint(1)\n```\n```text\none\n```\n", "should print"),
        ("```console\n$ exit 3\n$ true\n```\n", "ended with 99"),
    ],
)
def test_what_a_page_says_wrongly_is_found(page, words, tmp_path):
    with pytest.raises(AssertionError, match=words):
        follow(page, tmp_path, seconds=1)


def test_what_is_shown_stands_for_what_comes_out():
    shown = "step 300 of 300, loss -1.5e-05\n...\nwritten: runs/first in 2 s"
    assert pattern(shown).search("step 3 of 4, loss 0.25\nmore\nand more\n  written: runs/first in 17 s\n")
    assert not pattern(shown).search("step 3 of 4, loss nan\nwritten: runs/first in 17 s\n")
    assert not pattern(shown).search("written: runs/first in 17 s\nstep 3 of 4, loss 0.25\n")


@pytest.mark.parametrize("name", PAGES)
def test_a_tutorial_can_be_read(name):
    page = (FOLDER / f"{name}.md").read_text()
    done = steps(page)
    assert len([step for step in done if step.kind == "console"]) >= 3
    for step in done:
        if step.kind == "python" or step.path.endswith(".py"):
            compile(step.text, name, "exec")
        assert all(len(line) <= 120 for line in step.text.splitlines()), step.text


@pytest.mark.thorough
@pytest.mark.parametrize("name", [name for name in PAGES if name != ON_A_CLUSTER])
def test_a_tutorial(name, tmp_path):
    follow((FOLDER / f"{name}.md").read_text(), tmp_path, AS_PIP_INSTALLS_IT)


@pytest.mark.thorough
def test_the_tutorial_on_a_cluster(slurm, tmp_path):
    try:
        follow((FOLDER / f"{ON_A_CLUSTER}.md").read_text(), tmp_path, slurm.environment)
    finally:
        slurm.reset()
