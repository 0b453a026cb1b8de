"""Code on the pages of docs/ runs as it stands there: by a test of the page's own, or here, one block after the other.

A block that nobody can run bears its reason, where a reader of the page does not see it:

    <!-- not run: what it needs -->
    ```python
"""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from released_runs import two_towered_run, write_release

from eyespot.cluster.cli import COMMANDS
from eyespot.cluster.start_run import requested
from eyespot.pretrain.networks.encoders import EncoderConfig

ROOT = Path(__file__).parents[1]
PAGES = sorted([*(ROOT / "docs").rglob("*.md"), ROOT / "README.md", ROOT / "CONTRIBUTING.md"])
RUN_BY = {
    "docs/python.md": "test_python_page.py",
    "docs/own_recipes.md": "test_own_recipes_page.py",
    "docs/tutorials/": "test_tutorials.py",
}
"""Pages, or folders of them, with tests of their own."""
LONG = {"docs/releases.md"}
"""Pages that need more than seconds."""
FENCE = re.compile(
    r"^(?P<space> *)(?P<fence>```+)(?P<kind>\w*)[^\n`]*\n(?P<text>.*?)^(?P=space)(?P=fence)$", re.M | re.S
)
NOT_RUN = re.compile(r"<!-- not run: (?P<why>.{10,}) -->\s*\Z")


def blocks(page: str, *kinds: str) -> Iterator[tuple[str, str]]:
    """The code of each block of these kinds, and why nobody can run it."""
    for found in FENCE.finditer(page):
        if found["kind"] in kinds:
            marked = NOT_RUN.search(page[: found.start()])
            yield re.sub(rf"^{found['space']}", "", found["text"], flags=re.M), marked["why"] if marked else ""


def path_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def run_by(page: Path) -> str:
    return next((test for begin, test in RUN_BY.items() if path_of(page).startswith(begin)), "")


def programs() -> list[Any]:
    """The pages whose blocks run here."""
    pages = [
        page for page in PAGES if not run_by(page) and any(not why for _, why in blocks(page.read_text(), "python"))
    ]
    marks = {name: [pytest.mark.thorough] for name in LONG}
    return [pytest.param(page, id=path_of(page), marks=marks.get(path_of(page), ())) for page in pages]


@pytest.fixture
def belongings(request, tmp_path, monkeypatch) -> dict[str, Any]:
    """What pages take for granted: data/digits; of releases a folder, models/pairs, and an image."""
    monkeypatch.chdir(tmp_path)
    page = request.getfixturevalue("page")
    if "data/digits" in page.read_text():
        (tmp_path / "data").mkdir()
        (tmp_path / "data" / "digits").symlink_to(request.getfixturevalue("digits"))
    if path_of(page) not in LONG:
        return {}
    run = two_towered_run(tmp_path / "run", "clip")
    run.encoder = EncoderConfig(name="test_resnet", image_size=32)
    write_release(tmp_path / "models" / "pairs", run=run, open_clip=True)
    (tmp_path / "FOLDER").symlink_to("models/pairs")
    return {"image": Image.new("RGB", (40, 30), "teal")}


@pytest.mark.parametrize("page", programs())
def test_blocks_run_in_order(page, belongings):
    names = {"__name__": "page", **belongings}
    for code, why in blocks(page.read_text(), "python"):
        if not why:
            exec(compile(code, path_of(page), "exec"), names)


def test_pages_with_tests_of_their_own_have_them():
    for begin, test in RUN_BY.items():
        if any(path_of(page).startswith(begin) for page in PAGES):
            assert Path(begin).name in (ROOT / "tests" / test).read_text(), f"{test} does not run {begin}"


def commands() -> list[tuple[str, str]]:
    """Every ``eyespot pretrain`` on every page that is written out, with the page."""
    found: dict[str, str] = {}
    for page in (page for page in PAGES if not run_by(page)):
        for code, _ in blocks(page.read_text(), "", "sh", "bash", "console"):
            for line in re.sub(r"\\\n\s*(?:> )?", " ", code).splitlines():
                _, begins, words = line.partition("eyespot pretrain ")
                launched = re.search(r"eyespot launch .*? -- pretrain (.*)", line)
                written = words if begins else launched[1] if launched else ""
                written = written.partition(" > ")[0]
                ours = bool(re.match(r"[a-z][a-z0-9_]+ ", written))  # a recipe of ours, and no word that stands for one
                if ours and "..." not in written and "--config " not in written:
                    found.setdefault(written, path_of(page))
    return list(found.items())


def test_recipes_and_flags_of_written_commands_are_there():
    told = commands()
    assert len(told) >= 8
    for words, page in told:
        argv = re.sub(r" --epochs \S+| --print-config", "", words)  # of shards, which are not here; of the command
        recipe, _ = requested(shlex.split(argv, comments=True))
        assert recipe, page


def test_commands_are_those_there_are():
    for page in PAGES:
        for code, _ in blocks(page.read_text(), "", "sh", "bash", "console"):
            for command in re.findall(r"^(?:\$ )?eyespot ([a-z]+)", code, re.M):
                assert command in COMMANDS, f"{path_of(page)}: eyespot {command}"


def test_blocks_of_python_say_so():
    """One without a language is coloured by nobody, and run by nobody."""
    for page in (page for page in PAGES if not run_by(page)):  # whose tests have kinds of their own
        for code, _ in blocks(page.read_text(), ""):
            assert not re.search(r"^(?:import \w|from \S+ import )", code, re.M), f"{path_of(page)}: {code}"


def test_a_block_is_found_with_its_reason():
    page = "a\n\n```python\nx = 1\n```\n\n<!-- not run: it needs a cluster -->\n```python\ny\n```\n"
    page += "- b\n\n  ```python\n  z\n  ```\n"
    assert list(blocks(page, "python")) == [("x = 1\n", ""), ("y\n", "it needs a cluster"), ("z\n", "")]
    assert list(blocks("<!-- not run: no -->\n```python\ny\n```\n", "python")) == [("y\n", "")], "that is no reason"
