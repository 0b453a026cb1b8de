"""Metric learning: pairs and triplets of a batch, by one of six losses of 2005 to 2019.

What is alike (two views of an image, or all views of images with the same label) comes to lie close together, and
everything else apart. With a the anchor, p its positives and n its negatives among all views of the batch, D the
Euclidean distance and s the inner product of the head's outputs, averaged over positives and anchors:

    contrastive   mean over p of 1/2 D(a, p)^2 + mean over n of 1/2 max(0, margin - D(a, n))^2
                  Hadsell, Chopra, LeCun 2006 (doi:10.1109/CVPR.2006.100), equation 4; the idea: Chopra et al. 2005
    triplet       max(0, D(a, p)^2 - D(a, n)^2 + margin), n by ``mining``
                  FaceNet, Schroff et al. 2015 (arXiv:1503.03832), equation 3
    n_pair        log(1 + sum over n of exp(s(a, n) - s(a, p))) + norm_weight |a|^2
                  Sohn 2016 (NIPS 29), equations 6 and 7
    lifted        1/2 max(0, log(sum over n of exp(margin - D(a, n)) + the same for p) + D(a, p))^2
                  Oh Song et al. 2016 (arXiv:1511.06452), equation 4
    nce           -log sigmoid(g(a, p)) - sum over n of log sigmoid(-g(a, n)), g = s / T - log(sum over n exp(s / T))
                  Gutmann & Hyvärinen 2010 (AISTATS 13; JMLR 13, 2012): binary, against all negatives as noise
    soft_nn       -log(sum over p of exp(-D^2 / T) / sum over p and n of exp(-D^2 / T))
                  Salakhutdinov & Hinton 2007; Frosst et al. 2019 (arXiv:1902.01889), equation 1

What differs from the papers: pairs are all that a batch has, not drawn beforehand, and each anchor counts alike. The
rows are unit vectors, as FaceNet's, but for n_pair and lifted, whose authors leave them as long as they are. N-pair's
negatives are both views of all others, its authors' one of each class. The temperature of soft_nn stays what it is;
Frosst et al. learn it. In nce the sum is an estimate of the normaliser, without gradient, where the first authors learn
a constant. Memory is that of a few matrices of own views x views of all ranks.

To expect: N-pair on Stanford Online Products: recall@1 67.7 % (Sohn 2016, table 3); lifted 62.5 % (Oh Song et al.);
both from memory, supervised, with a pretrained GoogLeNet. None of the papers learns from views alone.
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
import torch.nn.functional as F
from annotated_types import Ge, Gt
from jaxtyping import Float
from torch import Tensor, nn

from eyespot.data_pipeline.augment.views import RandomView, ViewSpec, sized_views
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.loading.batch import Batch
from eyespot.pretrain.families.contrastive_objective import Contrastive, Rows
from eyespot.pretrain.losses import metric_learning as metric_losses
from eyespot.pretrain.losses.feature_statistics import similarities
from eyespot.pretrain.losses.metric_learning import Mining, Pairs
from eyespot.pretrain.networks.encoders import feature_width
from eyespot.pretrain.networks.heads import mlp
from eyespot.pretrain.objective import About, Labels

MARGINS = {"contrastive": 1.0, "triplet": 0.2, "lifted": 1.0}
"""The papers'; the other losses have none."""
ANY_LENGTH = ("n_pair", "lifted")
"""Losses whose rows are not made unit vectors."""


class Metric(Contrastive):
    """Views that belong together lie closer than others."""

    only_encodes = True

    @dataclass(kw_only=True, slots=True)
    class Config(Contrastive.Config):
        """Which loss, and what it counts as alike."""

        about: ClassVar = About(
            family="metric",
            task="which views lie close together, pair by pair",
            paper="Hadsell et al. to Frosst et al.",
            year=2006,
            link="doi:10.1109/CVPR.2006.100",
            expected="N-pair, GoogLeNet, Stanford Online Products, recall@1: 67.7 %",
        )

        loss: Literal["contrastive", "triplet", "n_pair", "lifted", "nce", "soft_nn"] = "triplet"
        """contrastive = positive pairs together, negative ones a margin apart; triplet = positives nearer than mined
        negatives; n_pair = each positive against all negatives; lifted = against the negatives of both its ends; nce =
        positives told from noise; soft_nn = soft nearest neighbours."""
        positives: Literal["views", "labels"] = "views"
        """What belongs together: views = the two views of an image; labels = also all images with the same label, as
        far as they have one."""
        margin: Annotated[float, Gt(0)] | None = None
        """Of contrastive and lifted, a distance (the papers': 1); of triplet, between squared ones (0.2); None =
        those."""
        mining: Mining = "semi-hard"
        """The negative of a triplet: semi-hard = the nearest that is farther away than the positive; hardest = the
        nearest."""
        temperature: Annotated[float, Gt(0)] = 0.2
        """Of nce and soft_nn: what inner products or squared distances are divided by."""
        norm_weight: Annotated[float, Ge(0)] = 0.002
        """Of n_pair: weight of the rows' squared length."""
        hidden_dim: Annotated[int, Ge(1)] = 2048
        """Width of the head's hidden layer."""
        out_dim: Annotated[int, Ge(1)] = 128
        """Width of the head's output."""
        view: RandomView = RandomView(  # noqa: RUF009 - frozen
            scale=(0.2, 1.0), jitter=(0.4, 0.4, 0.4, 0.1), grayscale=0.2, blur=0.5
        )
        """How both views are made."""

        def __post_init__(self) -> None:
            Contrastive.Config.__post_init__(self)
            if self.margin is not None and self.loss not in MARGINS:
                raise UserError(f"objective.margin {self.margin}: objective.loss {self.loss} has none; leave it out")

        def needs_labels(self) -> Labels:
            """Where labels say what belongs together; an image without one has its other view."""
            return "some" if self.positives == "labels" else "none"

        def build(self, encoder: nn.Module, image_size: int) -> "Metric":
            """A metric from any encoder."""
            return Metric(self, encoder, image_size)

        def check_batch(self, batch_size: int) -> None:
            """One image alone has no negatives."""
            if batch_size < 2:
                raise UserError(f"data.batch_size {batch_size}: metric losses compare images, so they need 2 or more")

    def __init__(self, config: Config, encoder: nn.Module, image_size: int) -> None:
        super().__init__()
        self.config, self.image_size, self.encoder = config, image_size, encoder
        self.head = mlp(feature_width(encoder), config.hidden_dim, config.out_dim)

    def views(self) -> ViewSpec:
        """Two views of the same kind."""
        return sized_views(self.image_size, self.config.view, self.config.view)

    def embed(self, batch: Batch) -> Rows:
        """The head's output for both views, from one pass."""
        first, second = self.head(self.encode(torch.cat(batch.views))).chunk(2)
        return {"first": first, "second": second}

    def targets(self, batch: Batch) -> Rows:
        """Sample ids, and the labels as far as they count."""
        ids = batch.ids_on_device()
        return {"ids": ids, "labels": batch.labels if self.config.positives == "labels" else torch.full_like(ids, -1)}

    def compare(self, rows: Rows) -> dict[str, Tensor]:
        """{"loss"}: the chosen one; and how alike views of one image and of different ones are."""
        both = torch.cat([rows["first"], rows["second"]])
        ids, labels = (rows[name].repeat(2) for name in ("ids", "labels"))
        with torch.autocast(both.device.type, enabled=False):
            both = both.to(torch.promote_types(both.dtype, torch.float32))
            both = both if self.config.loss in ANY_LENGTH else F.normalize(both, dim=1)
            loss = self._losses(Pairs.of(both, ids, labels)).mean()
        return {"loss": loss, **similarities(rows["first"], rows["second"])}

    def _losses(self, pairs: Pairs) -> Float[Tensor, " m"]:
        config = self.config
        margin = config.margin or MARGINS.get(config.loss, 0.0)
        match config.loss:
            case "contrastive":
                return metric_losses.contrastive_loss(pairs, margin)
            case "triplet":
                return metric_losses.triplet_loss(pairs, margin, config.mining)
            case "n_pair":
                return metric_losses.n_pair_loss(pairs, config.norm_weight)
            case "lifted":
                return metric_losses.lifted_loss(pairs, margin)
            case "nce":
                return metric_losses.nce_loss(pairs, config.temperature)
            case "soft_nn":
                return metric_losses.soft_neighbours_loss(pairs, config.temperature)
