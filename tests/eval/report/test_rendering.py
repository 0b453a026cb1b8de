"""The page as a real browser shows it."""

from pathlib import Path

import pytest
import torch

from eyespot.eval.evaluate import judge
from eyespot.eval.report import write_report
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
UNNAMED = "[...document.querySelectorAll('img:not([alt]), img[alt=\"\"], svg:not([aria-label])')].length"


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
            assert browser.run("document.images.length") == 4 + 4 * 8 and browser.run(BROKEN_IMAGES) == 0
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


def test_the_browser_would_have_seen_what_is_wrong(browser, tmp_path):
    """Otherwise the test above could not fail."""
    bad = tmp_path / "bad.html"
    script = "<script>console.error('no'); nothing.there</script>"
    bad.write_text(f"<body style='width:3000px'>{script}<img src=gone.png><img alt='x' src='data:image/png;base64,AA'>")
    browser.open(bad.as_uri(), width=400)
    assert len(browser.errors) >= 2 and browser.requests == [(tmp_path / "gone.png").as_uri()]
    assert browser.run(BROKEN_IMAGES) == 2 and browser.run(UNNAMED) == 1
    assert browser.run("document.documentElement.scrollWidth > innerWidth")
