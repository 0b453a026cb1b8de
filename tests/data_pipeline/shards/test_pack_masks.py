"""Masks in shards: packed beside their images; without masks no byte changes."""

import hashlib
import io
import shutil
import struct
import tarfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from shapes import levels, stored_samples

from eyespot.data_pipeline.augment.views import CenterView
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.loading.mask_views import mask_views
from eyespot.data_pipeline.shards import pack as shards
from eyespot.data_pipeline.shards.image_check import BadImage
from eyespot.data_pipeline.shards.index_tars import index_folder
from eyespot.data_pipeline.shards.manifest import IGNORED, Manifest
from eyespot.data_pipeline.shards.pack import pack
from eyespot.data_pipeline.shards.pack_masks import examine_mask, notes_on_masks
from eyespot.data_pipeline.shards.shard_folder import ShardFolder
from eyespot.data_pipeline.shards.verify import verify


def png(pixels: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def test_each_image_has_its_own_mask(striped, packed):
    images, masks = striped
    samples, manifest = stored_samples(packed), ShardFolder(packed).manifest
    assert len(samples) == 12 == manifest.num_samples and len(manifest.shards) == 3
    pixels = np.zeros(256, int)
    for source, (image, mask) in samples.items():
        assert np.array_equal(image, np.asarray(Image.open(images / source)))
        assert mask == (masks / source).read_bytes()  # 8-bit gray: the source's own bytes
        pixels += np.bincount(np.asarray(Image.open(masks / source)).ravel(), minlength=256)
    assert manifest.masks and manifest.masks.num_masks == 12 and manifest.masks.ignored == IGNORED
    assert manifest.masks.pixels == pixels[:3].tolist() and pixels[IGNORED] > 0
    rows, index = ShardFolder(packed).masks, ShardFolder(packed).index
    data = [(packed / shard.tar).read_bytes() for shard in manifest.shards]
    places = zip(index["tar"].tolist(), rows["offset"].tolist(), rows["size"].tolist(), strict=True)
    assert {data[tar][offset : offset + size] for tar, offset, size in places} == {mask for _, mask in samples.values()}
    assert verify(packed, workers=1) == []


def test_splits_palettes_and_class_folders(tmp_path):
    pixels = levels(12, 9, below=4)
    for split, name in (("train", "a/x"), ("train", "b/x"), ("test", "a/y")):
        for kind in ("images", "masks"):
            (tmp_path / kind / split / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(levels(12, 9, 3)).save(tmp_path / f"images/{split}/{name}.jpg")
        palette = Image.fromarray(pixels, mode="P")
        palette.putpalette(levels(12).tolist())
        palette.save(tmp_path / f"masks/{split}/{name}.png")
    manifests = pack(str(tmp_path / "images"), tmp_path / "out", masks=tmp_path / "masks", mask_ignored=0, workers=1)
    assert {split: manifest.num_samples for split, manifest in manifests.items()} == {"test": 1, "train": 2}
    for split, manifest in manifests.items():
        assert manifest.masks and manifest.masks.ignored == 0 and manifest.masks.pixels[0] == 0
        for _, mask in stored_samples(tmp_path / "out" / split).values():
            image = Image.open(io.BytesIO(mask))
            assert image.mode == "L" and np.array_equal(np.asarray(image), pixels)


def test_shrunk_as_the_image_is(tmp_path):
    """Halves of an image keep their class after --resize."""
    half = np.zeros((40, 60), np.uint8)
    half[:, 30:] = 1
    for kind, pixels in (("images", np.repeat(half[..., None] * 255, 3, 2)), ("masks", half)):
        (tmp_path / kind).mkdir()
        Image.fromarray(pixels).save(tmp_path / kind / "0.png")
    pack(str(tmp_path / "images"), tmp_path / "out", masks=tmp_path / "masks", resize=10, workers=1)
    ((image, mask),) = stored_samples(tmp_path / "out").values()
    shrunk = np.asarray(Image.open(io.BytesIO(mask)))
    assert image.shape == (10, 15, 3) and shrunk.shape == (10, 15)
    assert np.array_equal(shrunk[:, :7], np.zeros((10, 7))) and np.array_equal(shrunk[:, 8:], np.ones((10, 7)))
    assert verify(tmp_path / "out", workers=1) == []


def test_what_has_no_fitting_mask_is_left_out_and_named(striped, tmp_path):
    images, masks = striped
    shutil.copytree(masks, tmp_path / "masks")
    (tmp_path / "masks/0.png").unlink()
    (tmp_path / "masks/1.png").write_bytes(png(np.zeros((32, 31), np.uint8)))
    (tmp_path / "masks/2.png").write_bytes((masks / "2.png").read_bytes()[:60])
    (tmp_path / "masks/3.png").write_bytes(png(np.zeros((32, 32, 3), np.uint8)))
    manifest = pack(str(images), tmp_path / "out", masks=tmp_path / "masks", workers=1)[""]
    assert manifest.num_samples == 8
    reasons = {bad["source"]: bad["reason"] for bad in manifest.quarantined}
    assert reasons == {
        "0.png": "no mask (a .png of the same name)",
        "1.png": "its mask is 31 x 32 pixels where the image is 32 x 32",
        "2.png": "its mask is no whole PNG",
        "3.png": "its mask is a PNG of 8 bits RGB; class numbers need 8-bit gray or a palette",
    }


@pytest.mark.parametrize("bits", [1, 2, 4, 16])
def test_gray_of_other_depths_would_be_misread(bits):
    """PIL stretches gray of fewer bits to 0..255, and class 1 would become another one."""
    header = struct.pack(">IIBBBBB", 2, 2, bits, 0, 0, 0, 0)
    rows = zlib.compress(bytes(2 * (1 + 2 * bits // 8 + (bits < 8))))
    chunks = [(b"IHDR", header), (b"IDAT", rows), (b"IEND", b"")]
    parts = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    ]
    with pytest.raises(BadImage, match=f"PNG of {bits} bits"):
        examine_mask(b"\x89PNG\r\n\x1a\n" + b"".join(parts), (2, 2))


@pytest.mark.parametrize("resize", [None, 16])
def test_masks_turn_with_their_images(tmp_path, resize):
    """All eight orientations, in three formats; one mask was drawn upright, one has an orientation of its own."""
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    pixels, mask = np.full((48, 64, 3), 30, np.uint8), np.zeros((48, 64), np.uint8)
    pixels[4:16, 6:26], mask[4:16, 6:26] = [250, 80, 20], 1
    tags = {orientation: Image.Exif() for orientation in range(1, 9)}
    for orientation, exif in tags.items():
        exif[0x0112] = orientation
        for kind in ("png", "webp", "jpg"):
            name = f"{kind}{orientation}"
            Image.fromarray(pixels).save(tmp_path / "images" / f"{name}.{kind}", exif=exif)
            Image.fromarray(mask).save(tmp_path / "masks" / f"{name}.png")
    Image.fromarray(np.rot90(mask, -1)).save(tmp_path / "masks" / "png6.png")
    Image.fromarray(mask).save(tmp_path / "masks" / "webp3.png", exif=tags[3])
    manifest = pack(str(tmp_path / "images"), tmp_path / "out", masks=tmp_path / "masks", resize=resize, workers=1)[""]
    assert manifest.num_samples == 24 and manifest.quarantined == []
    for image, data in stored_samples(tmp_path / "out").values():
        there = image[..., 0] > 140
        drawn = np.asarray(Image.open(io.BytesIO(data))) == 1
        assert (there & drawn).sum() > (0.75 if resize else 0.95) * (there | drawn).sum()


def test_wrong_folders(striped, tmp_path):
    images, masks = striped
    with pytest.raises(UserError, match="no such folder"):
        pack(str(images), tmp_path / "out", masks=tmp_path / "missing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"mask of no image; that of 0\.png would be .*empty/0\.png"):
        pack(str(images), tmp_path / "out", masks=tmp_path / "empty")
    with pytest.raises(UserError, match="mask_ignored 256"):
        pack(str(images), tmp_path / "out", masks=masks, mask_ignored=256)
    assert not (tmp_path / "out").exists()


PLAIN_PNG = (
    "89504e470d0a1a0a0000000d4948445200000005000000040802000000c95162170000001449444154789c63e43a61c3800498185001213e00"
    "42720116f977334e0000000049454e44ae426082"
)
"""5 x 4 pixels; as bytes, because another zlib would write others."""
BEFORE = ["1eec39f68339fbc9", "352132af03255fa7", "25b1c8b878e8c1c2", "dbede9a89b2e5d76"]


def test_without_masks_not_a_byte_changes(tmp_path):
    """The digests are those of the version before there were masks."""
    images = tmp_path / "plain"
    images.mkdir()
    for number in range(3):
        (images / f"{number}.png").write_bytes(bytes.fromhex(PLAIN_PNG))
    pack(str(images), tmp_path / "out", workers=1)
    files = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert files == ["index.npy", "manifest.json", "shard-000000.idx", "shard-000000.tar"]
    digests = [hashlib.sha256((tmp_path / "out" / name).read_bytes()).hexdigest()[:16] for name in files]
    assert digests == BEFORE
    with pytest.raises(UserError, match="have no segmentation masks; pack images with theirs"):
        _ = ShardFolder(tmp_path / "out").masks


def test_a_killed_pack_goes_on(striped, packed, tmp_path):
    """As after a kill behind the first shard: its part lies in .packing, and nothing else."""
    images, masks = striped
    out, finish = tmp_path / "again", shards._finish
    with pytest.MonkeyPatch.context() as patch:

        def die(part, writer, stem, parts):
            if parts:
                raise KeyboardInterrupt
            return finish(part, writer, stem, parts)

        patch.setattr(shards, "_finish", die)
        with pytest.raises(KeyboardInterrupt):
            pack(str(images), out, masks=masks, max_samples=5, workers=1)
    assert (out / ".packing").is_dir()
    pack(str(images), out, masks=masks, max_samples=5, workers=1)
    for path in packed.iterdir():
        assert (out / path.name).read_bytes() == path.read_bytes(), path.name


def test_index_finds_masks_and_passes_on_what_is_ignored(striped, tmp_path):
    images, masks = striped
    pack(str(images), tmp_path, masks=masks, mask_ignored=0, max_samples=5, workers=1)
    before, rows = ShardFolder(tmp_path).manifest, (tmp_path / "masks.npy").read_bytes()
    (tmp_path / "masks.npy").unlink()
    assert any("masks.npy: unreadable" in line for line in verify(tmp_path, workers=1))
    assert index_folder(tmp_path, workers=1).masks == before.masks
    assert (tmp_path / "masks.npy").read_bytes() == rows


def test_verify_finds_a_manifest_that_lies(packed):
    manifest = ShardFolder(packed).manifest
    assert manifest.masks
    manifest.masks.pixels[1] += 1
    (packed / "manifest.json").write_text(manifest.to_json())
    assert verify(packed, workers=1) == [
        f"{packed / 'manifest.json'}: masks are not counted right; make the index anew: eyespot shards index {packed}"
    ]
    manifest.masks = None
    (packed / "manifest.json").write_text(manifest.to_json())
    assert "hold masks that the manifest does not list" in verify(packed, workers=1)[0]


def foreign(folder: Path) -> Manifest:
    """A tar as another tool writes it: WebP-like order of names, one palette mask, one sample without a mask."""
    folder.mkdir()
    with tarfile.open(folder / "a.tar", "w") as archive:
        for key in ("one", "two"):
            members = {"jpg": io.BytesIO(), "seg.png": io.BytesIO()}
            Image.fromarray(levels(6, 8, 3)).save(members["jpg"], "JPEG")
            palette = Image.fromarray(np.full((6, 8), 2, np.uint8), mode="P")
            palette.putpalette(bytes(range(12)))
            palette.save(members["seg.png"], "PNG")
            for extension in ("seg.png", "jpg") if key == "one" else ("jpg",):
                member = tarfile.TarInfo(f"{key}.{extension}")
                member.size = members[extension].tell()
                members[extension].seek(0)
                archive.addfile(member, members[extension])
    return index_folder(folder, workers=1)


def test_tars_of_other_tools(tmp_path):
    manifest = foreign(tmp_path / "shards")
    rows = ShardFolder(tmp_path / "shards").masks
    assert manifest.masks and manifest.masks.num_masks == 1 and manifest.masks.pixels == [0, 0, 48]
    assert (rows["size"] > 0).tolist() == [True, False] and manifest.num_samples == 2
    assert verify(tmp_path / "shards", workers=1) == []
    (views,) = mask_views(ShardFolder(tmp_path / "shards"), np.array([0]), CenterView(resize=6, size=4))
    assert np.array_equal(views, np.full((1, 4, 4), 2))


def test_masks_in_black_and_white_are_said_to_hold_no_object(tmp_path):
    for kind in ("images", "masks"):
        (tmp_path / kind).mkdir()
    Image.fromarray(levels(12, 9, 3)).save(tmp_path / "images/1.jpg")
    Image.fromarray(255 * levels(12, 9, below=2)).save(tmp_path / "masks/1.png")
    options = {"masks": tmp_path / "masks", "workers": 1}
    found = pack(str(tmp_path / "images"), tmp_path / "white", **options)[""]
    assert found.notes[-1].startswith("masks hold 0 and 255 alone") and "--mask-ignored 254" in found.notes[-1]
    (tmp_path / "white/manifest.json").unlink()
    assert found.notes[-1] in index_folder(tmp_path / "white", workers=1).notes
    asked = pack(str(tmp_path / "images"), tmp_path / "asked", **options, mask_ignored=254)[""]
    assert asked.notes == found.notes[:-1] and asked.masks and asked.masks.pixels[255] > 0


def test_other_masks_are_not_spoken_of():
    for values in ([0], [255], [0, 1], [0, 1, 255], []):
        assert notes_on_masks([value in values for value in range(256)], 255) == []
    assert notes_on_masks([value in (0, 255) for value in range(256)], 0) == []
