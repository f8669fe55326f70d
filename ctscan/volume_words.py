"""What a model says of whole CT volumes, as the ledger keeps it -> sentences and tables, for README, card and page."""

from __future__ import annotations

from ctscan.map_words import count_patients
from ctscan.results import Entry

WANTED = 0.75  # AUROC of slices with an outlined tumour against the others of their volume
OUTLINED_HEAD = (
    "volume",
    "window",
    "slices with tumour",
    "others",
    "AUROC",
    f"at least {WANTED}",
    "refused",
    "unusual",
)
FREE_HEAD = ("volume without a mass", "window", "slices", "false alarms", "share of slices, %", "refused", "unusual")


def sentences(entry: Entry) -> tuple[str, ...]:
    """What the two tables show."""
    return tuple(sentence for sentence in (outlined(entry["outlined"]), free(entry["free"])) if sentence)


def outlined(found: list[Entry]) -> str:
    """Whether tumour slices are told from the others of the same scan."""
    if not found:
        return ""
    met = sum(one["auroc"] >= WANTED for one in found)
    return (
        "In CT volumes from other hospitals slices in which a radiologist outlined a tumour are to "
        f"be told from the others of the same scan: AUROC, wanted at least {WANTED}; met in {met} of {len(found)}. "
        f"These are {count_patients(found)}."
    )


def free(found: list[Entry]) -> str:
    """How often a tumour is named where there is none."""
    shares = [f"{span(one)} under the {one['window']} window" for one in found]
    return f"Of the slices of a volume without a mass a tumour was named in {', '.join(shares)}." if found else ""


def span(one: Entry) -> str:
    """`12 % (5 to 23)`."""
    return f"{100 * one['alarms'] / one['slices']:.0f} % ({100 * one['low']:.0f} to {100 * one['high']:.0f})"


def outlined_rows(entry: Entry) -> list[list[object]]:
    """One row a volume with an outline, and window."""
    return [
        [
            *(one[key] for key in ("volume", "window", "outlined", "others")),
            f"{one['auroc']:.3f}",
            "met" if one["auroc"] >= WANTED else "not met",
            *(one[key] for key in ("refused", "unusual")),
        ]
        for one in entry["outlined"]
    ]


def free_rows(entry: Entry) -> list[list[object]]:
    """One row a volume without a mass, and window."""
    return [
        [*(one[key] for key in ("volume", "window", "slices", "alarms")), span(one), one["refused"], one["unusual"]]
        for one in entry["free"]
    ]
