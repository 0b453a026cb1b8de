"""Tables of images as sources: Parquet and Arrow files, Hugging Face's data sets on disk, LMDB.

Each file is read once, in a process that may crash without harm to this one, by which its images are found.
``Found`` rows then become items as those of any other source.
"""

import importlib.util
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from eyespot.data_pipeline import foreign_json
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.progress_bar import ProgressBar
from eyespot.data_pipeline.shards.members.class_names import SPLIT_FOLDERS, number_texts, splits_of_files
from eyespot.data_pipeline.shards.members.found_files import FoundFiles, in_splits
from eyespot.data_pipeline.shards.members.items import Source
from eyespot.data_pipeline.shards.members.skipped import Tally, printable
from eyespot.data_pipeline.shards.outside.apart import Lost, each
from eyespot.data_pipeline.shards.outside.rows import Found, Job, Shared, listing_file, spool_file
from eyespot.data_pipeline.terminal import one_line

SUFFIXES = (".parquet", ".arrow", ".feather")
LMDB_FILES = ("data.mdb", "lock.mdb")
READER = ("its reader", "row")
_LARGEST_NOTE = 2**24
Read = Callable[[Job, Callable[[], None]], Found]


def is_lmdb(path: Path) -> bool:
    """Whether a path is named like an LMDB: a folder with data.mdb, or a file called so or .lmdb."""
    return (path / LMDB_FILES[0]).is_file() if path.is_dir() else path.suffix.lower() in (".mdb", ".lmdb")


def open_lmdb(path: Path, spool: Path, columns: Mapping[str, str]) -> Source:
    """The images of an LMDB.

    Raises:
        UserError: it cannot be read, or holds pickles or no image.
    """
    if columns:
        raise UserError(f"columns: an LMDB has none ({path}); leave it out")
    if importlib.util.find_spec("lmdb") is None:
        raise UserError(f'source {path}: reading an LMDB needs lmdb: pip install "eyespot[sources]"')
    from eyespot.data_pipeline.shards.outside.lmdb_rows import read_lmdb

    name = printable(path.resolve().name)
    data = path / LMDB_FILES[0] if path.is_dir() else path
    return _source(name, f"source {path}", [data], [name], [""], read_lmdb, spool, {}, Tally())


def saved_files(root: Path, skipped: Tally) -> tuple[list[Path], list[str]] | None:
    """The Arrow files that ``save_to_disk`` of Hugging Face's datasets wrote, and the split of each; None = it did not.

    Raises:
        UserError: what says which they are cannot be read, or names files elsewhere.
    """
    if (root / "state.json").is_file() and not (root / "dataset_dict.json").exists():
        files = _data_files(root)
        return files, [""] * len(files)
    if not (root / "dataset_dict.json").is_file():
        return None
    names = foreign_json.read(root / "dataset_dict.json", dict, _LARGEST_NOTE).get("splits")
    if not isinstance(names, list) or not all(isinstance(name, str) and _is_plain(name) for name in names):
        raise UserError(f"source {root}: dataset_dict.json does not list its splits; save the data set again")
    known = {name: SPLIT_FOLDERS[name.lower()] for name in names if name.lower() in SPLIT_FOLDERS}
    for name in names if known else ():
        if name not in known:
            skipped.add("a split that is neither train, val nor test: pack its folder by itself", name)
    if not known and len(names) != 1:
        raise UserError(
            f"source {root}: has the splits {', '.join(map(one_line, names[:20]))}, none of which is train, val or"
            " test; pack the folder of one of them"
        )
    splits = _settled(known) if known else {names[0]: ""}
    files = [(path, split) for name, split in splits.items() for path in _data_files(root / name)]
    return [path for path, _ in files], [split for _, split in files]


def open_tables(
    root: Path,
    files: Sequence[Path],
    splits: Sequence[str] | None,
    spool: Path,
    columns: Mapping[str, str],
    skipped: Tally,
    shared: Shared | None = None,
) -> Source:
    """The images of Parquet and Arrow files.

    Args:
        root: the folder that holds them, or the only file.
        files: them.
        splits: of each, where that is known; else their names say it: train-00000-of-00005.parquet.
        spool: a folder for what must be unpacked.
        columns: the names of some, by role.
        skipped: counts.
        shared: with other tasks, which list the same files.

    Raises:
        UserError: one is cut, damaged, or holds no images, or other columns than the rest.
    """
    if importlib.util.find_spec("pyarrow") is None:
        raise UserError(f'source {root}: reading Parquet and Arrow needs pyarrow: pip install "eyespot[sources]"')
    from eyespot.data_pipeline.shards.outside.arrow_tables import fetch_rows, read_table

    shown = [printable(path.name if path == root else str(path.relative_to(root))) for path in files]
    where = f"source {root}"
    if splits is None:
        splits = [split or "" for split in splits_of_files(where, shown, "files")]
    name = printable(root.resolve().name)
    name = name.rpartition(".")[0] or name if root.is_file() else name
    found = _source(name, where, files, shown, splits, read_table, spool, columns, skipped, shared)
    found.fetch = fetch_rows
    return found


def _source(
    name: str,
    where: str,
    files: Sequence[Path],
    shown: Sequence[str],
    splits: Sequence[str],
    read: Read,
    spool: Path,
    columns: Mapping[str, str],
    skipped: Tally,
    shared: Shared | None = None,
) -> Source:
    jobs = [
        Job(str(path.absolute()), one, spool_file(spool, number), dict(columns), listing_file(shared, number))
        for number, (path, one) in enumerate(zip(files, shown, strict=True))
    ]
    first = int(shared.turn * len(jobs)) if shared else 0
    found, of, classes = FoundFiles(), list[str](), dict[tuple[str, ...], str]()
    with ProgressBar(f"reading {name}", len(jobs)) as bar:
        for (job, result), split in zip(_in_order(jobs, first, read), splits, strict=True):
            found_here = Found(problem=str(result)) if isinstance(result, Lost) else result
            if problem := found_here.problem:
                told = problem if problem.startswith(job.shown) else f"{job.shown}: {problem}"
                raise UserError(f"{where}: {one_line(told)}")
            found.join(found_here.files)
            of += [split] * len(found_here.files)
            skipped.add_all(found_here.skipped)
            classes.setdefault(found_here.classes, job.shown)
            bar.advance()
    if len(classes) > 1:
        first, second = list(classes.values())[:2]
        raise UserError(f"{where}: {one_line(f'{first} and {second}')} have other classes; pack each by itself")
    if not found:
        most = ", ".join(f"{one.count} {one.reason}" for one in skipped.listed()[:3])
        raise UserError(f"{where}: no images inside{': ' * bool(most)}{one_line(most)}")
    names, labels = _labels(found, next(iter(classes)))
    return Source(
        name=name, splits=in_splits(found, of, labels, skipped), classes=names, skipped=skipped, options=_noted(columns)
    )


def _in_order(jobs: Sequence[Job], first: int, read: Read) -> Iterator[tuple[Job, Any]]:
    """What is read of each file, in their order; that of number ``first`` is read first."""
    results, number = dict[str, Any](), 0
    for done, result in each([*jobs[first:], *jobs[:first]], read, 1, who=READER):
        results[done.spool] = result
        while number < len(jobs) and jobs[number].spool in results:
            yield jobs[number], results.pop(jobs[number].spool)
            number += 1


def _labels(found: FoundFiles, classes: tuple[str, ...]) -> tuple[list[str], np.ndarray]:
    texts = found.column("text")
    if not classes:
        names, labels = number_texts(texts)
        return names, np.array(labels, np.int32)
    numbers = (int(text) if text else -1 for text in texts)
    return [printable(name) for name in classes], np.fromiter((max(n, -1) for n in numbers), np.int32, len(found))


def _noted(columns: Mapping[str, str]) -> dict[str, Any]:
    return {"columns": dict(columns)} if columns else {}


def _settled(known: Mapping[str, str]) -> dict[str, str]:
    """The splits of a data set as they are packed: what it calls val is what we test on, where it has no test."""
    if len(known) == 1:
        return dict.fromkeys(known, "")
    if "test" not in known.values():
        return {name: "test" if split == "val" else split for name, split in known.items()}
    return dict(known)


def _data_files(folder: Path) -> list[Path]:
    """Those that state.json lists."""
    try:
        state = foreign_json.read(folder / "state.json", dict, _LARGEST_NOTE)
    except OSError as error:
        raise UserError(f"source {folder}: no state.json that can be read; save the data set again") from error
    listed = state.get("_data_files")
    listed = listed if isinstance(listed, list) else []
    names = [str(one.get("filename")) for one in listed if isinstance(one, dict)]
    if not names or not all(map(_is_plain, names)):
        raise UserError(f"source {folder}: state.json does not list the data set's files; save it again")
    if state.get("_indices_data_files") or state.get("_indices_files"):
        raise UserError(
            f"source {folder}: an old version of datasets saved it with a list of rows; load it and save it again"
        )
    if missing := [name for name in names if not (folder / name).is_file()]:
        raise UserError(f"source {folder}: {one_line(missing[0])} is not there; fetch or save it again")
    return [folder / name for name in names]


def _is_plain(name: str) -> bool:
    """Whether it is the name of something inside a folder."""
    return bool(name) and "\0" not in name and Path(name).name == name != ".."
