from dataclasses import replace

import pytest
import torch

from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.loading.batch import Batch
from eyespot.pretrain.networks.encoders import EncoderConfig, make_encoder
from eyespot.pretrain.objectives.barlow_twins import BarlowTwins


def test_the_loss_is_the_correlations_distance_from_the_identity():
    """Of the projector's outputs, by numpy's own correlation."""
    torch.manual_seed(0)
    encoder = make_encoder(EncoderConfig(name="test_resnet", image_size=24))
    objective = BarlowTwins.Config(dim=6, weight=0.3).build(encoder, 24).double()
    views = [torch.randn(8, 3, 24, 24, dtype=torch.float64) for _ in range(2)]
    ids = torch.arange(8)
    found = objective(Batch(views=views, ids=ids, epochs=ids, labels=ids, seed=0))
    rows = objective.head(objective.encode(torch.cat(views)))
    both = torch.corrcoef(rows.view(2, 8, 6).permute(0, 2, 1).flatten(0, 1))[:6, 6:]
    off = both - both.diagonal().diag()
    expected = (1 - both.diagonal()).square().sum() + 0.3 * off.square().sum()
    assert found["loss"].item() == pytest.approx(expected.item(), rel=1e-3)  # which has no epsilon
    assert found["loss"].item() == pytest.approx((found["invariance"] + 0.3 * found["redundancy"]).item())


def test_two_views_of_different_kinds():
    config = BarlowTwins.Config()
    assert config.build(make_encoder(EncoderConfig(name="test_resnet")), 32).views().views == (
        replace(config.first, size=32),
        replace(config.second, size=32),
    )
    assert (config.first.blur, config.first.solarize, config.second.blur, config.second.solarize) == (1, 0, 0.1, 0.2)


def test_wrong_numbers_name_their_field():
    with pytest.raises(UserError, match=r"objective\.weight -1"):
        BarlowTwins.Config(weight=-1.0)
    with pytest.raises(UserError, match=r"data\.batch_size 1"):
        BarlowTwins.Config().check_batch(1)
