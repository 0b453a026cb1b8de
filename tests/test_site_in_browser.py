"""The documentation site in a real browser: everybody can read it, on a phone and a desk, in light and dark."""

import json
import shutil
import subprocess
import tarfile
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from browser import Browser
from built_site import build

AXE = "axe-core@4"
"""Deque's accessibility checks: https://github.com/dequelabs/axe-core."""
WIDTHS = {"phone": 390, "desktop": 1280}
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "best-practice"]
FINDINGS = """
axe.run(document, {runOnly: RULES, resultTypes: ["violations"]}).then(found => JSON.stringify(
  found.violations.filter(one => ["serious", "critical"].includes(one.impact)).map(
    one => `${one.id}: ${one.help}: ${one.nodes.slice(0, 3).map(node => node.html.slice(0, 150)).join("  ")}`)))
""".replace("RULES", json.dumps(RULES))
AT_REST = """
document.head.append(Object.assign(document.createElement("style"), {textContent: "* {transition: none !important}"}))
"""

pytestmark = [pytest.mark.thorough, pytest.mark.slow]


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    return build(tmp_path_factory.mktemp("site"))


@pytest.fixture(scope="module")
def address(site) -> Iterator[str]:
    """Where it is served."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(site)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def axe(tmp_path_factory) -> str:
    """The script, fetched from npm."""
    folder, npm = tmp_path_factory.mktemp("axe"), shutil.which("npm")
    if npm is None:
        pytest.skip("no npm to fetch axe-core with; on Debian: apt-get install npm")
    done = subprocess.run([npm, "pack", AXE, "--silent"], cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"axe-core could not be fetched: {done.stderr.strip()[-200:]}")
    with tarfile.open(next(folder.glob("*.tgz"))) as archive:
        return archive.extractfile("package/axe.min.js").read().decode()


@pytest.mark.parametrize("width", WIDTHS)
def test_pages_are_whole_and_everybody_can_read_them(width, site, address, axe, browser: Browser):
    faults = []
    for path in sorted(site.rglob("*.html")):
        page = path.relative_to(site).as_posix()
        browser.open(f"{address}/{page}", width=WIDTHS[width])
        browser.run(AT_REST)
        browser.run(axe + "; true")
        if (extra := browser.run("document.documentElement.scrollWidth - innerWidth")) > 0:
            faults.append(f"{page}: {extra} pixels wider than the window")
        for scheme in ("default", "slate"):
            browser.run(f"document.body.setAttribute('data-md-color-scheme', '{scheme}')")
            faults += [f"{page}, {scheme}: {fault}" for fault in json.loads(browser.run(FINDINGS))]
        browser.run("document.querySelectorAll('img').forEach(image => image.loading = 'eager')")
        browser.wait_for("[...document.images].every(image => image.complete)", 10)
        faults += [
            f"{page}: {source} is no picture"
            for source in browser.run("[...document.images].filter(one => !one.naturalWidth).map(one => one.src)")
        ]
        faults += [f"{page}: asks {other}" for other in browser.requests if not other.startswith(address)]
        faults += [f"{page}: {error}" for error in browser.errors]
    assert not faults, "\n".join(faults)


def test_search_finds(address, browser: Browser):
    browser.open(f"{address}/index.html", width=1280)
    browser.run("document.querySelector('[data-md-toggle=search]').click(); true")
    field = "document.querySelector('[data-md-component=search-query]')"
    browser.run(
        f"{field}.focus(); {field}.value = 'teacher_temperature'; {field}.dispatchEvent(new Event('keyup')); true"
    )
    browser.wait_for("document.querySelector('.md-search-result__item a[href*=\"dino\"]') !== null", 20)


def test_dark_pages_follow_the_system_until_the_toggle_says_otherwise(address, browser: Browser):
    scheme, page = "document.body.getAttribute('data-md-color-scheme')", f"{address}/data.html"
    page = page.replace("127.0.0.1", "localhost")  # which keeps nothing of the other tests' visits
    browser.open(page, width=1280, dark=True)
    browser.wait_for(f"{scheme} == 'slate'", 10)
    browser.run("document.querySelector('form[data-md-component=palette] label:not([hidden])').click(); true")
    browser.wait_for(f"{scheme} == 'default'", 10)
    browser.open(page, width=1280, dark=True)
    browser.wait_for(f"{scheme} == 'default'", 10)
