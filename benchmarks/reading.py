"""A slice read in the decoder's warm child against the same in process. `python -m benchmarks.reading`."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from functools import partial

import cv2

from benchmarks.timing import example, parser, print_ratio
from ctscan.io.images import read_slice
from ctscan.io.sandbox import Decoder


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the ratio for an example in four sizes."""
    rounds = parser(__doc__, 30).parse_args(arguments).rounds
    pixels = read_slice(example()).pixels * 255
    with closing(Decoder()) as decoder:
        decoder.wait_until_ready()
        for side in (256, 512, 1024, 4096):
            picture = cv2.imencode(".png", cv2.resize(pixels, (side, side)).round().astype("uint8"))[1].tobytes()
            in_child, in_process = partial(decoder.read, picture), partial(read_slice, picture)
            print_ratio(f"{side} x {side}, decoder / in process", in_child, in_process, rounds)


if __name__ == "__main__":
    main()
