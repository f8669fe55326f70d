"""The reader against Pillow, on real bytes of every kind, whole, cut, flipped and forged."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageOps

from ctscan.errors import UnreadableSlice
from ctscan.io.headers import read_header
from ctscan.io.images import LONGEST_SIDE, THINNEST, Slice, read_slice, shrink
from ctscan.notices import Notice
from tests.samples import (
    ALL,
    ALPHA_MASK,
    BGR_MASKS,
    GREY,
    HUGE,
    LOSSLESS,
    LOSSY,
    NOT_PICTURES,
    OTHERWISE,
    RGB,
    UNIT,
    UP16,
    WITH_NOTICE,
    L,
    bgr_and,
    bmp,
    encode,
    liars,
    many_parts,
    png,
    strangers,
    tiff,
    webp_of_many_parts,
    with_strip_of_4_gib,
)

DATA = Path(__file__).parent.parent.parent / "shared" / "data" / "chest-ctscan"


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
    assert np.array_equal(read_slice(encode(black_and_white, kind)).pixels, expected)


@pytest.mark.parametrize("bits", [2, 4])
def test_few_bit_palettes(bits: int) -> None:
    picture = L.quantize(2**bits)
    expected = np.asarray(picture.convert("L"), np.float32) / 255
    assert np.array_equal(read_slice(encode(picture, "PNG", bits=bits)).pixels, expected)


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
def test_transparency_is_composited_on_black(kind: str) -> None:
    alpha = np.linspace(0, 255, GREY.size).astype(np.uint8).reshape(GREY.shape)
    picture = Image.fromarray(np.dstack([GREY, GREY, GREY, alpha]), "RGBA")
    black = Image.new("RGBA", picture.size, (0, 0, 0, 255))
    expected = np.asarray(Image.alpha_composite(black, picture).convert("L"), np.float32) / 255
    read = read_slice(encode(picture, kind, **({"lossless": True, "exact": True} if kind == "WEBP" else {})))
    assert np.abs(read.pixels - expected).max() <= 1.01 / 255


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_grey_with_alpha_is_composited_on_black(kind: str) -> None:
    alpha = np.where(np.indices(GREY.shape)[1] < 100, 0, 255).astype(np.uint8)
    picture = Image.merge("LA", [L, Image.fromarray(alpha)])
    assert np.array_equal(read_slice(encode(picture, kind)).pixels, UNIT * (alpha == 255))


def test_a_transparent_palette_colour_is_black() -> None:
    picture = L.convert("P")
    expected = np.where(GREY == 7, 0, UNIT)
    assert (GREY == 7).any()
    assert np.array_equal(read_slice(encode(picture, "PNG", transparency=7)).pixels, expected)


def test_a_transparent_grey_is_black() -> None:
    transparent = int(GREY[80, 100])
    expected = np.where(transparent == GREY, 0, UNIT)
    for picture, stored in ((L, transparent), (UP16, transparent * 257)):
        data = encode(picture, "PNG")
        with_grey = data[:33] + png((b"tRNS", struct.pack(">H", stored)))[8:] + data[33:]  # behind IHDR
        assert np.array_equal(read_slice(with_grey).pixels, expected)


def test_the_fourth_byte_of_a_bmp_is_alpha_where_a_mask_says_so() -> None:
    alpha = np.where(np.indices(GREY.shape)[1] < 100, 0, 255).astype(np.uint8)
    data = bmp(bgr_and(alpha), 32, size=108, compression=3, behind=BGR_MASKS + ALPHA_MASK)
    assert np.array_equal(read_slice(data).pixels, UNIT * (alpha == 255))


@pytest.mark.parametrize("name", OTHERWISE)
def test_what_would_be_read_wrongly_is_refused_with_a_way_out(name: str) -> None:
    with pytest.raises(UnreadableSlice) as caught:
        read_slice(OTHERWISE[name])
    assert caught.value.notice.code in ("undecodable", "transparent_tiff")  # whose sentences name a way out


def test_an_interlaced_png_is_read() -> None:
    raw = b"".join(interlaced_rows(GREY))
    height, width = GREY.shape
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 1)), (b"IDAT", zlib.compress(raw))]
    assert np.array_equal(read_slice(png(*chunks, (b"IEND", b""))).pixels, UNIT)


def interlaced_rows(grey: NDArray[np.uint8]) -> list[bytes]:
    """Adam7: seven passes, each a picture of its own."""
    passes = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]
    return [b"\0" + row.tobytes() for top, left, down, right in passes for row in grey[top::down, left::right]]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_orientation_is_honoured_exactly_once(kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[274] = orientation
    options: dict[str, Any] = {"exif": exif} if kind != "TIFF" else {"tiffinfo": {274: orientation}}
    data = encode(RGB, kind, **options, **({"lossless": True} if kind == "WEBP" else {}))
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("L"), np.float32) / 255
    ours = read_slice(data).pixels
    assert ours.shape == expected.shape
    assert np.abs(ours - expected).max() <= (4 / 255 if kind == "JPEG" else 0)


def test_twelve_bits_in_sixteen_are_scaled_with_a_notice() -> None:
    twelve = GREY.astype(np.uint16) * 16
    for data in (encode(Image.fromarray(twelve), "PNG"), encode(Image.fromarray(twelve), "TIFF")):
        slice_ = read_slice(data)
        assert slice_.notices == (Notice("twelve_bit"),)
        assert np.array_equal(slice_.pixels, twelve.astype(np.float32) / 4095)
    at_the_border = twelve.copy()
    at_the_border[0, 0] = 4096
    assert read_slice(encode(Image.fromarray(at_the_border), "PNG")).notices == ()


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
    with pytest.raises(UnreadableSlice) as caught:
        read_slice(tiff(broken, sample=3))
    assert caught.value.notice == Notice("not_numbers")


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
def test_of_several_frames_the_first_is_taken_with_a_notice(kind: str) -> None:
    other = Image.fromarray(255 - GREY).convert("RGB")
    extra = {"lossless": True} if kind == "WEBP" else {}
    slice_ = read_slice(encode(RGB, kind, save_all=True, append_images=[other], **extra))
    assert slice_.notices == (Notice("several_frames"),)
    assert np.array_equal(slice_.pixels, UNIT)


def tiff_of_pages(*pages: dict[str, Any], big: bool = False) -> bytes:
    """What `tiff` makes of each, one behind the other."""
    whole = b""
    place, pointer = (8, "<Q") if big else (4, "<I")
    for page in pages:
        one = tiff(page["values"], big=big, tags={273: len(whole) + 2 * place} | page.get("tags", {}))
        if whole:
            (begin,) = struct.unpack_from(pointer, one, place)
            whole = whole[: -struct.calcsize(pointer)] + struct.pack(pointer, len(whole) + begin)
        whole += one
    return whole


@pytest.mark.parametrize("first", [(20, 25), (48, 64)], ids=["too small for a slice", "a thumbnail"])
@pytest.mark.parametrize("big", [False, True])
def test_of_several_pages_the_largest_is_taken_with_a_notice(first: tuple[int, int], big: bool) -> None:
    pages = [GREY[: first[0], : first[1]], GREY, GREY[:100, :100], 255 - GREY]
    slice_ = read_slice(tiff_of_pages(*({"values": page} for page in pages), big=big))
    assert slice_.notices == (Notice("largest_page"),)
    assert np.array_equal(slice_.pixels, UNIT)


def test_what_is_asked_of_a_page_is_asked_of_the_largest() -> None:
    rare: dict[str, Any] = {"tags": {259: 32909}}  # a compression that is refused
    small: dict[str, Any] = {"values": GREY[:40, :50]}
    with pytest.raises(UnreadableSlice) as caught:
        read_slice(tiff_of_pages(small, {"values": GREY} | rare))
    assert caught.value.notice == Notice("undecodable")
    assert np.array_equal(read_slice(tiff_of_pages(small | rare, {"values": GREY})).pixels, UNIT)


def test_a_broken_page_behind_the_first_does_no_harm() -> None:
    whole = tiff(GREY)
    slice_ = read_slice(whole[:-4] + struct.pack("<I", len(whole) - 1))
    assert np.array_equal(slice_.pixels, UNIT)
    assert slice_.notices == (Notice("several_frames"),)


@pytest.mark.parametrize("end", [b"", b"\0\0\0\0", b"behind"], ids=["none", "wrong", "longer"])
def test_the_checksum_behind_the_last_chunk_of_a_png_is_ours(end: bytes) -> None:
    assert np.array_equal(read_slice(LOSSLESS["png L"][:-4] + end).pixels, UNIT)


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
    with pytest.raises(UnreadableSlice) as caught:
        read_slice(encode(Image.new("L", (width, height)), "PNG"))
    assert caught.value.notice == Notice("too_small", {"width": width, "height": height, "least": 32})
    assert read_slice(encode(Image.new("L", (32, 32)), "PNG")).pixels.shape == (32, 32)


@pytest.mark.parametrize("name", HUGE)
def test_too_large_by_its_header_is_refused_before_decoding(name: str) -> None:
    with pytest.raises(UnreadableSlice) as caught:
        read_header(HUGE[name])  # which decodes nothing; there are no pixels in the file
    assert caught.value.notice == Notice("too_large", {"width": 65000, "height": 65000, "millions": 20})


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


@pytest.mark.parametrize("data", [with_strip_of_4_gib(), webp_of_many_parts()], ids=["strip of 4 GiB", "many parts"])
def test_a_lie_that_the_decoder_sees_through_changes_no_pixel(data: bytes) -> None:
    """Refused by an own walk once; OpenCV reads them within the limits, and nothing but the picture in them."""
    assert np.array_equal(read_slice(data).pixels, UNIT)


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
    with pytest.raises(UnreadableSlice) as caught:
        read_slice(forged)
    assert caught.value.notice == Notice("undecodable")  # the file may be whole for other readers


def test_entries_that_share_a_large_value_do_no_harm() -> None:
    entries = b"".join(struct.pack("<HHII", 1000 + i, 1, 1 << 20, 0) for i in range(900))
    exif = b"II*\0" + struct.pack("<IH", 8, 900) + entries + b"\0" * (4 + (1 << 20))
    data = LOSSLESS["png L"]
    forged = data[:33] + png((b"eXIf", exif))[8:] + data[33:]  # behind IHDR
    assert np.array_equal(read_slice(forged).pixels, UNIT)


def test_of_two_sizes_in_one_directory_the_first_counts() -> None:
    whole = tiff(GREY)
    width = struct.pack("<HHII", 256, 4, 1, 203)
    two = whole.replace(struct.pack("<H", 10) + width, struct.pack("<HHHII", 11, 256, 4, 1, 1 << 20) + width)
    with pytest.raises(UnreadableSlice, match="too large"):
        read_slice(two)


@pytest.mark.parametrize("shape", [(2 * LONGEST_SIDE, LONGEST_SIDE), (LONGEST_SIDE // 2, 3 * LONGEST_SIDE // 2)])
def test_a_large_slice_becomes_the_means_of_its_pixels(shape: tuple[int, int]) -> None:
    height, width = shape
    factor = max(shape) / LONGEST_SIDE
    pixels = np.tile(np.array([[0, 1], [1, 0.5]], np.float32), (height // 2, width // 2))
    small = shrink(Slice(pixels, spacing=(0.1, 0.2), colour=0.3, unit="HU"))
    assert small.pixels.shape == (round(height / factor), round(width / factor))
    assert max(small.pixels.shape) == LONGEST_SIDE
    assert small.pixels.mean() == pytest.approx(pixels.mean(), abs=1e-4)
    assert small.pixels.dtype == np.float32
    assert 0 <= small.pixels.min() <= small.pixels.max() <= 1
    assert not small.pixels.flags.writeable
    assert small.spacing == pytest.approx((0.1 * factor, 0.2 * factor), rel=1e-3)
    assert (small.colour, small.unit) == (0.3, "HU")


def test_a_slice_within_the_limit_stays_as_it_is() -> None:
    slice_ = Slice(np.zeros((LONGEST_SIDE, 9), np.float32))
    assert shrink(slice_) is slice_


def test_what_is_far_too_long_stays_too_long() -> None:
    assert shrink(Slice(np.ones((10, 100 * LONGEST_SIDE), np.float32))).pixels.shape == (10, LONGEST_SIDE)
    assert shrink(Slice(np.ones((200 * LONGEST_SIDE, 100), np.float32))).pixels.shape == (LONGEST_SIDE, THINNEST)


@pytest.mark.parametrize(("name", "data"), many_parts().items())
def test_a_file_of_very_many_parts_is_refused(name: str, data: bytes) -> None:
    with pytest.raises(UnreadableSlice) as caught:
        read_slice(data)
    assert caught.value.notice == Notice("undecodable"), name


@pytest.mark.parametrize(("name", "data"), (liars() | strangers()).items())
def test_what_lies_or_is_another_thing_is_refused(name: str, data: bytes) -> None:
    with pytest.raises(UnreadableSlice, match=r"^[A-Z][^\n]*\.$"):
        read_slice(data)


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
