import pytest
import torch

from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.loading.batch import Batch
from eyespot.pretrain.losses.redundancy_reduction import VICRegWeights
from eyespot.pretrain.networks.encoders import EncoderConfig, make_encoder
from eyespot.pretrain.objectives.vicreg import VICReg


def test_the_loss_is_its_terms_of_the_expanders_outputs():
    """Variance and covariance by torch.cov."""
    torch.manual_seed(0)
    encoder = make_encoder(EncoderConfig(name="test_resnet", image_size=24))
    weights = VICRegWeights(invariance=5.0, variance=3.0, covariance=2.0)
    objective = VICReg.Config(dim=6, weights=weights).build(encoder, 24).double()
    views = [torch.randn(8, 3, 24, 24, dtype=torch.float64) for _ in range(2)]
    ids = torch.arange(8)
    found = objective(Batch(views=views, ids=ids, epochs=ids, labels=ids, seed=0))
    x, y = objective.head(objective.encode(torch.cat(views))).chunk(2)
    expected = 5.0 * (x - y).square().mean()
    for rows in (x, y):
        matrix = torch.cov(rows.T)
        spread = matrix.diagonal()
        expected = expected + 3.0 * (1 - (spread + 1e-4).sqrt()).relu().mean() / 2
        expected = expected + 2.0 * (matrix - spread.diag()).square().sum() / 6
    assert found["loss"].item() == pytest.approx(expected.item(), rel=1e-12)
    assert {"invariance", "variance", "covariance"} < found.keys()


def test_wrong_numbers_name_their_field():
    with pytest.raises(UserError, match=r"data\.batch_size 1"):
        VICReg.Config().check_batch(1)
