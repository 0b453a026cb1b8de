"""Golden input and output: always the same pictures; who computes something else than at the release is found out.

Whole releases that were damaged: test_verify.py.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from released_runs import change_json, copy_of
from safetensors.torch import load_file, save_file

from eyespot.data_pipeline.errors import UserError
from eyespot.eval.release.golden import (
    TOLERANCE,
    check_golden,
    distance,
    golden_images,
    golden_of,
    load_encoder,
    normalized,
)
from eyespot.eval.release.layout import CONFIG, GOLDEN, WEIGHTS, read_json


def test_the_pictures_are_the_same_whatever_was_drawn_before():
    first = golden_images(16)
    torch.rand(3)
    assert first.shape == (2, 3, 16, 16) and first.dtype == torch.uint8
    assert torch.equal(golden_images(16), first)
    assert len(first.unique()) > 50 and not torch.equal(first[0], first[1])


def test_they_are_smooth():
    """Neighbours differ by little, so that a resize by another version changes little too."""
    picture = golden_images(224).int()
    assert max(int(picture.diff(dim=axis).abs().max()) for axis in (2, 3)) <= 5


def test_normalisation_channel_by_channel():
    images, mean, std = golden_images(8), [0.1, 0.2, 0.3], [0.4, 0.5, 0.6]
    found = normalized(images, mean, std).numpy()
    for channel in range(3):
        expected = (images[:, channel].numpy() / 255 - mean[channel]) / std[channel]
        np.testing.assert_allclose(found[:, channel], expected, atol=1e-6)


def test_distance_is_a_share_of_the_largest_value():
    wanted = torch.tensor([[2.0, -4.0]])
    assert distance(wanted + torch.tensor([[0.0, 1.0]]), wanted) == 0.25
    assert distance(wanted, wanted) == 0
    assert distance(wanted[:, :1], wanted) == float("inf")
    assert not distance(wanted * torch.nan, wanted) <= TOLERANCE


def test_an_encoder_answers_its_own_release(released: Path):
    encoder, config = load_encoder(released), read_json(released / CONFIG, "it")
    assert not encoder.training and not any(parameter.requires_grad for parameter in encoder.parameters())
    check_golden(released, encoder, config, "it")
    stored, found = load_file(released / GOLDEN), golden_of(encoder, config)
    assert found.keys() == stored.keys() == {"images", "input", "cls", "mean"}
    assert all(distance(found[name].float(), stored[name].float()) <= TOLERANCE for name in stored)


def test_the_encoder_of_another_release_does_not(released: Path, other: Path):
    with pytest.raises(UserError, match=r"it: \w+ features of the golden input are off by"):
        check_golden(released, load_encoder(other), read_json(released / CONFIG, "it"), "it")


@pytest.mark.parametrize(
    ("keys", "value", "words"),
    [
        (("pretrained_cfg", "mean"), [0.3, 0.31, 0.33], "do not become the golden input"),
        (("pretrained_cfg", "input_size"), [3, 32, 32], "config.json says 32 pixels, golden.safetensors has 16"),
        (("pretrained_cfg", "std"), "wide", "golden.safetensors or config.json makes no sense"),
    ],
)
def test_what_config_and_golden_disagree_about(released: Path, tmp_path: Path, keys, value, words):
    folder = copy_of(released, tmp_path / "copy")
    change_json(folder / CONFIG, *keys, value=value)
    with pytest.raises(UserError, match=words) as caught:
        check_golden(folder, load_encoder(released), read_json(folder / CONFIG, "it"), "it")
    assert "\n" not in str(caught.value)


def test_features_that_the_encoder_does_not_have(released: Path, tmp_path: Path):
    folder = copy_of(released, tmp_path / "copy")
    tensors = load_file(folder / GOLDEN)
    tensors["registers"] = tensors.pop("cls")
    save_file(tensors, folder / GOLDEN)
    with pytest.raises(UserError, match=r"the features \['mean', 'registers'\], the encoder has \['cls', 'mean'\]"):
        check_golden(folder, load_encoder(released), read_json(folder / CONFIG, "it"), "it")


def test_weights_that_cannot_be_read(released: Path, tmp_path: Path):
    folder = copy_of(released, tmp_path / "copy")
    (folder / WEIGHTS).write_bytes(b"no tensors at all")
    with pytest.raises(UserError, match=r"mine: model\.safetensors cannot be read .*; fetch (it|the release) anew"):
        load_encoder(folder, "mine")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.update(cls=t["cls"] > 0), "cls is torch.bool, not torch.float32"),
        (lambda t: t.update(cls=t["cls"].to(torch.float8_e5m2)), "cls is torch.float8_e5m2, not torch.float32"),
        (lambda t: t.update(input=t["input"].double()), "input is torch.float64, not torch.float32"),
        (lambda t: t.update(images=t["images"].int()), r"images is \(2, 3, 16, 16\) torch.int32, not 1 to 16 images"),
        (lambda t: t.update({name: tensor[:0] for name, tensor in t.items()}), "images is .* not 1 to 16 images"),
        (lambda t: t.update({name: tensor[None] for name, tensor in t.items()}), "images is .* not 1 to 16 images"),
    ],
)
def test_numbers_of_another_kind(released: Path, tmp_path: Path, change, words):
    folder = copy_of(released, tmp_path / "copy")
    tensors = load_file(folder / GOLDEN)
    change(tensors)
    save_file(tensors, folder / GOLDEN)
    with pytest.raises(UserError, match=words) as caught:
        check_golden(folder, load_encoder(released), read_json(folder / CONFIG, "it"), "it")
    assert "\n" not in str(caught.value)
