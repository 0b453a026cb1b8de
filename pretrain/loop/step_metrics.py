"""What one line of metrics.jsonl says."""

import hashlib
import resource
import time

import torch
from torch import Tensor

from eyespot.data_pipeline.loading.batch import Batch
from eyespot.pretrain.distributed.process_group import gather_rows


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


def global_means(names: list[str], scalars: Tensor) -> dict[str, float]:
    """Means over the global batch of (micro-batches, names) scalars.

    Summed in the order of the global batch, so that ranks and accumulation give the same digits.
    """
    return dict(zip(names, gather_rows(scalars).mean(dim=0).tolist(), strict=True))


def sample_digest(batches: list[Batch]) -> str:
    """Which samples the step saw: sha256[:16] of the global batch's ids in order, as little-endian int64."""
    ids = gather_rows(torch.stack([batch.ids for batch in batches])).flatten()
    return hashlib.sha256(ids.numpy().astype("<i8").tobytes()).hexdigest()[:16]


def guilty_ids(batches: list[Batch], scalars: Tensor) -> list[int]:
    """Sample ids of the micro-batches, on all ranks, whose scalars are not finite; of all where none is."""
    broken = ~scalars.isfinite().all(dim=1, keepdim=True)
    rows = gather_rows(torch.cat([broken.long(), torch.stack([batch.ids for batch in batches])], dim=1))
    guilty = rows[rows[:, 0] > 0] if bool(rows[:, 0].any()) else rows
    return guilty[:, 1:].flatten().tolist()
