"""Grouped cross-validations of several recipes -> a table of what was tried against the shortcut, and what came of it.

The plain recipe squashes the whole picture to a square and leaves its greys: whatever a picture's look gives away, a
network can then use. Every other recipe is told by what differs from it; one that was held against another of them, as
when a single change is tried, by what differs from that.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ctscan.results.figures import by_fold, decimal, points, share
from ctscan.results.findings import SHORTCUT, TONE_FALL
from ctscan.results.summary import PLAIN, SCALE, VIEW, Entry, Results, Try, is_plain

WITHOUT_DISEASE = ("border_only", "tone_only")  # controls in which no disease can be seen
TESTS = 3  # against the shortcut: body hidden, pixels shuffled, one histogram
PLAIN_WORDS = "the plain one: the whole picture squashed to a square, its greys as they are"
PHRASES = {
    "crop body": "cropped to the body",
    "crop lungs": "cropped to the lungs",
    "crop fill": "the body stretched to a square",
    "crop whole": "whole picture, not squashed",
    "tone equalise": "greys spread evenly",
    "tone rank": "greys of one histogram",
    "tone clipped_rank": "greys of one histogram, its top white",
    "tone matched": "greys matched to train's mean histogram",
    "surround black": "black outside the body",
    "surround hull": "black outside the body's hull",
    "surround oval": "black outside an oval in the body",
    "surround chest": "black outside the lungs' hull",
    "augmentation windows": "windows drawn at random",
}
NAMES = {
    "ema": "moving average of the weights",
    "freeze": "blocks left as ImageNet made them",
    "lungless": "weight of slices without lung",
    "strength": "strength of the augmentation",
}
HEAD = (
    "what differs from the plain recipe", "px", "epochs", "balanced accuracy", "by fold, %",
    "minus the plain recipe", f"lost with one histogram (at most {100 * TONE_FALL:.0f})",
    "AUROC, normal against tumour", "cross-entropy",
    f"AUROC, normal against tumour, with the body hidden (at most {SHORTCUT})",
    f"the same with the pixels shuffled (at most {SHORTCUT})", "of these tests passed",
    "slices, folds", "groups linked at", "date",
)  # fmt: skip
BESIDE_HEAD = (
    "what differs from it", "balanced accuracy", "by fold, %", "minus that recipe's balanced accuracy",
    f"lost with one histogram (at most {100 * TONE_FALL:.0f})", "AUROC, normal against tumour", "cross-entropy",
    "minus that recipe's cross-entropy", "slices, folds", "date",
)  # fmt: skip


def differences(settings: Mapping[str, Any], other: Mapping[str, Any] = PLAIN) -> str:
    """What a recipe does otherwise than another, in few words; size and length aside."""
    changed = {name for name in (settings.keys() | other.keys()) - set(SCALE) if settings.get(name) != other.get(name)}
    view_first = [name for name in VIEW if name in changed] + sorted(changed - set(VIEW))
    named = [f"{NAMES.get(name, name.replace('_', ' '))} {settings.get(name, 'as by default')}" for name in view_first]
    return ", ".join(PHRASES.get(phrase, phrase) for phrase in named)


def all_differences(settings: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    """All that a recipe does otherwise than another."""
    units = {"size": "px", "epochs": "epochs"}
    scales = [f"{settings[name]} {units[name]}" for name in SCALE if settings[name] != other[name]]
    return ", ".join(phrase for phrase in (differences(settings, other), *scales) if phrase)


def is_beside_another(entry: Entry) -> bool:
    """Whether a cross-validation was held against another recipe than the plain one."""
    return "against" in entry and not is_plain(entry["against"]["settings"])


def rows(results: Results) -> list[list[object]]:
    """One row below `HEAD` for each recipe held against the plain one or none, oldest first, the failures too."""
    return [cells(one.entry, one.controls) for one in results.tried if not is_beside_another(one.entry)]


def beside_others(results: Results) -> list[tuple[str, list[list[object]]]]:
    """For each recipe but the plain one that others were held against: its name, and rows below `BESIDE_HEAD`.

    The first row is that recipe's own.
    """
    entries = [one.entry for one in results.tried if is_beside_another(one.entry)]
    bases: list[Mapping[str, Any]] = []
    for entry in entries:
        if entry["against"]["settings"] not in bases:
            bases.append(entry["against"]["settings"])
    return [
        (
            f"{differences(base)}; {scale(base)}",
            [beside_cells(one.entry, base) for one in results.tries_of(base)[-1:]]
            + [beside_cells(entry, base) for entry in entries if entry["against"]["settings"] == base],
        )
        for base in bases
    ]


def beside_cells(entry: Entry, base: Mapping[str, Any]) -> list[object]:
    """A row below `BESIDE_HEAD`."""
    found, gaps = entry["measures"], entry["against"]["measures"] if is_beside_another(entry) else None
    return [
        all_differences(entry["settings"], base) or "that recipe itself",
        share(found["balanced_accuracy"]),
        by_fold(entry["folds"]),
        points(gaps["balanced_accuracy"]) if gaps else "",
        points(entry["matched"]["fall"]) if "matched" in entry else "",
        *(decimal(found[name]) for name in ("auroc.normal", "nll")),
        decimal(gaps["nll"]) if gaps else "",
        f"{entry['n']}, {len(entry['folds'])}",
        entry["date"],
    ]


def cells(entry: Entry, controls: Mapping[str, Entry]) -> list[object]:
    """A row below `HEAD`."""
    settings, found = entry["settings"], entry["measures"]
    return [
        differences(settings) or "plain recipe",
        *(settings[key] for key in SCALE),
        share(found["balanced_accuracy"]),
        by_fold(entry["folds"]),
        points(entry["against"]["measures"]["balanced_accuracy"]) if "against" in entry else "",
        points(entry["matched"]["fall"]) if "matched" in entry else "",
        *(decimal(found[name]) for name in ("auroc.normal", "nll")),
        *(told_apart(controls.get(name), settings) for name in WITHOUT_DISEASE),
        passed(tested(entry, controls)),
        f"{entry['n']}, {len(entry['folds'])}",
        f"{entry['threshold']:.2f}",
        entry["date"],
    ]


def tested(entry: Entry, controls: Mapping[str, Entry]) -> list[bool]:
    """For each test against the shortcut that was made, whether the recipe passes it."""
    made = [controls[name] for name in WITHOUT_DISEASE if name in controls]
    found = [control["measures"]["auroc.normal"]["value"] <= SHORTCUT for control in made]
    return found + ([entry["matched"]["fall"]["value"] <= TONE_FALL] if "matched" in entry else [])


def passed(found: list[bool]) -> str:
    """`2 of 3`; empty where no test was made."""
    return f"{sum(found)} of {len(found)}" if found else ""


def told_apart(control: Entry | None, settings: Mapping[str, Any]) -> str:
    """Normal against tumour where there is no disease to see, and the control's size where it is another."""
    if control is None:
        return ""
    size = control["settings"]["size"]
    return decimal(control["measures"]["auroc.normal"]) + (f" at {size} px" if size != settings["size"] else "")


def comparison(results: Results) -> str:
    """What the shipped recipe cost or gained; empty where it was never held against another."""
    if results.grouped is None:
        return ""
    own = differences(results.grouped["settings"])
    if not own:
        return "The shipped recipe is the plain one: the whole picture squashed to a square, its greys as they are."
    newest_first = [results.grouped, *(one.entry for one in reversed(results.tried))]
    found = next((entry for entry in newest_first if is_trial_of(own, entry)), None)
    if found is None:
        return ""
    gaps, other = found["against"]["measures"], found["against"]["settings"]
    return (
        f"The shipped recipe ({own}; {scale(found['settings'])}) minus another ({differences(other) or PLAIN_WORDS}; "
        f"{scale(other)}), slice by slice on the same folds: balanced accuracy {points(gaps['balanced_accuracy'])}, "
        f"{verdict(gaps['balanced_accuracy'])}; AUROC of normal against tumour {decimal(gaps['auroc.normal'])}, "
        f"{verdict(gaps['auroc.normal'])}; cross-entropy {decimal(gaps['nll'])}. Each network was trained once, so the "
        f"luck of training is not in these intervals.{losses(results, found)}{published(results)}"
    )


def losses(results: Results, entry: Entry) -> str:
    """What one histogram costs a recipe and the one it was held against, where both were measured."""
    other = results.tries_of(entry["against"]["settings"])
    if "matched" not in entry or not other or "matched" not in other[-1].entry:
        return ""
    ours, theirs = (points(turned(one["matched"]["fall"])) for one in (entry, other[-1].entry))
    fall = f" Given one histogram for all slices, balanced accuracy changes by {ours}, the other's by {theirs}."
    return fall + without_disease(results, other[-1])


def turned(fall: Mapping[str, float]) -> dict[str, float]:
    """A fall as a change."""
    return {"value": -fall["value"], "low": -fall["high"], "high": -fall["low"]}


def without_disease(results: Results, other: Try) -> str:
    """How well the views of both tell normal from tumour where no disease can be seen."""
    own = {entry["control"]: entry for entry in results.controls}
    if not all(name in controls for name in WITHOUT_DISEASE for controls in (own, other.controls)):
        return ""
    aurocs = [[decimal(c[name]["measures"]["auroc.normal"]) for name in WITHOUT_DISEASE] for c in (own, other.controls)]
    ours, theirs = (" and ".join(pair) for pair in aurocs)
    return (
        " Small networks that could see no disease, the body hidden or the pixels shuffled, told normal from tumour "
        f"with AUROC {ours} from this view, with {theirs} from the other."
    )


def strictest(results: Results) -> str:
    """What it costs to pass all tests against the shortcut, where another recipe than the shipped one does."""
    own = results.grouped["settings"] if results.grouped else {}
    compared = [one for one in results.tried if "against" in one.entry and one.entry["settings"] != own]
    clean = [one.entry for one in compared if tested(one.entry, one.controls) == [True] * TESTS]
    if not clean:
        return ""
    found = clean[-1]
    gap, other = found["against"]["measures"]["balanced_accuracy"], found["against"]["settings"]
    return (
        f"Another recipe passes all {TESTS} tests against the shortcut, made with small networks "
        f"({differences(found['settings'])}; {scale(found['settings'])}). Its balanced accuracy is "
        f"{share(found['measures']['balanced_accuracy'])}: {points(gap)} beside "
        f"{differences(other) or PLAIN_WORDS} ({scale(other)}), {verdict(gap)}."
    )


def by_design(results: Results) -> str:
    """Why ranks say little by passing the test with one histogram; empty for other recipes."""
    tone = results.grouped["settings"]["tone"] if results.grouped else ""
    if tone not in ("rank", "clipped_rank", "matched"):
        return ""
    return (
        "The test with one histogram changes greys in their order, which this recipe undoes before the network sees "
        "them: it passes nearly by design. What a window cuts off to black or white is not undone, and not tested by "
        "it."
    )


def is_trial_of(own: str, entry: Entry) -> bool:
    """Whether an entry holds the recipe with these differences against another, at any size."""
    return "against" in entry and differences(entry["settings"]) == own


def scale(settings: Mapping[str, Any]) -> str:
    """How large and how long."""
    return f"{settings['size']} px, {settings['epochs']} epochs"


def verdict(gap: Mapping[str, float]) -> str:
    """A paired difference in a word."""
    if gap["low"] > 0:
        return "a gain"
    return "a cost" if gap["high"] < 0 else "which leaves open a gain or a cost of that size"


def published(results: Results) -> str:
    """The published test beside it."""
    found = results.published
    if found is None:
        return ""
    right = share(found["measures"]["accuracy"])
    ours = (
        " On the published test split, which shares scans with the training data, it is right in "
        f"{right} of {found['n']} slices"
    )
    if results.plain is None:
        return f"{ours}."
    return f"{ours}, the plain recipe in {share(results.plain['measures']['accuracy'])} of {results.plain['n']}."
