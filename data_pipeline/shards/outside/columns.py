"""Which column of a foreign table is the image, the label, the caption: by what it holds, its name, or as asked for."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import unquote

from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.terminal import one_line

ROLES = ("image", "label", "caption", "split")
_LABELS = ("label", "labels", "class", "cls", "category", "target")
_CAPTIONS = ("caption", "captions", "text")
_PATHS = ("image", "file", "path", "filename", "file_name", "filepath", "image_path")
_NO_VALUE = "__HIVE_DEFAULT_PARTITION__"
MOST_SHOWN = 20


class Column(NamedTuple):
    """What is known of one column of a table."""

    name: str
    kind: str
    """image (bytes of a file), text, texts (a list of them), number, other."""
    feature: str = ""
    """What Hugging Face's datasets call it: Image, ClassLabel, ..."""
    classes: tuple[str, ...] = ()
    """Of a ClassLabel."""


class Chosen(NamedTuple):
    """The column of each role; None = there is none."""

    image: Column
    label: Column | None
    caption: Column | None
    split: Column | None


def parse_columns(text: str) -> dict[str, str]:
    """What ``--columns image=img,label=fine_label`` says: {"image": "img", ...}; an empty name = no such column.

    Raises:
        UserError: it is no list of such pairs.
    """
    asked: dict[str, str] = {}
    for pair in text.split(","):
        role, equals, name = (part.strip() for part in pair.partition("="))
        if role not in ROLES or not equals or role in asked or (role == "image" and not name):
            raise UserError(
                f"columns {text!r}: say which column is what, as in image=img,label=fine_label,caption=text;"
                f" what can be named is {', '.join(ROLES)}, and label= is no label"
            )
        asked[role] = name
    return asked


def choose(where: str, columns: Sequence[Column], asked: Mapping[str, str], paths: bool = False) -> Chosen:
    """The column of each role.

    Args:
        where: the file, for messages.
        columns: those that there are.
        asked: the names of some, by role.
        paths: the images are files that are named, not bytes.

    Raises:
        UserError: one that was asked for is not there or holds something else, or nothing says which it is.
    """
    by_name = {column.name: column for column in columns}
    given = {role: by_name.get(name) for role, name in asked.items()}
    for role, name in asked.items():
        if name and given[role] is None:
            raise UserError(f"{where}: has no column {name!r} (--columns {role}={name}); it has {_listed(columns)}")
    image = given.get("image") or (_by_name(columns, _PATHS, ("text",)) if paths else _image(where, columns))
    if image is None or image.kind != ("text" if paths else "image"):
        what = "the paths of images" if paths else "the bytes of images"
        which = f"column {image.name!r} does not hold {what}" if image else f"no column holds {what} by its name"
        hint = "; a list of paths is packed from a .csv or .jsonl file" if image and image.kind == "text" else ""
        hint = "; the first line of a .csv names its columns" if paths and image is None else hint
        raise UserError(f"{where}: {one_line(which)}; it has {_listed(columns)}; name one: --columns image=...{hint}")
    others = [column for column in columns if column.name != image.name]
    label = given["label"] if "label" in asked else _label(where, others)
    caption = given["caption"] if "caption" in asked else _by_name(others, _CAPTIONS, ("text", "texts"))
    split = given["split"] if "split" in asked else (_by_name(others, ("split",), ("text",)) if paths else None)
    for role, column, kinds in (
        ("label", label, ("number", "text")),
        ("caption", caption, ("text", "texts")),
        ("split", split, ("text",)),
    ):
        if column is not None and column.kind not in kinds:
            raise UserError(f"{where}: column {column.name!r} cannot be the {role}; name another: --columns {role}=...")
    return Chosen(image, label, caption if caption != label else None, split)


def folder_label(file: str, asked: Mapping[str, str]) -> str | None:
    """The label that a folder called ``label=cat`` gives the tables in it, as Spark, Polars and Arrow partition them.

    Args:
        file: the table's path inside the source.
        asked: as for ``choose``.

    Returns:
        None where no folder is called like the label; empty where it says that there is none.
    """
    wanted = _LABELS if "label" not in asked else (asked["label"].lower(),)
    for folder in reversed(file.split("/")[:-1]):
        key, equals, value = folder.partition("=")
        if equals and key and unquote(key).lower() in wanted:
            return "" if value == _NO_VALUE else unquote(value)
    return None


def _image(where: str, columns: Sequence[Column]) -> Column | None:
    found = [column for column in columns if column.kind == "image"]
    found = [column for column in found if column.feature == "Image"] or found
    if len(found) > 1 and not (found := [column for column in found if column.name == "image"]):
        several = [column for column in columns if column.kind == "image"]
        raise UserError(
            f"{where}: several columns hold images ({_listed(several)}); name one: --columns image={several[0].name}"
        )
    return found[0] if found else None


def _label(where: str, columns: Sequence[Column]) -> Column | None:
    named = [column for column in columns if column.feature == "ClassLabel"]
    if len(named) > 1 and not any(column.name == "label" for column in named):
        raise UserError(
            f"{where}: several columns are labels ({_listed(named)}); name one: --columns label={named[0].name}"
        )
    return _by_name(named, ("label",), ("number",)) or next(iter(named), None) or _by_name(columns, _LABELS, _PLAIN)


_PLAIN = ("number", "text")


def _by_name(columns: Sequence[Column], names: Sequence[str], kinds: Sequence[str]) -> Column | None:
    known = {column.name.lower(): column for column in columns if column.kind in kinds}
    return next((known[name] for name in names if name in known), None)


def _listed(columns: Sequence[Column]) -> str:
    names = ", ".join(one_line(column.name)[:80] for column in columns[:MOST_SHOWN])
    return f"{names}, ..." if len(columns) > MOST_SHOWN else names or "none"


def class_names(feature: Any) -> tuple[str, ...]:
    """The classes that a feature of Hugging Face's metadata names; none where it is none of theirs."""
    listed = feature.get("names") if isinstance(feature, dict) else None
    listed = listed if isinstance(listed, list) else []
    names = tuple(name for name in listed if isinstance(name, str))
    return names if len(set(names)) == len(listed) else ()
