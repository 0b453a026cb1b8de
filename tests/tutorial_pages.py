"""Does what a tutorial says, in its order, and compares what comes out with what the page shows.

- A block with a ``title`` is a file: it is written there.
- A block behind ``<!-- not run: its reason -->`` is only looked at.
- In ``console`` blocks ``$ `` begins a command, which a backslash at its end continues; all else is what it prints.
  One shell runs all of a page. A command must succeed, unless the page goes on with ``$ echo $?``.
- One process runs all ``python`` blocks of a page. A ``text`` block right behind one is what it prints.
- Other blocks are only looked at.

What is shown must come out in that order, between whatever else. ``...`` stands for anything, a number for any number,
white space for any white space, a long row of hexadecimal digits for another.
"""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path

FENCE = re.compile(r"^```(?P<kind>\w*)(?P<more>[^\n`]*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
NOT_RUN = re.compile(r"<!-- not run: .{10,} -->\s*\Z")
TITLE = re.compile(r'title="([^"]+)"')
TOKEN = re.compile(r"\.\.\.|\s+|\b[0-9a-f]{12,}\b|[-+−]?\d[\d,.:]*(?:e[-+]?\d+)?")
PYTHON = """
import json, sys, traceback
names = {"__name__": "__main__"}
for line in sys.stdin:
    code = 0
    try:
        exec(compile(json.loads(line), "block", "exec"), names)
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush(), sys.stderr.flush()
    print(f"\\n\\x1e{code}\\x1e", flush=True)
"""


@dataclass(kw_only=True, slots=True, frozen=True)
class Step:
    """One thing that a page does."""

    kind: str
    """"file", "console" or "python"."""
    text: str
    """What is written or run."""
    shown: str = ""
    """What it prints, as the page has it."""
    path: str = ""
    line: int = 0
    """Of the page."""


def steps(page: str) -> list[Step]:
    """What a page does, in its order.

    Raises:
        ValueError: a console block begins with output.
    """
    found: list[Step] = []
    for block in FENCE.finditer(page):
        kind, text, line = block["kind"], block["text"], page.count("\n", 0, block.start()) + 1
        if title := TITLE.search(block["more"]):
            found.append(Step(kind="file", text=text, path=title[1], line=line))
        elif NOT_RUN.search(page[: block.start()]):
            continue
        elif kind == "python":
            found.append(Step(kind=kind, text=text, line=line))
        elif kind == "console":
            found += _commands(text, line)
        elif kind == "text" and found and found[-1].kind == "python" and not found[-1].shown:
            found[-1] = Step(kind="python", text=found[-1].text, shown=text, line=found[-1].line)
    return found


def _commands(text: str, line: int) -> list[Step]:
    if not text.startswith("$ "):
        raise ValueError(f"line {line}: a console block begins with a command")
    found = []
    for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        command = re.match(r"(?:.*\\\n)*.*\n?", part)
        assert command is not None
        shown = part[command.end() :]
        found.append(Step(kind="console", text=command[0].rstrip("\n"), shown=shown, line=line))
    return found


def pattern(shown: str) -> re.Pattern[str]:
    """What an output must hold that a page shows so."""
    found, end = [], 0
    shown = shown.strip()
    for token in TOKEN.finditer(shown):
        found.append(re.escape(shown[end : token.start()]))
        word, end = token[0], token.end()
        if word == "...":
            found.append(r"[\s\S]*?")
        elif word.isspace():
            found.append(r"[\s\S]*?\n\s*" if "\n" in word else r"\s+")
        elif len(word) >= 12 and re.fullmatch("[0-9a-f]+", word):
            found.append(f"[0-9a-f]{{{len(word)}}}")
        else:
            found.append(r"[-+−]?\d[\d,.:]*(?:e[-+]?\d+)?")
    return re.compile("".join([*found, re.escape(shown[end:])]))


class Session:
    """A process that runs one piece of text after the other.

    Args:
        command: reads pieces from its standard input, and says after each its exit code between two record separators.
        seconds: that a piece may take.
    """

    def __init__(self, command: list[str], folder: Path, environment: dict[str, str], seconds: float) -> None:
        self._seconds = seconds
        self._process = subprocess.Popen(
            command,
            cwd=folder,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            encoding="utf-8",
        )

    def run(self, text: str) -> tuple[int, str]:
        """The exit code of a piece, and what it printed."""
        assert self._process.stdin is not None and self._process.stdout is not None
        alarm = threading.Timer(self._seconds, self._kill)
        alarm.start()
        said = []
        try:
            self._process.stdin.write(text)
            self._process.stdin.flush()
            for line in self._process.stdout:
                if end := re.fullmatch("\x1e(\\d+)\x1e\n", line):
                    return int(end[1]), "".join(said)
                said.append(line)
        except BrokenPipeError:
            pass
        finally:
            alarm.cancel()
        return 99, "".join([*said, f"ended, or took over {self._seconds:.0f} seconds"])

    def close(self) -> None:
        """Ends it, and what it has started and left."""
        self._kill()
        self._process.wait()

    def _kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)


def follow(page: str, folder: Path, environment: dict[str, str] | None = None, seconds: float = 600) -> list[str]:
    """Does what the page says in an empty folder, with another home.

    Args:
        environment: variables besides this process's.
        seconds: that one command may take.

    Returns:
        What each step printed.

    Raises:
        AssertionError: a step fails, or prints something else than the page shows.
    """
    home, work = folder / "home", folder / "work"
    home.mkdir(parents=True)
    work.mkdir()
    packages = folder / "packages"  # where pip puts what a page installs
    there = {
        **os.environ,
        **{"HOME": str(home), "NO_COLOR": "1", "TERM": "dumb", "COLUMNS": "100", "PIP_TARGET": str(packages)},
        **{"PIP_NO_INDEX": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1", "OMP_NUM_THREADS": "1"},
        "PYTHONPATH": os.pathsep.join(filter(None, [str(packages), os.environ.get("PYTHONPATH", "")])),
        **(environment or {}),
    }
    there["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), there["PATH"]])
    shell = Session(["bash"], work, there, seconds)
    python = Session([sys.executable, "-u", "-c", PYTHON], work, there, seconds)
    said = []
    try:
        todo = steps(page)
        for step, following in zip(todo, [*todo[1:], None], strict=True):
            said.append(_do(step, following, shell, python, work))
    finally:
        shell.close()
        python.close()
    return said


def _do(step: Step, following: Step | None, shell: Session, python: Session, work: Path) -> str:
    if step.kind == "file":
        path = work / step.path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(step.text)
        return ""
    if step.kind == "python":
        code, said = python.run(json.dumps(step.text) + "\n")
    else:
        code, said = shell.run(f"{{ {step.text}\n}} </dev/null; rc=$?; printf '\\n\\036%s\\036\\n' $rc; (exit $rc)\n")
    where = f"line {step.line}: {step.text.strip()}"
    may_fail = following is not None and following.text == "echo $?"
    assert code == 0 or may_fail, f"{where}\nended with {code}:\n{said}"
    assert pattern(step.shown).search(said), f"{where}\nshould print\n{step.shown}\nand prints\n{said}"
    return said
