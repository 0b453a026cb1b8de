"""Which class and which split a sample belongs to: read off folders, the names of tars, the text of labels."""

import re
from collections.abc import Sequence
from typing import NamedTuple

from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.shards.members.packed_columns import Texts
from eyespot.data_pipeline.shards.members.skipped import printable
from eyespot.data_pipeline.terminal import plural

MAX_CLASSES = 1 << 20
SPLIT_FOLDERS = {"train": "train", "training": "train", "test": "test"} | dict.fromkeys(
    ("val", "valid", "validation"), "val"
)
_NUMBER = re.compile(r"[+-]?\d{1,18}(\.0*)?")


class Layout(NamedTuple):
    """What folders say of each path."""

    splits: Sequence[str | None]
    """"" = the source has no splits; None = outside of the folders of splits."""
    names: Sequence[str | None]
    """The class; None = the path names none."""
    num_deeper: int
    """Paths with folders below, or above, the one that is taken as the class."""

    def notes(self, class_folder: str) -> list[str]:
        """What to tell of the choice of the class, where there was one."""
        if not self.num_deeper or not any(self.names):
            return []
        other = "last" if class_folder == "top" else "top"
        return [
            f"{plural(self.num_deeper, 'image')} lie in folders within folders; their class is the {class_folder} one,"
            f" with --class-folder {other} the {other} one"
        ]


def arrange(paths: Sequence[tuple[str, ...]], class_folder: str = "top") -> Layout:
    """Reads splits and classes off the paths: [shared folders/][split/][class/...]image.

    Args:
        paths: each split at its slashes.
        class_folder: "top" or "last", where folders lie in folders.
    """
    if not paths:
        return Layout([], [], 0)
    depth = _shared_depth(paths)
    tops = {parts[depth] for parts in paths if len(parts) > depth + 1}
    splits = {top: SPLIT_FOLDERS[top.lower()] for top in tops if top.lower() in SPLIT_FOLDERS}
    shared = len(tops) == 1 and all(len(parts) > depth + 1 for parts in paths)
    if splits and shared and "train" not in splits.values():
        depth, splits = depth + 1, {}  # a folder that all share, called test
    elif "train" not in splits.values() or (len(splits) == 1 and len(tops) > 1):
        splits = {}  # a class may be called train
    elif "test" not in splits.values():  # what a source calls val is what we test on
        splits = {top: "train" if split == "train" else "test" for top, split in splits.items()}
    which = 0 if class_folder == "top" else -1
    where, names, num_deeper = Texts(), Texts(), 0
    for parts in paths:
        split = splits.get(parts[depth]) if splits else ""
        folders = parts[depth + bool(splits) : -1]
        where.append(split)
        names.append(printable(folders[which]) if folders and split is not None else None)
        num_deeper += len(folders) > 1
    return Layout(where, names, num_deeper)


def classify(
    paths: Sequence[tuple[str, ...]], texts: Sequence[str | None], class_folder: str = "top"
) -> tuple[list[str], list[int], Layout, list[str]]:
    """The classes, the label of each image (-1 = none), what the folders say, and notes for people.

    Args:
        paths: of the images, split at their slashes.
        texts: of their labels; where there are none at all, folders are the classes.
        class_folder: as for ``arrange``.
    """
    layout = arrange(paths, class_folder)
    if any(text is not None for text in texts):
        return *number_texts(texts), layout, []
    return *number_names(layout.names), layout, layout.notes(class_folder)


def number_names(names: Sequence[str | None]) -> tuple[list[str], list[int]]:
    """The classes in order, and the label of each name; -1 = none."""
    classes = sorted({name for name in names if name})
    labels = {name: label for label, name in enumerate(classes)}
    return classes, [labels[name] if name else -1 for name in names]


def number_texts(texts: Sequence[str | None]) -> tuple[list[str], list[int]]:
    """The classes that labels name, and the label of each; whole numbers are kept as they are.

    Args:
        texts: of the labels; none, an empty one, and a number below 0 say that there is no label.
    """
    numbers = {text: int(text.partition(".")[0]) for text in texts if text and _NUMBER.fullmatch(text)}
    known = Texts.of(text if text and numbers.get(text, 0) >= 0 else None for text in texts)
    if not all(text in numbers for text in known if text):
        return number_names(known)
    values = sorted({numbers[text] for text in known if text})
    if values and values[-1] < MAX_CLASSES:
        values = list(range(values[-1] + 1))
    labels = {value: label for label, value in enumerate(values)}
    return [str(value) for value in values], [labels[numbers[text]] if text else -1 for text in known]


def split_of(tar: str) -> str | None:
    """The split that the path of a tar tells of, as in ``val/0003.tar`` or ``coco-val2017-0003.tar``; None = none."""
    *folders, name = tar.lower().split("/")
    words = [*(folder for folder in folders if folder in SPLIT_FOLDERS), *re.split(r"[^a-z]+", name)]
    return next((SPLIT_FOLDERS[word] for word in words if word in SPLIT_FOLDERS), None)


def splits_of_files(where: str, tars: Sequence[str], what: str = "tars") -> list[str | None]:
    """The split of each tar, or table, of one source; None for all of them where they are of one split.

    Raises:
        UserError: the split of some cannot be told.
    """
    splits = [split_of(tar) for tar in tars]
    if set(splits) <= {None, "train"} or len(set(splits)) == 1:
        return [None] * len(tars)
    if None in splits or "train" not in splits:
        names = ", ".join(printable(tars[splits.index(split)]) for split in dict.fromkeys(splits))
        raise UserError(
            f"{where}: the {what} are of several splits by their names ({names}), but not all say of which; put each"
            " into a folder called train, val or test"
        )
    if "test" not in splits:  # what a source calls val is what we test on
        return ["test" if split == "val" else split for split in splits]
    return splits


def check_one_split(where: str, tars: Sequence[str], folders: Layout) -> None:
    """Whether tars that are to be one shard folder are of one split, by their names and the folders in them.

    Raises:
        UserError: they are not.
    """
    found = {split_of(tar): tar for tar in reversed(tars)}
    if len(found) > 1 and set(found) != {None, "train"}:
        names = ", ".join(printable(name) for name in sorted(found.values()))
        raise UserError(
            f"{where}: the tars are of several splits by their names ({names}); move those of each into a folder of"
            " its own, train and test, or write new ones: eyespot shards pack"
        )
    inside = sorted({split for split in folders.splits if split})
    if len(inside) > 1:
        raise UserError(
            f"{where}: the tars hold several splits in folders ({', '.join(inside)}), and one index is of one split;"
            " write each as shards of its own: eyespot shards pack"
        )


def _shared_depth(paths: Sequence[tuple[str, ...]]) -> int:
    """How many leading folders all paths share; a shared folder tells nothing, unless it names the split."""
    first = paths[0]
    depth = 0
    while (
        depth < len(first) - 1
        and first[depth].lower() not in SPLIT_FOLDERS
        and all(len(parts) > depth + 1 and parts[depth] == first[depth] for parts in paths)
    ):
        depth += 1
    return depth
