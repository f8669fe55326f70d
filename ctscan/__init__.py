"""ctscan: an explained classifier of chest CT slices. For education and research, not for diagnosis.

    path, bytes, array --read--> Slice --gate--> refused, in words
                                   |      |
                                   |  may be scored --preprocess--> square (2,S,S) --network--> logits (4)
                                   |                      |                               |         |
                                   |                  Placement <---- maps (4,h,w) <------+   probabilities, set
                                   |                      |                                         |
                                   +----------------------+-------------> Answer <------------------+

    >>> import ctscan
    >>> from ctscan.bundle import bundled
    >>> classify = ctscan.load()  # the checkpoint that ctscan brings; or a path to a checkpoint or an ONNX file
    >>> answer = classify(bundled("examples") / "01-lower-lobe-mass-wide-window.png")
    >>> answer.verdict, answer.possible
    ('ok', ('adenocarcinoma', 'normal'))
    >>> round(answer.probabilities["adenocarcinoma"], 3)
    0.506
    >>> answer.maps["adenocarcinoma"].shape == answer.slice.pixels.shape
    True
    >>> answer.overlay("adenocarcinoma").size
    (512, 512)

Nothing is imported before it is asked for, torch only by a checkpoint that is loaded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ctscan.errors import CtscanError, DataError, ModelError, UnreadableSlice
from ctscan.notices import Notice

if TYPE_CHECKING:
    from ctscan.inference.answer import Answer, Prediction
    from ctscan.inference.classifier import Classifier, load, read
    from ctscan.io.images import Slice

__all__ = [
    "Answer",
    "Classifier",
    "CtscanError",
    "DataError",
    "ModelError",
    "Notice",
    "Prediction",
    "Slice",
    "UnreadableSlice",
    "load",
    "read",
]
__version__ = "0.1.0"

_HOMES = dict.fromkeys(("Classifier", "load", "read"), "ctscan.inference.classifier")
_HOMES |= dict.fromkeys(("Answer", "Prediction"), "ctscan.inference.answer") | {"Slice": "ctscan.io.images"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'ctscan' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
