"""Writes docs/methods.md and README's table: what each method is given and finds out, its formula, recipes and gate.

The text comes from the files of ``pretrain/objectives`` and ``pretrain/recipes``, so neither is older than they are: a
test compares. The pictures are made by the methods themselves, on CIFAR-10: by one that was trained, from the test
images, or, where it compares views, its views of training images:

    python benchmarks/methods_page.py                the text; pictures stay as they are
    python benchmarks/methods_page.py --work WORK    pictures too, from the shards and runs that make zoo left
"""

import argparse
from pathlib import Path

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from eyespot.cluster.method_cards import Card, Measured, cards
from eyespot.data_pipeline.augment.views import ViewSpec
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.shards.shard_folder import ShardFolder
from eyespot.eval.report.encoder_sections import look_at
from eyespot.eval.report.image_grid import visible
from eyespot.eval.report.image_sections import task_pictures, whole_objective
from eyespot.eval.report.run_data import read_story
from eyespot.pretrain.distributed.devices import own_device
from eyespot.pretrain.images.image_grid import write_picture
from eyespot.pretrain.loop.view_sheet import num_columns, view_grid
from eyespot.pretrain.run_record import RunRecord

DOCS = Path(__file__).parents[1] / "docs"
README = Path(__file__).parents[1] / "README.md"
BEGIN, END = "<!-- methods: written by make methods -->\n", "<!-- end of methods -->\n"
FIRST_COLUMNS, MAX_BYTES = 8, 60_000
INTRO = """# Methods

What can be trained, one file each in `pretrain/objectives`. `eyespot recipes` prints the same on a terminal,
`eyespot recipes METHOD` with all that the method's file says of its paper and of what differs from it.

The gate: a few minutes of training on CIFAR-10 on two cores, then the linear probe beside the same encoder with random
weights; 2 points more, intervals apart. [benchmarks/results/zoo.md](../benchmarks/results/zoo.md) has kNN, intervals
and commands. It says that a method learns, not which one is better: hours on GPUs do, and the papers' numbers are of
such. Pictures are of runs as short.

Methods of videos are asked what they are there for, of videos that they never saw, before and after minutes of
training: of falling digits, which are built in, or of DAVIS. Errors are the better the smaller.
[benchmarks/results/video_gates.md](../benchmarks/results/video_gates.md) has intervals, and who else was asked. Methods
of images with text, sound or depth are asked about samples that they never saw, too:
[benchmarks/results/member_gates.md](../benchmarks/results/member_gates.md).

PixelCNN is also asked how many bits unseen images take, beside a histogram and PNG:
[benchmarks/results/pixel_bits.md](../benchmarks/results/pixel_bits.md), by `python benchmarks/pixel_bits.py`. After 120
steps it needs 6.23 and a histogram 7.91; PNG, with 6.01, is ahead.

This page is written by `make methods`.
"""


def page(found: list[Card]) -> str:
    """The whole page."""
    header = ["| method | paper | what it finds out | needs | gate |", "| --- | --- | --- | --- | --- |"]
    rows = [
        f"| [{card.name}](#{card.name}) | {card.paper} | {card.about.task} | {card.about.needs} | {_gate(card)} |"
        for card in found
    ]
    parts = [INTRO, "\n".join([*header, *rows])]
    for family in dict.fromkeys(card.about.family for card in found):
        parts.append(f"## {family.capitalize()}")
        parts += [section(card) for card in found if card.about.family == family]
    return "\n\n".join(part.strip("\n") for part in parts) + "\n"


def section(card: Card) -> str:
    """All of one method."""
    about = card.about
    parts = [f"### {card.name}", f"{card.title} ({card.paper}, {_link(about.link)})."]
    parts.append(f"Finds out {about.task}." + (f" Needs {about.needs}." if about.needs else ""))
    if picture(card.name).is_file():
        rows = card.picture_rows or ("the image", "its views")
        told = f"From above: {', '.join(rows)}."
        parts.append(f"![{card.name}. {told}](methods/{card.name}.png)\n\n*{told}*")
    parts += [f"```text\n{formula}\n```" for formula in card.formulas]
    facts = [("Paper", about.expected), ("Gate", str(card.measured or "not measured"))]
    facts.append(("Recipes", ", ".join(f"`{name}` ({run.encoder.name})" for name, run in card.recipes.items())))
    parts.append("\n".join(f"- {what}: {words}" for what, words in facts if words))
    return "\n\n".join(parts)


def readme(text: str, found: list[Card]) -> str:
    """README with the table of methods, family by family, between its two marks."""
    lines = ["", "| family | methods |", "| --- | --- |"]
    for family in dict.fromkeys(card.about.family for card in found):
        methods = ", ".join(_called(card) for card in found if card.about.family == family)
        lines.append(f"| {family} | {methods} |")
    lines += ["", _gains(found), "", ""]
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return "".join([before, BEGIN, "\n".join(lines), END, after])


def _called(card: Card) -> str:
    """The method's name, and what people call it where that is another."""
    called = card.title.partition(":")[0]
    same = "".join(filter(str.isalnum, called)).lower() == card.name.replace("_", "")
    return f"`{card.name}`" + ("" if same else f" ({called})")


def _gains(found: list[Card]) -> str:
    probed = [(card.name, card.measured) for card in found if isinstance(card.measured, Measured)]
    measured = sorted((row.gain, name) for name, row in probed)
    if not measured:
        return "None was measured yet."
    (least, weakest), (most, strongest) = measured[0], measured[-1]
    failed = [name for name, row in probed if not row.passed]
    return (
        f"What a few minutes of CIFAR-10 on two cores bring to the linear probe, over random weights: {least:+.1f}"
        f" (`{weakest}`) to {most:+.1f} points (`{strongest}`); {len(measured)} methods, intervals apart for all"
        + (f" but {', '.join(failed)}." if failed else ".")
    )


def picture(method: str) -> Path:
    return DOCS / "methods" / f"{method}.png"


def draw(card: Card, work: Path) -> None:
    """The picture of one method, as many images as fit into MAX_BYTES; none where a trained one is wanting."""
    path, plain = picture(card.name), ViewSpec(views=(), mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    source = work / ("runs" if card.picture_rows else "shards")
    grid = (_task if card.picture_rows else _views)(card, source)
    if grid is None:
        print(f"{card.name}: nothing of it in {source} (make zoo trains it); its picture stays as it is")
        return
    for columns in range(FIRST_COLUMNS, 0, -1):
        write_picture(grid[:, :columns], plain, path)
        Image.open(path).quantize(256).save(path, optimize=True)
        if path.stat().st_size <= MAX_BYTES:
            break
    print(f"{path}: {columns} images, {path.stat().st_size / 1000:.0f} kB")


def _task(card: Card, runs: Path) -> Float[Tensor, "rows columns 3 h w"] | None:
    """What the newest run's method makes of test images, values 0..1."""
    paths = [path for folder in runs.glob(f"{card.name}-[0-9]*") if (path := RunRecord.path(folder)).is_file()]
    if not paths:
        return None
    run_dir = max(paths, key=lambda path: path.stat().st_mtime).parent
    look = look_at(read_story(run_dir), lambda _: None, own_device("auto"))
    if isinstance(look, str):
        raise UserError(f"run {run_dir}: {look}")
    return task_pictures(look, whole_objective(look)).transpose(0, 1)


def _views(card: Card, shards: Path) -> Float[Tensor, "rows columns 3 h w"] | None:
    """Images and what the method compares, values 0..1."""
    if not shards.is_dir():
        return None
    run = next(run for name, run in card.recipes.items() if name.endswith("_cifar10"))
    grid, spec = view_grid(run, ShardFolder.find(shards), FIRST_COLUMNS)
    return visible(grid[:, : 1 + num_columns(spec)], spec).transpose(0, 1)


def _gate(card: Card) -> str:
    return card.measured.short if card.measured else "not measured"


def _link(link: str) -> str:
    kind, _, number = link.partition(":")
    places = {"arXiv": f"https://arxiv.org/abs/{number}", "doi": f"https://doi.org/{number}"}
    return f"[{link}]({places.get(kind, link)})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, help="folder of shards and runs, as benchmarks/zoo.py leaves it")
    parser.add_argument("methods", nargs="*", metavar="METHOD", help="whose pictures; all by default")
    options = parser.parse_args()
    torch.manual_seed(0)
    found = cards()
    for card in found if options.work else ():
        if not options.methods or card.name in options.methods:
            draw(card, options.work)
    (DOCS / "methods.md").write_text(page(found))
    README.write_text(readme(README.read_text(), found))


if __name__ == "__main__":
    main()
