"""The tests of a checkpoint's maps in the ledger -> sentences and tables, for README, model card and page."""

from __future__ import annotations

from ctscan.results.figures import percent, points, share
from ctscan.results.summary import Entry

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
    """What was tested, then each test: by what figures it passed or failed, or what it shows."""
    return tested(entry), sanity(entry), road(entry), outside(entry), *lesions(entry)


def tested(entry: Entry) -> str:
    """Which maps."""
    return (
        f"Tested are the maps of the likeliest class on {entry['n']} slices of the published test split, no two of one "
        "visual group. Scans of that split stand in the training data too, and maps of the other classes are not "
        "tested."
    )


def mark(passed: bool) -> str:
    """How a test ended, in a word."""
    return "passed" if passed else "failed"


def sanity(entry: Entry) -> str:
    """Whether maps depend on the weights."""
    found = entry["sanity"]
    *_, last = found["randomised"].values()
    return (
        f"Maps depend on what was learned: {mark(found['passed'])}. With random weights they resemble the true ones by "
        f"{alike(last)}, where maps of two different slices resemble one another by {alike(found['pairs'])}; more than "
        "that would be too much."
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
    """Whether maps avoid what lies outside the body."""
    lead = entry["outside_lead"]
    return (
        f"Evidence avoids what lies outside the body: {mark(lead['high'] < 0)}. {share(entry['outside'])} of it lies "
        f"there, {points(lead)} more than of a map as coarse that is spread evenly over what the model is shown."
    )


def lesions(entry: Entry) -> list[str]:
    """How far evidence gathers where a radiologist outlined a tumour; too few for a verdict."""
    found = entry.get("lesions", [])
    if not found:
        return []
    inside = [lesion["inside"] > lesion["area"] for lesion in found]
    peaks, slices = (sum(lesion[key] for lesion in found) for key in ("peaks", "slices"))
    open_or_not = "Whether it does is open" if peaks else "That it does is not shown"
    return [
        f"Evidence in an outlined tumour: {open_or_not}, for the strongest place lies in the outline in {peaks} of "
        f"{slices} readings (slices, each in several windows). The share of the evidence there is larger than "
        f"the outline's share of the body in {sum(inside)} of {len(inside)} volumes and windows, as that of any "
        f"map may be that marks the middle of the body. {count_patients(found).capitalize()}."
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
