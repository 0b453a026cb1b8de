"""What masked autoencoders share (their losses have tests of their own): the mask's share, the decoder's times."""

import pytest
import torch

from eyespot.data_pipeline.errors import UserError
from eyespot.pretrain.networks.encoders import EncoderConfig, make_encoder
from eyespot.pretrain.networks.positions import sincos_positions
from eyespot.pretrain.objectives.mae import MAE

SIZE, PATCH = 16, 4


class OfClips(MAE):
    """Three times of two frames each, where MAE has one."""

    def __init__(self, config: MAE.Config) -> None:
        encoder = make_encoder(EncoderConfig(name="test_vit", image_size=SIZE, patch_size=PATCH))
        super(MAE, self).__init__(config, encoder, SIZE, times=3, frames=2)


def make(**changes) -> OfClips:
    torch.manual_seed(0)
    return OfClips(MAE.Config(decoder_dim=24, decoder_depth=1, decoder_heads=3, **changes))


def test_every_time_of_a_clip_has_the_same_places_and_the_first_is_an_images():
    objective = make()
    positions = objective.get_buffer("decoder_positions")[0].unflatten(0, (3, 16))
    assert torch.equal(positions[0], sincos_positions(24, 4, 4).float())
    moved = positions - positions[0]
    assert torch.allclose(moved, moved[:, :1].expand_as(moved), atol=1e-6)
    assert not torch.allclose(moved[1], moved[2])


def test_as_many_patches_are_visible_at_each_time_and_all_their_pixels_are_predicted():
    objective = make()
    assert (objective.num_patches, objective.num_visible) == (48, 12)
    assert objective.decoder_pred.out_features == 2 * 3 * PATCH**2


@pytest.mark.parametrize("ratio", [0.99, 0.001])
def test_a_mask_that_leaves_nothing_to_see_or_to_find_out_is_refused(ratio):
    if ratio > 0.5:
        with pytest.raises(UserError, match=r"objective\.mask_ratio 0\.99"):
            make(mask_ratio=ratio)
    else:
        assert make(mask_ratio=ratio).num_visible == 45  # of 16 at each time, one is masked
