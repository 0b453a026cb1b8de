"""DeepCluster: deep clustering for unsupervised learning of visual features (Caron et al. 2018, arXiv:1807.05520).

Between epochs the features of all images are clustered: PCA to 256 components, whitened, normalised, k-means (section
3.3). The clusters are the labels of the next epoch (equation 1), with c(i) the cluster of image i, K clusters and n_c
images in cluster c:

    L = -w_c(i) log softmax(head(encoder(x_i)))_c(i),   w_c = N / (K n_c),

averaged over the batch: in expectation that draws clusters evenly and then images of them, as the paper does so that
large clusters do not swallow the rest. A cluster that k-means leaves empty gets half of the largest.

What differs from the authors' code:
- They draw a new classifier after each clustering. Here the new clusters take over the numbers of the old ones that
  they share most images with, one to one, so the classifier goes on: what it has learned of them is not lost, and no
  parameter is overwritten, which engines that cut parameters up would have to know of.
- Their encoder sees the gradients of a gray image (Sobel), so that colours do not make the clusters. A released encoder
  is to see plain images; jittered and gray views stand in for it.
- k-means works on parts of the rows at a time, 20 passes, on rank 0. The others wait: some minutes for ImageNet and
  10,000 clusters, so ``rank_timeout_seconds`` must leave time for it.
- They take the gradient of a batch drawn evenly over clusters, here images are weighted: the same in expectation, and
  every image is seen once in an epoch.

To expect: AlexNet on ImageNet-1k, a linear classifier on its third block: 41.0 % (table 1; from memory).
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from annotated_types import Ge, Gt
from jaxtyping import Float, Int
from torch import Tensor, nn

from eyespot.data_pipeline.augment.views import RandomView, ViewSpec, sized_views
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.loading.batch import Batch
from eyespot.data_pipeline.terminal import plural
from eyespot.pretrain.distributed.collectives import take_from_first
from eyespot.pretrain.losses.kmeans import agreement, clustered, renumbered, whitened
from eyespot.pretrain.networks.encoders import feature_width
from eyespot.pretrain.networks.memory_bank import SampleIds, ids_tensor, rows_of
from eyespot.pretrain.objective import About, Objective


class DeepCluster(Objective):
    """Names the cluster that its own features put an image into."""

    only_encodes = True

    @dataclass(kw_only=True, slots=True)
    class Config(Objective.Config):
        """The paper's numbers (section 4.1)."""

        about: ClassVar = About(
            family="clustering",
            task="which cluster of its own features an image belongs to",
            paper="Caron et al.",
            year=2018,
            link="arXiv:1807.05520",
            expected="AlexNet, ImageNet-1k, linear on block 3: 41.0 %",
        )

        num_clusters: Annotated[int, Ge(2)] = 10_000
        """K; the paper finds ten times as many as there are classes to be best."""
        refresh_epochs: Annotated[float, Gt(0)] = 1.0
        """Epochs between two clusterings, the first of them before the first step."""
        pca_dim: Annotated[int, Ge(1)] = 256
        """Principal components that are clustered, at most."""
        view: RandomView = RandomView(  # noqa: RUF009 - frozen
            scale=(0.08, 1.0), jitter=(0.4, 0.4, 0.4, 0.1), grayscale=0.5
        )
        """How the view is made."""

        def build(self, encoder: nn.Module, image_size: int) -> "DeepCluster":
            """DeepCluster around any encoder."""
            return DeepCluster(self, encoder, image_size)

    ids: Int[Tensor, " n"]
    """(N,) sample ids, ascending."""
    assigned: Int[Tensor, " n"]
    """(N,) the cluster of each; 0 before the first clustering."""
    sizes: Int[Tensor, " k"]
    """(K,) samples in each cluster."""
    agreement: Float[Tensor, ""]
    """Normalised mutual information of the last clustering with the one before; 0 until there are two."""

    def __init__(self, config: Config, encoder: nn.Module, image_size: int) -> None:
        super().__init__()
        self.config, self.image_size, self.encoder = config, image_size, encoder
        self.refresh_epochs = config.refresh_epochs
        self.head = nn.Linear(feature_width(encoder), config.num_clusters)

    def prepare(self, ids: SampleIds) -> None:
        """Everything in one cluster."""
        if len(ids) < self.config.num_clusters:
            raise UserError(
                f"objective.num_clusters {self.config.num_clusters}: more than the"
                f" {plural(len(ids), 'image')}; lower it"
            )
        self.register_buffer("ids", ids_tensor(ids))
        self.register_buffer("assigned", torch.zeros_like(self.ids))
        self.register_buffer("sizes", torch.zeros(self.config.num_clusters, dtype=torch.int64))
        self.sizes[0] = len(ids)
        self.register_buffer("agreement", torch.zeros(()))

    def views(self) -> ViewSpec:
        """One view."""
        return sized_views(self.image_size, self.config.view)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """{"loss"}: log(num_clusters) where nothing was learned; the share of clusters named right; the agreement."""
        logits = self.head(self.encode(batch.views[0]))
        answers = self.assigned[rows_of(self.ids, batch.ids_on_device())]
        losses = F.cross_entropy(logits.to(torch.promote_types(logits.dtype, torch.float32)), answers, reduction="none")
        weights = len(self.ids) / (self.config.num_clusters * self.sizes[answers].to(losses.dtype))
        accuracy = (logits.argmax(1) == answers).float().mean()
        return {"loss": (weights * losses).mean(), "accuracy": accuracy, "cluster_agreement": self.agreement.clone()}

    @torch.no_grad()
    def refresh(self, features: Float[Tensor, "n d"] | None) -> None:
        """Clusters anew, on rank 0."""
        if features is not None:
            old = self.assigned.cpu().numpy()
            new = clustered(whitened(features, self.config.pca_dim), self.config.num_clusters)
            self.agreement.fill_(agreement(new, old))
            self.assigned.copy_(torch.from_numpy(renumbered(new, old, self.config.num_clusters)))
        for buffer in (self.assigned, self.agreement):
            take_from_first(buffer)
        self.sizes.copy_(torch.bincount(self.assigned, minlength=len(self.sizes)))
