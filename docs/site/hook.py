"""What mkdocs is told beside mkdocs.yml: which pages there are that no file of docs/ is, and where pages stand.

Pages of docs/ are read on a repository's host as well. What they cannot have there is made here, each time the site is
built: one page for each method out of docs/methods.md and the code, tables of settings and fields where a page asks for
them, pages for Markdown files that lie beside docs/, and notebooks as pages.
"""

from pathlib import Path
from typing import Any

import pages
from fields import with_tables
from links import rewritten
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Fills the navigation."""
    config.nav = pages.filled(config.nav or [], Path(config.docs_dir))
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages that no file of docs/ is, and takes notebooks for pages."""
    for uri, content in pages.generated().items():
        files.append(File.generated(config, uri, content=content))
    for file in list(files):
        if file.src_uri.endswith(".ipynb"):
            files.remove(file)
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Puts tables where a page asks for them, and leads its links to pages."""
    uri = page.file.src_uri
    if uri == "methods.md":
        markdown = pages.without_methods(markdown)
    return rewritten(with_tables(markdown), pages.origin(uri), uri, pages.places())


def on_page_context(context: dict[str, Any], page: Page, config: MkDocsConfig, nav: Any) -> dict[str, Any]:
    """No page offers to be edited: where the repository is, is not known."""
    page.edit_url = None
    return context
