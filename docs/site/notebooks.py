"""A notebook as a page: its text, its code, and what that code gave when the notebook was last run."""

import base64
import json
import re
from pathlib import Path
from typing import Any

PICTURES = {"image/png": "png", "image/jpeg": "jpg", "image/svg+xml": "svg"}


def as_markdown(path: Path, uri: str) -> dict[str, str | bytes]:
    """The page of a notebook, and its pictures, by their places in the site.

    Args:
        path: of the notebook.
        uri: of the page.
    """
    book = json.loads(path.read_text(encoding="utf-8"))
    parts: list[str] = []
    files: dict[str, str | bytes] = {}
    for number, cell in enumerate(book["cells"]):
        text = "".join(cell["source"]).strip("\n")
        if cell["cell_type"] == "markdown":
            parts.append(text)
        elif cell["cell_type"] == "code" and text:
            parts.append(f"```python\n{text}\n```")
            for place, output in enumerate(cell.get("outputs", ())):
                shown, picture = _output(output, f"{Path(uri).stem}-{number}-{place}")
                parts.append(shown)
                files |= {f"{Path(uri).parent.as_posix()}/{name}": data for name, data in picture.items()}
    return {uri: "\n\n".join(parts) + "\n", **files}


def _output(output: dict[str, Any], name: str) -> tuple[str, dict[str, bytes]]:
    """What a cell gave, as Markdown, and the file of a picture that it is."""
    data = {kind: "".join(text) for kind, text in output.get("data", {}).items() if isinstance(text, str | list)}
    for kind, ending in PICTURES.items():
        if kind in data:
            content = data[kind].encode() if kind.endswith("xml") else base64.b64decode(data[kind])
            said = re.sub(r"[^\w ,.:-]", "", data.get("text/plain", "").strip().partition("\n")[0]) or "a picture"
            return f"![What the code above shows: {said}]({name}.{ending})", {f"{name}.{ending}": content}
    if "text/html" in data and not data["text/html"].startswith("<pre"):  # as what rich prints, which is text, too
        html = re.sub(r"\n\s*\n", "\n", data["text/html"])
        return f'<div class="output" markdown="0">\n{html}\n</div>', {}
    text = "".join(output.get("text", "")) or data.get("text/plain", "") or "\n".join(output.get("traceback", ()))
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text).strip("\n")
    return (f"```text\n{text}\n```" if text else ""), {}
