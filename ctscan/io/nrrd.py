"""Bytes of an NRRD file with its values attached, raw or packed by gzip -> one axial Slice in the radiological view.

Fields are those of the NRRD format definition, versions 1 to 5; what the file calls key/value pairs is never read.
"""

from __future__ import annotations

import gzip
import re
from functools import partial
from io import BytesIO
from math import prod
from typing import IO, cast

import numpy as np

from ctscan.errors import UnreadableSlice
from ctscan.io.grid import MAX_BYTES, Grid, doors
from ctscan.io.headers import UNDECODABLE
from ctscan.notices import Notice

MAX_HEADER = 1 << 20  # bytes
MAX_AXES = 16
# A type of C has many names there; without `signed` and `int` one is left for each.
TYPES = {"char": "i1", "uchar": "u1", "short": "i2", "ushort": "u2", "": "i4", "uint": "u4"}
TYPES |= {"longlong": "i8", "ulonglong": "u8", "float": "f4", "double": "f8"}
TYPES |= {f"{u}int{8 * n}{t}": f"{u or 'i'}{n}" for u in ("", "u") for n in (1, 2, 4, 8) for t in ("", "_t")}
ENDIANS = {"little": "<", "big": ">"}
# Where the three axes of space run, against left, back and head
SPACES = {
    "left-posterior-superior": (1, 1, 1),
    "right-anterior-superior": (-1, -1, 1),
    "left-anterior-superior": (1, -1, 1),
}
SPACES |= {"".join(word[0] for word in name.split("-")): signs for name, signs in SPACES.items()}


def _read_fields(data: bytes) -> tuple[dict[str, str], int]:
    """The fields by name, lower case, and where the values begin. Raises ValueError."""
    end = re.compile(rb"\r?\n\r?\n").search(data, 0, MAX_HEADER)
    head = data[: end.start() if end else min(len(data), MAX_HEADER)].decode("ascii", "replace")
    fields = {}
    for line in head.splitlines()[1:]:
        name, colon, value = line.partition(": ")
        if colon and not line.startswith("#") and ":=" not in name:
            fields[name.strip().lower()] = value.strip()
    if "data file" in fields or "datafile" in fields:
        raise UnreadableSlice(Notice("detached_header"))
    if not end:
        raise ValueError("no end")
    return fields, end.end()


def parse(data: bytes) -> Grid:
    """The volume in a file. Raises UnreadableSlice or what `grid.doors` refuses."""
    fields, end = _read_fields(data)
    name = fields.get("type", "").lower()
    plain = name if name in TYPES else re.sub(r"\bunsigned ", "u", re.sub(r"\b(signed|int)\b", "", name))
    code = TYPES.get("uint" if plain == "unsigned" else plain.replace(" ", ""))
    kind = fields.get("encoding", "").lower()
    if code is None or kind not in ("raw", "gzip", "gz"):
        raise UnreadableSlice(UNDECODABLE)
    order = "<" if code.endswith("1") else ENDIANS[fields.get("endian", "").lower()]
    sizes = [int(size) for size in fields.get("sizes", "").split()[:MAX_AXES]]
    vectors = re.findall(r"none|\([^()]*\)", fields.get("space directions", "").lower())
    signs = SPACES.get(fields.get("space", "").lower())
    if signs is None or len(vectors) != len(sizes):
        raise UnreadableSlice(Notice("no_orientation"))
    axes = list(zip(sizes, vectors, strict=True))
    shape = [size for size, vector in axes if vector != "none"]
    if len(shape) != 3 or any(size != 1 for size, vector in axes if vector == "none"):
        raise UnreadableSlice(Notice("several_volumes"))
    directions = np.array([_vector(vector) for vector in vectors if vector != "none"]).reshape(3, 3).T
    origin = np.array(_vector(fields.get("space origin", "(0,0,0)"))).reshape(3)
    towards = np.array(signs, float)
    dtype, size = np.dtype(order + code), (shape[0], shape[1], shape[2])
    start = partial(_open, data, end, fields, prod(size) * dtype.itemsize)
    return Grid(dtype, size, directions * towards[:, None], origin * towards, start)


def _vector(text: str) -> list[float]:
    return [float(part) for part in text.strip("()").split(",")]


def _open(data: bytes, start: int, fields: dict[str, str], size: int) -> IO[bytes]:
    """A stream that stands at the first value. Lines are skipped as stored, bytes as unpacked; -1: all but the values.

    Raises UnreadableSlice or ValueError.
    """
    lines, skipped = (
        int(fields.get(name, fields.get(name.replace(" ", ""), 0))) for name in ("line skip", "byte skip")
    )
    if not (0 <= lines <= MAX_HEADER and -1 <= skipped <= MAX_BYTES):
        raise UnreadableSlice(UNDECODABLE)
    stream: IO[bytes] = BytesIO(data)
    stream.seek(start)
    for _ in range(lines):
        stream.readline()
    if fields["encoding"].lower() != "raw":
        if skipped < 0:
            raise UnreadableSlice(UNDECODABLE)
        stream = cast("IO[bytes]", gzip.GzipFile(fileobj=stream))
    stream.seek(len(data) - size if skipped < 0 else stream.tell() + skipped)
    return stream


read, every, survey = doors(parse)
