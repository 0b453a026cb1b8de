"""The pages of the site that are no file of docs/, and the navigation's parts that follow from what lies there."""

import functools
import re
from pathlib import Path
from typing import Any

from fields import method_page
from notebooks import as_markdown

ROOT = Path(__file__).parents[2]
BESIDE = {"README.md": "overview.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
"""Files that lie beside docs/, and the pages that they are."""
RESULTS = "benchmarks/results"


@functools.cache
def sources() -> dict[str, str]:
    """Of every page made of a whole file beside docs/: where it stands in the site, by the file's path."""
    results = sorted((ROOT / RESULTS).glob("*.md"))
    return BESIDE | {f"{RESULTS}/{path.name}": f"measured/{path.name}" for path in results}


@functools.cache
def families() -> dict[str, dict[str, str]]:
    """The sections of docs/methods.md, by family and method."""
    found: dict[str, dict[str, str]] = {}
    for part in re.split(r"^## ", (ROOT / "docs" / "methods.md").read_text(), flags=re.M)[1:]:
        family, *sections = re.split(r"^### ", part, flags=re.M)
        found[family.strip()] = {text.partition("\n")[0].strip(): text.partition("\n")[2] for text in sections}
    return found


@functools.cache
def places() -> dict[str, str]:
    """Where in the site is what is no page of docs/ at its own place."""
    parts = {f"docs/methods.md#{name}": f"methods/{name}.md" for named in families().values() for name in named}
    books = {f"docs/{book}": page for book, page in notebooks().items()}
    return {RESULTS: "measured/index.md", **sources(), **parts, **books}


def notebooks() -> dict[str, str]:
    """The page of each notebook, by its path in docs/."""
    folder = ROOT / "docs"
    found = [path.relative_to(folder).as_posix() for path in sorted((folder / "notebooks").glob("*.ipynb"))]
    return {name: name.removesuffix(".ipynb") + ".md" for name in found}


def origin(uri: str) -> str:
    """The file in the repository that a page is made of."""
    if uri.startswith("methods/"):
        return "docs/methods.md"
    return next((file for file, page in sources().items() if page == uri), f"docs/{uri}")


def generated() -> dict[str, str | bytes]:
    """All of them: content by place. Pictures of notebooks and of measured pages are bytes."""
    found: dict[str, str | bytes] = {page: (ROOT / file).read_text() for file, page in sources().items()}
    found |= {f"measured/{path.name}": path.read_bytes() for path in sorted((ROOT / RESULTS).glob("*.png"))}
    found["measured/index.md"] = _measured()
    for named in families().values():
        found |= {f"methods/{name}.md": method_page(name, section) for name, section in named.items()}
    for book, page in notebooks().items():
        found |= as_markdown(ROOT / "docs" / book, page)
    return found


def _measured() -> str:
    """A list of the tables of benchmarks/results, by their headings."""
    tables = {page.rpartition("/")[2]: (ROOT / file).read_text() for file, page in sources().items() if RESULTS in file}
    lines = [f"- [{text.partition(chr(10))[0].lstrip('# ')}]({page})" for page, text in tables.items()]
    return "\n".join(
        ["# Measured", "", "Tables of benchmarks/results; `make bench` makes most of them anew.", "", *lines, ""]
    )


def without_methods(markdown: str) -> str:
    """docs/methods.md without the sections that have pages of their own."""
    return re.split(r"^## ", markdown, maxsplit=1, flags=re.M)[0]


def filled(nav: list[Any], docs: Path) -> list[Any]:
    """The navigation of mkdocs.yml with what need not be named there."""
    parts = {name: entries for part in nav for name, entries in part.items()}
    methods = [{family: [f"methods/{name}.md" for name in named]} for family, named in families().items()]
    inner = {
        name: entries
        for part in parts["Explanation"] + parts["Reference"]
        if isinstance(part, dict)
        for name, entries in part.items()
        if isinstance(entries, list)
    }
    parts["Methods"] += methods
    named = set(re.findall(r"[\w./-]+\.md", str(nav)))
    parts["Tutorials"] += [name for name in (*_in(docs, "tutorials"), *notebooks().values()) if name not in named]
    inner["Decisions"] += _in(docs, "decisions")
    inner["Measured"] += ["measured/index.md"] + [page for file, page in sources().items() if file.startswith(RESULTS)]
    parts["How-to"] += [name for name in _in(docs, "") if name not in named]
    return [part for part in nav if all(part.values())]


def _in(docs: Path, folder: str) -> list[str]:
    """The pages of a folder of docs/, by name; an index comes first."""
    found = [path.relative_to(docs).as_posix() for path in (docs / folder).glob("*.md")]
    return sorted(found, key=lambda name: (not name.endswith("index.md"), name))
