"""Executes the notebooks beside it in an empty folder each, and keeps what comes out: all of them, or those named.

    python docs/notebooks/execute.py first_run

What is kept names no folder of this machine. tests/test_notebooks.py executes them again.
"""

import os
import re
import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

FOLDER = Path(__file__).parent
SECONDS = 900
"""That a cell may take."""
COLUMNS = "100"


def execute(notebook: NotebookNode, folder: Path) -> NotebookNode:
    """The notebook with what its cells give in that folder.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell fails.
    """
    home = folder / "home"
    work = folder / "work"
    home.mkdir()
    work.mkdir()
    paths = {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}", "HOME": str(home)}
    environment = {**os.environ, **paths, "OMP_NUM_THREADS": "1", "COLUMNS": COLUMNS, "NO_COLOR": "1"}
    client = NotebookClient(
        notebook,
        timeout=SECONDS,
        record_timing=False,
        coalesce_streams=True,
        resources={"metadata": {"path": str(work)}},
    )
    client.execute(env=environment)
    return notebook


def without_folder(notebook: NotebookNode, folder: Path) -> NotebookNode:
    """The notebook, in whose outputs ``folder`` is called ``~``, and without what differs from machine to machine."""
    for cell in notebook.cells:
        if "outputs" in cell:  # a bar that is gone leaves an empty one
            cell["outputs"] = [
                output for output in cell["outputs"] if "data" not in output or any(output["data"].values())
            ]
        for output in cell.get("outputs", ()):
            if "text" in output:
                output["text"] = _said(output["text"], folder)
            for kind, data in output.get("data", {}).items():
                if kind.startswith("text/"):
                    output["data"][kind] = _said(data, folder)
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    return notebook


def _said(text: str, folder: Path) -> str:
    text = re.sub(r"\x1b\[[?0-9;]*[A-Za-z]", "", text).replace("\r\n", "\n")
    text = re.sub(r"^.*\r", "", text, flags=re.MULTILINE)  # as a terminal draws over a line
    text = text.replace(str(folder / "work"), "~").replace(str(folder), "~")
    return re.sub(r"[ \t]+$", "", text, flags=re.MULTILINE)


def main(names: list[str]) -> None:
    """Executes them and writes them back."""
    for path in sorted(FOLDER.glob("*.ipynb")):
        if names and path.stem not in names:
            continue
        with tempfile.TemporaryDirectory() as folder:
            found = execute(nbformat.read(path, as_version=4), Path(folder))
            nbformat.write(without_folder(found, Path(folder)), path)


if __name__ == "__main__":
    main(sys.argv[1:])
