"""Which steps a view goes through, in which order, as often as asked; and the same bits in any batch."""

from collections import Counter
from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest
import torch
from color_peers import PEERS, noise, photographs
from PIL import Image
from scipy.stats import ks_2samp
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as tv

from eyespot.data_pipeline.augment.color import blur, brightness, contrast, hue, saturation, solarize
from eyespot.data_pipeline.augment.pipeline import NOTHING, OPERATIONS, Alteration, alter, view_alteration
from eyespot.data_pipeline.augment.views import CenterView, RandomView
from eyespot.data_pipeline.errors import UserError

STRONG = RandomView(size=64, jitter=(0.8, 0.8, 0.8, 0.2), grayscale=0.2, blur=0.5, solarize=0.2)
ALL = replace(STRONG, rand_augment=9.0, erase=0.5, sobel=0.3, turn=0.75)


def altered_by_torchvision(image, steps: list[int], amounts: list[float]):
    for step, amount in zip(steps, amounts, strict=True):
        if step != NOTHING:
            image = PEERS[OPERATIONS[step]](image, amount)
    return image


def all_orders() -> Alteration:
    """The 24 orders of a strong jitter; every other sample also blurred, every third solarized."""
    steps = np.full((24, 7), NOTHING, np.int8)
    steps[:, :4] = list(permutations(range(4)))
    steps[::2, 5], steps[::3, 6] = OPERATIONS.index(blur), OPERATIONS.index(solarize)
    numbers = np.random.default_rng(0).random((24, 7))
    amounts = np.where(steps == OPERATIONS.index(hue), 0.4 * numbers - 0.2, 0.3 + 1.5 * numbers).astype(np.float32)
    return Alteration(steps=steps, amounts=amounts)


def test_all_steps_in_every_order_follow_torchvision():
    """Against floating-point images (the same but for rounding), and against PIL, which rounds after every step."""
    alteration = all_orders()
    original = photographs(96).repeat(6, 1, 1, 1)
    found = original.clone()
    alter(found, alteration)
    errors, errors_of_pil = [], []
    for row in range(24):
        arguments = alteration.steps[row].tolist(), alteration.amounts[row].tolist()
        in_floats = altered_by_torchvision(original[row] / 255, *arguments) * 255
        in_pil = altered_by_torchvision(tv.to_pil_image(original[row].byte()), *arguments)
        errors.append((found[row] - in_floats).abs().mean().item())
        errors_of_pil.append((found[row] - tv.pil_to_tensor(in_pil)).abs().mean().item())
    assert max(errors) < 0.05
    assert max(errors_of_pil) < 2.5 and np.mean(errors_of_pil) < 1.2
    wrong = original.clone()
    alter(wrong, Alteration(steps=alteration.steps[::-1].copy(), amounts=alteration.amounts))
    assert (wrong - found).abs().mean() > 10, "the wrong order would pass"


@pytest.mark.parametrize("size", [20, 33, 64, 225])
def test_a_sample_has_the_same_bits_in_any_batch(size):
    count = 70
    alteration = drawn(replace(ALL, size=size), count)
    assert set(alteration.steps.ravel().tolist()) == {NOTHING, *range(len(OPERATIONS))}
    original = noise(count, size)
    together = original.clone()
    alter(together, alteration)
    for row in range(count):
        alone = original[row : row + 1].clone()
        alter(alone, alteration.rows(slice(row, row + 1)))
        assert torch.equal(alone[0], together[row])
    backwards = original.flip(0).clone()
    alter(backwards, Alteration(steps=alteration.steps[::-1].copy(), amounts=alteration.amounts[::-1].copy()))
    assert torch.equal(backwards.flip(0), together)
    part = original.clone()[2:40]  # memory that begins in the middle
    alter(part, alteration.rows(slice(2, 40)))
    assert torch.equal(part, together[2:40])
    torch.set_num_threads(3)
    try:
        threaded = original.clone()
        alter(threaded, alteration)
    finally:
        torch.set_num_threads(1)
    assert torch.equal(threaded, together)


def drawn(view: RandomView, count: int) -> Alteration:
    found = view_alteration(view, "view0", 0, np.zeros(count, int), np.arange(count))
    assert found is not None
    return found


def test_steps_are_drawn_as_often_as_asked():
    count = 24_000
    alteration = drawn(STRONG, count)
    jittered = alteration.steps[:, 0] != NOTHING
    assert abs(jittered.mean() - 0.8) < 0.01
    orders = Counter(map(tuple, alteration.steps[jittered, :4].tolist()))
    assert set(orders) == set(permutations(range(4)))
    assert all(abs(times / jittered.sum() - 1 / 24) < 0.006 for times in orders.values())
    for step, (operation, share) in enumerate([(saturation, 0.2), (blur, 0.5), (solarize, 0.2)], start=4):
        found = alteration.steps[:, step]
        assert set(found.tolist()) == {NOTHING, OPERATIONS.index(operation)}
        assert abs((found != NOTHING).mean() - share) < 0.01
    assert (alteration.amounts[:, 4] == 0).all(), "grayscale is no saturation at all"
    together = (alteration.steps[:, 5] != NOTHING) & (alteration.steps[:, 6] != NOTHING)
    assert abs(together.mean() - 0.1) < 0.01


@pytest.mark.parametrize("strength", [0.4, 1.3])
def test_amounts_are_distributed_like_torchvisions(strength):
    view = RandomView(size=32, jitter=(strength, strength, strength, 0.3), jitter_probability=1.0)
    alteration = drawn(view, 3000)
    torch.manual_seed(0)
    peer = v2.ColorJitter(strength, strength, strength, 0.3)
    theirs = [peer.make_params([]) for _ in range(3000)]
    for operation, name in enumerate(("brightness_factor", "contrast_factor", "saturation_factor", "hue_factor")):
        ours = alteration.amounts[:, :4][alteration.steps[:, :4] == operation]
        assert ks_2samp(ours, [each[name] for each in theirs]).pvalue > 1e-3
    sigmas = drawn(RandomView(size=32, blur=1.0, blur_sigma=(0.5, 1.5)), 3000).amounts[:, 5]
    torch.manual_seed(0)
    assert ks_2samp(sigmas, torch.empty(3000).uniform_(0.5, 1.5).numpy()).pvalue > 1e-3


def test_what_is_off_costs_nothing_and_changes_nothing():
    ids = np.arange(100)
    assert view_alteration(RandomView(size=32), "view0", 0, ids, ids) is None
    assert view_alteration(CenterView(), "view0", 0, ids, ids) is None
    only_hue = drawn(RandomView(size=32, jitter=(0.0, 0.0, 0.0, 0.1), jitter_probability=1.0), 100).steps
    assert ((only_hue == OPERATIONS.index(hue)).sum(1) == 1).all()
    assert ((only_hue == NOTHING).sum(1) == 6).all()


def test_views_and_epochs_of_a_sample_differ_and_do_not_depend_on_the_batch():
    ids, epochs = np.arange(50), np.repeat([0, 1], 25)
    first = view_alteration(ALL, "view0", 5, epochs, ids)
    other = view_alteration(ALL, "view1", 5, epochs, ids)
    alone = view_alteration(ALL, "view0", 5, epochs[30:31], ids[30:31])
    later = view_alteration(ALL, "view0", 5, epochs + 1, ids)
    assert first and other and alone and later
    assert (first.amounts != other.amounts).any(1).all()
    assert (first.amounts != later.amounts).any(1).all()
    assert (alone.steps == first.rows(slice(30, 31)).steps).all()
    assert (alone.amounts == first.rows(slice(30, 31)).amounts).all()


def test_pil_images_are_what_the_references_take():
    """The comparison with PIL above would be void if torchvision turned its images into tensors."""
    image = tv.to_pil_image(photographs(64)[0].byte())
    for operation, amount in ((brightness, 1.2), (contrast, 1.2), (saturation, 1.2), (hue, 0.1), (blur, 1.0)):
        assert isinstance(PEERS[operation](image, amount), Image.Image)


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        (dict(blur=1.5), "blur 1.5"),
        (dict(flip=-0.1), "flip -0.1"),
        (dict(jitter_probability=2.0), "jitter_probability 2.0"),
        (dict(jitter=(0.4, 0.4, 0.4, 0.6)), "hue"),
        (dict(jitter=(-0.4, 0.4, 0.4, 0.1)), "jitter"),
        (dict(blur_sigma=(2.0, 0.1)), "blur_sigma"),
        (dict(size=16, blur=0.5), "16 pixels"),
        (dict(rand_augment=11.0), "rand_augment 11.0"),
        (dict(rand_augment_std=-0.5), "rand_augment_std -0.5"),
        (dict(erase=1.25), "erase 1.25"),
    ],
)
def test_wrong_settings_are_named(wrong, named):
    with pytest.raises(UserError, match=named) as error:
        RandomView(**wrong)
    assert "\n" not in str(error.value)
