"""Draws docs/quickstart.webp, the picture at the top of the README: a part of the quickstart's report, by chromium.

make quickstart && .venv/bin/python benchmarks/quickstart_picture.py .quickstart/run/report.html
"""

import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image, ImageChops

PICTURE = Path(__file__).parents[1] / "docs" / "quickstart.webp"
SHOWN = ("what-the-encoder-learned", "patch-features", "nearest-neighbours")
"""Sections of the report."""
WIDTH, HEIGHT = 1160, 4000
MARGIN = 24
"""Pixels below what is shown."""


def screenshot(report: Path, folder: Path) -> Image.Image:
    """The chosen sections of the page below its header, with nothing but paper below them."""
    others = "".join(f":not(#{name})" for name in SHOWN)
    style = f"<style>section{others}, nav, footer {{ display: none }} h2 {{ margin-top: 28px }}</style>"
    page, picture = folder / "page.html", folder / "page.png"
    page.write_text(report.read_text(encoding="utf-8").replace("</head>", f"{style}</head>"), encoding="utf-8")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", f"--window-size={WIDTH},{HEIGHT}"]
    subprocess.run(["chromium", *flags, f"--screenshot={picture}", page.as_uri()], check=True, capture_output=True)
    return Image.open(picture).convert("RGB")


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        whole = screenshot(Path(sys.argv[1]), Path(folder))
    paper = Image.new("RGB", whole.size, whole.getpixel((0, HEIGHT - 1)))
    _, _, _, end = ImageChops.difference(whole, paper).getbbox() or (0, 0, 0, HEIGHT)
    whole.crop((0, 0, WIDTH, min(HEIGHT, end + MARGIN))).save(PICTURE, quality=82, method=6)
    print(f"{PICTURE}: {PICTURE.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
