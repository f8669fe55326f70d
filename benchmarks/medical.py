"""Slices of medical files read in the decoder's child against plain scripts. `python -m benchmarks.medical`.

A series of 300 slices and a volume of 512 x 512 x 300 are made of the phantom and noise, in 12 bits.
"""

from __future__ import annotations

import gzip
import io
import zipfile
from collections.abc import Sequence
from contextlib import closing
from functools import partial
from pathlib import Path

import nibabel
import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom import uid
from pydicom.dataset import FileDataset, FileMetaDataset

from benchmarks.timing import parser, print_ratio
from ctscan.imaging.phantom import draw_phantom
from ctscan.io.medical import PRESETS
from ctscan.io.sandbox import Decoder

SLICES = 300
CENTRE, WIDTH = PRESETS["training"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Print four ratios, and how much memory the child has taken."""
    rounds = parser(__doc__, 10).parse_args(arguments).rounds
    phantom = draw_phantom(512, 512) * 2000 - 1000 + np.random.default_rng(0).normal(0, 10, (512, 512))
    units = np.rint(phantom).astype(np.int16)
    files = [write(np.roll(units, n, 0), n) for n in range(SLICES)]
    archive = pack(files)
    volume = nibabel.Nifti1Image(np.stack([np.roll(units, n, 0).T for n in range(SLICES)], -1), np.eye(4))
    volume.set_sform(np.diag([-0.7, -0.7, 1, 1]), 1)
    raw = volume.to_bytes()
    packed = gzip.compress(raw, 1)
    with closing(Decoder(1)) as decoder:
        decoder.wait_until_ready()
        pairs = {
            "one file, decoder / pydicom": (partial(decoder.read, files[150]), partial(by_pydicom, files[150])),
            "300 files in a zip, decoder / pydicom": (partial(decoder.read, archive), partial(zip_by_pydicom, archive)),
            "a volume, decoder / nibabel": (partial(decoder.read, raw), partial(by_nibabel, raw)),
            "a packed volume, decoder / nibabel": (partial(decoder.read, packed), partial(by_nibabel, packed)),
        }
        for name, (ours, theirs) in pairs.items():
            print_ratio(name, ours, theirs, rounds)
            print(f"   the child has taken {peak(decoder)} MiB")


def write(units: NDArray[np.int16], position: int) -> bytes:
    """A CT slice, uncompressed."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID, meta.MediaStorageSOPClassUID = uid.ExplicitVRLittleEndian, uid.CTImageStorage
    meta.MediaStorageSOPInstanceUID = uid.UID(f"1.2.{position}")
    file = FileDataset("", {}, file_meta=meta, preamble=bytes(128))
    file.SOPClassUID, file.SOPInstanceUID, file.SeriesInstanceUID, file.Modality = (
        uid.CTImageStorage,
        "1.2",
        "1.3",
        "CT",
    )
    file.ImageOrientationPatient, file.ImagePositionPatient = [1, 0, 0, 0, 1, 0], [0, 0, position]
    file.PixelSpacing, file.SliceThickness, file.RescaleSlope, file.RescaleIntercept = [0.7, 0.7], 1, 1, 0
    file.Rows, file.Columns = units.shape
    file.SamplesPerPixel, file.PhotometricInterpretation, file.PixelRepresentation = 1, "MONOCHROME2", 1
    file.BitsAllocated, file.BitsStored, file.HighBit = 16, 16, 15
    file.PixelData = units.tobytes()
    buffer = io.BytesIO()
    file.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def pack(files: Sequence[bytes]) -> bytes:
    """A zip."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for number, data in enumerate(files):
            archive.writestr(f"{number}.dcm", data)
    return buffer.getvalue()


def grey(units: NDArray[np.floating]) -> NDArray[np.float32]:
    """What a script would do about a window."""
    greys: NDArray[np.float32] = np.clip((units - CENTRE) / WIDTH + 0.5, 0, 1).astype(np.float32)
    return greys


def by_pydicom(data: bytes) -> NDArray[np.float32]:
    """One file."""
    file = pydicom.dcmread(io.BytesIO(data))
    units: NDArray[np.floating] = file.pixel_array * float(file.RescaleSlope) + float(file.RescaleIntercept)
    return grey(units)


def zip_by_pydicom(data: bytes) -> NDArray[np.float32]:
    """All heads, sorted, and the pixels of the middle one."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        found = []
        for name in archive.namelist():
            with archive.open(name) as stream:
                head = pydicom.dcmread(stream, stop_before_pixels=True)
            found.append((float(head.ImagePositionPatient[2]), name))
        return by_pydicom(archive.read(sorted(found)[len(found) // 2][1]))


def by_nibabel(data: bytes) -> NDArray[np.float32]:
    """The middle slice, as it lies."""
    image = nibabel.Nifti1Image.from_bytes(gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data)
    return grey(np.asarray(image.dataobj[..., SLICES // 2]))


def peak(decoder: Decoder) -> int:
    """MiB that the only child has ever held at once, what it imports included."""
    (child,) = decoder._children
    status = Path(f"/proc/{child.process.pid}/status").read_text(encoding="ascii")
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) >> 10


if __name__ == "__main__":
    main()
