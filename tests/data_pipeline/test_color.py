"""Colour jitter, grayscale, blur and solarize against torchvision, on scikit-learn's two photographs and on noise."""

from collections import Counter
from itertools import permutations

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import ks_2samp
from sklearn.datasets import load_sample_images
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as tv

from eyespot.data_pipeline.color import (
    NOTHING,
    NUM_DRAWS,
    OPERATIONS,
    Coloring,
    blur,
    brightness,
    contrast,
    gaussian_weights,
    hue,
    random_coloring,
    recolor,
    saturation,
    solarize,
    view_coloring,
)
from eyespot.data_pipeline.draws import uniforms
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.views import CenterView, RandomView

STRONG = RandomView(size=64, jitter=(0.8, 0.8, 0.8, 0.2), grayscale=0.2, blur=0.5, solarize=0.2)
GRAY_ERROR = 0.03
"""Levels: torchvision's weight of red is 0.2989, PIL's and ours is 0.299."""


def photographs(size: int) -> torch.Tensor:
    """(4, 3, size, size), whole levels."""
    images = [torch.from_numpy(image.copy()).permute(2, 0, 1) for image in load_sample_images().images]
    parts = [image[:, :, begin : begin + 427] for image in images for begin in (0, 200)]
    return torch.stack([tv.resize(part, [size, size], antialias=True) for part in parts]).float()


def noise(count: int, size: int) -> torch.Tensor:
    """Floating-point levels with whole ones, grays, and both ends among them."""
    levels = torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(0)) * 255
    levels[:, :, 0] = levels[:, :, 0].round()
    levels[:, :, 1] = levels[:, :1, 1]
    levels[:, :, 2] = (levels[:, :, 2] > 128) * 255.0
    levels[:, 1, 3] = levels[:, 0, 3]
    return levels


def gaussian_blur(image, sigma):
    taps = 2 * (v2.functional.get_size(image)[0] // 20) + 1
    return tv.gaussian_blur(image, [taps, taps], [sigma, sigma])


PEERS = {
    brightness: tv.adjust_brightness,
    contrast: tv.adjust_contrast,
    saturation: tv.adjust_saturation,
    hue: tv.adjust_hue,
    blur: gaussian_blur,
    solarize: lambda image, _: tv.solarize(image, 128 / 255 if isinstance(image, torch.Tensor) else 128),
}


@pytest.mark.parametrize(
    ("change", "amounts", "tolerance"),
    [
        (brightness, (0.0, 0.6, 1.0, 1.7), 1e-4),
        (contrast, (0.0, 0.4, 1.0, 1.8), 0.6 + GRAY_ERROR),  # the mean is of whole levels
        (saturation, (0.0, 0.4, 1.0, 1.8), GRAY_ERROR),
        (hue, (-0.5, -0.21, 0.0, 0.1, 0.5), 1e-3),
        (blur, (0.1, 0.5, 1.0, 1.99), 0.02),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
@pytest.mark.parametrize("size", [33, 96, 224])
def test_each_operation_is_torchvisions_on_floating_point_images(change, amounts, tolerance, size):
    for levels in (photographs(size), noise(3, size)):
        for amount in amounts:
            found = levels.clone()
            change(found, np.full(len(levels), amount, np.float32))
            expected = PEERS[change](levels / 255, amount) * 255
            assert (found - expected).abs().max() <= tolerance


def test_contrast_of_photographs_is_much_closer_than_its_bound():
    levels = photographs(224)
    found = levels.clone()
    contrast(found, np.full(4, 0.2, np.float32))
    assert (found - tv.adjust_contrast(levels / 255, 0.2) * 255).abs().max() < 0.05


def test_solarize_is_torchvisions_on_whole_levels_and_has_no_jump_between():
    levels = photographs(64)
    found = levels.clone()
    solarize(found, np.zeros(4, np.float32))
    assert (found == tv.solarize(levels.byte(), 128).float()).all()
    between = torch.linspace(127, 128, 3 * 16 * 16).view(1, 3, 16, 16)
    solarize(between, np.zeros(1, np.float32))
    assert between.min() == 127 and between.max() <= 127.5


def test_without_saturation_only_torchvisions_gray_is_left():
    levels = photographs(64)
    found = levels.clone()
    saturation(found, np.zeros(4, np.float32))
    assert (found - tv.rgb_to_grayscale(levels / 255, 3) * 255).abs().max() <= GRAY_ERROR
    assert (found == found[:, :1]).all()


def recolored_by_torchvision(image, steps: list[int], amounts: list[float]):
    for step, amount in zip(steps, amounts, strict=True):
        if step != NOTHING:
            image = PEERS[OPERATIONS[step]](image, amount)
    return image


def all_orders() -> Coloring:
    """The 24 orders of a strong jitter; every other sample also blurred, every third solarized."""
    steps = np.full((24, 7), NOTHING, np.int8)
    steps[:, :4] = list(permutations(range(4)))
    steps[::2, 5], steps[::3, 6] = OPERATIONS.index(blur), OPERATIONS.index(solarize)
    numbers = np.random.default_rng(0).random((24, 7))
    amounts = np.where(steps == OPERATIONS.index(hue), 0.4 * numbers - 0.2, 0.3 + 1.5 * numbers).astype(np.float32)
    return Coloring(steps=steps, amounts=amounts)


def test_all_steps_in_every_order_follow_torchvision():
    """Against floating-point images (the same but for rounding), and against PIL, which rounds after every step."""
    coloring = all_orders()
    original = photographs(96).repeat(6, 1, 1, 1)
    found = original.clone()
    recolor(found, coloring)
    errors, errors_of_pil = [], []
    for row in range(24):
        arguments = coloring.steps[row].tolist(), coloring.amounts[row].tolist()
        in_floats = recolored_by_torchvision(original[row] / 255, *arguments) * 255
        in_pil = recolored_by_torchvision(tv.to_pil_image(original[row].byte()), *arguments)
        errors.append((found[row] - in_floats).abs().mean().item())
        errors_of_pil.append((found[row] - tv.pil_to_tensor(in_pil)).abs().mean().item())
    assert max(errors) < 0.05
    assert max(errors_of_pil) < 2.5 and np.mean(errors_of_pil) < 1.2
    wrong = original.clone()
    recolor(wrong, Coloring(steps=coloring.steps[::-1].copy(), amounts=coloring.amounts))
    assert (wrong - found).abs().mean() > 10, "the wrong order would pass"


@pytest.mark.parametrize("size", [20, 33, 64, 225])
def test_a_sample_has_the_same_bits_in_any_batch(size):
    count = 13
    coloring = random_coloring(STRONG, uniforms(0, np.zeros(count, int), np.arange(count), "view0/color", NUM_DRAWS))
    assert set(coloring.steps.ravel().tolist()) == {NOTHING, *range(len(OPERATIONS))}
    original = noise(count, size)
    together = original.clone()
    recolor(together, coloring)
    for row in range(count):
        alone = original[row : row + 1].clone()
        recolor(alone, coloring.rows(slice(row, row + 1)))
        assert torch.equal(alone[0], together[row])
    backwards = original.flip(0).clone()
    recolor(backwards, Coloring(steps=coloring.steps[::-1].copy(), amounts=coloring.amounts[::-1].copy()))
    assert torch.equal(backwards.flip(0), together)
    part = original.clone()[2:9]  # memory that begins in the middle
    recolor(part, coloring.rows(slice(2, 9)))
    assert torch.equal(part, together[2:9])
    torch.set_num_threads(3)
    try:
        threaded = original.clone()
        recolor(threaded, coloring)
    finally:
        torch.set_num_threads(1)
    assert torch.equal(threaded, together)


def test_weights_are_torchvisions_where_they_matter():
    sigmas = np.array([0.1, 0.77, 2.0], np.float32)
    weights = gaussian_weights(sigmas, 11)
    assert weights.shape == (3, 9)  # 4 sigma
    assert np.allclose(weights[:, 0] + 2 * weights[:, 1:].sum(1), 1, atol=1e-15)
    line = torch.zeros(1, 45, 45)
    line[:, :, 22] = 1
    for row, sigma in enumerate(sigmas.tolist()):
        expected = tv.gaussian_blur(line, [23, 23], [sigma, sigma])[0, 22, 22:31]
        assert np.allclose(weights[row], expected, atol=1e-4)
    assert gaussian_weights(sigmas, 3).shape == (3, 4)
    assert gaussian_weights(sigmas[:1], 11).shape == (1, 2)


def drawn(view: RandomView, count: int) -> Coloring:
    found = view_coloring(view, "view0", 0, np.zeros(count, int), np.arange(count))
    assert found is not None
    return found


def test_steps_are_drawn_as_often_as_asked():
    count = 24_000
    coloring = drawn(STRONG, count)
    jittered = coloring.steps[:, 0] != NOTHING
    assert abs(jittered.mean() - 0.8) < 0.01
    orders = Counter(map(tuple, coloring.steps[jittered, :4].tolist()))
    assert set(orders) == set(permutations(range(4)))
    assert all(abs(times / jittered.sum() - 1 / 24) < 0.006 for times in orders.values())
    for step, (operation, share) in enumerate([(saturation, 0.2), (blur, 0.5), (solarize, 0.2)], start=4):
        found = coloring.steps[:, step]
        assert set(found.tolist()) == {NOTHING, OPERATIONS.index(operation)}
        assert abs((found != NOTHING).mean() - share) < 0.01
    assert (coloring.amounts[:, 4] == 0).all(), "grayscale is no saturation at all"
    together = (coloring.steps[:, 5] != NOTHING) & (coloring.steps[:, 6] != NOTHING)
    assert abs(together.mean() - 0.1) < 0.01


@pytest.mark.parametrize("strength", [0.4, 1.3])
def test_amounts_are_distributed_like_torchvisions(strength):
    view = RandomView(size=32, jitter=(strength, strength, strength, 0.3), jitter_probability=1.0)
    coloring = drawn(view, 3000)
    torch.manual_seed(0)
    peer = v2.ColorJitter(strength, strength, strength, 0.3)
    theirs = [peer.make_params([]) for _ in range(3000)]
    for operation, name in enumerate(("brightness_factor", "contrast_factor", "saturation_factor", "hue_factor")):
        ours = coloring.amounts[:, :4][coloring.steps[:, :4] == operation]
        assert ks_2samp(ours, [each[name] for each in theirs]).pvalue > 1e-3
    sigmas = drawn(RandomView(size=32, blur=1.0, blur_sigma=(0.5, 1.5)), 3000).amounts[:, 5]
    torch.manual_seed(0)
    assert ks_2samp(sigmas, torch.empty(3000).uniform_(0.5, 1.5).numpy()).pvalue > 1e-3


def test_what_is_off_costs_nothing_and_changes_nothing():
    ids = np.arange(100)
    assert view_coloring(RandomView(size=32), "view0", 0, ids, ids) is None
    assert view_coloring(CenterView(), "view0", 0, ids, ids) is None
    only_hue = drawn(RandomView(size=32, jitter=(0.0, 0.0, 0.0, 0.1), jitter_probability=1.0), 100).steps
    assert ((only_hue == OPERATIONS.index(hue)).sum(1) == 1).all()
    assert ((only_hue == NOTHING).sum(1) == 6).all()


def test_views_and_epochs_of_a_sample_differ_and_do_not_depend_on_the_batch():
    ids, epochs = np.arange(50), np.repeat([0, 1], 25)
    first = view_coloring(STRONG, "view0", 5, epochs, ids)
    other = view_coloring(STRONG, "view1", 5, epochs, ids)
    alone = view_coloring(STRONG, "view0", 5, epochs[30:31], ids[30:31])
    later = view_coloring(STRONG, "view0", 5, epochs + 1, ids)
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
    ],
)
def test_wrong_settings_are_named(wrong, named):
    with pytest.raises(UserError, match=named) as error:
        RandomView(**wrong)
    assert "\n" not in str(error.value)
