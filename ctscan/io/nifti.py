"""Bytes of a NIfTI-1 or NIfTI-2 file, packed by gzip or not -> one axial Slice in the radiological view.

The layout is that of nifti1.h and nifti2.h, of which no text field is read.
"""

from __future__ import annotations

import gzip
import struct
from functools import partial
from io import BytesIO
from typing import IO, Any, cast

import numpy as np
from numpy.typing import NDArray

from ctscan.errors import UnreadableSlice
from ctscan.io.grid import Grid, doors
from ctscan.io.headers import UNDECODABLE
from ctscan.io.medical import towards
from ctscan.notices import Notice

TYPES = {2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4", 1024: "i8", 1280: "u8"}
NOT_GREY = (32, 128, 1792, 2048, 2304)  # complex numbers and colours
MAX_EXTENSIONS = 16 << 20  # bytes between header and values
# size of the header -> where and how: dimensions, type, steps, offset, scaling, codes, quaternion, rows of the matrix
LAYOUTS: dict[int, tuple[Any, ...]] = {
    348: ("8h", 40, 70, "8f", 76, "f", 108, "2f", 112, "2h", 252, "6f", 256, "12f", 280, 344),
    540: ("8q", 16, 12, "8d", 104, "q", 168, "2d", 176, "2i", 344, "6d", 352, "12d", 400, 4),
}
LEFT_AND_BACK = np.array([-1.0, -1.0, 1.0])  # NIfTI counts to the right and to the front


def _open(data: bytes, place: int = 0) -> IO[bytes]:
    """What is in the file, packed or not, from a place on."""
    is_packed, stream = data[:2] == b"\x1f\x8b", BytesIO(data)
    unpacked = cast("IO[bytes]", gzip.GzipFile(fileobj=stream)) if is_packed else stream
    unpacked.seek(place)
    return unpacked


def parse(data: bytes) -> Grid:
    """The volume in a file. Raises UnreadableSlice or what `grid.doors` refuses."""
    stream = _open(data)
    head = stream.read(348)
    order = "<" if struct.unpack_from("<i", head)[0] in LAYOUTS else ">"
    (size,) = struct.unpack_from(f"{order}i", head)
    if size not in LAYOUTS:
        raise UnreadableSlice(Notice("archive"))
    head += stream.read(size - 348)
    dim, at_dim, at_type, step, at_step, place, at_place, scale, at_scale, *rest, at_magic = LAYOUTS[size]
    if head[at_magic : at_magic + 2] == b"ni":
        raise UnreadableSlice(Notice("detached_header"))
    count, *shape = struct.unpack_from(order + dim, head, at_dim)
    (kind,) = struct.unpack_from(f"{order}h", head, at_type)
    steps = struct.unpack_from(order + step, head, at_step)
    slope, intercept = struct.unpack_from(order + scale, head, at_scale)
    (offset,) = struct.unpack_from(order + place, head, at_place)
    if kind in NOT_GREY or count in (1, 2):
        raise UnreadableSlice(Notice("several_volumes"))
    if kind not in TYPES or not 3 <= count <= 7 or not 0 <= offset <= MAX_EXTENSIONS:
        raise UnreadableSlice(UNDECODABLE)
    if any(n != 1 for n in shape[3:count]):
        raise UnreadableSlice(Notice("several_volumes"))
    places = _places(head, order, steps, rest)
    if not places:
        raise UnreadableSlice(Notice("no_orientation"))
    sides = [[towards(direction) for direction in directions.T] for directions, _ in places]
    dtype, size = np.dtype(order + TYPES[kind]), (shape[0], shape[1], shape[2])
    start = partial(_open, data, int(offset))
    return Grid(dtype, size, *places[0], start, slope, intercept, sides_known=sides[0] == sides[-1])


def _places(
    head: bytes, order: str, steps: tuple[float, ...], layout: list[Any]
) -> list[tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """Directions and origin as `Grid` has them, by the matrix and by the quaternion, as far as codes vouch for them."""
    codes, at_codes, quaternion, at_quaternion, rows, at_rows = layout
    by_quaternion, by_rows = struct.unpack_from(order + codes, head, at_codes)
    found = []
    if by_rows > 0:
        whole = np.array(struct.unpack_from(order + rows, head, at_rows)).reshape(3, 4)
        found.append((whole[:, :3], whole[:, 3]))
    if by_quaternion > 0:  # nifti1.h, method 2
        b, c, d, *offset = struct.unpack_from(order + quaternion, head, at_quaternion)
        a = np.sqrt(max(0.0, 1 - b * b - c * c - d * d))
        turned = np.array(
            [
                [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
                [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
                [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - b * b - c * c],
            ]
        )
        found.append((turned * np.abs(steps[1:4]) * [1, 1, -1 if steps[0] < 0 else 1], np.array(offset)))
    return [(matrix * LEFT_AND_BACK[:, None], origin * LEFT_AND_BACK) for matrix, origin in found]


read, every, survey = doors(parse)
