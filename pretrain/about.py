"""About: where a method comes from, for tables and pages."""

from dataclasses import dataclass
from typing import Literal, get_args

Family = Literal[
    "transformation", "reconstruction", "clustering", "contrast", "joint embedding", "metric", "some labels", "labels"
]
FAMILIES: tuple[str, ...] = get_args(Family)
"""In the order in which people meet them."""


@dataclass(kw_only=True, slots=True, frozen=True)
class About:
    """One method's card."""

    family: Family
    task: str
    """What the encoder has to find out, in a few words: "which of four rotations was applied"."""
    paper: str
    """Authors, as they are cited: "Gidaris et al."."""
    year: int
    link: str
    """Where the paper is: "arXiv:1803.07728"."""
    needs: str = ""
    """What it asks of data or encoder beyond images: "labels", "a vision transformer"."""
    expected: str = ""
    """The paper's own number, with encoder, data and protocol: "ResNet-50, ImageNet-1k, 200 epochs, linear: 67.5 %"."""
