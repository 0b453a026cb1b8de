"""Images of many requests go through the encoder together: who comes within a moment shares a batch."""

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor, nn

from eyespot.eval.encoders.feature_cache import layout_of
from eyespot.pretrain.networks.encoders import encode

Rows = dict[str, Float32[np.ndarray, " _"]]
"""Each kind of features of one image."""


class Batches:
    """Makes views of images on one thread, and encodes them in batches on another.

    Views wait for two batches at most: what more there is waits as files, which are smaller. The thread of the views
    is served first come, first served: requests that hand in their next image when the last is done take turns.

    A row's last bits depend on how many images shared its batch: matrix products round differently in batches of
    another size, by about a millionth of the largest feature.

    Args:
        encoder: in evaluation mode, on its device.
        view: what it sees of the bytes of an image; raises for what is none.
        pixels: how many an image has, before it is decoded.
        max_batch: images in a batch at most.
        max_wait: how long an image waits for others, seconds.
        observe: told the number of images of each batch.
    """

    def __init__(
        self,
        encoder: nn.Module,
        view: Callable[[bytes], Float[Tensor, "3 size size"]],
        *,
        pixels: Callable[[bytes], int],
        max_batch: int,
        max_wait: float,
        observe: Callable[[int], None],
    ) -> None:
        self._layout = layout_of(encoder)
        self._encoder = encoder.to(memory_format=self._layout)
        self._device = next(encoder.parameters()).device
        self._view, self._pixels = view, pixels
        self._max_batch, self._max_wait, self._observe = max_batch, max_wait, observe
        self._views = ThreadPoolExecutor(1, "eyespot-views")
        self._waiting: list[tuple[Tensor, Future[Rows]]] = []
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="eyespot-encoder", daemon=True)
        self._thread.start()

    async def pixels(self, file: bytes) -> int:
        """How many an image has, before it is decoded."""
        return await asyncio.get_running_loop().run_in_executor(self._views, self._pixels, file)

    async def put(self, file: bytes) -> "Future[Rows]":
        """Returns once the view of an image is made, with what will hold every kind of its features.

        Whoever needs them no more cancels it; who goes away before, has it cancelled.

        Raises:
            BadImage: it is none.
        """
        found = Future[Rows]()
        try:
            await asyncio.get_running_loop().run_in_executor(self._views, self._prepare, file, found)
        except BaseException:
            found.cancel()
            raise
        return found

    def close(self) -> None:
        """Ends both threads; what still waits is cancelled."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._views.shutdown(cancel_futures=True)
        self._thread.join()
        for _, found in self._waiting:
            found.cancel()

    def _prepare(self, file: bytes, found: "Future[Rows]") -> None:
        """Makes the view of an image as soon as there is room for it."""
        with self._changed:
            self._changed.wait_for(lambda: len(self._waiting) < 2 * self._max_batch or self._closed)
        if found.cancelled():
            return
        view = self._view(file)
        with self._changed:
            self._waiting.append((view, found))
            self._changed.notify_all()

    def _run(self) -> None:
        while batch := self._next():
            views, found = zip(*batch, strict=True)
            try:
                rows = self._encoded(torch.stack(views))
                self._observe(len(batch))
            except Exception as error:  # whoever asked is told, and the next batch has its chance
                for each in found:
                    each.set_exception(error)
                continue
            for place, each in enumerate(found):
                each.set_result({kind: values[place] for kind, values in rows.items()})

    def _next(self) -> list[tuple[Tensor, "Future[Rows]"]]:
        """The next batch, of those whose askers still wait; none at the end."""
        with self._changed:
            while True:
                self._changed.wait_for(lambda: self._waiting or self._closed)
                if self._closed:
                    return []
                until = time.monotonic() + self._max_wait
                while len(self._waiting) < self._max_batch and (left := until - time.monotonic()) > 0:
                    if self._closed or not self._changed.wait(left):
                        break
                taken, self._waiting = self._waiting[: self._max_batch], self._waiting[self._max_batch :]
                self._changed.notify_all()
                if alive := [(view, found) for view, found in taken if found.set_running_or_notify_cancel()]:
                    return alive

    @torch.inference_mode()
    def _encoded(self, views: Float[Tensor, "b 3 size size"]) -> dict[str, Float32[np.ndarray, "b _"]]:
        images = views.to(self._device).contiguous(memory_format=self._layout)
        return {kind: rows.float().cpu().numpy() for kind, rows in encode(self._encoder, images).items()}
