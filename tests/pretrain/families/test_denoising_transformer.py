"""What denoising transformers share (their losses have tests of their own): positions, and what reaches the decoder."""

import pytest
import torch

from eyespot.data_pipeline.errors import UserError
from eyespot.pretrain.images.patchify import patchify
from eyespot.pretrain.networks.encoders import EncoderConfig, make_encoder
from eyespot.pretrain.networks.positions import sincos_positions
from eyespot.pretrain.objectives.diffusion import Diffusion

SIZE, PATCH = 16, 4


def make(encoder: str = "test_vit", **changes) -> Diffusion:
    torch.manual_seed(0)
    made = make_encoder(EncoderConfig(name=encoder, image_size=SIZE, patch_size=PATCH if "vit" in encoder else None))
    return Diffusion.Config(**{"decoder_dim": 24, "decoder_depth": 1, "decoder_heads": 3} | changes).build(made, SIZE)


def test_positions_are_fixed_in_encoder_and_decoder():
    objective = make()
    dim = objective.encoder.embed_dim
    assert torch.equal(objective.encoder.pos_embed[0, -16:], sincos_positions(dim, 4, 4).float())
    assert torch.equal(objective.decoder_positions[0], sincos_positions(24, 4, 4).float())
    assert not objective.encoder.pos_embed.requires_grad


def test_what_is_added_reaches_the_patch_that_it_was_added_to():
    """Without blocks the decoder looks at each patch alone."""
    objective, images = make(decoder_depth=0), torch.randn(2, 3, SIZE, SIZE)
    added = torch.zeros(2, 16, 24)
    added[:, 5] = torch.randn(24)
    changed = (objective.decode(images, added) - objective.decode(images)).abs().amax(2) > 1e-6
    assert changed[:, 5].all() and changed.sum() == 2


def test_an_image_is_made_of_its_patches():
    images = torch.randn(2, 3, SIZE, SIZE)
    assert torch.equal(make().image_of(patchify(images, PATCH)), images)


def test_decoded_patches_are_in_single_precision_under_autocast():
    with torch.autocast("cpu", torch.bfloat16):
        assert make().decode(torch.randn(1, 3, SIZE, SIZE)).dtype == torch.float32


def test_what_does_not_fit_is_refused():
    with pytest.raises(UserError, match=r"objective\.decoder_dim 24: must be a multiple of objective\.decoder_heads 5"):
        make(decoder_heads=5)
    with pytest.raises(UserError, match=r"objective\.decoder_dim 33: must be a multiple of 4"):
        make(decoder_dim=33)
    with pytest.raises(UserError, match="Diffusion needs a plain vision transformer"):
        make("test_resnet")
