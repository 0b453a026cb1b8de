"""Model FLOPs utilisation (MFU; Chowdhery et al. 2022, arXiv:2204.02311, appendix B): how much of a GPU a run uses."""

import re
import threading
from dataclasses import replace

import torch

from eyespot.pretrain.config import Run
from eyespot.pretrain.distributed.process_group import World

_NARROWER = {"pcie", "nvl", "mig"}
"""Words in a device's name by which it is another card than the one whose datasheet is known."""


class Utilization:
    """``mfu``: the arithmetic of forward and backward passes, over what the run's GPUs could have done in the time.

    The arithmetic is counted as ``eyespot plan`` does, without what checkpointing or a second pass compute again, in a
    process of its own while the first steps run: lines before it is known have no MFU. Nor has a run on a CPU, or on a
    GPU whose peak is not in ``speed.GPUS``.

    Args:
        run: whose passes.
        ranks: GPUs of the run.
        tflops: peak of each in the run's precision, 10^12 per second; 0 = no metric.
    """

    def __init__(self, run: Run, ranks: int, tflops: float) -> None:
        self._peak = 1e12 * tflops * ranks
        self._flops: float | None = None
        """Of one image."""
        self.counting = threading.Thread(target=self._count, args=(run, ranks), name="flops", daemon=True)
        if tflops:
            self.counting.start()

    @classmethod
    def of(cls, run: Run, world: World) -> "Utilization":
        """Of a run on these processes. Rank 0 alone writes metrics, so it alone counts."""
        measured = world.device.type == "cuda" and world.rank == 0
        return cls(run, world.size, peak_tflops(torch.cuda.get_device_name(world.device), run) if measured else 0.0)

    def __call__(self, images_per_second: float) -> dict[str, float]:
        """The metric ``mfu`` of an interval, once it is known."""
        if self._flops is None:
            return {}
        return {"mfu": round(images_per_second * self._flops / self._peak, 4)}

    def _count(self, run: Run, ranks: int) -> None:
        self._flops = image_flops(run, ranks)


def image_flops(run: Run, ranks: int) -> float | None:
    """Floating point operations of one image's forward and backward pass; None where they cannot be counted."""
    from eyespot.pretrain.planning.trace_apart import trace_apart

    found = trace_apart(replace(run, encoder=replace(run.encoder, checkpointing=False)), "cuda")
    if found is None:
        return None
    images = max(1, run.data.batch_size // (ranks * run.data.accumulate))
    step = found.at(images)
    return (step.forward.flops + step.backward.flops) / images


def peak_tflops(device_name: str, run: Run) -> float:
    """What the GPU of that name reaches at most in the run's precision, 10^12 per second; 0 where nobody knows.

    Args:
        device_name: as torch says it, "NVIDIA H100 80GB HBM3".
        run: its precision.
    """
    from eyespot.pretrain.planning.speed import GPUS

    words = re.split(r"[\s-]+", device_name.lower())
    known = [gpu for name, gpu in GPUS.items() if name in words]
    if (
        not known or "mig" in words or (_NARROWER & set(words) and known[0].name != "a100")
    ):  # an A100 is as fast on every board
        return 0.0
    return float(known[0].tflops(run.precision))
