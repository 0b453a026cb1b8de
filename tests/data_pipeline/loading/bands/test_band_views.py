"""Which steps of a view only colours can take."""

import pytest

from eyespot.data_pipeline.augment.views import RandomView
from eyespot.data_pipeline.loading.bands.band_views import only_of_rgb


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (dict(jitter=(0.4, 0.4, 0.0, 0.0), blur=0.5, noise=0.1, turn=0.1, erase=0.1, cutout=0.1), ""),
        (dict(jitter=(0.4, 0.3, 0.2, 0.1), grayscale=0.2), "set jitter 0.4 0.3 0 0, grayscale 0"),
        (dict(solarize=0.2, sobel=0.1), "set solarize 0, sobel 0"),
        (dict(rand_augment=9.0), "set rand-augment 0"),
    ],
    ids=["any", "simclr", "byol", "labels"],
)
def test_what_is_of_colours_is_named_with_what_to_set(asked: dict, said: str):
    found = only_of_rgb(RandomView(size=32, **asked))
    assert found.endswith(said) and bool(found) == bool(said)
