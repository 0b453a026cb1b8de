"""Pages of runs, of hostile ones too; and the pages in a real browser while a run grows."""

import re
import threading
from html.parser import HTMLParser
from urllib.parse import quote

import pytest
from watched_runs import add_lines, begin_run

from eyespot.cluster.web import run_list
from eyespot.cluster.web.access import Access
from eyespot.cluster.web.answers import NotFound
from eyespot.cluster.web.pages import Pages
from eyespot.cluster.web.run_list import RunList
from eyespot.cluster.web.server import Server

SCRIPT = "<script>alert(1)</script>"


@pytest.fixture
def pages(tmp_path):
    begin_run(tmp_path / "runs" / "first", lines=50)
    begin_run(tmp_path / "runs" / "second", lines=30, optim={"lr": 0.2})
    return Pages(RunList([tmp_path / "runs"]))


def page(pages, path, *pairs) -> str:
    return pages.answer(path, list(pairs)).body.decode()


def rows(text: str) -> list[str]:
    return re.findall(r'<a href="run\?run=([^"]*)"', text)


class Strict(HTMLParser):
    """Raises where a page holds what its policy refuses, or an address that leads away."""

    def handle_starttag(self, tag, attrs):
        names = [name for name, _ in attrs]
        assert not [name for name in names if name.startswith("on") or name == "style"], (tag, attrs)
        assert tag != "script" or "src" in names
        for name, value in attrs:
            if name in ("href", "src", "action"):
                assert re.match(r"(?:static/|run\?|run$|compare|picture\?|\./|#|data:image/)", value), value


def test_the_list_sorts_finds_and_names_states(pages):
    text = page(pages, "/")
    assert rows(text) == ["first", "second"] and "running" in text and "knn <b>50.0%</b>" in text
    assert 'aria-label="loss from 5 to' in text and "49</td>" not in text
    assert rows(page(pages, "/", ("sort", "step"))) == ["first", "second"]
    assert rows(page(pages, "/", ("sort", "-step"))) == ["second", "first"]
    assert rows(page(pages, "/", ("q", "SEC mae"))) == ["second"] and rows(page(pages, "/", ("state", "done"))) == []
    assert rows(page(pages, "/", ("sort", "nonsense"))) == ["first", "second"]


def test_what_is_one_is_not_several(pages, monkeypatch):
    monkeypatch.setattr("eyespot.cluster.web.pages.MOST_ROWS", 1)
    assert "1 more run; search by name." in page(pages, "/")
    assert "1 run side by side" in page(pages, "/compare", ("run", "first"))


def test_what_one_run_sets_and_another_does_not(pages, tmp_path):
    begin_run(tmp_path / "runs" / "third", lines=30, wandb="digits")
    text = page(pages, "/compare", ("run", "first"), ("run", "third"))
    assert "wandb" in text and "not set" in text


def test_a_run_with_all_its_parts(pages, tmp_path):
    run = tmp_path / "runs" / "first"
    (run / "pictures" / "step-00000010.png").write_bytes(b"png")
    (run / "logs" / "rank-3.log").write_text("2026-01-01 00:00:00,000 WARNING slow disk\n")
    text = page(pages, "/run", ("run", "first"), ("rank", "3"))
    for words in (
        "Log of rank 3",
        "slow disk",
        "picture?run=first&amp;name=step-00000010.png",
        "lr 0.1",
        "75.0%",
        "25.0%",
    ):
        assert words in text, words
    assert pages.answer("/picture", [("run", "first"), ("name", "step-00000010.png")]).body == b"png"
    Strict().feed(text)


def test_side_by_side_shows_what_differs(pages):
    text = page(pages, "/compare", ("run", "first"), ("run", "second"))
    differing = text[text.index("What differs") : text.index("What they share")]
    assert "optim.lr" in differing and "0.1" in differing and "0.2" in differing and "shards" not in differing
    Strict().feed(text)


@pytest.mark.parametrize(
    ("path", "pairs"),
    [
        ("/none", []),
        ("/run", [("run", "../../etc")]),
        ("/run", []),
        ("/compare", []),
        ("/curves.json", [("run", "none")]),
        ("/static/../server.py", []),
        ("/static/%2e%2e/server.py", []),
        ("/picture", [("run", "first"), ("name", "../run.json")]),
        ("/picture", [("run", "first"), ("name", "\udcff.png")]),
    ],
)
def test_what_is_not_there(pages, path, pairs):
    with pytest.raises(NotFound):
        pages.answer(path, pairs)


def test_hostile_run_folders_are_text(tmp_path):
    hostile = {"steps": 10**400, "data": {"shards": f"/x/{SCRIPT}"}, SCRIPT: SCRIPT, "optim": [{"a": "\x1b[2J"}]}
    run = begin_run(tmp_path / f"{SCRIPT}\x1b[31m'\"&", **{**hostile, "lines": 3})
    add_lines(run, range(3, 5), **{SCRIPT: 1.0, "online/knn": "Infinity", "loss": 10**400, "images_per_second": 1e308})
    (run / "pictures" / f"{SCRIPT.replace('/', '')}.png").write_text("x")
    (run / "eval" / "a.json").write_text('{"key": "' + SCRIPT + '"}')
    (run / "logs" / "rank-0.log").write_text(f"2026-01-01 00:00:00,000 ERROR {SCRIPT}\x1b]0;x\x07\n")
    (run / "run.json").write_text((run / "run.json").read_text().replace("mae_tiny", SCRIPT))
    pages = Pages(RunList([tmp_path]))
    (key,) = pages.runs.look().runs
    for path in ("/", "/run", "/compare"):
        text = page(pages, path, ("run", key))
        assert SCRIPT not in text and "alert(1)" in text and "\x1b" not in text
        Strict().feed(text)
    assert (
        SCRIPT.encode() in pages.answer("/curves.json", [("run", key)]).body
    )  # as JSON, that a script puts in as text


def test_a_folder_that_vanishes_between_two_looks(pages, tmp_path):
    assert "first" in page(pages, "/")
    (tmp_path / "runs" / "first").rename(tmp_path / "away")
    assert "No log yet" in page(pages, "/run", ("run", "first"))


@pytest.fixture
def served(pages, monkeypatch):
    monkeypatch.setattr(run_list, "FRESH_SECONDS", 0.2)
    server = Server(pages, Access("127.0.0.1"), "127.0.0.1", 0)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield f"http://127.0.0.1:{server.port}"
    server.shutdown()
    server.server_close()
    thread.join()


def points(browser, metric: str) -> int:
    said = browser.run(f"document.querySelector('.plot[aria-label^=\"{metric} \"]')?.getAttribute('aria-label') ?? ''")
    found = re.search(r"at step (\d+)", said)
    return int(found[1]) if found else -1


def test_curves_move_while_a_run_grows_and_ticks_compare(browser, served, tmp_path):
    browser.open(f"{served}/run?run=first#m=loss&m=online/knn&ly=1", width=1280)
    browser.wait_for("document.querySelectorAll('.plot canvas').length === 2", 20)
    assert points(browser, "loss") == 49
    add_lines(tmp_path / "runs" / "first", range(50, 60), loss=0.5)
    browser.wait_for("/at step 59/.test(document.querySelector('.plot').getAttribute('aria-label'))", 20)
    browser.wait_for("document.getElementById('state').innerText.includes('59')", 20)
    browser.run("document.querySelector('[aria-label=\"zoom in on the newest half\"]').click()")
    browser.wait_for("location.hash.includes('from=29.5')", 5)
    assert browser.errors == []

    browser.open(f"{served}/", width=390, dark=True)
    browser.run("[...document.querySelectorAll('input[name=run]')].forEach((box) => box.click())")
    assert browser.run("document.getElementById('ticked').textContent") == "2 ticked"
    browser.run("document.getElementById('compare-button').click()")
    browser.wait_for("document.querySelectorAll('.plot canvas').length > 1", 20)
    text = browser.text()
    assert (
        "2 runs side by side" in text
        and "optim.lr" in text
        and browser.run("location.search") == "?run=first&run=second"
    )
    assert browser.run("document.documentElement.scrollWidth") <= 390
    assert browser.errors == [] and {address.split("/")[2] for address in browser.requests} == {served.split("/")[2]}


def test_the_list_finds_while_somebody_types_and_keeps_it_in_the_address(browser, served, tmp_path):
    browser.open(f"{served}/", width=1280)
    browser.run("document.querySelector('[name=q]').value = 'sec'")
    browser.run("document.querySelector('[name=q]').dispatchEvent(new Event('input', {bubbles: true}))")
    browser.wait_for("document.querySelectorAll('tbody tr').length === 1 && location.search.includes('q=sec')", 20)
    begin_run(tmp_path / "runs" / quote("second again"))
    assert browser.errors == []
