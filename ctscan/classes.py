"""The four classes, in the order of the model's outputs, and how a folder name is matched to one of them."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class DiseaseClass:
    """One output of the classifier.

    `key` is the stable name of the API and the card, `title` the name on the page, `site` the place that all
    cases of this class share in the training data: a property of that data, never of the disease.
    """

    key: str
    title: str
    site: str

    @property
    def label(self) -> str:
        """The title with the site of the data set's cases: `Adenocarcinoma (left lower lobe)`."""
        return f"{self.title} ({self.site})" if self.site else self.title


CLASSES: tuple[DiseaseClass, ...] = (
    DiseaseClass("adenocarcinoma", "Adenocarcinoma", "left lower lobe"),
    DiseaseClass("large_cell_carcinoma", "Large cell carcinoma", "left hilum"),
    DiseaseClass("squamous_cell_carcinoma", "Squamous cell carcinoma", "left hilum"),
    DiseaseClass("normal", "Normal / benign", ""),
)

CLASS_KEYS: tuple[str, ...] = tuple(c.key for c in CLASSES)
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
