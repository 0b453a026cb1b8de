"""Encoders and features from Python."""

import logging

import numpy as np
import pytest
import torch
from PIL import Image

import eyespot
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.shards.shard_folder import ShardFolder
from eyespot.eval.encoders.feature_cache import features_of
from eyespot.eval.encoders.subject import subjects_of
from eyespot.pretrain.distributed.process_group import World

NAME = "test_vit"


@pytest.fixture(scope="module")
def encoder() -> eyespot.LoadedEncoder:
    return eyespot.load(NAME, pretrained=False)


@pytest.fixture(scope="module")
def pictures() -> list[np.ndarray]:
    draws = np.random.default_rng(0)
    return [draws.integers(0, 256, (170 + n, 200, 3), dtype=np.uint8) for n in range(3)]


def test_features_of_shards_are_those_that_eval_computes(encoder, digits, tmp_path):
    found = eyespot.embed(encoder, digits / "test", device="cpu")
    shards = ShardFolder(digits / "test")
    world = World(rank=0, size=1, device=torch.device("cpu"))
    expected = features_of(subjects_of(NAME, seed=0, pretrained=False)[0], shards, tmp_path, world)
    assert found.kind == "cls" and np.array_equal(found.rows, expected["cls"])
    assert found.ids == list(range(shards.manifest.num_samples)) and len(found) == len(found.ids)
    mean = eyespot.embed(encoder, digits / "test", kind="mean", device="cpu", cache=tmp_path)
    assert np.array_equal(np.asarray(mean), expected["mean"])


def test_a_folder_files_pillows_and_arrays_have_the_same_features(encoder, pictures, tmp_path, caplog):
    (tmp_path / "photos" / "a").mkdir(parents=True)
    paths = [tmp_path / "photos" / "a" / f"{9 - n}.png" for n in range(3)]
    for path, picture in zip(paths, pictures, strict=True):
        Image.fromarray(picture).save(path)
    (tmp_path / "photos" / "a" / "b.png").write_bytes(b"no image")
    with caplog.at_level(logging.WARNING, "eyespot"):
        of_folder = eyespot.embed(encoder, tmp_path / "photos", device="cpu")
    assert "no features of a/b.png: not an image" in caplog.text
    assert of_folder.ids == ["a/7.png", "a/8.png", "a/9.png"]
    mixed = eyespot.embed(encoder, [paths[0], Image.fromarray(pictures[1]), pictures[2]], device="cpu")
    assert mixed.ids == [0, 1, 2] and np.array_equal(mixed.rows, of_folder.rows[::-1])


def test_an_image_that_cannot_be_decoded_leaves_the_others_places_alone(encoder, pictures, tmp_path):
    (tmp_path / "bad.jpg").write_bytes(b"no image")
    found = eyespot.embed(encoder, [pictures[0], tmp_path / "bad.jpg", pictures[2]], device="cpu")
    assert found.ids == [0, 2]


def test_its_transform_shows_it_nearly_what_the_features_are_of(encoder, pictures):
    smooth = Image.fromarray(pictures[0]).resize((20, 17)).resize((200, 170), Image.Resampling.BICUBIC)
    with torch.inference_mode():
        seen = encoder(encoder.transform(smooth)[None])
    found = eyespot.embed(encoder, [smooth], device="cpu", kind="pool" if encoder.module.num_classes else "cls")
    assert seen.shape == (1, found.rows.shape[1])
    assert abs(seen.numpy() - found.rows).max() < 0.05 * abs(found.rows).max()
    assert encoder.image_size == 160 and "images of 160 px" in repr(encoder)


def test_one_image_is_one_row_and_photographs_are_turned_upright(encoder, pictures, tmp_path):
    found = eyespot.embed(encoder, pictures[0], device="cpu")
    (one,) = found.rows
    assert str(found) == f"Embeddings(1 rows of {len(one)}, kind {found.kind!r})"
    turned = Image.fromarray(np.rot90(pictures[0]))  # lies on its left side
    exif = Image.Exif()
    exif[0x0112] = 6
    turned.save(tmp_path / "a.png", exif=exif)
    same = [tmp_path / "a.png", Image.open(tmp_path / "a.png"), Image.fromarray(pictures[0])]
    assert (eyespot.embed(encoder, same, device="cpu").rows == one).all()
    (cmyk,) = eyespot.embed(encoder, Image.fromarray(pictures[0]).convert("CMYK"), device="cpu").rows
    assert cmyk.shape == one.shape


def test_a_strangers_file_name_does_not_command_the_terminal(encoder, pictures, tmp_path, caplog):
    Image.fromarray(pictures[0]).save(tmp_path / "a.png")
    (tmp_path / "\x1b[31m\x07.png").write_bytes(b"no image")
    with caplog.at_level(logging.WARNING, "eyespot"):
        eyespot.embed(encoder, tmp_path, device="cpu")
    assert "no features of \\x1b[31m\\x07.png" in caplog.text and "\x1b" not in caplog.text


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ([], "images: there are none"),
        (5, "images: a int; give a folder, shards, or a list of images"),
        ([np.zeros((0, 5, 3), np.uint8)], r"images\[0\]: an array of \(0, 5, 3\), in which there is no pixel"),
        ([Image.new("RGB", (0, 0))], r"images\[0\]: a PIL image of mode RGB that cannot be kept"),
        ([np.zeros((4, 4, 3))], r"images\[0\]: an array of float64 \(4, 4, 3\); arrays are uint8"),
        (["there-is-none.jpg"], r"images\[0\] there-is-none\.jpg: no such file"),
        ([b"JPEG"], r"images\[0\]: a bytes; give paths"),
        ("there-is-no-folder", "source there-is-no-folder: no such file or folder"),
    ],
)
def test_what_are_no_images_is_named(encoder, images, message):
    with pytest.raises(UserError, match=message):
        eyespot.embed(encoder, images, device="cpu")


def test_the_device_is_one_of_three(encoder, pictures):
    with pytest.raises(UserError, match="device 'tpu': choose auto, cpu or cuda"):
        eyespot.embed(encoder, pictures, device="tpu")


def test_there_are_no_features_of_that_kind(encoder, pictures):
    with pytest.raises(UserError, match=r"kind 'best': .* has features of the kinds cls, mean"):
        eyespot.embed(encoder, pictures, kind="best", device="cpu")
