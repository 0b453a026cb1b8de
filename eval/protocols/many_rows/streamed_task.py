"""StreamedTask: what ``Task`` is, with features that stay in their files, and all ranks at work."""

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Int

from eyespot.data_pipeline.errors import UserError
from eyespot.eval.protocols.task import VALIDATION_SHARE, stratified_split
from eyespot.eval.search.row_file import Rows
from eyespot.pretrain.distributed.process_group import World

MOST_HELD = 200_000
"""Rows of train that settings are chosen on: of a tenth that is larger, so many by lot."""


@dataclass(kw_only=True, slots=True)
class StreamedTask:
    """One encoder's features of one data set, on disk; labels are in memory."""

    train: dict[str, Rows]
    train_labels: Int[np.ndarray, " n"]
    test: dict[str, Rows]
    test_labels: Int[np.ndarray, " m"]
    num_classes: int
    seed: int
    world: World
    fit: Int[np.ndarray, " _"] = field(init=False)
    """Rows of train to learn from while choosing, as ``Task`` has them."""
    held: Int[np.ndarray, " _"] = field(init=False)
    """Rows of train to choose hyper-parameters on: as ``Task`` has them, where these are not too many."""

    def __post_init__(self) -> None:
        self.fit, self.held = stratified_split(self.train_labels, VALIDATION_SHARE, self.seed)
        if len(self.fit) and not len(self.held):
            raise UserError(
                f"shards: {len(self.fit)} labelled training samples are too few to hold out a tenth of each class;"
                " at least 5 per class are needed"
            )
        if len(self.held) > MOST_HELD:
            lot = np.random.default_rng(self.seed).permutation(len(self.held))[:MOST_HELD]
            self.held = self.held[np.sort(lot)]
