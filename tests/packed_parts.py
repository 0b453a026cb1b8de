"""Small images to be packed by tasks, and a kill at a chosen moment: whoever writes dies before its nth rename."""

import hashlib
import multiprocessing
import os
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path

from PIL import Image
from shapes import levels

from eyespot.data_pipeline.shards.manifest import Manifest
from eyespot.data_pipeline.shards.pack import pack
from eyespot.data_pipeline.shards.parts.addition import Addition
from eyespot.data_pipeline.shards.parts.task import Task
from eyespot.data_pipeline.shards.parts.task_part import Share


def content(folder: Path) -> dict[str, str]:
    """Digest of every file."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def write_images(root: Path, count: int, first: int = 0, classes: tuple[str, ...] = ("a", "b")) -> Path:
    """Images of many sizes; of each 17, one broken and one to be converted; a third with captions, some empty."""
    for number in range(first, first + count):
        folder = root / classes[number % len(classes)]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(levels(8 + number % 7, 8 + number % 40, 3)).save(folder / f"{number}.jpg")
        if number % 3 == 0:
            (folder / f"{number}.txt").write_text(f"number {number}\n" if number % 9 else "")
        if number % 17 == 0:
            (folder / f"broken{number}.jpg").write_bytes(b"\xff\xd8\xff broken")
            Image.new("CMYK", (9, 9 + number % 50), number % 200).save(folder / f"cmyk{number}.jpg")
    (root / "notes.pdf").write_bytes(b"pdf")
    return root


def pack_part(source: Path, root: Path, number: int, count: int, **options: object) -> None:
    """Task ``number`` of ``count``."""
    share = Share(root, Task(number, count))
    pack(str(source), share.folder, goal=share, workers=1, **options)  # type: ignore[arg-type]


def add(root: Path, source: Path | str, **options: object) -> dict[str, Manifest]:
    """Adds the images of a source to a shard folder."""
    addition = Addition(root)
    return pack(str(source), addition.folder, goal=addition, workers=1, **options)  # type: ignore[arg-type]


def killed_at(rename: int, work: Callable[..., object], *arguments: object, **options: object) -> bool:
    """Does the work in a process that is killed just before its nth rename; False = it came to its end before.

    Args:
        rename: 1 = the first.
        work: a function that another process can import.
        arguments: of ``work``.
        options: of ``work``.
    """
    # Forked from a process without threads: what DALI has started here does not survive a fork.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["packed_parts", "webdataset.writer", "eyespot.data_pipeline.shards.header_check"])
    child = context.Process(target=_work_or_die, args=(rename, partial(work, *arguments, **options)))
    child.start()
    child.join()
    assert child.exitcode in (0, -signal.SIGKILL), child.exitcode
    return child.exitcode != 0


def _work_or_die(rename: int, work: Callable[[], object]) -> None:
    left, replace = rename, Path.replace

    def replace_or_die(path: Path, target: Path) -> Path:
        nonlocal left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return replace(path, target)

    Path.replace = replace_or_die  # type: ignore[method-assign]
    work()
