"""VirTex: learning visual representations from textual annotations (Desai & Johnson 2021, arXiv:2006.06666).

An encoder's grid of features is all that two small decoders see of an image; one says its caption forwards, the other
backwards. With c_0 ... c_n a caption's tokens, from the one that begins it to the one that ends it, v the grid, and p
and q what the decoders hold likely (section 3.1),

    L = -mean over captions of  1/n [ sum_1^n log p(c_i | c_0 ... c_i-1, v) + sum_0^n-1 log q(c_i | c_n ... c_i+1, v) ]:

forwards the token that ends a caption is asked, backwards that which begins it.

``networks/text/captioner.py`` has the decoders. The grid is the encoder's last feature map, or a vision transformer's
patches; the class token of one of those is read by nobody.

What differs from the authors' code: a caption's loss is the mean over its own tokens, theirs the mean over all tokens
of a batch, which would depend on how the batch is cut. No dropout, which would draw anew on other ranks (theirs: 0.1).
Images are not flipped; they flip some, and swap "left" and "right" in the caption. Tokens are CLIP's 49,408, theirs
10,000 pieces fitted to COCO.

To expect: ResNet-50, COCO captions, linear: VOC07 88.7 mAP, ImageNet-1k 53.8 % (from a table of the authors').
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Ge, Le
from jaxtyping import Float, Int
from torch import Tensor, nn

from eyespot.data_pipeline.augment.views import RandomView, TextView, ViewSpec, sized_views
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.loading.batch import Batch
from eyespot.data_pipeline.loading.members.tokenizer import load_tokenizer
from eyespot.pretrain.networks.dense_maps import DenseFeatures
from eyespot.pretrain.networks.text.captioner import Captioner
from eyespot.pretrain.networks.text.text_transformer import check_text_heads
from eyespot.pretrain.objective import About, Objective, require_still, still


class VirTex(Objective):
    """Says the caption of an image, from either end."""

    scores_captions = True
    only_encodes = True

    @dataclass(kw_only=True, slots=True)
    class Config(Objective.Config):
        """The paper's widest head (section 4.2), which did best."""

        about: ClassVar = About(
            family="text",
            task="which word follows in an image's caption, and which comes before",
            paper="Desai & Johnson",
            year=2021,
            link="arXiv:2006.06666",
            needs="captions",
            expected="ResNet-50, COCO captions, ImageNet-1k, linear: 53.8 %",
        )
        text_width: Annotated[int, Ge(1)] = 2048
        """Channels of the decoders."""
        text_layers: Annotated[int, Ge(1), Le(1000)] = 1
        """Blocks of each decoder."""
        text_heads: Annotated[int, Ge(1)] = 32
        """Attention heads of a block."""
        view: RandomView = RandomView(scale=(0.2, 1.0), flip=0.0, jitter=(0.4, 0.4, 0.4, 0.4))  # noqa: RUF009 - frozen
        """How images are seen."""
        text: TextView = TextView(context=30)  # noqa: RUF009 - frozen
        """How captions are read."""

        def __post_init__(self) -> None:
            Objective.Config.__post_init__(self)
            check_text_heads(self.text_width, self.text_heads)
            require_still(self.view)

        def build(self, encoder: nn.Module, image_size: int) -> "VirTex":
            """Around any encoder with a feature map or patches."""
            return VirTex(self, encoder, image_size)

    config: Config

    def __init__(self, config: Config, encoder: nn.Module, image_size: int) -> None:
        super().__init__()
        self.config, self.image_size, self.encoder = config, image_size, encoder
        tokenizer = load_tokenizer(config.text.tokenizer, config.text.context)
        if tokenizer.end is None:
            raise UserError(
                f"objective.text.tokenizer {config.text.tokenizer}: its texts end without a token that says so, and"
                " virtex must know where padding begins; take clip, or one with such a token"
            )
        if tokenizer.start is None:
            raise UserError(
                f"objective.text.tokenizer {config.text.tokenizer}: its texts begin without a token that says so, and"
                " virtex would never be asked for their first word; take clip, or one with such a token"
            )
        self.grid = DenseFeatures(encoder, image_size, config.text_width, stride=image_size)
        self.captioner = Captioner(
            num_tokens=tokenizer.num_tokens,
            end=tokenizer.end,
            context=config.text.context,
            width=config.text_width,
            layers=config.text_layers,
            heads=config.text_heads,
        )

    def views(self) -> ViewSpec:
        """An image and one of its captions."""
        return ViewSpec(views=(*sized_views(self.image_size, self.config.view).views, self.config.text))

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """{"loss"}, the sum of both directions'; and each of them, nats a token."""
        likelihoods, counts = self._said(batch)
        losses = -(likelihoods / counts.clamp_min(1)[:, None]).mean(0)
        return {"loss": losses.sum(), "forwards": losses[0].detach(), "backwards": losses[1].detach()}

    def read(self, encoder: nn.Module, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b _ _ _"]:
        """The grid."""
        return self.grid.read(encoder, images)[0]

    def caption_log_likelihood(self, batch: Batch) -> tuple[Float[Tensor, " b"], Int[Tensor, " b"]]:
        """The mean of both directions."""
        likelihoods, counts = self._said(batch)
        return likelihoods.mean(1), counts

    def _said(self, batch: Batch) -> tuple[Float[Tensor, "b 2"], Int[Tensor, " b"]]:
        images, texts = batch.views
        places = self.grid([self.read(self.encoder, still(images))]).flatten(2).transpose(1, 2)
        return self.captioner(places, texts)
