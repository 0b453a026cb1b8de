"""How large frames are shown, and which encoders can carry something."""

import numpy as np
import pytest
import torch

from eyespot.data_pipeline.errors import UserError
from eyespot.eval.encoders.subject import subjects_of
from eyespot.eval.protocols.propagation.carriers import Carrier, carried_shares, carriers_of


@pytest.mark.parametrize(
    ("size", "stride", "frame", "shown"),
    [
        (480, 16, (480, 854), (480, 832)),  # DINO's
        (476, 14, (480, 854), (476, 840)),
        (96, 8, (240, 427), (96, 168)),
        (96, 8, (427, 240), (168, 96)),
        (96, 8, (240, 240), (96, 96)),
    ],
)
def test_how_large_frames_are_shown(size, stride, frame, shown):
    subject = subjects_of("test_resnet", seed=0, pretrained=False)[0]
    carrier = Carrier(subject=subject, maps=None, stride=stride, size=size)
    assert carrier.shown(np.zeros((*frame, 3), np.uint8)) == shown


def test_an_encoder_of_one_size_is_refused():
    with pytest.raises(UserError, match="propagate shows whole frames, which are no squares") as caught:
        carriers_of(subjects_of("swin_tiny_patch4_window7_224", seed=0, pretrained=False), None, torch.device("cpu"))
    assert "\n" not in str(caught.value)


def test_a_size_that_the_stride_does_not_divide_is_refused():
    with pytest.raises(UserError, match=r"image-size 50: is no multiple of .* 8 pixels; try 48 or 56$"):
        carriers_of(subjects_of("test_resnet", seed=0, pretrained=False), 50, torch.device("cpu"))


def test_what_stands_still_keeps_its_shares():
    (carrier, *_) = carriers_of(subjects_of("test_resnet", seed=0, pretrained=False), 32, torch.device("cpu"))
    frame, asked = torch.randint(255, (32, 40, 3), dtype=torch.uint8).numpy(), []

    def first(grid: tuple[int, int]) -> torch.Tensor:
        asked.append(grid)
        return torch.ones(2, *grid) * torch.tensor([0.25, 0.75])[:, None, None]

    with torch.inference_mode():
        found = list(carried_shares(carrier, [frame] * 11, first, torch.device("cpu")))
    assert asked == [(4, 5)] and len(found) == 10
    for shares in found:
        torch.testing.assert_close(shares, first((4, 5)))
