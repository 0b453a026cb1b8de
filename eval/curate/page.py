"""A curation as a page: numbers, then groups, clusters or neighbours as pictures. Self-contained; asks no network."""

import io
import shlex
from collections.abc import Sequence
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int, Int64
from PIL import Image
from torch import Tensor

import eyespot
from eyespot.data_pipeline.atomic_files import write_bytes
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.loading.reader import Reader
from eyespot.data_pipeline.shards.shard_folder import ShardFolder
from eyespot.data_pipeline.terminal import plural
from eyespot.eval.curate.choosing import Balanced, Retrieved
from eyespot.eval.curate.copies import Copies
from eyespot.eval.curate.curation import REPORT, Provenance, read_provenance
from eyespot.eval.curate.matches import Reason
from eyespot.eval.report.encoder_sections import Exhibit
from eyespot.eval.report.image_grid import Plate, draw_plate
from eyespot.eval.report.rendering import Section, Table, render

SIDE = 96
"""Pixels of a picture on the page."""
NUM_GROUPS = 24
"""Groups that are shown for each reason, or clusters, or seeds."""
NUM_SHOWN = 8
"""Pictures of each."""
NUM_FEW = 4
"""Of copies, which mostly come in pairs: two such groups beside each other."""
MOST_CLASSES = 40
_OF_ENCODER = {"encoder": "sha256", "features": "features"}
Images = list[Float[Tensor, "3 h w"] | None]


def pictures(shards: ShardFolder, ids: Sequence[int]) -> Images:
    """Samples as squares of ``SIDE`` pixels, their middle; None where one cannot be decoded."""
    found: Images = []
    with closing(Reader(shards, substitute=False)) as reader:
        for start in range(0, len(ids), 256):
            wanted = np.array(ids[start : start + 256], np.int64)
            found += [_square(file) for file in reader.start(wanted).result()[1]]
    return found


def _square(content: bytes | bytearray) -> Float[Tensor, "3 h w"] | None:
    try:
        with Image.open(io.BytesIO(content), formats=("JPEG", "PNG")) as image:
            image.draft("RGB", (2 * SIDE, 2 * SIDE))
            width, height = image.size
            side = min(width, height)
            box = ((width - side) / 2, (height - side) / 2, (width + side) / 2, (height + side) / 2)
            how = Image.Resampling.NEAREST if side < SIDE else Image.Resampling.BILINEAR
            pixels = np.asarray(image.convert("RGB").resize((SIDE, SIDE), how, box=box))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1).float() / 255


def write_page(out: Path, sections: Sequence[Section]) -> Path:
    """Writes report.html beside a curation's provenance, which gives its head.

    Raises:
        UserError: it cannot be written.
    """
    told = read_provenance(out)
    dropped = [(f"dropped: {reason}", f"{count:,}") for reason, count in told.dropped.items()]
    tiles = [("looked at", f"{told.looked_at:,}"), ("kept", f"{told.kept:,}"), *dropped]
    lead = f"{told.shards['name']}, {plural(told.shards['samples'], 'sample')}."
    if told.encoder:
        lead += f" Features: {told.encoder['name']}, {told.encoder['features']}."
    command = shlex.join(["eyespot", *told.argv])
    again = Section(title="Do it again", template="reproduce", data={"commands": [command], "changed": False})
    header = {"title": f"eyespot curate {told.command}", "lead": lead, "state": "", "overview": None, "tiles": tiles}
    text = render(
        "page.html.j2",
        title=f"curate {told.command}",
        header=header,
        sections=[*(section for section in sections if section.data.get("exhibits")), _settings(told), again],
        version=eyespot.__version__,
        now=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )
    try:
        write_bytes(out / REPORT, text.encode(errors="replace"))
    except OSError as error:
        raise UserError(f"{out / REPORT}: cannot be written ({error.strerror})") from error
    return out / REPORT


def _settings(told: Provenance) -> Section:
    known = {} if told.encoder is None else {name: told.encoder[key] for name, key in _OF_ENCODER.items()}
    rows = [(name.replace("_", " "), str(value)) for name, value in {**told.settings, **known}.items()]
    rows += [("seed", str(told.seed)), ("manifest", told.shards["manifest_sha256"])]
    data = {"many": False, "differing": Table(rows=[]), "shared": Table(rows=rows)}
    return Section(title="What was asked", short="Settings", template="settings", data=data)


def _section(title: str, about: str, plates: Sequence[Plate]) -> Section:
    kinds = [(NUM_FEW, 420), (NUM_SHOWN, 560)]
    sorts = [([plate for plate in plates if plate.columns == columns], width) for columns, width in kinds]
    shown = [("", None, Exhibit(plates=each, min_width=width)) for each, width in sorts if each]
    return Section(
        title=title, template="exhibits", data={"about": about, "exhibits": shown, "half": False, "missing": []}
    )


def _plate(images: Images, heads: Sequence[str], alt: str, caption: str, *, columns: int = NUM_SHOWN) -> list[Plate]:
    """A row of so many places, some of which may stay empty: pictures have one size all over the page."""
    if all(image is None for image in images):
        return []
    row = [*images, *[None] * (columns - len(images))]
    heads = [*heads, *[""] * (columns - len(heads))] if heads else []
    return [draw_plate([row], alt=alt, heads=heads, caption=caption)]


def _spread(count: int, most: int) -> list[int]:
    """Places all over so many."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(int)).tolist() if count else []


def copy_sections(copies: Copies) -> list[Section]:
    """For each reason, groups of images: who stays or is held out, then who goes."""
    dropped, sections = copies.dropped, []
    first = "held out" if copies.right is not copies.left else "kept"
    for title in dict.fromkeys(reason.title for reason in Reason):
        chosen = np.flatnonzero([Reason(reason).title == title for reason in dropped.reason.tolist()])
        owners = np.unique(dropped.for_whom[chosen])
        plates: list[Plate] = []
        for place in _spread(len(owners), NUM_GROUPS):
            owner = owners[place]
            rows = chosen[dropped.for_whom[chosen] == owner]
            shown = rows[: NUM_SHOWN - 1]
            ids = copies.left.ids[dropped.places[shown]].tolist()
            head = int(copies.right.ids[owner])
            images = [*pictures(copies.right.shards, [head]), *pictures(copies.left.shards, ids)]
            heads = [
                f"{first}: {head}",
                *(f"{sample} ({dropped.score[row]:.3g})" for sample, row in zip(ids, shown, strict=False)),
            ]
            more = f", {len(rows) - len(shown):,} more not shown" if len(rows) > len(shown) else ""
            caption = f"{plural(len(rows), 'copy', 'copies')} of {head}{more}"
            columns = NUM_FEW if len(images) <= NUM_FEW else NUM_SHOWN
            plates += _plate(images, heads, f"sample {head} and its copies", caption, columns=columns)
        unit, stricter = (
            ("cosine", "a higher --cosine") if title == "features" else ("bits that differ", "fewer --bits")
        )
        hint = f" In brackets: {unit}. Different ones among them? Again with {stricter}, into another folder."
        some = ", of which some are shown" if len(owners) > NUM_GROUPS else ""
        about = f"{plural(len(chosen), 'sample')} of {plural(len(owners), 'group')}{some}."
        sections.append(_section(title.capitalize(), about + (hint if title != "bytes" else ""), plates))
    return sections


def balance_sections(shards: ShardFolder, start: Int64[np.ndarray, " n"], found: Balanced) -> list[Section]:
    """Clusters of the highest level, from the largest to the smallest: images of each, how many it has and gives."""
    tops = found.tree.tops()
    sizes = np.bincount(tops, minlength=found.tree.sizes[-1])
    given = np.bincount(tops[found.kept], minlength=len(sizes))
    order = np.argsort(-sizes, kind="stable")
    order = order[sizes[order] > 0]
    plates: list[Plate] = []
    for place in _spread(len(order), NUM_GROUPS):
        cluster = int(order[place])
        members = np.flatnonzero(tops == cluster)
        ids = start[members[_spread(len(members), NUM_SHOWN)]].tolist()
        caption = f"{plural(int(sizes[cluster]), 'sample')}, {given[cluster]:,} kept"
        plates += _plate(pictures(shards, ids), [], f"samples of cluster {cluster}", caption)
    some = "some of them " if len(order) > NUM_GROUPS else ""
    about = f"{plural(len(order), 'cluster')} of the highest level, {some}from the largest to the smallest."
    sections = [_section("Clusters", about, plates)]
    return sections + _classes(shards, start, start[found.kept])


def _classes(shards: ShardFolder, start: Int[np.ndarray, " n"], kept: Int[np.ndarray, " m"]) -> list[Section]:
    """How many of each class there were and are, where images have labels: nothing was chosen by them."""
    names, labels = shards.manifest.classes, shards.index["label"]
    if not names or len(names) > MOST_CLASSES:
        return []
    before, after = (np.bincount(labels[ids][labels[ids] >= 0], minlength=len(names)) for ids in (start, kept))
    rows = [(name, f"{old:,}", f"{new:,}") for name, old, new in zip(names, before, after, strict=True)]
    rows = [("class", "looked at", "kept"), *rows]
    data = {"many": False, "differing": Table(rows=[]), "shared": Table(rows=[(a, f"{b} → {c}") for a, b, c in rows])}
    return [Section(title="Classes", template="settings", data={**data, "exhibits": True})]


def retrieval_sections(shards: ShardFolder, seeds: ShardFolder, found: Retrieved) -> list[Section]:
    """Seeds with their neighbours."""
    plates: list[Plate] = []
    for place in _spread(len(found.seeds), NUM_GROUPS):
        seed, ids = int(found.seeds[place]), found.neighbours[place, : NUM_SHOWN - 1].tolist()
        images = [*pictures(seeds, [seed]), *pictures(shards, ids)]
        heads = [
            f"seed {seed}",
            *(f"{id} ({near:.3f})" for id, near in zip(ids, found.cosines[place].tolist(), strict=False)),
        ]
        plates += _plate(images, heads, f"seed {seed} and its neighbours", "")
    return [_section("Neighbours", "Some seeds, each with its nearest samples. In brackets: cosine.", plates)]
