"""The reader against Pillow, on real bytes of every kind, whole, cut, flipped and forged."""

from __future__ import annotations

import io
import struct
import time
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageOps

from ctscan.errors import UnreadableSlice
from ctscan.imaging.phantom import draw_phantom
from ctscan.io.headers import read_header
from ctscan.io.images import read_slice
from ctscan.notices import Notice

DATA = Path(__file__).parent.parent.parent / "shared" / "data" / "chest-ctscan"


def draw_grey(height: int = 157, width: int = 203) -> NDArray[np.uint8]:
    """The phantom with a little noise: no two neighbours alike, no symmetry."""
    noise = np.random.default_rng(0).integers(0, 12, (height, width))
    return (draw_phantom(height, width) * 240 + noise).astype(np.uint8)


GREY = draw_grey()
UNIT = GREY.astype(np.float32) / 255


def save(picture: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def bmp(pixels: bytes, bits: int, *, size: int = 40, compression: int = 0, behind: bytes = b"") -> bytes:
    """A BMP made by hand, bottom row first; `behind` are the masks and colours behind the 40 common header bytes."""
    height, width = GREY.shape
    info = struct.pack("<IiiHHIIiiII", size, width, height, 1, bits, compression, len(pixels), 0, 0, 0, 0) + behind
    info = info.ljust(size, b"\0")
    return b"BM" + struct.pack("<IHHI", 14 + len(info) + len(pixels), 0, 0, 14 + len(info)) + info + pixels


def bgr_and(fourth: int | NDArray[np.uint8]) -> bytes:
    """Rows of a 32-bit BMP."""
    pixels = np.empty((*GREY.shape, 4), np.uint8)
    pixels[..., :3], pixels[..., 3] = GREY[..., None], fourth
    return pixels[::-1].tobytes()


def run_lengths(grey: NDArray[np.uint8]) -> bytes:
    """BI_RLE8: each pixel a run of one, each row ended."""
    return b"".join(np.insert(row[:, None], 0, 1, axis=1).tobytes() + b"\0\0" for row in grey[::-1]) + b"\0\1"


BGR_MASKS = struct.pack("<III", 0xFF0000, 0xFF00, 0xFF)
ALPHA_MASK = struct.pack("<I", 0xFF000000)
GREYS = b"".join(bytes([i, i, i, 0]) for i in range(256))


def tiff(
    values: NDArray[Any],
    *,
    order: str = "<",
    sample: int = 1,
    big: bool = False,
    deflate: bool = False,
    tags: dict[int, int] | None = None,
) -> bytes:
    """A TIFF made by hand: any type, either byte order, either size of offsets, one strip, `tags` of one value."""
    body = values.astype(values.dtype.newbyteorder(order)).tobytes()  # type: ignore[arg-type]
    body = zlib.compress(body) if deflate else body
    start = 16 if big else 8
    height, width = values.shape[:2]
    samples = values.shape[2] if values.ndim == 3 else 1
    entries = {256: width, 257: height, 258: values.dtype.itemsize * 8, 259: 8 if deflate else 1, 262: 1, 273: start}
    entries |= {277: samples, 278: height, 279: len(body), 339: sample} | (tags or {})
    count, entry, pointer = ("Q", "HHQQ", "Q") if big else ("H", "HHII", "I")
    kind = 16 if big else 4
    directory = struct.pack(order + count, len(entries))
    directory += b"".join(struct.pack(order + entry, tag, kind, 1, value) for tag, value in sorted(entries.items()))
    mark = b"II" if order == "<" else b"MM"
    head = mark + (struct.pack(order + "HHHQ", 43, 8, 0, start + len(body)) if big else b"")
    head += b"" if big else struct.pack(order + "HI", 42, start + len(body))
    return head + body + directory + struct.pack(order + pointer, 0)


def tiled_tiff(grey: NDArray[Any], side: int = 64) -> bytes:
    """An uncompressed TIFF in square tiles."""
    height, width = grey.shape
    padded = np.pad(grey, ((0, -height % side), (0, -width % side)))
    corners = [(y, x) for y in range(0, height, side) for x in range(0, width, side)]
    tiles = [padded[y : y + side, x : x + side].tobytes() for y, x in corners]
    offsets = [8 + i * len(tiles[0]) for i in range(len(tiles))]
    behind = 8 + len(tiles) * len(tiles[0])
    lists = struct.pack(f"<{len(tiles) * 2}I", *offsets, *[len(t) for t in tiles])
    tags = [(256, 1, width), (257, 1, height), (258, 1, grey.dtype.itemsize * 8), (259, 1, 1), (262, 1, 1)]
    tags += [(277, 1, 1), (322, 1, side), (323, 1, side), (324, len(tiles), behind)]
    tags += [(325, len(tiles), behind + len(lists) // 2)]
    directory = struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", t, 4, n, v) for t, n, v in tags)
    return b"II*\0" + struct.pack("<I", behind + len(lists)) + b"".join(tiles) + lists + directory + b"\0" * 4


L = Image.fromarray(GREY)
RGB = L.convert("RGB")
OPAQUE = L.convert("RGBA")
GREY16 = GREY.astype(np.uint16) * 257
UP16 = Image.fromarray(GREY16)
TIFF_COMPRESSIONS = ("tiff_lzw", "tiff_deflate", "tiff_adobe_deflate", "packbits")

LOSSLESS: dict[str, bytes] = {
    "png L": save(L, "PNG"),
    "png RGB": save(RGB, "PNG"),
    "png RGBA": save(OPAQUE, "PNG"),
    "png LA": save(L.convert("LA"), "PNG"),
    "png palette": save(L.convert("P"), "PNG"),
    "png 16": save(UP16, "PNG"),
    "png 16 RGB": cv2.imencode(".png", np.repeat(GREY[..., None].astype(np.uint16) * 257, 3, 2))[1].tobytes(),
    "bmp L": save(L, "BMP"),
    "bmp RGB": save(RGB, "BMP"),
    "bmp palette": save(L.convert("P"), "BMP"),
    "bmp 32, fourth byte 0": bmp(bgr_and(0), 32),
    "bmp 32, fourth byte 77": bmp(bgr_and(77), 32),
    "bmp 32, masks, fourth byte 0": bmp(bgr_and(0), 32, compression=3, behind=BGR_MASKS),
    "bmp 32, version 4, no alpha": bmp(bgr_and(0), 32, size=108, compression=3, behind=BGR_MASKS),
    "bmp 32, version 4, opaque": bmp(bgr_and(255), 32, size=108, compression=3, behind=BGR_MASKS + ALPHA_MASK),
    "bmp run lengths": bmp(run_lengths(GREY), 8, compression=1, behind=GREYS),
    "webp RGB": save(RGB, "WEBP", lossless=True),
    "webp RGBA": save(OPAQUE, "WEBP", lossless=True),
    "tiff L": save(L, "TIFF"),
    "tiff RGB": save(RGB, "TIFF"),
    "tiff RGBA": save(OPAQUE, "TIFF"),
    "tiff LA": save(L.convert("LA"), "TIFF"),
    "tiff palette": save(L.convert("P"), "TIFF"),
    "tiff 16": save(UP16, "TIFF"),
    "tiff 16 big-endian": tiff(GREY16, order=">"),
    "tiff big": tiff(GREY, big=True),
    "tiff tiles": tiled_tiff(GREY),
    "tiff 16 tiles": tiled_tiff(GREY16),
    "tiff white is zero": tiff(255 - GREY, tags={262: 0}),
    "tiff 16 white is zero": tiff(65535 - GREY16, tags={262: 0}),
    "tiff LA white is zero": tiff(np.dstack([255 - GREY, np.full_like(GREY, 255)]), tags={262: 0, 338: 2}),
    "tiff grey and an extra sample": tiff(np.dstack([GREY, GREY // 2]), tags={338: 0}),
    "tiff deflated grey and an extra sample": tiff(np.dstack([GREY, GREY // 2]), deflate=True, tags={338: 0}),
    "tiff RGB and an extra sample": tiff(np.dstack([GREY] * 3 + [GREY * 0]), tags={262: 2, 338: 0}),
    "tiff 16 RGB and an extra sample": tiff(np.dstack([GREY16] * 3 + [GREY16 * 0]), tags={262: 2, 338: 0}),
    "tiff float32": tiff(UNIT, sample=3),
    "tiff float32 big-endian": tiff(UNIT, sample=3, order=">"),
    "tiff float64": tiff(GREY.astype(np.float64) / 255, sample=3),
    **{f"tiff {c}": save(L, "TIFF", compression=c) for c in TIFF_COMPRESSIONS},
}
WITH_NOTICE: dict[str, bytes] = {
    "tiff float 0 to 255": tiff(GREY.astype(np.float32), sample=3),
    "tiff int32": tiff(GREY.astype(np.int32), sample=2),
    "tiff uint32": tiff(GREY.astype(np.uint32)),
    "tiff int16": tiff(GREY.astype(np.int16), sample=2),
    "tiff int16 white is zero": tiff(255 - GREY.astype(np.int16), sample=2, tags={262: 0}),
}
LOSSY: dict[str, bytes] = {
    "jpeg L": save(L, "JPEG", quality=95),
    "jpeg RGB": save(RGB, "JPEG", quality=95),
    "jpeg progressive": save(L, "JPEG", quality=95, progressive=True),
    "jpeg CMYK": save(RGB.convert("CMYK"), "JPEG", quality=95),
    "webp lossy": save(RGB, "WEBP", quality=95),
    "tiff jpeg RGB": save(RGB, "TIFF", compression="jpeg"),
    "tiff jpeg": save(L, "TIFF", compression="jpeg"),
    "tiff CMYK": save(RGB.convert("CMYK"), "TIFF"),
}
ALL = LOSSLESS | WITH_NOTICE | LOSSY


@pytest.mark.parametrize("name", LOSSLESS)
def test_the_same_pixels_are_the_same_in_every_lossless_container(name: str) -> None:
    slice_ = read_slice(LOSSLESS[name])
    assert slice_.notices == ()
    assert np.array_equal(slice_.pixels, UNIT)


@pytest.mark.parametrize("name", WITH_NOTICE)
def test_greys_without_a_stated_range_are_scaled_with_a_notice(name: str) -> None:
    slice_ = read_slice(WITH_NOTICE[name])
    assert np.abs(slice_.pixels - UNIT).max() <= 1e-6
    assert slice_.notices[0].values == {"top": 255}


@pytest.mark.parametrize("name", LOSSY)
def test_lossy_pictures_are_what_pillow_reads(name: str) -> None:
    theirs = np.asarray(Image.open(io.BytesIO(LOSSY[name])).convert("L"), np.float32) / 255
    ours = read_slice(LOSSY[name]).pixels
    # the two libraries' JPEG and CMYK arithmetic differ in rounding, by a few levels of 255
    assert np.abs(ours - theirs).max() <= 6 / 255
    assert np.abs(ours - theirs).mean() <= 1 / 255


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF"])
def test_one_bit_pictures(kind: str) -> None:
    black_and_white = L.point(lambda v: 255 * (v > 100)).convert("1", dither=Image.Dither.NONE)
    expected = np.asarray(black_and_white, np.float32)
    assert np.array_equal(read_slice(save(black_and_white, kind)).pixels, expected)


@pytest.mark.parametrize("bits", [2, 4])
def test_few_bit_palettes(bits: int) -> None:
    picture = L.quantize(2**bits)
    expected = np.asarray(picture.convert("L"), np.float32) / 255
    assert np.array_equal(read_slice(save(picture, "PNG", bits=bits)).pixels, expected)


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
def test_transparency_is_composited_on_black(kind: str) -> None:
    alpha = np.linspace(0, 255, GREY.size).astype(np.uint8).reshape(GREY.shape)
    picture = Image.fromarray(np.dstack([GREY, GREY, GREY, alpha]), "RGBA")
    black = Image.new("RGBA", picture.size, (0, 0, 0, 255))
    expected = np.asarray(Image.alpha_composite(black, picture).convert("L"), np.float32) / 255
    read = read_slice(save(picture, kind, **({"lossless": True, "exact": True} if kind == "WEBP" else {})))
    assert np.abs(read.pixels - expected).max() <= 1.01 / 255


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_grey_with_alpha_is_composited_on_black(kind: str) -> None:
    alpha = np.where(np.indices(GREY.shape)[1] < 100, 0, 255).astype(np.uint8)
    picture = Image.merge("LA", [L, Image.fromarray(alpha)])
    assert np.array_equal(read_slice(save(picture, kind)).pixels, UNIT * (alpha == 255))


def test_a_transparent_palette_colour_is_black() -> None:
    picture = L.convert("P")
    expected = np.where(GREY == 7, 0, UNIT)
    assert (GREY == 7).any()
    assert np.array_equal(read_slice(save(picture, "PNG", transparency=7)).pixels, expected)


def test_a_transparent_grey_is_black() -> None:
    transparent = int(GREY[80, 100])
    expected = np.where(transparent == GREY, 0, UNIT)
    for picture, stored in ((L, transparent), (UP16, transparent * 257)):
        data = save(picture, "PNG")
        with_grey = data[:33] + png((b"tRNS", struct.pack(">H", stored)))[8:] + data[33:]  # behind IHDR
        assert np.array_equal(read_slice(with_grey).pixels, expected)


def test_the_fourth_byte_of_a_bmp_is_alpha_where_a_mask_says_so() -> None:
    alpha = np.where(np.indices(GREY.shape)[1] < 100, 0, 255).astype(np.uint8)
    data = bmp(bgr_and(alpha), 32, size=108, compression=3, behind=BGR_MASKS + ALPHA_MASK)
    assert np.array_equal(read_slice(data).pixels, UNIT * (alpha == 255))


OTHERWISE = {
    "bmp of unusual masks": bmp(bgr_and(9), 32, compression=3, behind=BGR_MASKS[::-1]),
    "tiff 16 in planes": tiff(np.dstack([GREY16] * 3), tags={262: 2, 284: 2}),
    "tiff int16 in planes": tiff(np.dstack([GREY.astype(np.int16)] * 3), sample=2, tags={262: 2, 284: 2}),
    "tiff of 4 bits": tiff(GREY, tags={256: 406, 258: 4}),
    "tiff of half floats": tiff(UNIT.astype(np.float16), sample=3),
    "tiff YCbCr without JPEG": tiff(np.dstack([GREY] * 3), tags={262: 6}),
    "tiff of CIE L*a*b*": tiff(np.dstack([GREY] * 3), tags={262: 8}),
    "tiff of a rare compression": tiff(GREY, tags={259: 32909}),
    "tiff deflated LA": tiff(np.dstack([GREY, GREY]), deflate=True, tags={338: 2}),
}


@pytest.mark.parametrize("name", OTHERWISE)
def test_what_would_be_read_wrongly_is_refused_with_a_way_out(name: str) -> None:
    with pytest.raises(UnreadableSlice, match="PNG"):
        read_slice(OTHERWISE[name])


def test_an_interlaced_png_is_read() -> None:
    raw = b"".join(interlaced_rows(GREY))
    height, width = GREY.shape
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 1)), (b"IDAT", zlib.compress(raw))]
    assert np.array_equal(read_slice(png(*chunks, (b"IEND", b""))).pixels, UNIT)


def interlaced_rows(grey: NDArray[np.uint8]) -> list[bytes]:
    """Adam7: seven passes, each a picture of its own."""
    passes = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]
    return [b"\0" + row.tobytes() for top, left, down, right in passes for row in grey[top::down, left::right]]


def png(*chunks: tuple[bytes, bytes]) -> bytes:
    parts = [struct.pack(">I", len(c)) + k + c + struct.pack(">I", zlib.crc32(k + c)) for k, c in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_orientation_is_honoured_exactly_once(kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[274] = orientation
    options: dict[str, Any] = {"exif": exif} if kind != "TIFF" else {"tiffinfo": {274: orientation}}
    data = save(RGB, kind, **options, **({"lossless": True} if kind == "WEBP" else {}))
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("L"), np.float32) / 255
    ours = read_slice(data).pixels
    assert ours.shape == expected.shape
    assert np.abs(ours - expected).max() <= (4 / 255 if kind == "JPEG" else 0)


def test_twelve_bits_in_sixteen_are_scaled_with_a_notice() -> None:
    twelve = GREY.astype(np.uint16) * 16
    for data in (save(Image.fromarray(twelve), "PNG"), save(Image.fromarray(twelve), "TIFF")):
        slice_ = read_slice(data)
        assert slice_.notices == (Notice("twelve_bit"),)
        assert np.array_equal(slice_.pixels, twelve.astype(np.float32) / 4095)
    at_the_border = twelve.copy()
    at_the_border[0, 0] = 4096
    assert read_slice(save(Image.fromarray(at_the_border), "PNG")).notices == ()


def test_negative_greys_are_stretched_with_a_notice() -> None:
    hounsfield = tiff(GREY.astype(np.int16) * 8 - 1024, sample=2)
    slice_ = read_slice(hounsfield)
    assert (slice_.pixels.min(), slice_.pixels.max()) == (0, 1)
    assert slice_.notices[0].values["low"] == -1024


def test_the_largest_floats_are_stretched() -> None:
    slice_ = read_slice(tiff(np.where(GREY > 100, 1.7e308, -1.7e308), sample=3))
    assert np.array_equal(slice_.pixels, GREY > 100)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_no_numbers_are_refused(value: float) -> None:
    broken = UNIT.copy()
    broken[3, 4] = value
    with pytest.raises(UnreadableSlice, match="not numbers"):
        read_slice(tiff(broken, sample=3))


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
def test_of_several_frames_the_first_is_taken_with_a_notice(kind: str) -> None:
    other = Image.fromarray(255 - GREY).convert("RGB")
    extra = {"lossless": True} if kind == "WEBP" else {}
    slice_ = read_slice(save(RGB, kind, save_all=True, append_images=[other], **extra))
    assert slice_.notices == (Notice("several_frames"),)
    assert np.array_equal(slice_.pixels, UNIT)


NOT_PICTURES = {
    "empty": (b"", "empty"),
    "text": (b"a report, not a picture\n" * 30, "unknown_format"),
    "gif": (save(L, "GIF"), "gif"),
    "pdf": (b"%PDF-1.7\n" + b"0" * 400, "pdf"),
    "pdf behind other bytes": (b"\n" * 500 + b"%PDF-1.7\n", "pdf"),
    "svg": (b'<svg xmlns="http://www.w3.org/2000/svg"/>' + b" " * 400, "svg"),
    "svg, declared": (b"\xef\xbb\xbf<?xml version='1.0'?>\n<!-- a drawing -->\n<!DOCTYPE svg>\n<svg>", "svg"),
    "html with a drawing in it": (b"<!DOCTYPE html><html><svg></svg></html>", "unknown_format"),
    "dicom": (b"\0" * 128 + b"DICM" + b"\0" * 400, "dicom"),
    "nifti": (b"\x5c\x01\0\0" + b"\0" * 340 + b"n+1\0" + b"\0" * 99, "nifti"),
    "zip": (b"PK\x03\x04" + b"\0" * 400, "unknown_format"),
    "magic alone, png": (b"\x89PNG\r\n\x1a\n", "damaged"),
    "magic alone, jpeg": (b"\xff\xd8\xff", "damaged"),
    "text that begins like a bmp": (b"BMI 24, no contrast agent\n" * 30, "unknown_format"),
    "magic alone, bmp": (b"BM" + b"\0" * 12 + b"\x28" + b"\0" * 45, "damaged"),
    "magic alone, tiff": (b"II*\0", "damaged"),
    "magic alone, webp": (b"RIFF\0\0\0\0WEBP", "damaged"),
}


@pytest.mark.parametrize("name", NOT_PICTURES)
def test_what_is_no_picture_is_named(name: str) -> None:
    data, code = NOT_PICTURES[name]
    with pytest.raises(UnreadableSlice) as caught:
        read_slice(data)
    assert caught.value.notice.code == code


@pytest.mark.parametrize("name", ALL)
def test_a_file_cut_anywhere_is_refused(name: str) -> None:
    data = ALL[name]
    whole = read_slice(data).pixels
    for length in [*(len(data) * k // 20 for k in range(1, 20)), *(len(data) - k for k in (1, 2, 10))]:
        try:
            cut = read_slice(data[:length])
        except UnreadableSlice:
            continue
        assert np.array_equal(cut.pixels, whole), f"{name} cut to {length} of {len(data)} bytes was read differently"


def test_bytes_behind_the_end_do_no_harm() -> None:
    for name, data in LOSSLESS.items():
        assert np.array_equal(read_slice(data + b"behind" * 50).pixels, UNIT), name


@pytest.mark.parametrize(("height", "width"), [(31, 100), (100, 31), (1, 1)])
def test_too_small_is_said_with_the_size(height: int, width: int) -> None:
    with pytest.raises(UnreadableSlice, match=f"too small: {width} × {height}"):
        read_slice(save(Image.new("L", (width, height)), "PNG"))
    assert read_slice(save(Image.new("L", (32, 32)), "PNG")).pixels.shape == (32, 32)


HUGE = {
    "png": png((b"IHDR", struct.pack(">IIBBBBB", 65000, 65000, 8, 0, 0, 0, 0))),
    "jpeg": b"\xff\xd8\xff\xc0" + struct.pack(">HBHHB", 11, 8, 65000, 65000, 1) + b"\1\x11\0",
    "bmp": b"BM"
    + struct.pack("<IHHI", 99, 0, 0, 54)
    + struct.pack("<IiiHHII", 40, 65000, -65000, 1, 24, 0, 0)
    + b"\0" * 20,
    "webp": b"RIFF\x40\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0" + (64999).to_bytes(3, "little") * 2,
    "tiff": b"II*\0\x08\0\0\0\2\0" + struct.pack("<HHIIHHIII", 256, 4, 1, 65000, 257, 4, 1, 65000, 0),
}


@pytest.mark.parametrize("name", HUGE)
def test_too_large_by_its_header_is_refused_before_decoding(name: str) -> None:
    start = time.monotonic()
    with pytest.raises(UnreadableSlice, match="too large: 65000 × 65000"):
        read_slice(HUGE[name])
    assert time.monotonic() - start < 0.5


def test_a_png_with_too_few_pixels_is_refused() -> None:
    height, width = GREY.shape
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))]
    rows = b"".join(b"\0" + row.tobytes() for row in GREY[: height // 2])
    with pytest.raises(UnreadableSlice):
        read_slice(png(*chunks, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")))


def test_forged_lengths_and_offsets_are_refused() -> None:
    forged = [
        tiff(GREY).replace(struct.pack("<HHII", 273, 4, 1, 8), struct.pack("<HHII", 273, 4, 2**31, 8)),
        b"II*\0" + struct.pack("<I", 2**32 - 8) + b"\0" * 100,
        b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 2**31) + b"IHDR" + struct.pack(">II", 100, 100) + b"\0" * 100,
    ]
    for data in forged:
        with pytest.raises(UnreadableSlice):
            read_slice(data)


def test_a_forged_strip_size_is_calculated_anew() -> None:
    """libtiff takes what rows and columns need and no byte more, so nothing but the picture's own pixels is read."""
    size = struct.pack("<HHII", 279, 4, 1, GREY.size)
    assert np.array_equal(read_slice(tiff(GREY).replace(size, struct.pack("<HHII", 279, 4, 1, 2**32 - 1))).pixels, UNIT)


def test_a_compression_of_a_signed_type_is_not_taken_for_none() -> None:
    rare = tiff(GREY, tags={259: 32909})  # libtiff reads signed numbers too
    with pytest.raises(UnreadableSlice):
        read_slice(rare.replace(struct.pack("<HHI", 259, 4, 1), struct.pack("<HHI", 259, 9, 1)))


def test_chunks_that_make_no_pixels_change_none() -> None:
    gamma = (b"gAMA", struct.pack(">I", 100_000))
    points = (b"cHRM", struct.pack(">8I", 31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000))
    for name in ("png L", "png RGB", "png palette", "png 16"):
        data = LOSSLESS[name]
        extra = png(gamma, points, (b"sBIT", b"\5" * 4), (b"bKGD", b"\0" * 6), (b"iCCP", b"name\0\0broken"))[8:]
        assert np.array_equal(read_slice(data[:33] + extra + data[33:]).pixels, UNIT), name  # behind IHDR


def test_strips_without_their_sizes_are_refused() -> None:
    both = tiff(np.dstack([GREY, GREY]), tags={338: 2})
    forged = both.replace(struct.pack("<HHI", 279, 4, 1), struct.pack("<HHI", 325, 4, 1))  # sizes of tiles instead
    with pytest.raises(UnreadableSlice):
        read_slice(forged)


def test_entries_that_share_a_large_value_are_read_quickly() -> None:
    entries = b"".join(struct.pack("<HHII", 1000 + i, 1, 1 << 20, 0) for i in range(900))
    exif = b"II*\0" + struct.pack("<IH", 8, 900) + entries + b"\0" * (4 + (1 << 20))
    data = LOSSLESS["png L"]
    forged = data[:33] + png((b"eXIf", exif))[8:] + data[33:]  # behind IHDR
    start = time.monotonic()
    assert np.array_equal(read_slice(forged).pixels, UNIT)
    assert time.monotonic() - start < 2


def test_of_two_sizes_in_one_directory_the_first_counts() -> None:
    whole = tiff(GREY)
    width = struct.pack("<HHII", 256, 4, 1, 203)
    two = whole.replace(struct.pack("<H", 10) + width, struct.pack("<HHHII", 11, 256, 4, 1, 1 << 20) + width)
    with pytest.raises(UnreadableSlice, match="too large"):
        read_slice(two)


def with_many_parts() -> dict[str, tuple[bytes, bool]]:
    """Small files of very many parts, and whether they are refused for it."""
    whole = {kind: save(RGB, kind, lossless=True) for kind in ("PNG", "JPEG", "WEBP")}
    chunks = png((b"teSt", b""))[8:] * 200_000
    parts = whole["WEBP"][12:] + b"ABCD\0\0\0\0" * 200_000
    progressive = save(L, "JPEG", progressive=True)
    scan = progressive[progressive.rindex(b"\xff\xda") : -2]
    return {
        "png": (whole["PNG"][:33] + chunks + whole["PNG"][33:], True),
        "jpeg": (whole["JPEG"][:2] + b"\xff\xfe\0\2" * 200_000 + whole["JPEG"][2:], True),
        # Only C walks a WebP's parts, 16 MB of them in milliseconds.
        "webp": (b"RIFF" + struct.pack("<I", 4 + len(parts)) + b"WEBP" + parts, False),
        # Each scan costs a pass over all pixels.
        "jpeg scans": (progressive[:-2] + scan * 1000 + progressive[-2:], True),
    }


@pytest.mark.parametrize("name", ["png", "jpeg", "webp", "jpeg scans"])
def test_what_many_parts_would_cost_is_not_paid(name: str) -> None:
    data, is_refused = with_many_parts()[name]
    if is_refused:
        with pytest.raises(UnreadableSlice) as caught:
            read_slice(data)
        assert caught.value.notice == Notice("undecodable")
    else:
        assert np.array_equal(read_slice(data).pixels, UNIT)


def test_headers_say_what_pillow_says() -> None:
    for name, data in ALL.items():
        header = read_header(data)
        try:
            theirs = Image.open(io.BytesIO(data)).size
        except OSError:
            theirs = (203, 157)  # a form that Pillow does not read
        assert (header.width, header.height) == theirs, name


@pytest.mark.skipif(not DATA.exists(), reason="the data set is not here")
def test_real_slices_are_what_pillow_reads() -> None:
    files = sorted((DATA / "test").rglob("*"))[::25]
    for file in (f for f in files if f.is_file()):
        data = file.read_bytes()
        picture = Image.open(io.BytesIO(data)).convert("RGBA")
        black = Image.new("RGBA", picture.size, (0, 0, 0, 255))
        expected = np.asarray(Image.alpha_composite(black, picture).convert("L"), np.float32) / 255
        assert np.abs(read_slice(data).pixels - expected).max() <= (4 if data[:2] == b"\xff\xd8" else 1.01) / 255
