"""A volume with an outline -> the scan that the page lets a visitor scroll: small pictures, and every slice read.

    python -m ctscan.evaluation.scan VOLUMES

writes examples/scan anew; no other command needs it. The readings are of the full slices, the pictures are not.
"""

from __future__ import annotations

import sys
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from ctscan.bundle import bundled
from ctscan.classes import CLASS_KEYS
from ctscan.errors import DataError
from ctscan.files import write
from ctscan.inference.answer import Answer
from ctscan.inference.classifier import Classifier, load
from ctscan.io.images import Slice
from ctscan.io.volumes import WINDOWS, Volume, read_volumes
from ctscan.results.scan import AIR, PICTURE, RECORD, STEP, Reading, Scan, ScanSlice

VOLUME = "lung2"  # of the two with an outline the one whose mass goes through more slices
SOURCE = "pyradiomics 3.0.1, BSD-3-Clause"
SHOWN = ("lung", "training", "mediastinal")  # windows, side by side
WIDTH = 320  # px of a slice in the picture
COLUMNS = 8
BLOCK = 8  # px: JPEG mixes nothing across the edges of its blocks, so neither do tiles that are made of whole ones
ROOM = 800_000  # bytes of the picture
TISSUE = -300.0  # Hounsfield units: above it is no air and no lung
BODY = 0.1  # of a line: less tissue than this is a cable or the table
DIGITS = 4  # of a probability


def write_scan(classifier: Classifier, volume: Volume, folder: Path) -> Scan:
    """Read every slice under every window, and write the record and the picture.

    Args:
        classifier: What reads.
        volume: One with an outline and known spacing.
        folder: Where both files go; made where it is missing.

    Returns:
        The record as it was written.

    Raises:
        DataError: The volume has no spacing.
    """
    if volume.spacing is None:
        raise DataError(f"{volume.name} does not say how far apart its slices are.")
    between, pixel = volume.spacing
    greys, box = shrink(volume)
    readings = {}
    for window in SHOWN:
        answers = classifier.many(Slice(volume.slice(z, window)[0]) for z in range(len(greys)))
        readings[window] = list(map(summarise, answers))
    record = Scan(
        model_id=classifier.card.model_id,
        volume=volume.name,
        source=SOURCE,
        classes=CLASS_KEYS,
        windows={window: WINDOWS[window] for window in SHOWN},
        pixel=pixel,
        box=box,
        tile=(greys.shape[2], greys.shape[1]),
        columns=COLUMNS,
        slices=tuple(
            ScanSlice(
                position=z * between,
                outline=trace(volume.lesion[z]),
                readings={window: readings[window][z] for window in SHOWN},
            )
            for z in range(len(greys))
        ),
    )
    write(folder / PICTURE, encode(greys))
    write(folder / RECORD, record.model_dump_json() + "\n")
    return record


def summarise(answer: Answer) -> Reading:
    """An answer without its maps."""
    if answer.verdict == "unreadable":
        raise AssertionError("a slice of a volume is no file")
    prediction = answer.prediction
    return Reading(
        verdict=answer.verdict,
        probabilities=tuple(np.round(prediction.probabilities, DIGITS).tolist()) if prediction else None,
        possible=answer.possible,
        reason=answer.notices[0].code if answer.notices else None,
    )


def shrink(volume: Volume) -> tuple[NDArray[np.uint8], tuple[float, float, float, float]]:
    """Greys (Z, h, w) of the slices, cut to where there is a body, and that box in pixels of the full slice."""
    scale = WIDTH / volume.units.shape[2]
    size = WIDTH, round(volume.units.shape[1] * scale)
    steps = np.clip((volume.units - AIR) / STEP, 0, 255)
    small = np.stack([cv2.resize(slice_, size, interpolation=cv2.INTER_AREA) for slice_ in steps])
    tissue = volume.units > TISSUE
    left, right = extent(tissue.mean(axis=1), scale, size[0])
    top, bottom = extent(tissue.mean(axis=2), scale, size[1])
    cut = np.rint(small[:, top:bottom, left:right]).astype(np.uint8)
    return cut, (left / scale, top / scale, (right - left) / scale, (bottom - top) / scale)


def extent(shares: NDArray[np.floating], scale: float, size: int) -> tuple[int, int]:
    """From the first to the last line that is body in some slice, made small and a whole number of blocks long.

    Args:
        shares: (Z, N), of tissue on each line of each slice.
        scale: From a pixel of the full slice to one of the small one.
        size: Of the small one.
    """
    lines = np.flatnonzero(shares.max(axis=0) > BODY)
    first, last = int(lines[0] * scale), round((lines[-1] + 1) * scale)
    length = min(-(-(last - first) // BLOCK), size // BLOCK) * BLOCK
    first = min(first, size - length)
    return first, first + length


def encode(greys: NDArray[np.uint8]) -> bytes:
    """All slices in one grey JPEG, of the highest quality that `ROOM` has room for."""
    count, height, width = greys.shape
    rows = -(-count // COLUMNS)
    sheet = np.zeros((rows * COLUMNS, height, width), np.uint8)
    sheet[:count] = greys
    sheet = sheet.reshape(rows, COLUMNS, height, width).swapaxes(1, 2).reshape(rows * height, COLUMNS * width)
    for quality in range(95, 0, -1):
        flags = [cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_OPTIMIZE, 1]
        data = cv2.imencode(".jpg", sheet, flags)[1].tobytes()
        if len(data) <= ROOM:
            return data
    raise DataError(f"{count} slices do not fit into {ROOM} bytes.")


def trace(lesion: NDArray[np.bool_]) -> tuple[tuple[tuple[float, float], ...], ...]:
    """The outer edges of a mask (H, W) as closed lines of (x, y), to half a pixel."""
    doubled = np.kron(lesion, np.ones((2, 2), np.uint8)).astype(np.uint8)  # so that small parts keep their width
    lines, _ = cv2.findContours(doubled, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    smooth = [cv2.approxPolyDP(line, 1.0, True)[:, 0] for line in lines]
    return tuple(tuple((float(x + 0.5) / 2, float(y + 0.5) / 2) for x, y in line) for line in smooth)


def main() -> None:
    """Write examples/scan from the folder that the command line names."""
    volumes = {volume.name: volume for volume in read_volumes(Path(sys.argv[1]))}
    record = write_scan(load(), volumes[VOLUME], bundled("examples") / "scan")
    for count in record.counts:
        print(count)


if __name__ == "__main__":
    main()
