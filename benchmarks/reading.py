"""A slice read in the decoder's warm child against the same in process. `python -m benchmarks.reading`."""

from __future__ import annotations

from contextlib import closing
from functools import partial

import cv2
import numpy as np

from benchmarks.timing import print_ratio
from ctscan.imaging.phantom import draw_phantom
from ctscan.io.images import read_slice
from ctscan.io.sandbox import Decoder


def main() -> None:
    """Print the ratio for PNG slices of usual sizes."""
    with closing(Decoder()) as decoder:
        decoder.wait_until_ready()
        for side in (256, 512, 1024, 4096):
            noise = np.random.default_rng(0).integers(0, 12, (side, side))
            picture = cv2.imencode(".png", (draw_phantom(side, side) * 240 + noise).astype(np.uint8))[1].tobytes()
            in_child, in_process = partial(decoder.read, picture), partial(read_slice, picture)
            print_ratio(f"{side} x {side}, decoder / in process", in_child, in_process, rounds=30)


if __name__ == "__main__":
    main()
