import pytest

from eyespot.pretrain.objectives.rotation import Rotation
from eyespot.pretrain.recipes.datasets import on_cifar10, on_digits, on_imagenet


def test_epochs_become_steps_and_what_is_named_arrives():
    run = on_imagenet(Rotation.Config(), epochs=100, batch_size=1024, name="lars", lr=0.3, weight_decay=1e-6)
    assert run.steps == pytest.approx(100 * 1_281_167 / 1024, abs=1)
    assert run.optim.warmup_steps == pytest.approx(10 * 1_281_167 / 1024, abs=1)
    assert (run.optim.name, run.optim.lr, run.optim.weight_decay) == ("lars", 0.3, 1e-6)
    assert (run.encoder.name, run.encoder.image_size, run.data.normalize) == ("resnet50", 224, "imagenet")


def test_cifar10_has_a_small_stem_and_its_own_colours():
    run = on_cifar10(Rotation.Config(), epochs=10, batch_size=500, warmup_epochs=1)
    assert (run.steps, run.optim.warmup_steps) == (1000, 100)
    assert (run.encoder.small_stem, run.encoder.image_size, run.data.normalize) == (True, 32, "dataset")


def test_digits_take_a_minute():
    run = on_digits(Rotation.Config(), lr=1e-3)
    assert (run.steps, run.data.batch_size, run.precision) == (300, 256, "fp32")
    assert (run.optim.lr, run.optim.warmup_steps) == (1e-3, 20)
