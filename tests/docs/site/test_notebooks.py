"""A notebook becomes a page with what its code gave; its pictures become files beside it."""

import base64
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[3] / "docs" / "site"))
from notebooks import as_markdown


def code(source: str, *outputs: dict) -> dict:
    return {"cell_type": "code", "source": source.splitlines(keepends=True), "outputs": list(outputs)}


def test_text_code_and_outputs_in_order(tmp_path):
    cells = [
        {"cell_type": "markdown", "source": ["# Title\n", "\n", "Words.\n"]},
        code("print(1)\n2", {"output_type": "stream", "text": ["\x1b[1m1\x1b[0m\n"]}),
        code("table", {"data": {"text/html": ["<table>\n", "\n", "<tr></tr></table>"], "text/plain": "table"}}),
        code("image", {"data": {"image/png": base64.b64encode(b"png").decode(), "text/plain": "<Image (3, 3)>"}}),
        code("1 / 0", {"output_type": "error", "traceback": ["\x1b[31mZeroDivisionError\x1b[0m"]}),
        code("log()", {"data": {"text/html": ["<pre>colours</pre>"], "text/plain": "\x1b[?25hstep 1"}}),
        code(""),
    ]
    path = tmp_path / "first.ipynb"
    path.write_text(json.dumps({"cells": cells}))
    found = as_markdown(path, "notebooks/first.md")
    assert found.keys() == {"notebooks/first.md", "notebooks/first-3-0.png"}
    assert found["notebooks/first-3-0.png"] == b"png"
    page = found["notebooks/first.md"]
    assert isinstance(page, str)
    order = ["# Title", "```python\nprint(1)\n2\n```", "```text\n1\n```", "<table>\n<tr></tr></table>"]
    order += ["![What the code above shows: Image 3, 3](first-3-0.png)", "```text\nZeroDivisionError\n```"]
    order += ["```text\nstep 1\n```"]
    places = [page.index(part) for part in order]
    assert places == sorted(places) and "\x1b" not in page and page.count("```python") == 5
