"""Who waits together is encoded together, each gets its own rows, and one failure is nobody else's."""

import asyncio
import threading

import numpy as np
import pytest
import torch
from jaxtyping import Float
from torch import Tensor, nn

from eyespot.cluster.serving.batching import Batches, Rows
from eyespot.data_pipeline.shards.image_check import BadImage


class Sums(nn.Module):
    """Features that say which image they are of; one of ones breaks the encoder."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1), requires_grad=False)

    def forward_features(self, images: Float[Tensor, "b 3 h w"]) -> Tensor:
        if (images == 1).all((1, 2, 3)).any():
            raise RuntimeError("broken")
        return images

    def forward_head(self, images: Tensor, pre_logits: bool) -> Tensor:
        return images.mean((2, 3)) * self.weight


def view(file: bytes) -> Tensor:
    if not file:
        raise BadImage("empty file")
    return torch.full((3, 2, 2), float(file[0]))


async def rows_of(batches: Batches, file: bytes) -> Rows:
    return await asyncio.wrap_future(await batches.put(file))


def test_no_more_views_wait_than_two_batches():
    go, made = threading.Event(), list[int]()

    class Held(Sums):
        def forward_features(self, images: Float[Tensor, "b 3 h w"]) -> Tensor:
            go.wait(30)
            return images

    def noted(file: bytes) -> Tensor:
        made.append(file[0])
        return view(file)

    batches = Batches(Held(), noted, pixels=len, max_batch=2, max_wait=0.0, observe=lambda _: None)

    async def ask() -> None:
        asked = [asyncio.create_task(rows_of(batches, bytes([number]))) for number in range(2, 42)]
        await asyncio.sleep(0.3)
        assert 2 <= len(made) <= 6, "one batch is encoded and two wait"
        for task in asked[20:]:
            task.cancel()
        await asyncio.wait(asked[20:])
        go.set()
        found = await asyncio.gather(*asked, return_exceptions=True)
        assert [rows["mean"][0] for rows in found[:20]] == list(range(2, 22))
        assert all(isinstance(each, asyncio.CancelledError) for each in found[20:])
        assert made == list(range(2, 22)), "nothing is made for whoever went away"
        go.clear()
        left = [asyncio.create_task(rows_of(batches, bytes([9]))) for _ in range(20)]
        await asyncio.sleep(0.1)
        closing = asyncio.create_task(asyncio.to_thread(batches.close))  # while a view waits for room
        await asyncio.sleep(0.1)
        go.set()
        await asyncio.wait_for(closing, 10)
        ended = await asyncio.wait_for(asyncio.gather(*left, return_exceptions=True), 10)
        assert any(isinstance(each, asyncio.CancelledError) for each in ended)

    asyncio.run(ask())


def test_rows_and_sizes():
    sizes: list[int] = []
    batches = Batches(Sums(), view, pixels=len, max_batch=4, max_wait=0.3, observe=sizes.append)

    async def ask() -> list[object]:
        files = [b"", *(bytes([number]) for number in range(2, 12))]
        found = await asyncio.gather(*(rows_of(batches, file) for file in files), return_exceptions=True)
        first, *rest = found
        assert isinstance(first, BadImage)
        assert [rows["mean"][0] for rows in rest] == list(range(2, 12))
        with pytest.raises(RuntimeError, match="broken"):
            await rows_of(batches, bytes([1]))
        dropped = asyncio.create_task(rows_of(batches, bytes([7])))
        await asyncio.sleep(0.05)
        dropped.cancel()
        return [await rows_of(batches, bytes([9]))]

    (last,) = asyncio.run(ask())
    np.testing.assert_array_equal(last["mean"], np.full(3, 9, np.float32))
    batches.close()
    assert sorted(sizes) == [1, 2, 4, 4], "11 images in fours; whoever went away was not encoded"
