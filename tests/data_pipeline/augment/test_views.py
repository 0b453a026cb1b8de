"""Views: what cannot be cut or altered so is one line; sizes that a recipe leaves open follow the encoder."""

import dataclasses

import pytest

from eyespot.data_pipeline.augment.views import MIN_BLURRED, CenterView, RandomView, center_view, sized_views
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
    ],
)
def test_what_no_view_can_be_is_one_line(field, wrong, words):
    with pytest.raises(UserError) as caught:
        RandomView(**{field: wrong})
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_the_ends_of_the_ranges_are_allowed():
    RandomView(flip=0.0, jitter=(0.0, 3.0, 0.0, 0.5), grayscale=1.0, rand_augment=10.0, rand_augment_std=0.0)
    RandomView(blur=1.0, blur_sigma=(0.1, 0.1), size=MIN_BLURRED)


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
