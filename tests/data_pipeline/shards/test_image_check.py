"""Every odd kind of image is kept, rewritten or refused, and what is kept is what DALI decodes."""

import io
import struct
import tarfile
import zlib

import numpy as np
import pytest
import torch
from nvidia.dali import fn, pipeline_def, types
from PIL import Image, ImageOps
from shapes import levels

from eyespot.data_pipeline.loading import reader
from eyespot.data_pipeline.shards import image_check
from eyespot.data_pipeline.shards.image_check import BadImage, encode_png, examine, open_image
from eyespot.data_pipeline.shards.pixels.jpeg_scan import walk_jpeg


def photo(height: int = 60, width: int = 90) -> Image.Image:
    """Something with smooth and rough parts, no two channels alike."""
    y, x = np.mgrid[:height, :width]
    smooth = np.stack([x * 255 / width, y * 255 / height, 128 + 90 * np.sin(x * y / 200)], -1)
    pixels = smooth + 5 * torch.randn(smooth.shape).numpy()
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def encode(image: Image.Image, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


def pil(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def dali(data: bytes) -> np.ndarray:
    @pipeline_def(batch_size=1, num_threads=1, device_id=None, prefetch_queue_depth=1)
    def pipeline():
        encoded = fn.external_source(
            source=lambda: [np.frombuffer(data, np.uint8)], batch=True, dtype=types.UINT8, ndim=1
        )
        return fn.decoders.image(encoded, device="cpu", output_type=types.RGB, adjust_orientation=False)

    built = pipeline()
    built.build()
    return np.asarray(built.run()[0].at(0))


def interlaced_png() -> tuple[bytes, np.ndarray]:
    """PIL writes none: the seven passes of Adam7 by hand, no filters."""
    pixels = levels(8, 8)
    passes = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]
    raw = b"".join(b"\0" + row.tobytes() for y, x, dy, dx in passes for row in pixels[y::dy, x::dx])
    header = struct.pack(">IIBBBBB", 8, 8, 8, 0, 0, 0, 1)

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")
    return data, np.stack([pixels] * 3, -1)


KEPT = {
    "jpeg": lambda: encode(photo(), "JPEG"),
    "progressive": lambda: encode(photo(), "JPEG", progressive=True),
    "4:4:4": lambda: encode(photo(), "JPEG", subsampling="4:4:4"),
    "restart markers": lambda: encode(photo(), "JPEG", restart_marker_blocks=3),
    "RGB inside": lambda: encode(photo(), "JPEG", keep_rgb=True),
    "gray jpeg": lambda: encode(photo().convert("L"), "JPEG"),
    "gray progressive": lambda: encode(photo().convert("L"), "JPEG", progressive=True),
    "two pictures in one file": lambda: encode(photo(), "MPO", save_all=True, append_images=[photo()]),
    "bytes behind the end": lambda: encode(photo(), "JPEG") + b"camera's own notes \xff\xd9" * 9,
    "upright by EXIF": lambda: encode(photo(), "JPEG", exif=exif(1)),
    "thumbnail inside": lambda: encode(photo(), "JPEG", comment=encode(photo(8, 8), "JPEG")),
    "png": lambda: encode(photo(), "PNG"),
    "gray png": lambda: encode(photo().convert("L"), "PNG"),
    "one pixel": lambda: encode(photo(1, 1), "PNG"),
    "interlaced": lambda: interlaced_png()[0],
}


@pytest.mark.parametrize("name", KEPT)
def test_what_is_kept_is_kept_byte_for_byte_and_decodes_alike_in_dali(name: str):
    data = KEPT[name]()
    seen = examine(data)
    assert (seen.data, seen.kind, seen.crc32) == (data, None, zlib.crc32(data))
    pixels = pil(data)
    assert (seen.height, seen.width) == pixels.shape[:2]
    assert np.array_equal(dali(data), pixels)
    flat = pixels.reshape(-1, 3).astype(np.int64)
    assert seen.sums == tuple(flat.sum(0)) and seen.squares == tuple((flat**2).sum(0))


def test_interlaced_png_decodes_right():
    data, pixels = interlaced_png()
    assert np.array_equal(dali(data), pixels)


def sixteen_bit() -> bytes:
    return encode(Image.fromarray(np.asarray(photo().convert("L")).astype(np.uint16) * 257), "PNG")


def shown_by_16_bits(data: bytes) -> np.ndarray:
    """PIL's own conversion clips instead of scaling."""
    return np.stack([np.asarray(Image.open(io.BytesIO(data))) // 257] * 3, -1)


REWRITTEN = {
    "cmyk": ("cmyk", "jpg", lambda: encode(photo().convert("CMYK"), "JPEG")),
    "palette": ("palette", "png", lambda: encode(photo().convert("P"), "PNG")),
    "1-bit": ("1-bit", "png", lambda: encode(photo().convert("1"), "PNG")),
    "16-bit": ("16-bit", "png", sixteen_bit),
    "gif": ("gif", "png", lambda: encode(photo(), "GIF")),
    "bmp": ("bmp", "png", lambda: encode(photo(), "BMP")),
    "tiff": ("tiff", "png", lambda: encode(photo(), "TIFF")),
    "webp": ("webp", "jpg", lambda: encode(photo(), "WEBP")),
    "webp lossless": ("webp", "png", lambda: encode(photo(), "WEBP", lossless=True)),
    "animated gif": ("animated", "png", lambda: encode(photo(), "GIF", save_all=True, append_images=[photo()])),
    "animated webp": ("animated", "jpg", lambda: encode(photo(), "WEBP", save_all=True, append_images=[photo()])),
    "animated png": ("animated", "png", lambda: encode(photo(), "PNG", save_all=True, append_images=[photo()])),
}


@pytest.mark.parametrize("name", REWRITTEN)
def test_what_is_rewritten_still_shows_the_same_picture(name: str):
    kind, extension, make = REWRITTEN[name]
    data = make()
    seen = examine(data)
    assert (seen.kind, seen.extension) == (kind, extension)
    expected = shown_by_16_bits(data) if name == "16-bit" else pil(data)
    difference = np.abs(dali(seen.data).astype(int) - expected).mean()
    assert difference == 0 if extension == "png" else difference < 4
    assert examine(seen.data).kind is None  # nothing is rewritten twice
    with pytest.raises(BadImage, match=kind):
        examine(data, in_place=True)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "RGB"])
def test_transparency_is_laid_on_white(mode: str):
    pixels = np.zeros((4, 4, 4), np.uint8)  # transparent black
    pixels[:, :2] = (200, 200, 200, 255)
    image = Image.fromarray(pixels)
    if mode == "RGB":
        data = encode(image.convert("RGB"), "PNG", transparency=(0, 0, 0))
    elif mode == "P":
        data = encode(image.convert("L").convert("P"), "PNG", transparency=0)
    else:
        data = encode(image.convert(mode), "PNG")
    seen = examine(data)
    assert seen.kind == "alpha"
    assert (dali(seen.data)[:, :2] == 200).all() and (dali(seen.data)[:, 2:] == 255).all()


@pytest.mark.parametrize("orientation", range(2, 9))
def test_an_exif_orientation_is_turned_upright(orientation: int):
    upright = np.zeros((32, 48), np.uint8)
    upright[:16, :24] = 255  # the bright corner belongs to the top left
    as_stored = {
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.T,
        6: np.rot90(upright),
        7: upright[::-1, ::-1].T,
        8: np.rot90(upright, -1),
    }[orientation]
    data = encode(Image.fromarray(as_stored.copy()), "JPEG", exif=exif(orientation))
    seen = examine(data)
    assert (seen.kind, seen.height, seen.width) == ("rotated", 32, 48)
    assert np.abs(dali(seen.data)[..., 0].astype(int) - upright).mean() < 3
    stored = examine(data, in_place=True)  # the loader does not turn either
    assert (stored.height, stored.width) == as_stored.shape and stored.data == data


def test_broken_exif_is_no_reason_to_lose_a_picture():
    data = encode(photo(), "JPEG", exif=b"Exif\0\0" + b"MM\0*\xff\xff\xff\xff rubbish")
    assert examine(data).kind is None


def lying_png(side: int) -> bytes:
    data = bytearray(encode(photo(), "PNG"))
    data[16:24] = struct.pack(">II", side, side)
    data[29:33] = struct.pack(">I", zlib.crc32(bytes(data[12:29])))
    return bytes(data)


def lying_jpeg(side: int) -> bytes:
    data = bytearray(encode(photo(), "JPEG"))
    frame = data.find(b"\xff\xc0")
    data[frame + 5 : frame + 9] = struct.pack(">HH", side, side)
    return bytes(data)


def end_of(data: bytes) -> int:
    return data.rindex(b"\xff\xd9")


BAD = {
    "empty": ("empty", lambda: b""),
    "text": ("not an image", lambda: b"<html>404</html>" * 20),
    "zeros": ("not an image", lambda: bytes(1000)),
    "postscript": ("not an image", lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"),
    "header only": ("truncated|undecodable|not an image", lambda: encode(photo(), "JPEG")[:40]),
    "bomb png": ("--max-pixels", lambda: lying_png(60_000)),
    "bomb jpeg": ("--max-pixels", lambda: lying_jpeg(60_000)),
    "taller than its data": ("truncated", lambda: lying_jpeg(400)),
    "float tiff": ("32-bit", lambda: encode(photo().convert("F"), "TIFF")),
    "cut": ("truncated", lambda: encode(photo(), "JPEG")[:-300]),
    "last byte gone": ("truncated", lambda: encode(photo(), "JPEG")[:-1]),
    "cut progressive": ("truncated", lambda: encode(photo(), "JPEG", progressive=True)[:-300]),
    "cut png": ("undecodable|truncated", lambda: encode(photo(), "PNG")[:-300]),
    "png without end": ("truncated", lambda: encode(photo(), "PNG")[:-12]),
    "cut gif": ("truncated", lambda: encode(photo(), "GIF")[:-300]),
    "cut bmp": ("truncated", lambda: encode(photo(), "BMP")[:-300]),
    "cut tiff": ("truncated", lambda: encode(photo(), "TIFF")[:-3000]),
    "cut webp": ("undecodable", lambda: encode(photo(), "WEBP")[:-300]),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_broken_is_refused_with_the_reason(name: str):
    reason, make = BAD[name]
    with pytest.raises(BadImage, match=reason) as caught:
        examine(make())
    assert "\n" not in str(caught.value)


def test_a_side_the_index_cannot_hold_is_refused():
    with pytest.raises(BadImage, match="65535"):
        examine(encode(Image.new("L", (70_000, 1)), "PNG"))


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("missing", [20, 60, 300, 1000])
def test_a_cut_jpeg_that_libjpeg_would_fill_in_silently_is_refused(progressive: bool, missing: int):
    data = encode(photo(240, 320), "JPEG", progressive=progressive)
    cut = data[: end_of(data) - missing] + b"\xff\xd9"
    Image.open(io.BytesIO(cut)).load()  # PIL alone sees nothing wrong
    with pytest.raises(BadImage, match="truncated"):
        examine(cut)


@pytest.mark.parametrize("position", range(80, 3000, 333))
def test_a_flipped_byte_in_a_png_is_found(position: int):
    data = bytearray(encode(photo(), "PNG"))
    data[position] ^= 0x10
    with pytest.raises(BadImage):
        examine(bytes(data))


def test_real_photographs_are_kept(real_data):
    with tarfile.open(real_data / "caltech10-images.tar") as archive:
        members = [member for member in archive.getmembers() if member.name.endswith(".jpg")][::27]
        for member in members:
            data = archive.extractfile(member).read()  # pyright: ignore[reportOptionalMemberAccess]
            assert examine(data).kind is None, member.name
            cut = data[: walk_jpeg(data)[0] - 40] + b"\xff\xd9"
            with pytest.raises(BadImage, match="truncated"):
                examine(cut)


def test_resize_shrinks_the_short_side_and_never_enlarges():
    seen = examine(encode(photo(60, 90), "JPEG"), resize=30)
    assert (seen.height, seen.width, seen.kind, seen.extension) == (30, 45, "resized", "jpg")
    assert examine(encode(photo(90, 60), "PNG"), resize=20).extension == "png"
    small = encode(photo(60, 90), "JPEG")
    assert examine(small, resize=60).data == small
    assert examine(small, resize=200).data == small
    exact = np.asarray(photo().resize((45, 30), Image.Resampling.BICUBIC))
    assert exact.shape == (30, 45, 3)


def test_nothing_of_the_old_file_but_its_pixels_survives_a_rewrite():
    data = encode(photo().convert("CMYK"), "JPEG", icc_profile=b"a profile for CMYK", comment=b"secret")
    assert b"profile" not in examine(data).data and b"secret" not in examine(data).data


def test_an_image_is_opened_as_it_would_be_packed():
    pixels = levels(40, 30)
    clear = Image.fromarray(np.dstack([pixels, np.zeros((40, 30), np.uint8)]))
    files = [encode(clear, "PNG"), gray16(np.arange(65_536).reshape(256, 256), "PNG"), encode(photo(), "JPEG")]
    for data in (*files, encode(photo(), "PNG", exif=exif(6)), encode(photo().convert("CMYK"), "JPEG")):
        found = open_image(data)
        assert found.mode == "RGB" and np.array_equal(found, pil(examine(data).data))
    assert (np.asarray(open_image(files[0])) == 255).all()
    for data in (b"", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n"):
        with pytest.raises(BadImage):
            open_image(data)
    with pytest.raises(BadImage, match="more pixels"):
        open_image(files[2], max_pixels=100)


def test_raw_pixels_become_png():
    pixels = levels(5, 7, 3)
    assert np.array_equal(dali(encode_png(pixels.tobytes(), (5, 7, 3))), pixels)
    gray = levels(8, 8)
    assert np.array_equal(dali(encode_png(gray.tobytes(), (8, 8))), np.stack([gray] * 3, -1))


def gray16(pixels: np.ndarray, kind: str, **options: object) -> bytes:
    if kind == "PGM":
        return b"P5\n%d %d\n65535\n" % pixels.shape[::-1] + pixels.astype(">u2").tobytes()
    return encode(Image.fromarray(pixels.astype(np.uint16)), kind, **options)


@pytest.mark.parametrize("kind", ["PNG", "PGM", "TIFF"])
@pytest.mark.parametrize(
    ("bits", "said"), [(16, "16-bit"), (15, "16-bit"), (12, "12 bits"), (10, "10 bits"), (8, "8 bits")]
)
def test_16_bits_are_scaled_alike_and_too_few_are_noticed(kind: str, bits: int, said: str):
    ramp = np.linspace(0, 2**bits - 1, 64)[None] * np.ones((48, 1))
    found = examine(gray16(ramp, kind))
    assert np.array_equal(pil(found.data)[..., 0], (ramp.astype(np.uint32) + 128) // 257)
    assert found.kind and said in found.kind and ("nearly black" in found.kind) == (bits < 15)


def test_what_a_pgm_says_is_white_is_white():
    ramp = np.linspace(0, 4095, 64)[None] * np.ones((48, 1))
    found = examine(b"P5\n64 48\n4095\n" + ramp.astype(">u2").tobytes())
    assert found.kind == "16-bit" and pil(found.data).max() == 255


def test_12_bits_in_a_colour_png_of_16():
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    for largest, said in ((65535, "16-bit"), (4095, "16-bit with values of 12 bits (nearly black)")):
        rows = np.linspace(0, largest, 12).astype(">u2").reshape(2, 2, 3)
        raw = b"".join(b"\0" + row.tobytes() for row in rows)
        header = struct.pack(">IIBBBBB", 2, 2, 16, 2, 0, 0, 0)
        data = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")
        assert examine(b"\x89PNG\r\n\x1a\n" + data).kind == said


XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="%d"/></x:xmpmeta>'
TURNED = {
    "jpeg": lambda image, o: encode(image, "JPEG", exif=exif(o)),
    "jpeg by xmp": lambda image, o: encode(image, "JPEG", xmp=XMP % o),
    "png": lambda image, o: encode(image, "PNG", exif=exif(o)),
    "webp": lambda image, o: encode(image, "WEBP", exif=exif(o), lossless=True),
    "tiff": lambda image, o: encode(image, "TIFF", tiffinfo={0x0112: o}),
}


@pytest.mark.parametrize("kind", TURNED)
def test_every_orientation_wherever_it_is_written(kind: str):
    image = photo(40, 60)
    for orientation in range(1, 9):
        data = TURNED[kind](image, orientation)
        expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB"))
        found = examine(data)
        assert found.orientation == orientation and (found.height, found.width) == expected.shape[:2]
        assert np.abs(pil(found.data).astype(int) - expected).mean() < 3
        if kind in ("jpeg", "jpeg by xmp", "png"):
            stored = examine(data, in_place=True)
            assert stored.orientation == orientation and (stored.height, stored.width) == (40, 60)


def test_the_limit_of_pixels_is_exact():
    data = encode(photo(30, 40), "PNG")
    assert examine(data, max_pixels=1200).height == 30
    with pytest.raises(BadImage, match="--max-pixels"):
        examine(data, max_pixels=1199)
    with pytest.raises(BadImage, match="--max-pixels"):
        examine(data, max_pixels=100)
    assert Image.MAX_IMAGE_PIXELS and image_check.MAX_PIXELS == 2 * Image.MAX_IMAGE_PIXELS
    assert image_check.READABLE_PIXELS == reader.MAX_PIXELS


@pytest.mark.skipif(not image_check.HAS_HEIF, reason='needs the extra "heic"')
def test_heic():
    import pillow_heif

    pillow_heif.register_heif_opener()
    for image in (photo(60, 90), photo(60, 90).convert("L")):
        data = encode(image, "HEIF", quality=95)
        found = examine(data)
        assert (found.kind, found.extension, found.height, found.width) == ("heif", "jpg", 60, 90)
        assert np.abs(pil(found.data).astype(int) - np.asarray(image.convert("RGB"))).mean() < 8
        with pytest.raises(BadImage, match="would have to be rewritten"):
            examine(data, in_place=True)
        with pytest.raises(BadImage):
            examine(data[: len(data) // 2])
    noted = encode(photo(60, 90), "HEIF", quality=95, exif=exif(6))  # HEIC turns by a property of its own
    assert (examine(noted).height, examine(noted).orientation) == (60, 1)
