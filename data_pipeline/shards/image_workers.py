"""Examines many images in parallel processes; the results come in the order of the items, whatever their number."""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from functools import partial
from typing import Any

from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.shards.bands.band_check import examine_bands
from eyespot.data_pipeline.shards.bands.stored_bands import EXTENSION, Bands
from eyespot.data_pipeline.shards.clips.frame_check import examine_clip
from eyespot.data_pipeline.shards.image_check import MAX_PIXELS, MISREAD, BadImage, Examined, examine
from eyespot.data_pipeline.shards.members.items import Item, are_plain, read_item
from eyespot.data_pipeline.shards.pack_masks import examine_mask
from eyespot.data_pipeline.shards.pack_members import examine_members
from eyespot.data_pipeline.terminal import filter_output

NUM_WORKERS = len(os.sched_getaffinity(0))
CHUNK = 32  # items a worker takes at once; of those with many frames, one
FEW = 2048  # so many small images are done before a pool of processes has started
FEW_BYTES = 20_000_000  # and so many bytes of frames
CRASHES = frozenset({signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL})
"""What ends a process that hostile bytes have confused; for want of memory the system kills it in another way."""
HELD_BYTES = 1_000_000_000
"""Of clips that are examined, or wait to be taken, as far as is foreseen; one alone may be larger."""


def examine_items(
    items: Sequence[Item],
    workers: int,
    *,
    resize: int | None = None,
    in_place: bool = False,
    max_pixels: int = MAX_PIXELS,
    bands: Bands | None = None,
    one_in: int = 1,
) -> Iterator[Examined | str]:
    """Yields, for each item in turn, the image as it is to be stored, or the reason why it cannot be.

    One that crashes its process twice, the second time alone in it, cannot be; with one worker this process dies of it.

    Args:
        items: what to read.
        workers: processes; 1, or few items, = this one.
        resize: as in ``images.examine``.
        in_place: as there; the results come without their bytes.
        max_pixels: as there.
        bands: what each image must have; None = images are 8-bit RGB.
        one_in: as there; of samples of many frames all are summed.

    Raises:
        UserError: a worker process was killed.
    """
    long = [] if are_plain(items) else [item.frames.size for item in items if item.frames]
    size = 1 if long else CHUNK  # one video can be as much work, and as many bytes, as a thousand images
    work = partial(_examine_chunk, resize=resize, in_place=in_place, max_pixels=max_pixels, bands=bands, one_in=one_in)
    if workers == 1 or len(items) <= size or (sum(long) <= FEW_BYTES if long else len(items) <= FEW):
        for start in range(0, len(items), size):
            yield from work(list(items[start : start + size]))
        return
    done, ahead = 0, workers + 1 if long else 3 * workers
    while done < len(items):
        with _Pool(workers) as pool:
            try:
                for image in in_turn(pool, work, _chunks(items, done, size), ahead):
                    done += 1
                    yield image
                return
            except BrokenProcessPool as error:
                pool.check_crash(workers, error)
        for image in _one_by_one(items, range(done, min(done + (ahead + 1) * size, len(items))), work, workers):
            done += 1
            yield image


def _chunks(items: Sequence[Item], start: int, size: int) -> Iterator[list[Item]]:
    return (list(items[first : first + size]) for first in range(start, len(items), size))


class _Pool(ProcessPoolExecutor):
    """Processes that examine images. Spawned, not forked: the caller may have started threads (torch, DALI)."""

    def __init__(self, workers: int) -> None:
        super().__init__(workers, multiprocessing.get_context("spawn"), start_worker)

    def check_crash(self, workers: int, error: BrokenProcessPool) -> str:
        """How the process crashed that broke the pool. Raises a UserError where it was killed."""
        processes = list((self._processes or {}).values())
        self.shutdown(cancel_futures=True)  # before its thread has waited for them, they may not have ended
        codes = [-(process.exitcode or 0) for process in processes]
        if crash := next((code for code in codes if code in CRASHES), None):
            return signal.Signals(crash).name
        raise UserError(
            f"workers {workers}: a worker process was killed, most likely for want of memory; use fewer"
        ) from error

    def __exit__(self, *_: object) -> None:
        self.shutdown(cancel_futures=True)


def _one_by_one(
    items: Sequence[Item], which: range, work: Callable[[Sequence[Item]], list[Examined | str]], workers: int
) -> Iterator[Examined | str]:
    """Those of which one crashed its process: in a process each after a crash, so that it is known which one does."""
    left = deque(which)
    while left:
        with _Pool(1) as pool:
            try:
                while left:
                    yield from pool.submit(work, list(items[left[0] : left[0] + 1])).result()
                    left.popleft()
            except BrokenProcessPool as error:
                yield f"its decoder crashed ({pool.check_crash(workers, error)})"
                left.popleft()


def in_turn(
    pool: Executor, work: Callable[[Sequence[Item]], list[Examined | str]], chunks: Iterable[Sequence[Item]], most: int
) -> Iterator[Examined | str]:
    """The results of each chunk in turn; ``most`` chunks are ahead of who takes them, ``HELD_BYTES`` of clips.

    How much of its frames a clip holds once it is examined is taken from those before it, of the first ones all.
    """
    running = deque[tuple[Future[list[Examined | str]], int]]()
    ahead = known = held = 0  # bytes of frames in the source: of those that run, and of those done; of which in memory

    def oldest() -> Iterator[Examined | str]:
        nonlocal ahead, known, held
        future, size = running.popleft()
        results = future.result()
        del future  # it holds them too
        known, held = known + size, held + sum(map(_held, results))
        while results:
            yield results.pop(0)
        ahead -= size

    for chunk in chunks:
        size = sum(item.frames.size for item in chunk if item.frames)
        while running and (len(running) >= most or (ahead + size) * (held / known if known else 1) > HELD_BYTES):
            yield from oldest()
        running.append((pool.submit(work, chunk), size))
        ahead += size
    while running:
        yield from oldest()


def _held(image: Examined | str) -> int:
    """Bytes of a clip that are in memory."""
    clip = None if isinstance(image, str) else image.clip
    if clip is None:
        return 0
    files = sum(len(frame.data) + (len(frame.mask.data) if frame.mask else 0) for frame in clip.frames)
    return files + (len(clip.sound[1]) if clip.sound else 0)


def start_worker() -> None:
    """What a process does first that works for another one: it dies with it, and leaves Ctrl-C to it."""
    filter_output()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    threading.Thread(target=_die_with_parent, daemon=True).start()


def _die_with_parent() -> None:
    """Without this, the workers of a parent that was killed wait for work for ever."""
    if (parent := multiprocessing.parent_process()) is not None:
        parent.join()
        os._exit(1)


def _examine_chunk(items: Sequence[Item], *, in_place: bool, **options: Any) -> list[Examined | str]:
    found = [_examine_item(item, in_place=in_place, **options) for item in items]
    for place in _misread(found):
        found[place] = MISREAD if in_place else _rewritten(items[place], **options)
    return [_without_data(image) if in_place and isinstance(image, Examined) else image for image in found]


def _without_data(image: Examined) -> Examined:
    members = {extension: replace(member, data=b"") for extension, member in image.members.items()}
    return replace(image, data=b"", mask=image.mask and replace(image.mask, data=b""), members=members)


def _examine_item(item: Item, **options: Any) -> Examined | str:
    try:
        image = _examine_images(item, **options)
        if not item.members:
            return image
        keep = {name: options[name] for name in ("resize", "in_place") if name in options}
        return replace(image, members=examine_members(item.members, image, **keep))
    except BadImage as error:
        return str(error)
    except OSError as error:
        return f"unreadable: {error.strerror or error}"


def _examine_images(item: Item, *, bands: Bands | None, one_in: int, **options: Any) -> Examined:
    if bands is not None and (item.frames is not None or item.shape is not None):
        raise BadImage(f"{'a video' if item.frames else 'raw 8-bit pixels'}, where --bands asks for images of {bands}")
    if item.frames is not None:
        return examine_clip(item.frames, **options)
    data, options = read_item(item), {**options, "one_in": one_in}
    image = examine(data, **options) if bands is None else examine_bands(data, bands, **options)
    if item.mask is None:
        return image
    if item.mask.size < 0:
        raise BadImage("no mask (a .png of the same name)")
    keep = {name: options[name] for name in ("resize", "in_place") if name in options}
    size = (image.height, image.width)
    return replace(image, mask=examine_mask(item.mask.read(), size, orientation=image.orientation, **keep))


def _misread(images: Sequence[Examined | str]) -> list[int]:
    """Which of them DALI would not decode as they were examined; frames were asked for as they were examined.

    Bands it does not see.
    """
    from eyespot.data_pipeline.shards.header_check import header_sizes

    found = [(place, image) for place, image in enumerate(images) if isinstance(image, Examined) and not image.clip]
    places = [(place, image) for place, image in found if image.extension != EXTENSION]
    sizes = header_sizes([image.data for _, image in places])
    return [place for (place, image), size in zip(places, sizes, strict=True) if size != (image.height, image.width)]


def _rewritten(item: Item, **options: Any) -> Examined | str:
    image = _examine_item(item, rewrite="unusual header", **options)
    return MISREAD if _misread([image]) else image
