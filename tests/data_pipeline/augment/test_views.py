"""Views: what cannot be cut or altered so is one line; sizes that a recipe leaves open follow the encoder."""

import dataclasses

import pytest

from eyespot.data_pipeline.augment.views import (
    MIN_BLURRED,
    CenterView,
    Clip,
    MaskView,
    RandomView,
    ViewSpec,
    center_view,
    sized_views,
)
from eyespot.data_pipeline.errors import UserError


@pytest.mark.parametrize(
    ("field", "wrong", "words"),
    [
        ("flip", -0.1, "flip -0.1: "),
        ("jitter_probability", 1.5, "jitter_probability 1.5: "),
        ("grayscale", 2.0, "grayscale 2.0: "),
        ("blur", -1.0, "blur -1.0: "),
        ("solarize", 1.01, "solarize 1.01: "),
        ("erase", 3.0, "erase 3.0: "),
        ("jitter", (0.4, -0.1, 0.0, 0.0), "jitter (0.4, -0.1, 0.0, 0.0): "),
        ("jitter", (0.4, 0.4, 0.4, 0.6), "at most 0.5 turns"),
        ("rand_augment", 10.5, "rand_augment 10.5: "),
        ("rand_augment_std", -0.5, "rand_augment_std -0.5: "),
        ("blur_sigma", (2.0, 0.1), "blur_sigma (2.0, 0.1): "),
        ("blur_sigma", (0.0, 0.1), "blur_sigma (0.0, 0.1): "),
        ("sobel", 1.1, "sobel 1.1: "),
        ("turn", -0.1, "turn -0.1: "),
        ("noise", 2.0, "noise 2.0: "),
        ("noise_sigma", (0.2, 0.1), "noise_sigma (0.2, 0.1): must be above 0 and at most 10.0, the smaller one first"),
        ("noise_sigma", (0.1, float("inf")), "noise_sigma (0.1, inf): "),
        ("cutout", 1.5, "cutout 1.5: "),
        ("cutout_side", 0.0, "cutout_side 0.0: "),
    ],
)
def test_what_no_view_can_be_is_one_line(field, wrong, words):
    with pytest.raises(UserError) as caught:
        RandomView(**{field: wrong})
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_the_ends_of_the_ranges_are_allowed():
    RandomView(flip=0.0, jitter=(0.0, 3.0, 0.0, 0.5), grayscale=1.0, rand_augment=10.0, rand_augment_std=0.0)
    RandomView(blur=1.0, blur_sigma=(0.1, 0.1), size=MIN_BLURRED)
    RandomView(sobel=1.0, turn=1.0, noise=1.0, noise_sigma=(0.1, 0.1), cutout=1.0, cutout_side=2.0)


def test_a_view_too_small_to_blur_is_refused_as_soon_as_its_size_is_known():
    with pytest.raises(UserError, match=f"a view of {MIN_BLURRED - 1} pixels is too small to blur"):
        RandomView(blur=0.5, size=MIN_BLURRED - 1)
    open_size = RandomView(blur=0.5)
    with pytest.raises(UserError, match="a view of 16 pixels is too small to blur"):
        sized_views(16, open_size)


def test_a_view_without_a_size_is_as_large_as_what_the_encoder_sees():
    small, whole = RandomView(size=8, flip=0.25), RandomView(solarize=0.2)
    spec = sized_views(32, whole, small)
    assert spec.views == (dataclasses.replace(whole, size=32), small)
    assert whole.size == 0


@pytest.mark.parametrize("size", [1, 28, 32, 64])
def test_the_centre_of_a_small_image_is_all_of_it(size):
    assert center_view(size) == CenterView(resize=size, size=size)


@pytest.mark.parametrize(("size", "crop_share", "resize"), [(224, 0.875, 256), (224, 0.9, 248), (65, 0.875, 74)])
def test_the_centre_of_a_large_image_is_its_share(size, crop_share, resize):
    assert center_view(size, crop_share) == CenterView(resize=resize, size=size)


def test_what_came_later_is_written_down_only_where_it_is_set():
    """Digests and file names are made of these words."""
    assert repr(CenterView(resize=256, size=224)) == "CenterView(resize=256, size=224)"
    assert repr(CenterView(resize=9, size=8, mode="squash")) == "CenterView(resize=9, size=8, mode='squash')"
    assert repr(RandomView(size=32)) == (
        "RandomView(size=32, scale=(0.2, 1.0), ratio=(0.75, 1.3333333333333333), flip=0.5, jitter=(0.0, 0.0, 0.0, 0.0),"
        " jitter_probability=0.8, grayscale=0.0, blur=0.0, blur_sigma=(0.1, 2.0), solarize=0.0, rand_augment=0.0,"
        " rand_augment_std=0.5, erase=0.0)"
    )
    clip = Clip(8, stride=2)
    assert repr(clip) == "Clip(frames=8, stride=2, place='random', pick='even', stream=0, by_motion=False)"
    assert repr(CenterView(resize=8, size=8, clip=clip, partner=True)) == (
        f"CenterView(resize=8, size=8, clip={clip!r}, partner=True)"
    )
    assert repr(RandomView(clip=clip)) != repr(RandomView(clip=Clip(8)))


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (dict(frames=0), "frames 0: must lie between 1 and 99999"),
        (dict(frames=2, stride=0), "stride 0: "),
        (dict(frames=2, stride=2**62), f"stride {2**62}: must lie between 1 and 99999"),
        (dict(frames=2, stream=-1), "stream -1: "),
        (dict(frames=4, pick="ordered"), "frames 4: pick 'ordered' gives 5 frames; set it to 5"),
        (dict(frames=5, pick="near_far"), "frames 5: pick 'near_far' gives 3 frames; set it to 3"),
        (dict(frames=5, place="center", by_motion=True), "by_motion True: place 'center' draws nothing"),
    ],
)
def test_what_no_clip_can_be_is_one_line(wrong, words):
    with pytest.raises(UserError) as caught:
        Clip(**wrong)
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_a_view_spec_knows_the_shapes_of_what_it_asks_for():
    clip = RandomView(size=16, clip=Clip(4))
    spec = ViewSpec(views=(RandomView(size=8), clip, MaskView(of=1), MaskView(of=0), CenterView(resize=9, size=7)))
    assert spec.shapes() == [(3, 8, 8), (4, 3, 16, 16), (4, 1, 16, 16), (1, 8, 8), (3, 7, 7)]
    assert spec.num_frames == 4 and spec.shown(2) is clip
    images, masks = 3 * 64 + 4 * 3 * 256 + 3 * 49, 4 * 256 + 64
    assert spec.sample_bytes(2) == 2 * images + masks
    assert ViewSpec(views=(RandomView(size=8),)).num_frames == 1


def test_masks_of_no_view_or_of_one_that_moves_its_pixels_are_refused():
    image = RandomView(size=8)
    for of in (1, 2):
        with pytest.raises(UserError, match=rf"views\[1\].of {of}: is no view of images; choose one of 0$"):
            ViewSpec(views=(image, MaskView(of=of)))
    with pytest.raises(UserError, match=r"views\[0\].of 1: rand_augment 9.0 of that view moves pixels"):
        ViewSpec(views=(MaskView(of=1), dataclasses.replace(image, rand_augment=9.0)))
    with pytest.raises(UserError, match=r"views\[0\].of 1: turn 0.75 of that view moves pixels, .*; set it to 0$"):
        ViewSpec(views=(MaskView(of=1), dataclasses.replace(image, turn=0.75)))
    ViewSpec(views=(MaskView(of=1), dataclasses.replace(image, sobel=0.5, noise=0.5, cutout=0.5)))
