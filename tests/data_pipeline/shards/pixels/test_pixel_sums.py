"""Sums of pixels are exact, and an image that is not summed is found to be what it is found to be where it is."""

import io
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.shards.image_check import BadImage, examine
from eyespot.data_pipeline.shards.index_tars import index_folder
from eyespot.data_pipeline.shards.manifest import INDEX_DTYPE, Manifest, image_stats
from eyespot.data_pipeline.shards.pack import pack
from eyespot.data_pipeline.shards.parts.addition import Addition
from eyespot.data_pipeline.shards.parts.merge import merge
from eyespot.data_pipeline.shards.parts.task import Task
from eyespot.data_pipeline.shards.parts.task_part import Share
from eyespot.data_pipeline.shards.pixels import pixel_sums
from eyespot.data_pipeline.shards.verify import verify

NEVER = 2**40
"""One in so many: none, as a checksum has 32 bits; but 0."""


def encode(image: Image.Image, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_sums_are_exact(mode: str):
    pixels = np.random.default_rng(0).integers(0, 256, (301, 403, 3)[: 3 if mode == "RGB" else 2], np.uint8)
    seen = examine(encode(Image.fromarray(pixels), "PNG"))
    flat = pixels.reshape(-1, 3 if mode == "RGB" else 1).astype(np.int64)
    times = 1 if mode == "RGB" else 3
    assert seen.sums == tuple(flat.sum(0).tolist() * times) and seen.squares == tuple((flat**2).sum(0).tolist() * times)
    assert all(type(number) is int for number in (*seen.sums, *seen.squares))


def photographs(count: int) -> list[np.ndarray]:
    """Smooth, of various sizes, brightness and colour."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(count):
        few = rng.integers(0, 256, (3, 4, 3), np.uint8)
        size = (int(rng.integers(20, 60)), int(rng.integers(20, 60)))
        found.append(np.asarray(Image.fromarray(few).resize(size, Image.Resampling.BICUBIC)))
    return found


KINDS = {
    "baseline": {},
    "progressive": {"progressive": True},
    "restarts": {"restart_marker_blocks": 3},
    "full colour": {"subsampling": 0, "quality": 98},
}


def damaged(data: bytes, rng: np.random.Generator) -> bytes:
    """Cut, cut and closed, with flipped bits, lost or new bytes, or a marker where none belongs."""
    bad, place = bytearray(data), int(rng.integers(2, len(data) - 2))
    match rng.integers(6):
        case 0:
            del bad[place:]
        case 1:
            bad[place:] = b"\xff\xd9"
        case 2:
            bad[place] ^= 1 << rng.integers(8)
        case 3:
            del bad[place : place + int(rng.integers(1, 40))]
        case 4:
            bad[place:place] = rng.bytes(3)
        case _:
            bad[place : place + 2] = bytes([0xFF, int(rng.choice([0xD9, 0xD1, 0xDA, 0xC0, 0xC4, 0xDB, 0xE1]))])
    return bytes(bad)


def found_of(data: bytes, one_in: int, **options: object) -> object:
    """All that packing says of an image, but its sums."""
    try:
        seen = examine(data, one_in=one_in, **options)  # type: ignore[arg-type]
    except BadImage as error:
        return str(error)
    return seen.kind, seen.height, seen.width, seen.crc32, seen.extension, seen.orientation, seen.data


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("kind", KINDS)
def test_damage_is_found_alike_whether_an_image_is_summed_or_not(kind: str, mode: str):
    rng, verdicts = np.random.default_rng(1), list[object]()
    for pixels in photographs(3):
        data = encode(Image.fromarray(pixels).convert(mode), "JPEG", **KINDS[kind])
        for number, bad in enumerate([data, *(damaged(data, rng) for _ in range(25))]):
            options = [{}, {"in_place": True}, {"resize": 24}, {"rewrite": "asked"}][number % 4]
            verdicts.append(found_of(bad, 1, **options))
            assert found_of(bad, NEVER, **options) == verdicts[-1]
    assert {type(verdict) for verdict in verdicts} == {str, tuple}


def test_what_is_not_in_the_sample_has_no_sums():
    data = [encode(Image.fromarray(pixels), kind) for pixels in photographs(20) for kind in ("JPEG", "PNG")]
    for one in data:
        whole, some = examine(one), examine(one, one_in=3)
        assert (some.sums, some.squares) == (
            (whole.sums, whole.squares) if whole.crc32 % 3 == 0 else pixel_sums.NO_SUMS
        )
    turned = Image.Exif()
    turned[0x0112] = 6
    data = encode(Image.fromarray(photographs(1)[0]), "JPEG", exif=turned)
    assert examine(data, one_in=NEVER).data == examine(data).data  # all of its pixels are turned


@pytest.fixture
def many(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """60 images, which are many here, and a broken one."""
    monkeypatch.setattr(pixel_sums, "SAMPLED_FROM", 50)
    monkeypatch.setattr(pixel_sums, "ONE_IN", 3)
    (tmp_path / "many").mkdir()
    for number, pixels in enumerate(photographs(60)):
        Image.fromarray(pixels).save(tmp_path / "many" / f"{number}.{'png' if number % 5 == 0 else 'jpg'}")
    (tmp_path / "many" / "bad.jpg").write_bytes(b"\xff\xd8\xff broken")
    return tmp_path / "many"


def of_sample(folder: Path, one_in: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation of the pixels of a sample, read out of the tars by Pillow."""
    pixels = []
    for row in np.load(folder / "index.npy"):
        if row["crc32"] % one_in == 0:
            tar = sorted(folder.glob("*.tar"))[row["tar"]].read_bytes()
            image = Image.open(io.BytesIO(tar[row["offset"] : row["offset"] + row["size"]])).convert("RGB")
            pixels.append(np.asarray(image, np.float64).reshape(-1, 3) / 255)
    flat = np.concatenate(pixels)
    return flat.mean(0), flat.std(0)


def test_a_large_folder_has_the_mean_of_its_sample_whoever_packs_it(many: Path, tmp_path: Path):
    whole = pack(str(many), tmp_path / "whole", workers=1, max_samples=9)[""]
    mean, std = of_sample(tmp_path / "whole", 3)
    assert whole.image_stats.one_in == 3 and len(whole.quarantined) == 1
    assert np.allclose(whole.image_stats.mean, mean, rtol=1e-12)
    assert np.allclose(whole.image_stats.std, std, rtol=1e-12)
    assert verify(tmp_path / "whole", workers=1) == []
    for number in range(2):
        share = Share(tmp_path / "parts", Task(number, 2))
        pack(str(many), share.folder, goal=share, workers=1, max_samples=9)
    merge(tmp_path / "parts")
    for path in (tmp_path / "whole").iterdir():
        assert (tmp_path / "parts" / path.name).read_bytes() == path.read_bytes()
    said = index_folder(tmp_path / "whole", workers=1).image_stats
    assert said == whole.image_stats


def test_what_is_added_to_a_large_folder_is_sampled_alike_and_to_a_small_one_summed(many: Path, tmp_path: Path):
    (tmp_path / "few").mkdir()
    for number, pixels in enumerate(photographs(75)[60:]):
        Image.fromarray(pixels).save(tmp_path / "few" / f"{number}.jpg")
    for one, other, one_in in (("many", "few", 3), ("few", "many", 1)):
        folder = tmp_path / f"{one}-packed"
        pack(str(tmp_path / one), folder, workers=1)
        addition = Addition(folder)
        pack(str(tmp_path / other), addition.folder, goal=addition, workers=1)
        told = Manifest.from_json((folder / "manifest.json").read_bytes(), folder / "manifest.json").image_stats
        assert (told.one_in, told.mean) == (one_in, pytest.approx(of_sample(folder, one_in)[0], rel=1e-9))
        assert told.std == pytest.approx(of_sample(folder, one_in)[1], rel=1e-9)
        assert verify(folder, workers=1) == []
        shutil.rmtree(folder)


def test_a_sample_of_none_is_no_mean():
    index = np.zeros(4, INDEX_DTYPE)
    index["height"], index["width"], index["crc32"] = 8, 8, [1, 2, 4, 5]
    with pytest.raises(UserError, match="4 of those listed can be used, and none is among the one in 3"):
        image_stats(index, [0] * 3, [0] * 3, 3)
