"""What one line of metrics.jsonl says."""

import hashlib
import resource
import time
from functools import cached_property

import torch
from jaxtyping import Float64
from torch import Tensor

from eyespot.data_pipeline.loading.batch import Batch
from eyespot.pretrain.distributed.collectives import in_batch_order


class StepMeter:
    """Measures the steps between two logged ones, and gathers what all ranks know."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.restart()

    def restart(self) -> None:
        """Begins a new interval now."""
        self._images, self._waited, self._begun = 0, 0.0, time.monotonic()

    def add(self, images: int, waited: float) -> None:
        """A step of so many images, over all ranks, that waited so many seconds for data."""
        self._images += images
        self._waited += waited

    def close_interval(self) -> dict[str, float]:
        """Throughput over all ranks and the share of time that this rank waited for data; restarts the interval."""
        elapsed = max(1e-9, time.monotonic() - self._begun)
        values = {
            "images_per_second": round(self._images / elapsed, 2),
            "data_wait_share": round(self._waited / elapsed, 5),
            "peak_memory_gb": round(self._peak_memory_gb(), 3),
        }
        self.restart()
        return values

    def _peak_memory_gb(self) -> float:
        """Of the device where it is a GPU, else of this process, since it began."""
        if self._device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._device) / 1e9
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


class StepRecord:
    """What one step met on this rank: its micro-batches' samples, and their scalars."""

    def __init__(self) -> None:
        self._ids: list[Tensor] = []
        self._rows: list[dict[str, Tensor]] = []

    def add(self, batch: Batch, scalars: dict[str, Tensor]) -> None:
        """A micro-batch that has gone through, and what the objective said of it."""
        self._ids.append(batch.ids)
        self._rows.append({name: scalar.detach() for name, scalar in scalars.items()})

    @cached_property
    def scalars(self) -> Float64[Tensor, "micro_batches names"]:
        """On the CPU: the step's work on the device is waited for."""
        return torch.stack([torch.stack([value.double() for value in row.values()]) for row in self._rows]).cpu()

    @property
    def is_finite(self) -> bool:
        """Whether all of this rank's scalars are."""
        return bool(self.scalars.isfinite().all())

    def means(self) -> dict[str, float]:
        """Means of the scalars over the global batch. Every rank calls it.

        Summed in the order of the global batch, so that ranks and accumulation give the same digits.
        """
        return dict(zip(self._rows[0], in_batch_order(self.scalars[:, None]).mean(dim=0).tolist(), strict=True))

    def digest(self) -> str:
        """sha256[:16] of the ids of the global batch's samples in order, as little-endian int64. All ranks call it."""
        ids = in_batch_order(torch.stack(self._ids))
        return hashlib.sha256(ids.numpy().astype("<i8").tobytes()).hexdigest()[:16]

    def guilty_ids(self) -> list[int]:
        """Sample ids of the micro-batches, on all ranks, whose scalars are not finite; of all where none is."""
        broken = ~self.scalars.isfinite().all(dim=1, keepdim=True)
        rows = in_batch_order(torch.cat([broken.long(), torch.stack(self._ids)], dim=1)[:, None])
        guilty = rows[rows[:, 0] > 0] if bool(rows[:, 0].any()) else rows
        return guilty[:, 1:].flatten().tolist()
