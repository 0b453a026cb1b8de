"""Objective: what is learned from a batch. One file per method; the trainer knows nothing else of it."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor, nn

from eyespot.data_pipeline.batch import Batch
from eyespot.data_pipeline.views import ViewSpec
from eyespot.pretrain.encoders import encode


class Objective(nn.Module, ABC):
    """A self-supervised method: encoder, heads, teachers and the loss, wrapped by the engine as one module.

    Randomness comes from ``batch.uniforms`` only (or from torch's generator, which the trainer seeds from the step and
    the place of the micro-batch): then a run repeats itself, on any number of ranks.
    """

    @dataclass(kw_only=True, slots=True)
    class Config(ABC):
        """This method's numbers. Each has a docstring with its unit; ``__post_init__`` only validates."""

        @abstractmethod
        def build(self, encoder: nn.Module, image_size: int) -> "Objective":
            """The objective around a freshly made encoder that sees images of ``image_size`` pixels."""

    encoder: nn.Module
    """What evaluation and release read: the EMA teacher's where the paper says so."""

    @abstractmethod
    def views(self) -> ViewSpec:
        """What the data pipeline must make of each sample."""

    @abstractmethod
    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """The loss of one micro-batch: {"loss": scalar, and other scalars to log}."""

    def encode(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b d"]:
        """Features of whole images: the class token, or the pooled features where there is none."""
        return next(iter(encode(self.encoder, images).values()))

    def after_step(self, progress: float) -> None:
        """Called after each optimiser step with the share of the run that is done, 0..1: teachers, queues."""

    def picture(self, batch: Batch) -> Float[Tensor, "rows columns 3 h w"] | None:
        """A grid of images worth looking at, in the views' normalised values, without gradient; None = nothing."""
        return None
