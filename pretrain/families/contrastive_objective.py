"""Contrastive: an objective whose loss compares the samples of a batch with each other.

The loss of a whole batch is then not the mean of its micro-batches' losses. So the method comes in two parts: rows, one
per sample, which a micro-batch can compute on its own; and the loss of all of the rank's rows. ``loop/gradient_cache``
puts them together where a step has more than one micro-batch.
"""

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from eyespot.data_pipeline.loading.batch import Batch
from eyespot.pretrain.networks.sync_batchnorm import frozen_statistics
from eyespot.pretrain.objective import Objective

Rows = dict[str, Tensor]
"""By name, tensors with one row per sample: (B, ...)."""


@dataclass(kw_only=True, slots=True, frozen=True)
class Compared:
    """What comparing all rows of a step gave, for one of its micro-batches."""

    scalars: dict[str, Tensor]
    """Of the whole step: {"loss", and other scalars to log}, without gradient."""
    gradients: Rows
    """The loss's gradient in each of the micro-batch's rows."""


class Contrastive(Objective):
    """A method whose loss needs all samples of a step at once.

    ``compare`` may use no parameter except through the rows: expand a learnable scale to a row per sample.
    """

    compiled: ClassVar[tuple[str, ...]] = ("compare",)

    @abstractmethod
    def embed(self, batch: Batch) -> Rows:
        """The rows that the gradient flows through."""

    def targets(self, batch: Batch) -> Rows:
        """Further rows, without gradient: a teacher's keys, labels, sample ids."""
        return {}

    @abstractmethod
    def compare(self, rows: Rows) -> dict[str, Tensor]:
        """The loss of this rank's rows, among those of all ranks: {"loss": scalar, and other scalars to log}.

        The value is the mean over this rank's rows; the gradient is that of the sum of all ranks' values, so that the
        mean over ranks that an engine takes is the gradient of one process with the whole batch.
        """

    def forward(self, batch: Batch, compared: Compared | None = None, *, only_rows: bool = False) -> dict[str, Any]:
        """The loss of one micro-batch, or its share of a whole step's.

        Args:
            batch: of one view spec.
            compared: what a first look at the whole step gave: the step's loss is returned, and its gradient is what
                reaches the weights through this micro-batch's rows.
            only_rows: {"rows", "targets"} instead of a loss, for a first look: running statistics of batch norm in
                what makes the rows stay as they are, because the rows will be made again.
        """
        if only_rows:
            with frozen_statistics(self):
                rows = self.embed(batch)
            return {"rows": rows, "targets": self.targets(batch)}
        rows = self.embed(batch)
        if compared is None:
            return self.compare({**rows, **self.targets(batch)})
        parts = [(rows[name] * gradient).sum() for name, gradient in compared.gradients.items()]
        carrier = sum(parts[1:], parts[0])  # has the right gradient, and no meaning as a value
        return {**compared.scalars, "loss": compared.scalars["loss"] + (carrier - carrier.detach())}
