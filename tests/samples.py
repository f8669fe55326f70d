"""What tests look at, made here: slices, folders of them, and files of every kind, whole, odd and forged."""

from __future__ import annotations

import io
import shutil
import struct
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ctscan.imaging.anatomy import Pixels, find_anatomy
from ctscan.imaging.phantom import draw_phantom

FOLDERS = {  # class -> the name of its folder in train/ and valid/ of the data set
    "adenocarcinoma": "adenocarcinoma_left.lower.lobe_T2_N0_M0_Ib",
    "large_cell_carcinoma": "large.cell.carcinoma_left.hilum_T2_N2_M0_IIIa",
    "squamous_cell_carcinoma": "squamous.cell.carcinoma_left.hilum_T1_N2_M0_IIIa",
    "normal": "normal",
}


def draw_patient(seed: int) -> Pixels:
    """A slice that is like no other seed's: large random shapes inside the body."""
    rng = np.random.default_rng(seed)
    pixels = draw_phantom(120, 150)
    coarse = cv2.resize(rng.random((5, 6), np.float32), (150, 120), interpolation=cv2.INTER_CUBIC)
    return np.clip(np.where(find_anatomy(pixels).body, 0.15 + 0.85 * coarse, pixels), 0, 1).astype(np.float32)


def save(path: Path, pixels: Pixels) -> None:
    """As a PNG of 8 bits; folders that are missing are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), np.rint(np.clip(pixels, 0, 1) * 255).astype(np.uint8))


def write_data(folder: Path, each: Mapping[str, int], seed: int = 0) -> Path:
    """A data folder with so many slices a class in each split, no two alike."""
    for split, count in each.items():
        for name in FOLDERS.values():
            for number in range(count):
                save(folder / split / name / f"{number}.png", draw_patient(seed))
                seed += 1
    return folder


def spoiled(data: Path, folder: Path, *, content: bytes = b"no picture") -> Path:
    """A copy of a data folder in which no file is a picture."""
    shutil.copytree(data, folder)
    for path in folder.rglob("*.png"):
        path.write_bytes(content)
    return folder


# --- files of every kind


def draw_grey(height: int = 157, width: int = 203) -> NDArray[np.uint8]:
    """The phantom with a little noise: no two neighbours alike, no symmetry."""
    noise = np.random.default_rng(0).integers(0, 12, (height, width))
    return (draw_phantom(height, width) * 240 + noise).astype(np.uint8)


GREY = draw_grey()
UNIT = GREY.astype(np.float32) / 255


def encode(picture: Image.Image, kind: str, **options: Any) -> bytes:
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
    "png L": encode(L, "PNG"),
    "png RGB": encode(RGB, "PNG"),
    "png RGBA": encode(OPAQUE, "PNG"),
    "png LA": encode(L.convert("LA"), "PNG"),
    "png palette": encode(L.convert("P"), "PNG"),
    "png 16": encode(UP16, "PNG"),
    "png 16 RGB": cv2.imencode(".png", np.repeat(GREY[..., None].astype(np.uint16) * 257, 3, 2))[1].tobytes(),
    "bmp L": encode(L, "BMP"),
    "bmp RGB": encode(RGB, "BMP"),
    "bmp palette": encode(L.convert("P"), "BMP"),
    "bmp 32, fourth byte 0": bmp(bgr_and(0), 32),
    "bmp 32, fourth byte 77": bmp(bgr_and(77), 32),
    "bmp 32, masks, fourth byte 0": bmp(bgr_and(0), 32, compression=3, behind=BGR_MASKS),
    "bmp 32, version 4, no alpha": bmp(bgr_and(0), 32, size=108, compression=3, behind=BGR_MASKS),
    "bmp 32, version 4, opaque": bmp(bgr_and(255), 32, size=108, compression=3, behind=BGR_MASKS + ALPHA_MASK),
    "bmp run lengths": bmp(run_lengths(GREY), 8, compression=1, behind=GREYS),
    "webp RGB": encode(RGB, "WEBP", lossless=True),
    "webp RGBA": encode(OPAQUE, "WEBP", lossless=True),
    "tiff L": encode(L, "TIFF"),
    "tiff RGB": encode(RGB, "TIFF"),
    "tiff RGBA": encode(OPAQUE, "TIFF"),
    "tiff LA": encode(L.convert("LA"), "TIFF"),
    "tiff palette": encode(L.convert("P"), "TIFF"),
    "tiff 16": encode(UP16, "TIFF"),
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
    **{f"tiff {c}": encode(L, "TIFF", compression=c) for c in TIFF_COMPRESSIONS},
}

WITH_NOTICE: dict[str, bytes] = {
    "tiff float 0 to 255": tiff(GREY.astype(np.float32), sample=3),
    "tiff int32": tiff(GREY.astype(np.int32), sample=2),
    "tiff uint32": tiff(GREY.astype(np.uint32)),
    "tiff int16": tiff(GREY.astype(np.int16), sample=2),
    "tiff int16 white is zero": tiff(255 - GREY.astype(np.int16), sample=2, tags={262: 0}),
}
LOSSY: dict[str, bytes] = {
    "jpeg L": encode(L, "JPEG", quality=95),
    "jpeg RGB": encode(RGB, "JPEG", quality=95),
    "jpeg progressive": encode(L, "JPEG", quality=95, progressive=True),
    "jpeg CMYK": encode(RGB.convert("CMYK"), "JPEG", quality=95),
    "webp lossy": encode(RGB, "WEBP", quality=95),
    "tiff jpeg RGB": encode(RGB, "TIFF", compression="jpeg"),
    "tiff jpeg": encode(L, "TIFF", compression="jpeg"),
    "tiff CMYK": encode(RGB.convert("CMYK"), "TIFF"),
}
ALL = LOSSLESS | WITH_NOTICE | LOSSY

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


def damaged(whole: bytes, reach: int, rng: np.random.Generator) -> bytes:
    """A file with three bytes among its first `reach` drawn anew, cut off anywhere."""
    data = bytearray(whole)
    for place in rng.integers(0, reach, 3):
        data[place] = rng.integers(256)
    return bytes(data[: rng.integers(1, len(data) + 1)])


def png_of(pixels: NDArray[np.floating]) -> bytes:
    """A slice (H, W) in [0, 1] as a file of 8 bits."""
    return cv2.imencode(".png", np.rint(np.asarray(pixels) * 255).astype(np.uint8))[1].tobytes()


def png(*chunks: tuple[bytes, bytes]) -> bytes:
    parts = [struct.pack(">I", len(c)) + k + c + struct.pack(">I", zlib.crc32(k + c)) for k, c in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


NOT_PICTURES = {
    "empty": (b"", "empty"),
    "text": (b"a report, not a picture\n" * 30, "unknown_format"),
    "gif": (encode(L, "GIF"), "gif"),
    "heic": (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + b"\0" * 400, "heif"),
    "avif of another first brand": (b"\0\0\0\x1cftypmiaf\0\0\0\0avifmif1" + b"\0" * 400, "heif"),
    "film": (b"\0\0\0\x18ftypisom\0\0\2\0isommp41" + b"\0" * 400, "unknown_format"),
    "pdf": (b"%PDF-1.7\n" + b"0" * 400, "pdf"),
    "pdf behind other bytes": (b"\n" * 500 + b"%PDF-1.7\n", "pdf"),
    "svg": (b'<svg xmlns="http://www.w3.org/2000/svg"/>' + b" " * 400, "svg"),
    "svg, declared": (b"\xef\xbb\xbf<?xml version='1.0'?>\n<!-- a drawing -->\n<!DOCTYPE svg>\n<svg>", "svg"),
    "html with a drawing in it": (b"<!DOCTYPE html><html><svg></svg></html>", "unknown_format"),
    "magic alone, dicom": (b"\0" * 128 + b"DICM" + b"\0" * 400, "damaged"),
    "magic alone, nifti": (b"\x5c\x01\0\0" + b"\0" * 340 + b"n+1\0" + b"\0" * 99, "undecodable"),
    "magic alone, zip": (b"PK\x03\x04" + b"\0" * 400, "damaged"),
    "magic alone, png": (b"\x89PNG\r\n\x1a\n", "damaged"),
    "magic alone, jpeg": (b"\xff\xd8\xff", "damaged"),
    "text that begins like a bmp": (b"BMI 24, no contrast agent\n" * 30, "unknown_format"),
    "magic alone, bmp": (b"BM" + b"\0" * 12 + b"\x28" + b"\0" * 45, "damaged"),
    "magic alone, tiff": (b"II*\0", "damaged"),
    "magic alone, webp": (b"RIFF\0\0\0\0WEBP", "damaged"),
}

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


def many_parts() -> dict[str, bytes]:
    """Small files of which long walks or, the last, many passes over all pixels would have to be made."""
    picture, jpeg = encode(L, "PNG"), encode(L, "JPEG")
    progressive = encode(L, "JPEG", progressive=True)
    scan = progressive[progressive.rindex(b"\xff\xda") : -2]
    return {
        "png of 200,000 chunks": picture[:33] + png((b"teSt", b""))[8:] * 200_000 + picture[33:],
        "jpeg of 200,000 segments": jpeg[:2] + b"\xff\xfe\0\2" * 200_000 + jpeg[2:],
        "jpeg of 1,000 scans": progressive[:-2] + scan * 1000 + progressive[-2:],
    }


def webp_of_many_parts() -> bytes:
    """200,000 parts behind the picture, which only C walks: 16 MB of them in milliseconds."""
    parts = LOSSLESS["webp RGB"][12:] + b"ABCD\0\0\0\0" * 200_000
    return b"RIFF" + struct.pack("<I", 4 + len(parts)) + b"WEBP" + parts


def with_strip_of_4_gib() -> bytes:
    """GREY as a TIFF that lies about its only strip; libtiff takes what rows and columns need and no byte more."""
    entry = struct.pack("<HHII", 279, 4, 1, GREY.size)
    return tiff(GREY).replace(entry, entry[:-4] + b"\xff" * 4)


# --- files to damage, and damaged ones

PNGS = ("png L", "png RGBA", "png palette", "png 16")
JPEGS_AND_WEBPS = ("jpeg L", "jpeg progressive", "jpeg CMYK", "webp RGB", "webp lossy")
BMPS = ("bmp L", "bmp run lengths", "bmp palette", "bmp 32, masks, fourth byte 0")
TIFFS = ("L", "tiff_lzw", "packbits", "big", "tiles", "LA", "float64", "16 white is zero", "jpeg")
SEEDS = [ALL[name] for name in (*PNGS, *JPEGS_AND_WEBPS, *BMPS, *(f"tiff {name}" for name in TIFFS))]


def liars() -> dict[str, bytes]:
    """Lengths, counts and places that are not so."""
    whole, plain = tiff(GREY), LOSSLESS["png L"]
    entry, end = struct.pack("<HHII", 279, 4, 1, GREY.size), len(tiff(GREY)) - 4
    start = struct.unpack_from("<I", whole, 4)[0]
    webp, bmp, jpeg = LOSSLESS["webp RGB"], LOSSLESS["bmp L"], ALL["jpeg L"]
    return {
        "tiff of 2**31 strips": whole.replace(entry, struct.pack("<HHII", 279, 4, 2**31, GREY.size)),
        "tiff of 65,535 entries": whole[:start] + b"\xff\xff" + whole[start + 2 :],
        "tiff whose directory is outside": whole[:4] + struct.pack("<I", 2**32 - 2) + whole[8:],
        "bigtiff of 2**60 entries": b"II+\0\x08\0\0\0\x10\0\0\0\0\0\0\0" + struct.pack("<Q", 2**60) + b"\0" * 99,
        "bigtiff whose directory is outside": b"II+\0\x08\0\0\0" + struct.pack("<Q", 2**63) + b"\0" * 99,
        "tiff whose strip holds its own directory": whole.replace(
            struct.pack("<HHII", 273, 4, 1, 8), struct.pack("<HHII", 273, 4, 1, end - 100)
        ),
        "png of a chunk of 2 GiB": plain[:33] + struct.pack(">I", 2**31 - 1) + plain[37:],
        "png of a chunk of 4 GiB": plain[:8] + struct.pack(">I", 2**32 - 1) + plain[12:],
        "webp of 4 GiB": webp[:4] + struct.pack("<I", 2**32 - 1) + webp[8:],
        "webp of a part of 4 GiB": webp[:16] + struct.pack("<I", 2**32 - 1) + webp[20:],
        "bmp whose pixels are outside": bmp[:10] + struct.pack("<I", 2**32 - 1) + bmp[14:],
        "bmp whose header is 2 GiB": bmp[:14] + struct.pack("<I", 2**31) + bmp[18:],
        "bmp of height -2**31": bmp[:22] + struct.pack("<i", -(2**31)) + bmp[26:],
        "jpeg of a segment of 64 KiB": jpeg[:4] + b"\xff\xff" + jpeg[6:],
        "jpeg of a segment of no length": jpeg[:4] + b"\0\0" + jpeg[6:],
    }


def strangers() -> dict[str, bytes]:
    """What is no picture to us, or another thing as well."""
    svg = b'<?xml version="1.0"?><!DOCTYPE svg [<!ENTITY x SYSTEM "file:///etc/passwd">]>'
    svg += b'<svg xmlns="http://www.w3.org/2000/svg"><image href="http://127.0.0.1:9/x.png"/>&x;</svg>'
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 100 100\n(/etc/passwd) (r) file\n" + b" " * 300
    archive = zip_of(LOSSLESS["png L"])
    return {
        "svg": svg,
        "svg, packed": zlib.compress(svg, wbits=31),
        "eps": eps,
        "eps of DOS": b"\xc5\xd0\xd3\xc6" + struct.pack("<II", 30, len(eps)) + b"\0" * 18 + eps,
        "zip before a png": archive + LOSSLESS["png L"],
        "html before a jpeg": b"<html><script>alert(1)</script>" + ALL["jpeg L"],
        "pdf and gif": NOT_PICTURES["gif"][0][:13] + b"%PDF-1.7\n" + NOT_PICTURES["gif"][0][13:],
        "pdf around a jpeg": b"%PDF-1.7\n1 0 obj<</Filter/DCTDecode>>stream\n" + ALL["jpeg L"] + b"\nendstream",
        **{name: data for name, (data, _) in NOT_PICTURES.items()},
    }


def zip_of(content: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("slice.png", content)
    return buffer.getvalue()
