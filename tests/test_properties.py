"""What holds for every file, slice and map, not for chosen ones: searched by Hypothesis.

Each property runs twice: quickly and always the same by default, with 500 new examples at night.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Callable
from contextlib import suppress
from itertools import product
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from ctscan.errors import UnreadableSlice
from ctscan.imaging.anatomy import Box, find_anatomy
from ctscan.imaging.phantom import draw_phantom
from ctscan.imaging.preprocess import RANK_LOW, Placement, Preprocess, letterbox, rank_greys
from ctscan.imaging.render import encode_png, fit, layer, overlay, to_bytes
from ctscan.io.headers import BROKEN, MAX_PIXELS, MAX_VALUES, MIN_SIDE, read_directory, read_header, read_orientation
from ctscan.io.images import LUMA_BGR, Slice, read_slice, turn
from ctscan.page.words import whole
from tests.samples import ALL, GREY, LOSSLESS, SEEDS, encode, png, tiff

QUICK, THOROUGH = 40, 500  # examples


def holds(*drawn: st.SearchStrategy[Any]) -> Callable[[Callable[..., None]], Callable[[int], None]]:
    """A test of a property of all that is drawn, quick and thorough."""

    def make(law: Callable[..., None]) -> Callable[[int], None]:
        @pytest.mark.parametrize("examples", [QUICK, pytest.param(THOROUGH, marks=pytest.mark.nightly)])
        def test(examples: int) -> None:
            same = examples == QUICK
            settings(max_examples=examples, derandomize=same, database=None, deadline=None)(given(*drawn)(law))()

        test.__doc__ = law.__doc__
        return test

    return make


# --- files

EDGES = (0, 1, 2, 8, 31, 32, 255, 256, 1 << 15, (1 << 16) - 1, 1 << 16, (1 << 31) - 1, 1 << 31, (1 << 32) - 1)
SENTENCE = re.compile(r"[A-Z][ -~×…]*\.")


@st.composite
def places(draw: st.DrawFn, length: int) -> int:
    """An offset in a file; half of them in its first or last 200 bytes, where headers and directories stand."""
    near = min(length, 200)
    return draw(st.one_of(st.integers(0, length), st.integers(0, near), st.integers(length - near, length)))


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A real file of any kind with up to four of: a byte changed, a number forged, a part cut, moved or grafted."""
    data = draw(st.sampled_from(SEEDS))
    for kind in draw(
        st.lists(st.sampled_from(["byte", "number", "cut", "move", "graft", "end"]), min_size=1, max_size=4)
    ):
        start = draw(places(len(data)))
        stop = min(len(data), start + draw(st.integers(1, 64)))
        if kind == "byte":
            data = data[:start] + bytes([draw(st.integers(0, 255))]) + data[start + 1 :]
        elif kind == "number":
            number = struct.pack(draw(st.sampled_from("<>")) + "I", draw(st.sampled_from(EDGES)))
            data = data[:start] + number[: draw(st.sampled_from([2, 4]))] + data[start + 4 :]
        elif kind == "cut":
            data = data[:start] + data[stop:]
        elif kind == "move":
            target = draw(places(len(data)))
            data = data[:target] + data[start:stop] + data[target:]
        elif kind == "graft":
            other = draw(st.sampled_from(SEEDS))
            data = data[:start] + other[start : start + draw(st.integers(1, 4000))] + data[stop:]
        else:
            data = data[:start]
    return repair(data) if draw(st.booleans()) else data


def repair(data: bytes) -> bytes:
    """A PNG with the checksums of its chunks made right, so that what they hold is looked at; others as they are."""
    whole, position = bytearray(data), 8
    while data[:4] == b"\x89PNG" and position + 12 <= len(whole):
        (length,) = struct.unpack_from(">I", whole, position)
        end = position + 8 + length
        if end + 4 > len(whole):
            break
        struct.pack_into(">I", whole, end, zlib.crc32(whole[position + 4 : end]))
        position = end + 4
    return bytes(whole)


def is_sentence(text: str) -> bool:
    return bool(SENTENCE.fullmatch(text)) and len(text) < 160


def read_or_refuse(data: bytes) -> Slice | str:
    """The slice, or the sentence that says why there is none; any other exception fails the test."""
    try:
        return read_slice(data)
    except UnreadableSlice as error:
        return str(error)


def reads_or_refuses(data: bytes) -> None:
    slice_ = read_or_refuse(data)
    if isinstance(slice_, str):
        assert is_sentence(slice_)
        return
    height, width = slice_.pixels.shape
    assert min(height, width) >= MIN_SIDE
    assert height * width <= MAX_PIXELS
    assert slice_.pixels.dtype == np.float32
    assert slice_.pixels.min() >= 0
    assert slice_.pixels.max() <= 1
    assert all(is_sentence(str(notice)) for notice in slice_.notices)


@holds(damaged())
def test_a_damaged_file_is_read_or_refused(data: bytes) -> None:
    reads_or_refuses(data)


@holds(st.sampled_from([seed[:12] for seed in SEEDS] + [b""]), st.binary(max_size=400))
def test_any_bytes_are_read_or_refused(magic: bytes, rest: bytes) -> None:
    reads_or_refuses(magic + rest)


@holds(st.one_of(damaged(), st.binary(max_size=400)))
def test_a_header_is_within_limits_or_refused(data: bytes) -> None:
    with suppress(UnreadableSlice):
        header = read_header(data)
        assert min(header.width, header.height) >= MIN_SIDE
        assert header.width * header.height <= MAX_PIXELS


@holds(st.one_of(damaged(), st.binary(max_size=400).map(b"II*\0\x08\0\0\0".__add__)))
def test_a_directory_points_inside_the_file_or_is_refused(data: bytes) -> None:
    with suppress(UnreadableSlice, *BROKEN):
        directory = read_directory(data)
        assert max(len(directory.strip_offsets), len(directory.strip_bytes)) <= MAX_VALUES


@holds(st.one_of(damaged(), st.binary(max_size=400).map(b"MM\0*\0\0\0\x08".__add__)))
def test_any_block_has_an_orientation(block: bytes) -> None:
    assert 1 <= read_orientation(block) <= 8


@st.composite
def words_in_files(draw: st.DrawFn) -> tuple[bytes, bytes]:
    """A file, and the same with a word in it where programs write names and comments."""
    word = draw(st.text("abcdefghijklmnopqrstuvwxyzäß", min_size=5, max_size=30)).encode()
    kind = draw(st.sampled_from(["png", "jpeg", "bmp", "webp", "tiff"]))
    if kind == "png":
        data = LOSSLESS["png L"]
        chunk = draw(st.sampled_from([b"tEXt", b"zTXt", b"iTXt", b"eXIf", b"iCCP", b"sPLT", b"naMe"]))
        return data, data[:33] + png((chunk, word + b"\0" + word))[8:] + data[33:]
    if kind == "jpeg":
        data = ALL["jpeg RGB"]
        marker = draw(st.sampled_from([b"\xe1", b"\xe2", b"\xed", b"\xef", b"\xfe"]))
        return data, data[:2] + b"\xff" + marker + struct.pack(">H", len(word) + 2) + word + data[2:]
    if kind == "webp":
        data = LOSSLESS["webp RGB"]
        chunk = draw(st.sampled_from([b"EXIF", b"XMP ", b"naMe"])) + struct.pack("<I", len(word)) + word
        whole = data + chunk + b"\0" * (len(chunk) % 2)
        return data, whole[:4] + struct.pack("<I", len(whole) - 8) + whole[8:]
    data = LOSSLESS["bmp RGB" if kind == "bmp" else "tiff L"]
    return data, data + word


@holds(words_in_files())
def test_words_in_a_file_change_nothing(pair: tuple[bytes, bytes]) -> None:
    plain, worded = (read_slice(data) for data in pair)
    assert np.array_equal(plain.pixels, worded.pixels)
    assert plain.notices == worded.notices


# --- pixels, written and read

SIDES = st.integers(MIN_SIDE, 90)


@st.composite
def greys(draw: st.DrawFn, top: int, dtype: type) -> NDArray[Any]:
    """A picture of whole numbers from 0 to at most `top`, of any contrast."""
    low, high = sorted(draw(st.tuples(st.integers(0, top), st.integers(0, top))))
    rng = np.random.default_rng(draw(st.integers(0, 1 << 32)))
    return rng.integers(low, high, (draw(SIDES), draw(SIDES)), endpoint=True).astype(dtype)


def by_opencv(kind: str, pixels: NDArray[Any]) -> bytes:
    return cv2.imencode(kind, pixels)[1].tobytes()


@holds(greys(255, np.uint8), st.sampled_from(["PNG", "BMP", "TIFF", "WEBP", "hand", "cv2 png", "cv2 tiff"]))
def test_eight_bits_come_back_from_every_lossless_container(pixels: NDArray[np.uint8], kind: str) -> None:
    if kind == "hand":
        data = tiff(pixels, order=">", big=True)
    elif kind.startswith("cv2"):
        data = by_opencv(f".{kind[4:]}", pixels)
    else:
        picture = Image.fromarray(pixels)
        data = encode(picture.convert("RGB"), kind, lossless=True) if kind == "WEBP" else encode(picture, kind)
    assert np.array_equal(read_slice(data).pixels, pixels.astype(np.float32) / 255)


@holds(greys(65535, np.uint16), st.sampled_from(["PNG", "TIFF", "hand", ".png", ".tiff"]))
def test_sixteen_bits_come_back(pixels: NDArray[np.uint16], kind: str) -> None:
    if kind == "hand":
        data = tiff(pixels)
    else:
        data = by_opencv(kind, pixels) if kind[0] == "." else encode(Image.fromarray(pixels), kind)
    read, top = read_slice(data), 4095 if pixels.max() <= 4095 else 65535
    assert np.array_equal(read.pixels, pixels.astype(np.float32) / np.float32(top))
    assert len(read.notices) == (top == 4095)


@holds(greys(1000, np.uint16), st.sampled_from([np.float32, np.float64]), st.sampled_from("<>"))
def test_floats_between_zero_and_one_come_back(pixels: NDArray[np.uint16], dtype: type, order: str) -> None:
    unit: NDArray[Any] = (pixels / 1000).astype(dtype)
    assert np.array_equal(read_slice(tiff(unit, sample=3, order=order)).pixels, unit.astype(np.float32))


@holds(greys(60000, np.uint16), st.integers(-(1 << 15), 1 << 14), st.sampled_from([np.int16, np.int32, np.float32]))
def test_greys_of_no_stated_range_keep_their_order(pixels: NDArray[np.uint16], shift: int, dtype: type) -> None:
    stored: NDArray[Any] = np.clip(pixels.astype(np.int64) + shift, -(1 << 15), (1 << 15) - 1).astype(dtype)
    read = read_slice(tiff(stored, sample=3 if dtype is np.float32 else 2))
    order = np.argsort(stored, axis=None, kind="stable")
    assert (np.diff(read.pixels.ravel()[order]) >= 0).all()
    assert len(read.notices) == 1 or (dtype is np.float32 and stored.min() >= 0 and stored.max() <= 1)


@holds(st.integers(0, 1 << 32), SIDES, SIDES, st.sampled_from([".png", ".bmp", ".tiff"]))
def test_colours_become_their_luma(seed: int, height: int, width: int, kind: str) -> None:
    bgr = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    assert np.abs(read_slice(by_opencv(kind, bgr)).pixels * 255 - bgr @ np.array(LUMA_BGR)).max() <= 0.5001


def test_the_orientations_are_a_group() -> None:
    """Done twice they are one of them again, the first is none, and each is undone by one of them."""
    square = np.arange(16, dtype=np.float32).reshape(4, 4)
    all_eight = {turn(square, o).tobytes(): o for o in range(1, 9)}
    assert len(all_eight) == 8
    assert np.array_equal(turn(square, 1), square)
    products = {(a, b): all_eight[turn(turn(square, a), b).tobytes()] for a, b in product(range(1, 9), repeat=2)}
    for a in range(1, 9):
        assert {products[a, b] for b in range(1, 9)} == {products[b, a] for b in range(1, 9)} == set(range(1, 9))
    for shape in ((3, 5), (1, 7)):
        oblong = np.random.default_rng(0).random(shape, np.float32)
        for (a, b), c in products.items():
            assert np.array_equal(turn(turn(oblong, a), b), turn(oblong, c))


# --- places


@st.composite
def slices(draw: st.DrawFn) -> NDArray[np.float32]:
    """Pixels of any shape: a chest somewhere, bright shapes, noise, or one grey."""
    usual = st.tuples(st.integers(1, 200), st.integers(1, 200))
    thin = st.tuples(st.integers(1, 3), st.integers(1, 1000))
    height, width = draw(st.one_of(usual, usual, usual, thin, thin.map(lambda t: t[::-1]), st.just((2048, 40))))
    rng = np.random.default_rng(draw(st.integers(0, 1 << 32)))
    kind = draw(st.sampled_from(["chest", "shapes", "noise", "flat"]))
    if kind == "flat":
        return np.full((height, width), draw(st.floats(0, 1, width=32)), np.float32)
    if kind == "noise":
        return rng.random((height, width), np.float32)
    if kind == "chest":
        top, left = (draw(st.integers(0, side // 3)) for side in (height, width))
        pixels = np.zeros((height, width), np.float32)
        pixels[top:, left:] = draw_phantom(height - top, width - left)
        return pixels
    pixels = np.zeros((height, width), np.float32)
    for _ in range(draw(st.integers(1, 4))):
        centre = (int(rng.integers(width)), int(rng.integers(height)))
        axes = (int(rng.integers(1, width + 1)) // 2, int(rng.integers(1, height + 1)) // 2)
        cv2.ellipse(pixels, centre, axes, float(rng.integers(180)), 0, 360, float(rng.random()), cv2.FILLED)
    return pixels


@st.composite
def placements(draw: st.DrawFn) -> tuple[NDArray[np.float32], Placement]:
    """A slice and where it goes."""
    pixels = draw(slices())
    crop: Any = draw(st.sampled_from(["hull", "none"]))
    return pixels, Preprocess(size=draw(st.sampled_from([32, 96, 224])), crop=crop).place(find_anatomy(pixels))


def covers(outer: Box, inner: Box) -> bool:
    """Whether a box of one pixel or more lies in another."""
    return (
        inner.height >= 1
        and inner.width >= 1
        and outer.top <= inner.top
        and outer.left <= inner.left
        and inner.top + inner.height <= outer.top + outer.height
        and inner.left + inner.width <= outer.left + outer.width
    )


def inside(box: Box, shape: tuple[int, int]) -> NDArray[np.bool_]:
    mask = np.zeros(shape, bool)
    mask[box.top : box.top + box.height, box.left : box.left + box.width] = True
    return mask


@holds(placements())
def test_box_and_target_lie_inside(placed: tuple[NDArray[np.float32], Placement]) -> None:
    pixels, placement = placed
    assert covers(Box(0, 0, *pixels.shape), placement.box)
    assert covers(Box(0, 0, placement.size, placement.size), placement.target)


@holds(st.integers(1, 5000), st.integers(1, 5000), st.integers(32, 512))
def test_a_letterbox_keeps_the_shape(height: int, width: int, size: int) -> None:
    target = letterbox(Box(3, 5, height, width), size)
    assert max(target.height, target.width) == size
    scale = size / max(height, width)
    assert abs(target.height - height * scale) <= (0.5 if height * scale >= 0.5 else 1)
    assert abs(target.width - width * scale) <= (0.5 if width * scale >= 0.5 else 1)
    assert abs(2 * target.top + target.height - size) <= 1
    assert abs(2 * target.left + target.width - size) <= 1


@holds(placements())
def test_the_square_holds_greys_of_the_slice_and_black(placed: tuple[NDArray[np.float32], Placement]) -> None:
    pixels, placement = placed
    square = placement.apply(pixels)
    assert square.shape == (placement.size, placement.size)
    assert square.dtype == np.float32
    assert not square[~inside(placement.target, square.shape)].any()
    assert square.min() >= -1e-4  # thousands of pixels averaged in float32
    assert square.max() <= pixels.max() + 1e-4


@holds(slices(), st.sampled_from(["hull", "none"]), st.sampled_from(["rank", "none"]))
def test_the_model_is_given_numbers_from_0_to_1(pixels: NDArray[np.float32], crop: Any, tone: Any) -> None:
    square, placement = Preprocess(size=96, crop=crop, tone=tone)(pixels)
    assert square.shape == (2, 96, 96)
    assert square.dtype == np.float32
    assert np.isfinite(square).all()
    assert 0 <= square.min() <= square.max() <= 1
    assert placement.slice_shape == pixels.shape


@holds(placements(), st.integers(0, 1 << 32), st.sampled_from([1, 7, 14]), st.booleans())
def test_maps_come_back_within_their_bounds(
    placed: tuple[NDArray[np.float32], Placement], seed: int, cells: int, small: bool
) -> None:
    placement = placed[1]
    maps = np.random.default_rng(seed).normal(size=(4, cells, cells)).astype(np.float32)
    height, width = placement.slice_shape
    shape = (max(1, height // 2), max(1, width // 2)) if small else (height, width)
    over = placement.invert(maps, shape)
    assert over.shape == (4, *shape)
    for map_, shown in zip(maps, over, strict=True):
        assert shown.max() <= max(map_.max(), 0) + 1e-5
        assert shown.min() >= min(map_.min(), 0) - 1e-5
    if not small:
        ones = placement.invert(np.ones((cells, cells), np.float32))
        assert np.allclose(ones, inside(placement.box, shape), atol=1e-5)


@holds(placements(), st.floats(0, 1), st.floats(0, 1))
def test_a_dot_comes_back_within_a_pixel_of_the_model(
    placed: tuple[NDArray[np.float32], Placement], down: float, across: float
) -> None:
    placement = placed[1]
    box, target = placement.box, placement.target
    steps = box.height / target.height, box.width / target.width  # slice pixels to a pixel of the model
    margins = [int(np.ceil(3 * max(step, 1))) for step in steps]  # a dot at the edge is cut in half
    assume(box.height > 2 * margins[0] and box.width > 2 * margins[1])
    row = box.top + margins[0] + int(down * (box.height - 1 - 2 * margins[0]))
    column = box.left + margins[1] + int(across * (box.width - 1 - 2 * margins[1]))
    dot = np.zeros(placement.slice_shape, np.float32)
    dot[row, column] = 1
    back = placement.invert(placement.apply(dot))
    rows, columns = np.indices(back.shape)
    assert back.sum() > 0
    assert abs((rows * back).sum() / back.sum() - row) <= max(1, steps[0])
    assert abs((columns * back).sum() / back.sum() - column) <= max(1, steps[1])


@holds(slices())
def test_body_and_lungs_of_any_slice(pixels: NDArray[np.float32]) -> None:
    anatomy = find_anatomy(pixels)
    for mask in (anatomy.body, anatomy.hull, anatomy.lung_hulls):
        assert mask.shape == pixels.shape
        assert mask.dtype == bool
    assert covers(Box(0, 0, *pixels.shape), anatomy.hull_box)
    assert anatomy.body.any()
    assert not (anatomy.body & ~anatomy.hull).any()
    assert not (anatomy.body & ~inside(anatomy.hull_box, pixels.shape)).any()
    assert all(not (lung & ~anatomy.outline).any() for lung in anatomy.lungs)
    assert anatomy.lung_hulls.any() == bool(anatomy.lungs)


# --- tone and pictures


@holds(slices(), st.integers(0, 1 << 32))
def test_ranks_keep_the_order_of_what_is_kept(pixels: NDArray[np.float32], seed: int) -> None:
    kept = np.random.default_rng(seed).random(pixels.shape) < 0.7
    ranked = rank_greys(pixels, kept)
    assert ranked.dtype == np.float32
    assert not ranked[~kept].any()
    assert ((ranked[kept] >= RANK_LOW) & (ranked[kept] <= 1)).all()
    order = np.argsort(pixels[kept], kind="stable")
    assert (np.diff(ranked[kept][order]) >= 0).all()


@st.composite
def evidence(draw: st.DrawFn) -> tuple[NDArray[np.uint8], NDArray[np.float32], float]:
    """A grey slice, evidence over it that is 0 in places, and the top of the scale."""
    rng = np.random.default_rng(draw(st.integers(0, 1 << 32)))
    shape = draw(st.integers(1, 40)), draw(st.integers(1, 40))
    top = draw(st.floats(1e-3, 1e3))
    strong = rng.random(shape, np.float32) * np.float32(draw(st.floats(0, 3)) * top)
    return rng.integers(0, 256, shape, dtype=np.uint8), np.where(rng.random(shape) < 0.3, 0, strong), top


@holds(evidence(), st.floats(0, 1))
def test_a_pixel_without_evidence_is_the_slices_own(
    drawn: tuple[NDArray[np.uint8], NDArray[np.float32], float], opacity: float
) -> None:
    grey, map_, top = drawn
    shown, colour = overlay(grey, map_, top, opacity), layer(map_, top)
    none = colour[..., 3] == 0
    assert none[map_ == 0].all()
    assert np.array_equal(shown[none], np.repeat(grey[none][:, None], 3, axis=1))
    low, high = np.minimum(grey[..., None], colour[..., :3]), np.maximum(grey[..., None], colour[..., :3])
    assert ((shown >= low) & (shown <= high)).all()  # and one with evidence lies between slice and colour


@holds(evidence())
def test_more_evidence_is_never_fainter(drawn: tuple[NDArray[np.uint8], NDArray[np.float32], float]) -> None:
    _, map_, top = drawn
    order = np.argsort(map_, axis=None)
    opaque = layer(map_, top)[..., 3].ravel()[order].astype(int)
    assert (np.diff(opaque) >= 0).all()


@holds(evidence(), st.integers(1, 50))
def test_pictures_are_encoded_as_they_are_and_fit(
    drawn: tuple[NDArray[np.uint8], NDArray[np.float32], float], longest: int
) -> None:
    grey, map_, top = drawn
    back = cv2.imdecode(np.frombuffer(encode_png(grey), np.uint8), cv2.IMREAD_UNCHANGED)
    assert np.array_equal(back, grey)  # type: ignore[arg-type]
    rgba = cv2.imdecode(np.frombuffer(encode_png(layer(map_, top)), np.uint8), cv2.IMREAD_UNCHANGED)
    assert np.array_equal(rgba[..., [2, 1, 0, 3]], layer(map_, top))  # type: ignore[index]
    unit = np.divide(grey, 255, dtype=np.float32)
    assert np.array_equal(to_bytes(unit), grey)
    small = fit(unit, longest)
    assert max(small.shape) <= max(longest, 1)
    assert small.min() >= unit.min() - 1e-6
    assert small.max() <= unit.max() + 1e-6


@holds(st.floats(0, 1))
def test_no_score_is_called_certain(probability: float) -> None:
    shown = whole(probability)
    number = int(re.sub(r"\D", "", shown))
    assert 1 <= number <= 99
    if shown[0] == "<":
        assert probability <= 0.005
    elif shown[0] == ">":
        assert probability >= 0.995
    else:
        assert abs(100 * probability - number) <= 0.5


def test_the_seeds_are_all_read() -> None:
    for data in SEEDS:
        assert read_slice(data).pixels.shape == GREY.shape
