"""Epochs are for people, steps for the loop: how papers' settings become a run's."""

CIFAR10_IMAGES = 50_000
IMAGENET_IMAGES = 1_281_167
DIGITS_IMAGES = 1_438  # that eyespot shards pack digits puts into train/


def steps(epochs: int, images: int, batch_size: int) -> int:
    """Steps of so many epochs: the sample stream drops nothing at an epoch's end."""
    return round(epochs * images / batch_size)
