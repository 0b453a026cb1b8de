"""Denoising: each corruption does what it says, and the loss is measured against the clean image."""

import pytest
import torch

from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.loading.batch import Batch
from eyespot.pretrain.networks.encoders import EncoderConfig, make_encoder
from eyespot.pretrain.objectives.denoising import Denoising

COUNT, SIZE = 6, 16


def make_objective(**changes) -> Denoising:
    torch.manual_seed(0)
    encoder = make_encoder(EncoderConfig(name="test_vit", image_size=SIZE, patch_size=4))
    return Denoising.Config(hidden_dim=16, **changes).build(encoder, SIZE).double()


def make_batch(first: int = 0, count: int = COUNT) -> Batch:
    images = torch.randn(COUNT, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0)).double()
    ids = torch.arange(COUNT)[first : first + count]
    return Batch(views=[images[ids]], ids=ids, epochs=torch.zeros_like(ids), labels=ids, seed=0)


@pytest.mark.parametrize("corruption", ["masking", "gaussian", "salt_and_pepper"])
def test_the_loss_is_the_error_against_the_clean_image(corruption):
    """Sample by sample, pixel by pixel."""
    objective, batch = make_objective(corruption=corruption), make_batch()
    total = 0.0
    for number, clean in enumerate(batch.views[0]):
        seen = objective.corrupted(make_batch(number, 1))
        tokens = objective.encoder.forward_features(seen)[0, 1:]
        maps = tokens.T.reshape(1, -1, SIZE // 4, SIZE // 4)
        for one, other in zip(objective.decoder(maps).flatten().tolist(), clean.flatten().tolist(), strict=True):
            total += (one - other) ** 2
    assert objective(batch)["loss"].item() == pytest.approx(total / COUNT / (3 * SIZE**2), rel=1e-10)


def test_masked_pixels_are_the_mean_colour_and_the_others_untouched():
    batch = make_batch()
    seen, clean = make_objective(share=0.25).corrupted(batch), batch.views[0]
    masked = (seen == 0).all(1, keepdim=True)
    assert torch.equal(seen, clean * ~masked)
    assert masked.double().mean().item() == pytest.approx(0.25, abs=4 * (0.1875 / masked.numel()) ** 0.5)


def test_salt_and_pepper_are_the_images_own_extremes():
    batch = make_batch()
    seen, clean = make_objective(corruption="salt_and_pepper", share=0.4).corrupted(batch), batch.views[0]
    for image, original in zip(seen, clean, strict=True):
        pepper, salt = ((image == level).all(0) for level in (original.min(), original.max()))
        assert torch.equal(image[:, ~(pepper | salt)], original[:, ~(pepper | salt)])
        for grains in (pepper, salt):
            assert grains.double().mean().item() == pytest.approx(0.2, abs=4 * (0.16 / grains.numel()) ** 0.5)


def test_gaussian_noise_has_its_deviation():
    batch = make_batch()
    noise = make_objective(corruption="gaussian", deviation=0.3).corrupted(batch) - batch.views[0]
    assert noise.std().item() == pytest.approx(0.3, abs=4 * 0.3 / (2 * noise.numel()) ** 0.5)


def test_what_was_masked_does_not_reach_the_encoder():
    objective, batch = make_objective(), make_batch()
    seen = objective.corrupted(batch)
    batch.views = [torch.where(seen == 0, 7.0, batch.views[0])]
    assert torch.equal(objective.corrupted(batch), seen)


def test_noise_is_the_samples_own_and_new_in_each_epoch():
    objective, batch = make_objective(), make_batch()
    assert torch.equal(objective.corrupted(make_batch(2, 3)), objective.corrupted(batch)[2:5])
    later = make_batch()
    later.epochs = later.epochs + 1
    assert not torch.equal(objective.corrupted(later), objective.corrupted(batch))


def test_a_picture_shows_what_was_seen_decoded_and_clean():
    objective, batch = make_objective(), make_batch()
    seen, decoded, clean = objective.picture(batch)
    assert torch.equal(seen, objective.corrupted(batch).float())
    assert torch.equal(decoded, objective.decode(objective.corrupted(batch)).float())
    assert torch.equal(clean, batch.views[0].float())


@pytest.mark.parametrize("changes", [{"share": 1.0}, {"deviation": 0.0}, {"hidden_dim": 0}])
def test_wrong_numbers_name_their_field(changes):
    with pytest.raises(UserError, match=f"objective.{next(iter(changes))}"):
        Denoising.Config(**changes)
