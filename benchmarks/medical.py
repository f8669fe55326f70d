"""Slices and scans in the decoder's children and on the page against plain scripts. `python -m benchmarks.medical`.

A series of 300 slices and a volume of 512 x 512 x 300 are made of the phantom and noise, in 12 bits.
"""

from __future__ import annotations

import gzip
import io
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from functools import partial
from itertools import cycle
from pathlib import Path
from tempfile import TemporaryDirectory

import nibabel
import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom import uid
from pydicom.dataset import FileDataset, FileMetaDataset

from benchmarks.timing import parser, print_ratio
from ctscan.imaging.phantom import draw_phantom
from ctscan.io.images import Slice
from ctscan.io.medical import PRESETS
from ctscan.io.messages import Arriving
from ctscan.io.sandbox import READ_TIME, STACK_HANG_TIME, Child, Decoder, read_stack
from ctscan.io.series import sources
from ctscan.io.stack import EXACT, Stack

SLICES = 300
CENTRE, WIDTH = PRESETS["training"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Print nine ratios, of time and of memory."""
    flags = parser(__doc__, 10)
    flags.add_argument("--slices", type=int, default=SLICES, help="(default: %(default)s)")
    asked = flags.parse_args(arguments)
    phantom = draw_phantom(512, 512) * 2000 - 1000 + np.random.default_rng(0).normal(0, 10, (512, 512))
    units = np.rint(phantom).astype(np.int16)
    files = [write(np.roll(units, n, 0), n) for n in range(asked.slices)]
    archive = pack(files)
    volume = nibabel.Nifti1Image(np.stack([np.roll(units, n, 0).T for n in range(asked.slices)], -1), np.eye(4))
    volume.set_sform(np.diag([-0.7, -0.7, 1, 1]), 1)
    raw = volume.to_bytes()
    packed = gzip.compress(raw, 1)
    with TemporaryDirectory() as name, closing(Decoder(1)) as decoder:
        folder = Path(name)
        for number, data in enumerate(files):
            (folder / f"{number}.dcm").write_bytes(data)
        decoder.wait_until_ready()
        middle = files[asked.slices // 2]
        pairs: dict[str, tuple[Callable[[], object], Callable[[], object]]] = {
            "one file, decoder / pydicom": (partial(decoder.read, middle), partial(by_pydicom, middle)),
            "first picture of a zip, decoder / pydicom": (
                partial(decoder.read, archive), partial(zip_by_pydicom, archive),
            ),
            "first picture of a folder, command line / pydicom": (
                partial(first_of_folder, decoder, folder), partial(folder_by_pydicom, folder),
            ),
            "first picture of a volume, decoder / nibabel": (partial(decoder.read, raw), partial(by_nibabel, raw)),
            "first picture of a packed volume, decoder / nibabel": (
                partial(decoder.read, packed), partial(by_nibabel, packed),
            ),
            "first picture of a zip, page / pydicom, all slices": (
                partial(first_of_scan, archive), partial(stack_by_pydicom, archive),
            ),
            "first picture of a packed volume, page / nibabel, all slices": (
                partial(first_of_scan, packed), partial(stack_by_nibabel, packed),
            ),
        }  # fmt: skip
        for title, (ours, theirs) in pairs.items():
            print_ratio(title, ours, theirs, asked.rounds)
    scan = read_stack(archive)
    assert scan is not None
    with scrolling(scan) as scroll:
        turns = cycle(files)
        print_ratio("the next slice, page's route / pydicom", scroll, lambda: by_pydicom(next(turns)), 3 * asked.rounds)
    held, by_script = peak_of_child(archive) + (len(archive) + scan.units.nbytes >> 20), peak_of_script(archive)
    print(f"memory, child and page / pydicom: {held / by_script:.3f}   ({held} MiB / {by_script} MiB)")


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


def folder_by_pydicom(folder: Path) -> NDArray[np.float32]:
    """All heads, sorted, and the pixels of the lowest."""
    heads = [
        (float(pydicom.dcmread(path, stop_before_pixels=True).ImagePositionPatient[2]), path)
        for path in folder.iterdir()
    ]
    return by_pydicom(min(heads)[1].read_bytes())


def first_of_folder(decoder: Decoder, folder: Path) -> Slice:
    """As `ctscan predict DIR --series` comes to the first of its slices."""
    path, read, _ = next(sources(folder, decoder.read, decoder.survey))
    return read(path.read_bytes())


def by_nibabel(data: bytes) -> NDArray[np.float32]:
    """The middle slice, as it lies."""
    image = nibabel.Nifti1Image.from_bytes(gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data)
    return grey(np.asarray(image.dataobj[..., image.shape[2] // 2]))


# --- all slices, as a viewer holds them


def first_of_scan(data: bytes) -> Slice:
    """As the page comes to the middle one."""
    scan = read_stack(data)
    assert scan is not None
    return scan.slice(len(scan.slices) // 2)


def stack_by_pydicom(data: bytes) -> NDArray[np.float32]:
    """Every file read and rescaled, sorted; the middle one in its window."""
    found = []
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        for name in archive.namelist():
            file = pydicom.dcmread(io.BytesIO(archive.read(name)))
            units = file.pixel_array * float(file.RescaleSlope) + float(file.RescaleIntercept)
            found.append((float(file.ImagePositionPatient[2]), units.astype(np.int16)))
    stack = np.stack([units for _, units in sorted(found, key=lambda row: row[0])])
    return grey(stack[len(stack) // 2])


def stack_by_nibabel(data: bytes) -> NDArray[np.float32]:
    """All values, and the middle slice."""
    image = nibabel.Nifti1Image.from_bytes(gzip.decompress(data))
    stack = np.asanyarray(image.dataobj)
    return grey(stack[..., stack.shape[2] // 2])


@contextmanager
def scrolling(scan: Stack) -> Iterator[Callable[[], None]]:
    """What asks the page's route for the next slice each time it is called, as a browser does."""
    from anyio import CapacityLimiter  # here, for the plain script shall not hold them
    from starlette.applications import Starlette
    from starlette.testclient import TestClient

    from ctscan.inference.classifier import load
    from ctscan.page.routes import SCAN, page_routes
    from ctscan.page.shelf import Shelf
    from ctscan.page.views import Views
    from ctscan.results.summary import Facts

    classifier, shelf = load(), Shelf()
    routes = page_routes(Views(classifier, (), Facts(classifier.card)), CapacityLimiter(1), shelf)
    headers, numbers = {SCAN: shelf.put(scan)}, cycle(range(len(scan.slices)))
    with TestClient(Starlette(routes=routes)) as browser:

        def ask() -> None:
            answer = browser.get(f"/series/units?slice={next(numbers)}", headers=headers)
            assert len(answer.content) == scan.units[0].nbytes

        yield ask


def peak_of_child(data: bytes) -> int:
    """MiB that the process which reads all slices has held at most, what it imports included."""
    child = Child(READ_TIME)
    child.ask({"window": EXACT, "first": 0}, data, STACK_HANG_TIME, Arriving().receive)
    status = Path(f"/proc/{child.process.pid}/status").read_text(encoding="ascii")
    child.stop()
    return peak_in(status)


def peak_of_script(data: bytes) -> int:
    """The same of a script that holds all slices of a zip."""
    program = (
        "import sys; from benchmarks.medical import stack_by_pydicom; stack_by_pydicom(sys.stdin.buffer.read());"
        "print(open('/proc/self/status').read())"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=Path(__file__).parent.parent, input=data, capture_output=True, check=True)
    return peak_in(done.stdout.decode())


def peak_in(status: str) -> int:
    """MiB, of what the system says of a process."""
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) >> 10


if __name__ == "__main__":
    main()
