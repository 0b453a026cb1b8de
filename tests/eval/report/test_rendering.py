"""Templates escape what goes in; and the page as a real browser shows it."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from jinja2 import UndefinedError
from markupsafe import Markup
from result_files import some_result, write

from eyespot.data_pipeline.shards.shard_folder import ShardFolder
from eyespot.eval.evaluate import judge
from eyespot.eval.report.diagrams import NUM_CLASS_COLORS
from eyespot.eval.report.rendering import Section, Table, render
from eyespot.eval.report.report import write_report
from eyespot.eval.report.run_data import MAX_STORIES
from eyespot.eval.results.result import Score
from eyespot.pretrain.distributed.process_group import World
from eyespot.pretrain.tracking.metrics_file import encode
from eyespot.pretrain.watchdog.time_breakdown import PARTS

BROKEN_IMAGES = "[...document.images].filter(image => !image.complete || !image.naturalWidth).length"
TOO_WIDE = """[...document.querySelectorAll('main *')]
  .filter(each => !each.closest('.scroll') && each.getBoundingClientRect().right > innerWidth + 1)
  .map(each => each.outerHTML.slice(0, 80))"""
SMALLEST_LETTERS = """Math.min(...[...document.querySelectorAll('p, td, th, figcaption, svg text, .heads')]
  .filter(each => each.getClientRects().length).map(each => {
    const drawing = each.ownerSVGElement
    const scale = drawing ? drawing.getBoundingClientRect().width / drawing.viewBox.baseVal.width : 1
    return scale * parseFloat(getComputedStyle(each).fontSize)
  }))"""
SCRIPTS = """document.scripts.length + [...document.querySelectorAll('*')]
  .filter(each => each.getAttributeNames().some(name => name.startsWith('on'))).length"""
FOREIGN = """[...document.querySelectorAll('img:not([src^="data:image/"])')].map(each => each.getAttribute('src'))
  .concat([...document.querySelectorAll('[href]')].map(each => each.getAttribute('href'))
    .filter(address => !/^#?[a-z0-9./-]+$/.test(address)))"""
UNNAMED = "[...document.querySelectorAll('img:not([alt]), img[alt=\"\"], svg:not([aria-label])')].length"

HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "</style><script>alert(2)</script>",
    "</title></svg><svg onload=alert(3)>",
    "' onfocus=alert(4) autofocus tabindex=0 '",
    "{{ 7 * 7 }}{% include 'page.css' %}",
    "&lt;b&gt; is no b",
    "red \x1b[31m, \x00 and \udc80",
    "javascript:alert(5)",
)
"""Names that would be more than names, if one place forgot to escape them."""


def said(hostile: str) -> str:
    return "".join("\N{REPLACEMENT CHARACTER}" if c in "\x1b\x00\udc80" else c for c in hostile)


@pytest.mark.parametrize("hostile", HOSTILE)
def test_what_goes_in_comes_out_as_text(hostile):
    table = Table(header=["", hostile], rows=[[hostile, hostile]])
    data = {"many": True, "differing": table, "shared": Table(rows=[])}
    body = Section(title="", template="settings", data=data).body()
    assert body.count(Markup.escape(said(hostile))) == 3
    assert not {"\x1b", "\x00", "\udc80"}.intersection(body)


def test_what_a_template_lacks_is_an_error():
    with pytest.raises(UndefinedError, match="'source' is undefined"):
        render("sections/picture.html.j2", caption="an image")


@pytest.mark.parametrize("secret", ["plain-secret", """quotes" and ' & <angles>"""])
def test_secrets_are_masked_before_they_are_escaped(monkeypatch, secret):
    monkeypatch.setenv("DATA_TOKEN", secret)
    commands = [f"eyespot --token={secret}", "https://someone:else@example.org/"]
    body = render("sections/reproduce.html.j2", commands=commands, changed=False)
    assert "eyespot --token=***\nhttps://***@example.org/" in body and str(Markup.escape(secret)) not in body


def test_only_templates_write_html():
    """A Python file that did would have to escape by hand, and one day would forget to."""
    for path in (Path(__file__).parents[3] / "eval").rglob("*.py"):
        assert not re.search(r"</[a-z]|import html|from html import", path.read_text()), path


def test_there_is_a_colour_for_each_run_and_class():
    style = render("page.css")
    for run in range(MAX_STORIES):
        assert style.count(f"--r{run}: ") == 2 and f".r{run} {{ color: var(--r{run}); }}" in style
    assert all(f".k{place} {{ fill: " in style for place in range(NUM_CLASS_COLORS))


@pytest.fixture
def page(run_dir, digits) -> Path:
    """A run with everything that a report can show."""
    shares = {f"time_share/{part}": 1 / len(PARTS) for part in PARTS}
    lines = [
        {"step": n, "loss": 1 / n, "samples_seen": 100 * n, "images_per_second": 50.0, **shares} for n in range(1, 13)
    ]
    (run_dir / "metrics.jsonl").write_bytes(b"".join(encode(line) for line in lines))
    world = World(rank=0, size=1, device=torch.device("cpu"))
    judge("retrieval", str(run_dir), digits, out=None, seed=0, pretrained=False, world=world)
    return write_report([run_dir])


def test_a_page_at_any_width_by_day_and_night_and_on_paper(page, browser, tmp_path):
    papers = {}
    for width in (400, 1600):
        for dark in (False, True):
            browser.open(page.as_uri(), width=width, dark=dark)
            assert browser.errors == [] and browser.requests == []
            assert browser.run("document.images.length") == 4 + 5 * 8 and browser.run(BROKEN_IMAGES) == 0
            assert browser.run("document.documentElement.scrollWidth <= innerWidth")
            assert browser.run(TOO_WIDE) == []
            assert browser.run(UNNAMED) == 0
            papers[width, dark] = browser.run("getComputedStyle(document.body).backgroundColor")
        assert browser.run(SMALLEST_LETTERS) > 9.5
    assert papers[400, False] == papers[1600, False] != papers[400, True] == papers[1600, True]
    assert "Commonest mistakes" in browser.text() and "retrieval" in browser.text().lower()
    assert browser.run("document.querySelector('nav a[href=\"#attention\"]').click() || location.hash") == "#attention"
    printed = browser.pdf(tmp_path / "page.pdf")
    assert printed.startswith(b"%PDF") and 3 <= printed.count(b"/Type /Page\n") + printed.count(b"/Type /Page ") <= 20


def test_wide_tables_fit_into_their_cards(run_dir, browser, tmp_path):
    """Beside its chart a table of many scores would have to be scrolled: it has a row for each score."""
    names = ("J&F", "J", "F", "video J&F")
    chosen = {"stride": "16", "size": "480"}
    scores = {name: Score(value=0.4321, interval=(0.3987, 0.4655)) for name in names}
    for role, name in (("encoder", "mae_tiny, step 12"), ("pixels", "Lab colours of 8 x 8 pixels")):
        carried = {"role": role, "name": name, "key": role, "num_correct": None, "scores": scores, "settings": chosen}
        write(run_dir, f"{role}.json", some_result(protocol="propagate", metric="propagate/J&F", **carried))
    page = write_report([run_dir], look=False)
    scrolled = (
        "[...document.querySelectorAll('.scroll')].filter(each => each.scrollWidth > each.clientWidth + 1).length"
    )
    for width in (1280, 400):
        browser.open(page.as_uri(), width=width)
        assert "video J&F" in browser.text() and browser.run(scrolled) == 0
        assert browser.run(TOO_WIDE) == [] and browser.run("document.documentElement.scrollWidth <= innerWidth")


def hostile_name(text: str) -> str:
    return said(text).replace("/", "\N{FRACTION SLASH}")


@pytest.fixture
def hostile_run(run_dir, digits) -> Path:
    """A run and its shards, of which somebody else chose every name."""
    shards = run_dir.parent / hostile_name(HOSTILE[1])
    shutil.copytree(digits, shards)
    for split in ("train", "test"):
        manifest = ShardFolder(shards / split).manifest
        manifest.classes = [f"{HOSTILE[n % len(HOSTILE)]} {n}" for n in range(10)]
        manifest.name = HOSTILE[0]
        (shards / split / "manifest.json").write_text(manifest.to_json().replace("\udc80", "\\udc80"))
    record = json.loads((run_dir / "run.json").read_text())
    record["run"]["data"]["shards"] = str(shards)
    record |= {"argv": ["eyespot", *HOSTILE], "versions": {HOSTILE[0]: HOSTILE[1]}, "started": HOSTILE[2]}
    record |= {"git_commit": "<img src=x>", "git_diff_sha256": "0", "world_size": 1}
    (run_dir / "run.json").write_text(json.dumps(record))
    return run_dir.rename(run_dir.parent / hostile_name(HOSTILE[0]))


def without_policy(page: Path) -> Path:
    """The same page, on which a browser would run scripts: what is tested is not its policy."""
    text = page.read_text()
    policy = text.index("<meta http-equiv")
    bare = page.with_name("bare.html")
    bare.write_text(text[:policy] + text[text.index(">", policy) + 1 :])
    return bare


def nothing_ran(browser, page: Path) -> None:
    browser.open(without_policy(page).as_uri(), width=1200)
    assert browser.errors == [] and browser.requests == []
    assert browser.run(SCRIPTS) == 0 and browser.run(FOREIGN) == []
    assert browser.run("document.activeElement == document.body")
    browser.open(page.as_uri(), width=1200)
    assert browser.errors == [] and browser.requests == []


def test_names_that_are_scripts_run_nowhere(hostile_run, browser, tmp_path):
    nothing_ran(browser, write_report([hostile_run], tmp_path / "unjudged.html"))
    text = " ".join(browser.run("document.body.textContent").split())
    assert "Commonest mistakes" in text and "Not judged yet" in text
    for number, hostile in enumerate(HOSTILE):
        assert f"{said(hostile)} {number} taken for" in text  # in the matrix of classes
    assert "git checkout <img src=x>" in text


def test_names_of_several_runs_are_scripts(hostile_run, browser, tmp_path):
    other = shutil.copytree(hostile_run, tmp_path / hostile_name(HOSTILE[3]))
    for run_dir, recipe in ((hostile_run, HOSTILE[2]), (other, HOSTILE[1])):
        record = json.loads((run_dir / "run.json").read_text())
        (run_dir / "run.json").write_text(json.dumps({**record, "recipe": recipe}))
        lines = [{"step": n, "loss": 1.0, "images_per_second": 1.0, "health/collapsed": 1} for n in (1, 2, 3)]
        (run_dir / "metrics.jsonl").write_bytes(b"".join(encode(line) for line in lines))
        names = {"name": HOSTILE[0], "data": HOSTILE[1], "split": HOSTILE[2], "alarms": list(HOSTILE)}
        write(run_dir, "a.json", some_result(key=recipe, argv=["eyespot", *HOSTILE], **names))
        spread = {"accuracy": None, "interval": None, "correct": None}
        write(run_dir, "b.json", some_result(key="b", protocol="unlabeled", **names, **spread))
    nothing_ran(browser, write_report([hostile_run, other], tmp_path / "several.html", look=False))
    text = " ".join(browser.run("document.body.textContent").split())
    for shown in (f"{HOSTILE[2]} · {HOSTILE[1]}", "What differs", *map(said, HOSTILE)):
        assert " ".join(shown.split()) in text


def test_the_browser_would_have_seen_what_is_wrong(browser, tmp_path):
    """Otherwise the test above could not fail."""
    bad = tmp_path / "bad.html"
    script = "<script>console.error('no'); nothing.there</script>"
    bad.write_text(
        f"<body style='width:3000px'>{script}{HOSTILE[0]}<img src=gone.png><img alt='x' src='data:image/png;base64,AA'>"
    )
    browser.open(bad.as_uri(), width=400)
    assert len(browser.errors) >= 3 and "a script says 1" in browser.errors
    assert browser.run(SCRIPTS) == 2 and browser.run(FOREIGN) == ["gone.png"]
    assert browser.requests == [(tmp_path / "gone.png").as_uri()]
    assert browser.run(BROKEN_IMAGES) == 2 and browser.run(UNNAMED) == 1
    assert browser.run("document.documentElement.scrollWidth > innerWidth")
