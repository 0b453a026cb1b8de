"""SimCLR with views of two kinds, as a recipe of one's own: what benchmarks/simclr_matrix.py trains."""

from dataclasses import dataclass

from torch import nn

from eyespot.data_pipeline.augment.views import RandomView, ViewSpec
from eyespot.pretrain.config import Run
from eyespot.pretrain.objective import in_one_pass
from eyespot.pretrain.objectives.simclr import SimCLR
from eyespot.pretrain.recipe_lookup import make_run

WHOLE = RandomView(scale=(1.0, 1.0), ratio=(1.0, 1.0), flip=0.0)
"""The image as it is."""


class OneBranch(SimCLR):
    """SimCLR whose second view alone is altered."""

    @dataclass(kw_only=True, slots=True)
    class Config(SimCLR.Config):
        """The other view's."""

        second: RandomView = WHOLE
        """How the second view is made; ``view`` is how the first one is."""

        def build(self, encoder: nn.Module, image_size: int) -> "OneBranch":
            """Around any encoder."""
            return OneBranch(self, encoder, image_size)

    config: Config

    def views(self) -> ViewSpec:
        """One view of each kind."""
        return in_one_pass(self.image_size, view=self.config.view, second=self.config.second)


def one_branch() -> Run:
    """SimCLR's recipe for CIFAR-10, with the whole image in both branches."""
    run = make_run("simclr_r18_cifar10")
    run.objective = OneBranch.Config(temperature=0.5, view=WHOLE)
    return run
