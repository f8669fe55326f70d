"""What a model says of whole CT volumes, as the ledger keeps it -> sentences and tables, for README, card and page."""

from __future__ import annotations

from ctscan.results.map_words import count_patients
from ctscan.results.summary import Entry

WANTED = 0.75  # AUROC of slices with an outlined tumour against the others of their volume
OUTLINED_HEAD = (
    "volume",
    "window",
    "slices with tumour",
    "others with lung, 3 or more slices away",
    "AUROC",
    f"at least {WANTED}",
    "refused",
    "unusual",
)
FREE_HEAD = ("volume without a mass", "window", "slices", "false alarms", "share of slices", "refused", "unusual")


def sentences(entry: Entry) -> tuple[str, ...]:
    """What the two tables show."""
    return tuple(sentence for sentence in (outlined(entry["outlined"]), free(entry["free"]), window(entry)) if sentence)


def outlined(found: list[Entry]) -> str:
    """Whether tumour slices are told from the others of the same scan."""
    if not found:
        return ""
    met = sum(one["auroc"] >= WANTED for one in found)
    missed = {one["volume"] for one in found if one["auroc"] < WANTED}
    whole = {one["volume"] for one in found} - missed
    return (
        "In CT volumes from other hospitals slices in which a radiologist outlined a tumour are to "
        f"be told from the others of the same scan: AUROC, wanted at least {WANTED}; met in {met} of {len(found)} "
        f"readings, in every window of {len(whole)} of {len(missed) + len(whole)} scans. These are "
        f"{count_patients(found)}."
    )


def free(found: list[Entry]) -> str:
    """How often a tumour is named where there is none, and how often the gate warns."""
    if not found:
        return ""
    shares = [
        f"{share(one)} of {one['slices']} slices under the {one['window']} window (of all these {one['refused']} "
        f"refused, {one['unusual']} marked unusual)"
        for one in found
    ]
    return (
        f"Where there is no mass a tumour is the likeliest class in {', '.join(shares)}: "
        f"{count_patients(found)}, and neighbouring slices are alike, so no interval is given."
    )


def window(entry: Entry) -> str:
    """Where the third window comes from, in which a check by these volumes is kinder than elsewhere."""
    if not any(one["window"] == "training" for one in entry["outlined"] + entry["free"]):
        return ""
    return (
        "The training window is wide and was chosen so that the greys of the volumes with an outline resemble the "
        "training data's; what they show in it, the gate's marks too, is kinder for that."
    )


def share(one: Entry) -> str:
    """`12 %`."""
    return f"{100 * one['alarms'] / one['slices']:.0f} %"


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
        [*(one[key] for key in ("volume", "window", "slices", "alarms")), share(one), one["refused"], one["unusual"]]
        for one in entry["free"]
    ]
