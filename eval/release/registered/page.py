"""What people read in MLflow of a registered release: the card as the version's description, tags, a picture."""

import re
from pathlib import Path
from typing import Any
from urllib.parse import quote

from eyespot.eval.release.layout import CARD, PROVENANCE, read_json

LONGEST = 5000
"""Characters of a description in MLflow's tables."""
_USE = """\
```python
import mlflow

model = mlflow.pyfunc.load_model("models:/{name}{which}")
features = model.predict([open("image.jpg", "rb").read()])  # a row for each image
```"""


def model_text(name: str, folder: Path) -> str:
    """The description of a registered model, of which ``folder`` is the first release."""
    said: Any = read_json(folder / PROVENANCE, f"release {folder}")
    return (
        f"Image encoders that eyespot trained: {said['recipe']}. Each version is a release with its card, which"
        f" `eyespot pull models:/{name}@ALIAS` fetches and verifies.\n\n{_USE.format(name=name, which='@ALIAS')}\n"
    )


def version_text(name: str, number: str, folder: Path, picture: str | None) -> str:
    """The description of a version: how it is used, the picture, the card as far as there is room.

    Args:
        name: of the registered model.
        number: of the version.
        folder: the release.
        picture: address of a picture on the server; None = there is none.
    """
    card = re.sub(r"\A---\n.*?\n---\n+", "", (folder / CARD).read_text(encoding="utf-8"), flags=re.DOTALL)
    title, _, sections = card.partition("\n## ")
    parts = [title.strip(), *([f"![what it makes of images]({picture})"] if picture else [])]
    parts.append("## In one line\n\n" + _USE.format(name=name, which=f"/{number}"))
    rest = ["## " + section.strip() for section in sections.split("\n## ")]
    for section in sorted(rest, key=lambda one: not one.startswith("## Numbers")):
        if sum(map(len, parts)) + 2 * len(parts) + len(section) > LONGEST - 60:
            parts.append("The whole card: `data/release/README.md` among the artifacts.")
            break
        parts.append(section)
    return "\n\n".join(parts)[:LONGEST]


def version_tags(folder: Path) -> dict[str, str]:
    """What a version can be searched by."""
    said: Any = read_json(folder / PROVENANCE, f"release {folder}")
    found = {name: said.get(name) for name in ("license", "architecture", "recipe", "step")}
    found |= {"data": said.get("data", {}).get("name"), "git_commit": said.get("code", {}).get("git_commit")}
    return {name: str(value)[:5000] for name, value in found.items() if value not in (None, "")}


def newest_picture(run_dir: Path) -> Path | None:
    """The last picture that a run has drawn."""
    found = sorted(run_dir.glob("pictures/step-*.png"))
    return found[-1] if found else None


def artifact_address(run_id: str, path: str) -> str:
    """Where MLflow's server serves an artifact, from the place of its pages."""
    return f"get-artifact?path={quote(path, safe='')}&run_uuid={run_id}"
