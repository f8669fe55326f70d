"""Small changes of a slice that leave what a reader sees, and what the classifier says of it then.

No change moves more than a technologist or a viewer program might; an answer that does not survive them is no answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import cv2
import numpy as np

from ctscan.imaging.anatomy import Pixels
from ctscan.imaging.render import to_bytes
from ctscan.inference.answer import Answer
from ctscan.inference.classifier import Classifier
from ctscan.io.images import Slice

SHIFT = 0.03  # of the slice's sides
TURN = 5.0  # degrees
TONE = 0.05  # of full scale
CONTRAST = 1.2  # times as steep, about mid-grey
QUALITY = 70  # of JPEG


def move(pixels: Pixels, across: float = 0, down: float = 0, turn: float = 0) -> Pixels:
    """Shifted by shares of its sides, turned by degrees; what comes in continues the edge."""
    height, width = pixels.shape
    matrix = cv2.getRotationMatrix2D((width / 2 - 0.5, height / 2 - 0.5), turn, 1)
    matrix[:, 2] += across * width, down * height
    moved = cv2.warpAffine(pixels, matrix, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(moved, np.float32)


def regrey(pixels: Pixels, slope: float = 1, offset: float = 0) -> Pixels:
    """Another window: greys steeper or flatter about the middle, all of them lighter or darker."""
    return np.asarray(np.clip((pixels - 0.5) * slope + 0.5 + offset, 0, 1), np.float32)


def compress(pixels: Pixels) -> Pixels:
    """As JPEG and back."""
    data = cv2.imencode(".jpg", to_bytes(pixels), [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1]
    return np.asarray(cv2.imdecode(data, cv2.IMREAD_GRAYSCALE), np.float32) / np.float32(255)


def halve(pixels: Pixels) -> Pixels:
    """Half as many pixels on each side."""
    height, width = pixels.shape
    return np.asarray(cv2.resize(pixels, (width // 2, height // 2), interpolation=cv2.INTER_AREA), np.float32)


CHANGES: dict[str, Callable[[Pixels], Pixels]] = {
    "left": partial(move, across=-SHIFT),
    "right": partial(move, across=SHIFT),
    "up": partial(move, down=-SHIFT),
    "down": partial(move, down=SHIFT),
    "turned_left": partial(move, turn=TURN),
    "turned_right": partial(move, turn=-TURN),
    "mirrored": lambda pixels: np.ascontiguousarray(pixels[:, ::-1]),
    "lighter": partial(regrey, offset=TONE),
    "darker": partial(regrey, offset=-TONE),
    "narrower": partial(regrey, slope=CONTRAST),
    "wider": partial(regrey, slope=1 / CONTRAST),
    "halved": halve,
    "jpeg": compress,
}


def check(classifier: Classifier, slice_: Slice) -> Iterator[tuple[str, Answer]]:
    """What is said of the slice under each change, one after the other, by the change's name."""
    for name, change in CHANGES.items():
        yield name, classifier(replace(slice_, pixels=change(slice_.pixels)))
