"""The documentation site: it builds without a warning, every link in it leads somewhere, and it asks no other host."""

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from built_site import build

ROOT = Path(__file__).parents[1]
LINKS = {"a": "href", "img": "src", "script": "src", "link": "href", "source": "src", "iframe": "src"}


class Page(HTMLParser):
    """What a page links to, and what in it may be linked to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[tuple[str, str]] = []
        self.ids: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.ids |= {given[name] for name in ("id", "name") if name in given}
        if tag in LINKS and LINKS[tag] in given:
            self.links.append((tag, given[LINKS[tag]]))


def dead_links(site: Path) -> Iterator[str]:
    """Every link of every page that leads to no file of the site, or to no part of the page that it leads to."""
    pages = {path: Page(path.read_text(encoding="utf-8")) for path in site.rglob("*.html")}
    for path, page in pages.items():
        for tag, link in page.links:
            address = urlsplit(link)
            if address.scheme or address.netloc:
                if tag != "a" and address.scheme != "data":
                    yield f"{path.relative_to(site)}: asks {link}"
                continue
            target = (path.parent / unquote(address.path)).resolve() if address.path else path
            target = target / "index.html" if target.is_dir() else target
            if path.name == "404.html" and address.path.startswith("/"):
                continue  # of a site whose address is not known
            if not target.is_file() or not target.is_relative_to(site):
                yield f"{path.relative_to(site)}: {link} leads nowhere"
            elif target in pages and address.fragment and unquote(address.fragment) not in pages[target].ids:
                yield f"{path.relative_to(site)}: {link} leads to no part of that page"


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    return build(tmp_path_factory.mktemp("site"))


def test_it_builds_without_a_warning_and_every_link_leads_somewhere(site):
    assert list(dead_links(site)) == []


def test_no_page_shows_the_marks_that_it_was_written_with(site):
    pages = sorted((site / "methods").glob("*.html"))
    assert len(pages) > 40 and not [page.name for page in pages if "```" in page.read_text()]


def test_every_page_of_docs_is_reached_from_the_first(site):
    """By the navigation, which shows of each part its pages, and by links."""
    reached, asked = set[Path](), [site / "index.html"]
    while asked:
        path = asked.pop()
        if path in reached or path.suffix != ".html":
            continue
        reached.add(path)
        links = [urlsplit(link) for tag, link in Page(path.read_text(encoding="utf-8")).links if tag == "a"]
        asked += [(path.parent / link.path).resolve() for link in links if link.path and not link.scheme]
    for path in (ROOT / "docs").rglob("*.md"):
        page = path.relative_to(ROOT / "docs").with_suffix(".html")
        assert site / page in reached, f"{page} is in no navigation"


def test_dead_links_are_found(tmp_path):
    (tmp_path / "a.html").write_text('<h1 id="x"></h1><a href="#x"></a><a href="#y"></a><a href="b.html"></a>')
    (tmp_path / "c.html").write_text('<a href="a.html#x"></a><script src="https://cdn.example.org/x.js"></script>')
    found = "\n".join(dead_links(tmp_path.resolve()))
    assert len(found.splitlines()) == 3 and re.search("#y leads to no part", found)
    assert "b.html leads nowhere" in found and "asks https://cdn.example.org/x.js" in found
