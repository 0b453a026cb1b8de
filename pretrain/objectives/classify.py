"""Classify: supervised training of an encoder with a head, or of the head alone on a frozen encoder.

Loss: cross-entropy of the softmax of the head's logits against the (mixed, smoothed) targets,

    l = -1/b sum over i, c of  t_ic log softmax(head(encoder(x_i)))_c.

It is what fine-tuning, linear probing as in papers and attentive probing train with. What each head is:

- linear: one linear layer on the class token, or on the average of the patches.
- batchnorm: the same after a batch norm without scale and shift (linear probing of MAE, He et al. 2021,
  arXiv:2111.06377, A.1; Doersch et al. 2015, arXiv:1505.05192).
- attentive: learned queries attend once to all tokens of the encoder, each head to its own share of the channels, and
  a linear layer reads the mean of their answers: AIM's attentive probe (El-Nouby et al. 2024, arXiv:2401.08541), with
  its batch norm without scale and shift on the tokens. I-JEPA's family (V-JEPA, Bardes et al. 2024, arXiv:2404.08471)
  has one query too, and an MLP with a residual after it, which this one leaves out.

What differs from MAE's fine-tuning code: the average is taken of tokens that the encoder's own last norm has seen,
where theirs takes the average first and gives it a new norm; class token and positions decay like matrices do.

To expect: ViT-B/16 fine-tuned on ImageNet-1k from MAE's 1600 epochs: 83.6 %; linear probe 68.0 % (tables 3 and 10).
"""

from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal, cast

import torch
import torch.nn.functional as F
from annotated_types import Ge
from jaxtyping import Float
from torch import Tensor, nn

from eyespot.data_pipeline.augment.views import RandomView, ViewSpec, sized_views
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.loading.batch import Batch
from eyespot.pretrain.images.mixup import MixConfig, mix
from eyespot.pretrain.networks.encoders import feature_width, features, mean_features
from eyespot.pretrain.networks.heads import AttentivePool
from eyespot.pretrain.objective import About, Labels, Objective


class Classify(Objective):
    """Names what is in each image."""

    @dataclass(kw_only=True, slots=True)
    class Config(Objective.Config):
        """What is trained on labels, and how images and labels are made harder."""

        about: ClassVar = About(
            family="labels",
            task="the label",
            paper="He et al.",
            year=2021,
            link="arXiv:2111.06377",
            needs="labels",
            expected="ViT-B/16, ImageNet-1k, fine-tuned from MAE: 83.6 %",
        )

        num_classes: Annotated[int, Ge(2)] = 1000
        """Classes of the data."""
        head: Literal["linear", "batchnorm", "attentive"] = "linear"
        """linear = a linear layer; batchnorm = the same after a batch norm without scale and shift; attentive = learned
        queries look at all tokens, then a linear layer."""
        pool: Literal["auto", "mean"] = "auto"
        """What linear and batchnorm see: auto = the class token, or pooled features where there is none; mean = the
        average of the patches."""
        num_queries: Annotated[int, Ge(1)] = 1
        """Of an attentive head."""
        frozen: bool = False
        """The encoder stays as it is: only the head learns."""
        mix: MixConfig = field(default_factory=MixConfig)
        """Mixup, CutMix and label smoothing."""
        view: RandomView = RandomView(scale=(0.08, 1.0))  # noqa: RUF009 - frozen
        """How the view is made."""

        def __post_init__(self) -> None:
            Objective.Config.__post_init__(self)
            if self.head == "attentive" and self.pool != "auto":
                raise UserError(f"objective.pool {self.pool!r}: an attentive head sees all tokens; leave it out")

        def needs_labels(self) -> Labels:
            """Each image has its target."""
            return "all"

        def build(self, encoder: nn.Module, image_size: int) -> "Classify":
            """A classifier around any encoder."""
            return Classify(self, encoder, image_size)

        def check_batch(self, batch_size: int) -> None:
            """A batch norm needs company."""
            if self.head != "linear" and batch_size < 2:
                raise UserError(
                    f"data.batch_size {batch_size}: head {self.head} has a batch norm, so it needs 2 or more"
                )

    def __init__(self, config: Config, encoder: nn.Module, image_size: int) -> None:
        super().__init__()
        self.config, self.image_size, self.encoder = config, image_size, encoder
        self.num_classes = config.num_classes
        dim = feature_width(encoder)
        self.pool = AttentivePool(dim, config.num_queries) if config.head == "attentive" else None
        has_norm = config.head == "batchnorm"
        self.norm = nn.BatchNorm1d(dim, affine=False, eps=1e-6) if has_norm else nn.Identity()
        self.head = nn.Linear(dim, config.num_classes)
        # MAE's: a probe starts small, and a fine-tuned classifier at next to nothing, so as not to shake the encoder.
        nn.init.trunc_normal_(self.head.weight, std=0.01 if config.frozen else 2e-5)
        nn.init.zeros_(self.head.bias)
        encoder.requires_grad_(not config.frozen)
        self.train()

    def views(self) -> ViewSpec:
        """One view."""
        return sized_views(self.image_size, self.config.view)

    def train(self, mode: bool = True) -> "Classify":
        """A frozen encoder has no training mode: it drops nothing, and its batch norms note nothing."""
        super().train(mode)
        if self.config.frozen:
            self.encoder.eval()
        return self

    def logits(self, images: Float[Tensor, "b _ h w"]) -> Float[Tensor, "b c"]:
        """The classifier's answer, before the softmax."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.config.frozen):
            seen = self.read(self.encoder, images)
        return self.head(self.norm(seen if self.pool is None else self.pool(seen)))

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """{"loss"}, and the share of views whose heaviest class is the classifier's first answer."""
        config, images = self.config, batch.views[0]
        # Drawn from the generator that the trainer seeds from the step and the place of the micro-batch.
        drawn = torch.Generator().manual_seed(int(torch.randint(2**62, ())))
        mixing = config.mix if self.training else MixConfig(smoothing=config.mix.smoothing)
        images, targets = mix(images, batch.labels, num_classes=config.num_classes, config=mixing, generator=drawn)
        logits = self.logits(images)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        targets = targets.to(logits.dtype)
        loss = F.cross_entropy(logits, targets)
        if not (mixing.mixup or mixing.cutmix):  # else each view shows two samples
            self.note_losses(lambda: F.cross_entropy(logits, targets, reduction="none"))
        return {"loss": loss, "accuracy": (logits.argmax(1) == targets.argmax(1)).float().mean()}

    def read(self, encoder: nn.Module, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b ..."]:
        """What the head gets: all tokens after the last norm (of a feature map its places), or one vector."""
        if self.pool is None:
            return (mean_features if self.config.pool == "mean" else features)(encoder, images)
        tokens = cast(Any, encoder).forward_features(images)
        return tokens if tokens.ndim == 3 else tokens.flatten(2).transpose(1, 2)
