"""The gate of a method: minutes of CIFAR-10 on two cores that show whether it learns anything.

A recipe file that says ``GATE = Gate(...)`` is trained, probed and judged by ``make zoo`` (benchmarks/zoo.py).
"""

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass

from eyespot.pretrain.config import Run

RESNET = "--encoder.name test_resnet --encoder.no-small-stem"
LARGER_RESNET = "--encoder.name resnet10t --encoder.no-small-stem"
SMALL_VIT = "--encoder.name test_vit --encoder.patch-size 4 --encoder.no-small-stem"
SHORT = "--optim.name adamw --optim.lr 1e-3 --optim.weight-decay 0.05 --optim.warmup-steps 50 --precision fp32"
"""What all gates share. Convolutions in bf16 are slower than in fp32 on most CPUs."""
TENTH = "TENTH"
"""Stands for a file that lists every tenth training image."""


@dataclass(slots=True, frozen=True)
class Gate:
    """A recipe and what is changed of it, in the words of the command line: the table of results repeats them."""

    recipe: Callable[[], Run]
    encoder: str
    """Flags that make it small."""
    _: KW_ONLY
    steps: int
    batch_size: int
    changes: str = ""
    """Further flags. They come after SHORT, so that they win."""
    shown_at: int | None = None
    """Pixels of what the probes show the encoder and its random twin, where a method learns from tiles: about the image
    that those were cut from, so that things are as large as in training. None = what the encoder saw there."""
    finding: str = ""
    """Of a method that fails: what was found out about it."""

    @property
    def settings(self) -> str:
        """What stands after ``eyespot pretrain``, places and seed aside."""
        size = f"--steps {self.steps} --data.batch-size {self.batch_size}"
        return f"{self.recipe.__name__} {size} {self.encoder} {SHORT} {self.changes}".rstrip()
