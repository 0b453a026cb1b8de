"""What mkdocs is told beside mkdocs.yml: which pages there are that no file of docs/ is, and where pages stand.

Pages of docs/ are read on a repository's host as well. What they cannot have there is made here, each time the site is
built: one page for each method out of docs/methods.md and the code, tables of settings and fields where a page asks for
them, pages for Markdown files that lie beside docs/, and notebooks as pages.
"""

import shutil
import tempfile
from pathlib import Path

import pages
from fields import with_tables
from links import rewritten
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.plugins import event_priority
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
SOURCES = Path(tempfile.mkdtemp())
"""A copy of the package's files alone: in the repository .venv lies beside them, and would be read whole, too."""


@event_priority(100)  # before mkdocstrings asks
def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Fills the navigation, and says where the API's texts are read."""
    config.nav = pages.filled(config.nav or [], Path(config.docs_dir))
    package = SOURCES / "eyespot"
    package.mkdir(exist_ok=True)
    for name in ("__init__.py", "__init__.pyi"):
        shutil.copy(ROOT / name, package)
    for folder in ("data_pipeline", "pretrain", "eval", "cluster"):
        ignored = shutil.ignore_patterns("__pycache__", "*.gz", "*.json", "templates")
        shutil.copytree(ROOT / folder, package / folder, ignore=ignored, dirs_exist_ok=True)
    config.plugins["mkdocstrings"].config.handlers["python"]["paths"] = [str(SOURCES)]
    return config


def on_shutdown() -> None:
    """Removes the copy."""
    shutil.rmtree(SOURCES, ignore_errors=True)


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


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> str:
    """Names the theme's search box for those who hear the page."""
    return _named(output)


def on_post_template(output_content: str, template_name: str, config: MkDocsConfig) -> str:
    """The same on the page that is shown where there is none."""
    return _named(output_content)


def _named(html: str) -> str:
    return html.replace('role="dialog"', 'role="dialog" aria-label="Search"')
