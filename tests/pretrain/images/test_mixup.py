"""mixup, CutMix and label smoothing against a loop over samples, pixels and classes."""

import numpy as np
import pytest
import torch
from scipy.stats import beta, kstest

from eyespot.data_pipeline.errors import UserError
from eyespot.pretrain.images.mixup import MixConfig, cut_box, mix, soft_targets

CLASSES = 5
BOTH = MixConfig(mixup=0.8, cutmix=1.0, smoothing=0.1)


def batch(count: int = 6, height: int = 12, width: int = 10) -> tuple[torch.Tensor, torch.Tensor]:
    draws = torch.Generator().manual_seed(1)
    images = torch.randn(count, 3, height, width, generator=draws)
    return images, torch.randint(CLASSES, (count,), generator=draws)


def mixed(config: MixConfig, seed: int, images: torch.Tensor, labels: torch.Tensor):
    return mix(images, labels, num_classes=CLASSES, config=config, generator=torch.Generator().manual_seed(seed))


def weight_of_first(targets: torch.Tensor, labels: torch.Tensor, smoothing: float) -> float:
    """From the first row whose two labels differ."""
    row = next(row for row in range(len(labels)) if labels[row] != labels[-1 - row])
    return float((targets[row, labels[row]] - smoothing / CLASSES) / (1 - smoothing))


@pytest.mark.parametrize("config", [MixConfig(mixup=0.8, smoothing=0.1), MixConfig(mixup=0.2)])
@pytest.mark.parametrize("count", [6, 7])
def test_mixup_is_the_weighted_mean_of_each_pair(config, count):
    images, labels = batch(count)
    before = images.clone()
    for seed in range(5):
        found, targets = mixed(config, seed, images, labels)
        weight = weight_of_first(targets, labels, config.smoothing)
        for row in range(count):
            other = count - 1 - row
            expected = weight * images[row].double() + (1 - weight) * images[other].double()
            assert torch.allclose(found[row].double(), expected, atol=1e-5)
            for label in range(CLASSES):
                share = weight * (label == labels[row]) + (1 - weight) * (label == labels[other])
                smooth = (1 - config.smoothing) * share + config.smoothing / CLASSES
                assert abs(targets[row, label].item() - smooth) < 1e-6
    assert torch.equal(images, before), "the images of the batch are not mine to change"


def test_cutmix_weighs_labels_by_the_pixels_that_stayed():
    images, labels = batch()
    before, weights = images.clone(), set()
    for seed in range(30):
        found, targets = mixed(MixConfig(cutmix=1.0), seed, images, labels)
        foreign = found != images
        own = (~foreign[0, 0]).sum().item()
        rows, columns = np.nonzero(foreign[0, 0].numpy())
        if len(rows):
            assert len(rows) == (np.ptp(rows) + 1) * (np.ptp(columns) + 1), "a box"
        assert (foreign == foreign[0, 0]).all(), "the same box in all images"
        assert torch.equal(found, torch.where(foreign, images.flip(0), images))
        for row in range(len(images)):
            expected = torch.zeros(CLASSES, dtype=torch.float64)
            expected[labels[row]] += own / 120
            expected[labels[-1 - row]] += 1 - own / 120
            assert torch.allclose(targets[row].double(), expected, atol=1e-7)
        weights.add(own)
    assert len(weights) > 10
    assert torch.equal(images, before)


def test_without_anything_images_stay_and_targets_are_one_hot():
    images, labels = batch()
    found, targets = mixed(MixConfig(), 0, images, labels)
    assert torch.equal(found, images)
    assert torch.equal(targets, torch.nn.functional.one_hot(labels, CLASSES).float())


def test_smoothing_is_that_of_cross_entropy():
    logits, labels = torch.randn(40, CLASSES), torch.randint(CLASSES, (40,))
    ours = torch.nn.functional.cross_entropy(logits, soft_targets(labels, CLASSES, 0.1))
    assert torch.allclose(ours, torch.nn.functional.cross_entropy(logits, labels, label_smoothing=0.1))


def test_targets_sum_to_one_whatever_is_drawn():
    images, labels = batch(9)
    for seed in range(200):
        assert torch.allclose(mixed(BOTH, seed, images, labels)[1].sum(1), torch.ones(9), atol=1e-6)


@pytest.mark.parametrize("alpha", [0.2, 0.8, 2.0])
def test_mixups_weight_is_beta_distributed(alpha):
    images, labels = torch.zeros(2, 3, 1, 1), torch.tensor([0, 1])
    weights = [mixed(MixConfig(mixup=alpha), seed, images, labels)[1][0, 0].item() for seed in range(1500)]
    assert kstest(weights, beta(alpha, alpha).cdf).pvalue > 1e-3


def test_the_box_is_as_large_as_asked_where_it_is_not_clipped_and_lies_anywhere():
    draws, middles = np.random.default_rng(0), np.zeros((40, 60))
    for _ in range(4000):
        (rows, columns), kept = cut_box(40, 60, 0.75, draws)
        assert 0 <= rows.start < rows.stop <= 40 and 0 <= columns.start < columns.stop <= 60
        inside = min(rows.start, columns.start) > 0 and rows.stop < 40 and columns.stop < 60
        if inside:
            assert (rows.stop - rows.start, columns.stop - columns.start) == (20, 30)
            assert kept == 0.75
            middles[(rows.start + rows.stop) // 2, (columns.start + columns.stop) // 2] += 1
        else:
            assert 0.75 <= kept < 1
    seen = middles[12:28, 17:43]
    assert seen.sum() > 500 and (seen > 0).mean() > 0.8, "clipped boxes aside, each middle is as likely as another"
    assert cut_box(8, 8, 1.0, draws)[1] == 1


@pytest.mark.parametrize(("switch", "least", "most"), [(0.0, 0.0, 0.0), (0.5, 0.42, 0.58), (1.0, 1.0, 1.0)])
def test_cutmix_instead_of_mixup_as_often_as_asked(switch, least, most):
    images, labels = batch(2, 8, 8)
    config = MixConfig(mixup=1.0, cutmix=1.0, switch=switch)
    cuts = [
        ((found == images) | (found == images.flip(0))).all().item()
        for found, _ in (mixed(config, seed, images, labels) for seed in range(400))
    ]
    assert least <= np.mean(cuts) <= most


def test_the_generator_alone_decides():
    images, labels = batch()
    first, again, other = (mixed(BOTH, seed, images, labels) for seed in (3, 3, 4))
    assert torch.equal(first[0], again[0]) and torch.equal(first[1], again[1])
    assert not torch.equal(first[0], other[0])
    generator = torch.Generator().manual_seed(3)
    assert torch.equal(mix(images, labels, num_classes=CLASSES, config=BOTH, generator=generator)[0], first[0])
    later = mix(images, labels, num_classes=CLASSES, config=BOTH, generator=generator)
    assert not torch.equal(later[0], first[0]), "the generator moves on"


@pytest.mark.parametrize("wrong", [dict(mixup=-0.1), dict(cutmix=-1.0), dict(switch=1.5), dict(smoothing=1.0)])
def test_wrong_settings_are_named(wrong):
    [(name, value)] = wrong.items()
    with pytest.raises(UserError, match=f"^{name} {value}: .*$"):
        MixConfig(**wrong)
