"""The tests of a checkpoint's maps in the ledger -> sentences and tables, for README, model card and page."""

from __future__ import annotations

from ctscan.figures import percent, points, share
from ctscan.results import Entry

LESION_HEAD = (
    "volume",
    "window",
    "slices",
    "evidence inside the outline",
    "its area in the body",
    "strongest place inside",
)
STAGE_HEAD = ("weights at random", "Spearman", "SSIM")


def sentences(entry: Entry) -> tuple[str, ...]:
    """Each test: passed or failed, and by what figures."""
    return sanity(entry), road(entry), outside(entry), *lesions(entry)


def mark(passed: bool) -> str:
    """How a test ended, in a word."""
    return "passed" if passed else "failed"


def sanity(entry: Entry) -> str:
    """Whether maps depend on the weights."""
    found = entry["sanity"]
    *_, last = found["randomised"].values()
    return (
        f"Maps depend on what was learned: {mark(found['passed'])}. On {entry['n']} slices, no two of one visual "
        f"group, the maps of random weights resemble the true ones by {alike(last)}; maps of two slices, paired at "
        f"random, resemble one another by {alike(found['pairs'])}, and more than that is too much."
    )


def alike(found: Entry) -> str:
    """How alike maps are, 1 for the same."""
    return f"Spearman {found['spearman']:.2f} and SSIM {found['ssim']:.2f}"


def road(entry: Entry) -> str:
    """Whether what a map marks is what the answer rests on."""
    own, *leads = (entry["road"][name] for name in ("road", "over_random", "over_centre"))
    return (
        f"Maps mark what the answer rests on (ROAD): {mark(all(lead['low'] > 0 for lead in leads))}. Filling in what "
        f"a map marks most costs the answer {points(own)} more than filling in what it marks least. That is "
        f"{points(leads[0])} more than with a random map, and {points(leads[1])} more than with one that always marks "
        "the centre."
    )


def outside(entry: Entry) -> str:
    """Whether maps keep to the body."""
    found, area = entry["outside"], entry["outside_area"]
    return (
        f"Evidence keeps to the body: {mark(found['high'] < area)}. Outside it lie {share(found)} of the evidence and "
        f"{percent(area)} of what the model is shown."
    )


def lesions(entry: Entry) -> list[str]:
    """Whether evidence gathers where a radiologist outlined a tumour."""
    found = entry.get("lesions", [])
    if not found:
        return []
    inside = [lesion["inside"] > lesion["area"] for lesion in found]
    return [
        f"Evidence gathers in an outlined tumour: {mark(all(inside))}. Its share there is larger than the tumour's "
        f"share of the body in {sum(inside)} of {len(inside)} volumes and windows, and the strongest place lies in the "
        f"outline in {sum(lesion['peaks'] for lesion in found)} of {sum(lesion['slices'] for lesion in found)} slices; "
        f"{count_patients(found)}."
    ]


def count_patients(found: list[Entry]) -> str:
    """How many people stand behind entries of volumes."""
    n = len({one["volume"] for one in found})
    return "one patient alone" if n == 1 else f"{'two' if n == 2 else n} patients, which is few"


def lesion_rows(entry: Entry) -> list[list[object]]:
    """One row a volume and window."""
    return [
        [
            *(one[key] for key in ("volume", "window", "slices")),
            *(percent(one[key]) for key in ("inside", "area")),
            f"{one['peaks']} of {one['slices']}",
        ]
        for one in entry.get("lesions", [])
    ]


def stage_rows(entry: Entry) -> list[list[object]]:
    """How alike the maps stay, from the head down to all weights."""
    found = entry["sanity"]
    named = {f"down to {stage}": one for stage, one in found["randomised"].items()}
    named |= {"none, maps of two slices": found["pairs"]}
    return [[name, f"{one['spearman']:.2f}", f"{one['ssim']:.2f}"] for name, one in named.items()]
