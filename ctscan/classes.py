"""The four classes, in the order of the model's outputs, and how a folder name is matched to one of them."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ctscan.notices import catalogue


@dataclass(frozen=True)
class DiseaseClass:
    """One output of the classifier; `key` is its stable name in API and card."""

    key: str

    @property
    def title(self) -> str:
        """The name for people, from the catalogue."""
        title: str = catalogue()["classes"][self.key]["title"]
        return title


CLASS_KEYS: tuple[str, ...] = ("adenocarcinoma", "large_cell_carcinoma", "squamous_cell_carcinoma", "normal")
CLASSES: tuple[DiseaseClass, ...] = tuple(map(DiseaseClass, CLASS_KEYS))
NORMAL = CLASS_KEYS.index("normal")
TUMOUR = "tumour"  # an outside folder's class that does not say which
TUMOUR_NAMES = ("tumour", "tumor", "cancer", "malignant", "carcinoma")


def class_of_folder(name: str) -> str | None:
    """The class key that a folder name stands for, or None.

    Matched by name and never by sort order: the published splits write `large.cell.carcinoma` in one and
    `large.cell.carcinoma_left.hilum_T2_N2_M0_IIIa` in another.

    >>> class_of_folder("large.cell.carcinoma_left.hilum_T2_N2_M0_IIIa")
    'large_cell_carcinoma'
    """
    words = _words(name)
    return next((key for key in CLASS_KEYS if words == key or words.startswith(f"{key}_")), None)


def class_or_tumour(name: str) -> str | None:
    """The same for a folder from elsewhere, which may also hold tumours of no stated kind; None for `tumor-free`.

    >>> class_or_tumour("Malignant cases")
    'tumour'
    """
    words = _words(name)
    denied = set(words.split("_")) & {"free", "no", "non", "without"}
    unnamed = not denied and any(words == t or words.startswith(f"{t}_") for t in TUMOUR_NAMES)
    return TUMOUR if unnamed else class_of_folder(name)


def _words(name: str) -> str:
    return re.sub(r"[^a-z]+", "_", name.lower()).strip("_")
