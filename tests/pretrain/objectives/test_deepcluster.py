"""DeepCluster: the loss against a slow reference; clusters belong to samples, keep their numbers and weigh alike."""

import numpy as np
import pytest
import torch

from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.loading.batch import Batch
from eyespot.pretrain.networks.encoders import EncoderConfig, make_encoder
from eyespot.pretrain.objectives.deepcluster import DeepCluster

SIZE, CLUSTERS = 16, 3
IDS = torch.tensor([2, 3, 5, 7, 11, 13, 17, 19, 23, 29])


def make_objective() -> DeepCluster:
    torch.manual_seed(0)
    encoder = make_encoder(EncoderConfig(name="test_vit", image_size=SIZE, patch_size=4))
    objective = DeepCluster.Config(num_clusters=CLUSTERS).build(encoder, SIZE)
    objective.prepare(IDS)
    return objective.double()


def make_batch(ids: torch.Tensor) -> Batch:
    images = torch.randn(len(ids), 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return Batch(views=[images], ids=ids, epochs=torch.zeros_like(ids), labels=torch.zeros_like(ids), seed=0)


def make_features(shift: float = 0.0) -> torch.Tensor:
    """Five samples in one place, three in another, two in a third."""
    noise = 0.01 * torch.randn(10, 2, generator=torch.Generator().manual_seed(1))
    places = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    return places[torch.tensor([0, 0, 0, 0, 0, 1, 1, 1, 2, 2])] + noise + shift


def test_the_loss_is_the_slow_reference():
    objective = make_objective()
    objective.refresh(make_features())
    clusters = dict(zip(IDS.tolist(), objective.assigned.tolist(), strict=True))
    batch, losses = make_batch(torch.tensor([29, 2, 13, 3])), []
    for image, number in zip(batch.views[0], batch.ids.tolist(), strict=True):
        logits = objective.head(objective.encode(image[None]))[0]
        size = sum(cluster == clusters[number] for cluster in clusters.values())
        losses.append(len(IDS) / (CLUSTERS * size) * (logits.exp().sum().log() - logits[clusters[number]]))
    assert objective(batch)["loss"].item() == pytest.approx(torch.stack(losses).mean().item(), rel=1e-10)


def test_every_cluster_weighs_the_same():
    """Over all samples, each cluster's share of the loss's weights is 1 / K, whatever its size."""
    objective = make_objective()
    objective.refresh(make_features())
    assert sorted(objective.sizes.tolist()) == [2, 3, 5]
    with torch.no_grad():
        objective.head.weight.zero_()
        objective.head.bias.zero_()
    assert objective(make_batch(IDS))["loss"].item() == pytest.approx(np.log(CLUSTERS))


def test_the_same_clusters_keep_their_numbers():
    objective = make_objective()
    objective.refresh(make_features())
    first = objective.assigned.clone()
    assert objective.agreement == 0  # there was none before
    objective.refresh(make_features(0.3).flip(1))
    assert torch.equal(objective.assigned, first)
    assert objective(make_batch(IDS))["cluster_agreement"] == pytest.approx(1)


def test_the_clusters_are_part_of_the_checkpoint():
    objective, other = make_objective(), make_objective()
    objective.refresh(make_features())
    other.load_state_dict(objective.state_dict())
    assert torch.equal(other.assigned, objective.assigned) and torch.equal(other.sizes, objective.sizes)


def test_wrong_numbers_name_their_field():
    with pytest.raises(UserError, match=r"objective\.num_clusters 3: more than the 2 images; lower it"):
        make_objective().prepare(torch.arange(2))
    for field, value in (("num_clusters", 1), ("pca_dim", 0), ("refresh_epochs", 0.0)):
        with pytest.raises(UserError, match=rf"objective\.{field} {value}"):
            DeepCluster.Config(**{field: value})
