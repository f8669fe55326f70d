"""A calibration's entry in the ledger -> sentences and a table, for README, model card and page."""

from __future__ import annotations

from ctscan.classes import CLASSES
from ctscan.results.figures import decimal, percent, share
from ctscan.results.summary import Entry

HEAD = ("class", "its own class is in the set", "visual groups")


def sentences(entry: Entry) -> tuple[str, ...]:
    """Temperature, calibration error, what the surest answers are worth, and sets of classes."""
    return temperature(entry), error(entry), surest(entry), sets(entry)


def temperature(entry: Entry) -> str:
    """What the scores are divided by."""
    found = entry["temperature"]
    sure = "less" if found["value"] > 1 else "more"
    within = found["low"] <= 1 <= found["high"]
    return (
        "Temperature and sets come from the answers of the cross-validation's networks, sisters of the shipped one, "
        f"and are handed to it. The temperature that fits best is {decimal(found)}: it makes the scores {sure} sure; 1 "
        f"would leave them as they are{', and lies within the interval' if within else ''}."
    )


def error(entry: Entry) -> str:
    """Calibration error before and after, beside what a perfect model would show."""
    (ece, loss), perfect = (steps(entry, name) for name in ("ece", "nll")), entry["perfect_ece"]
    left = (
        "cannot be told from luck, with this few"
        if entry["calibrated"]["ece"]["value"] <= perfect
        else "is more than luck"
    )
    return (
        f"Calibration error: {ece}, each fold at the temperature of the others; cross-entropy: {loss}. A perfectly "
        f"calibrated model of as few visual groups has an error below {perfect:.3f} in 95 of 100 cases, so what is "
        f"left {left}."
    )


def steps(entry: Entry, name: str) -> str:
    """A measure without and with the temperature."""
    return f"{decimal(entry['raw'][name])} before, {decimal(entry['calibrated'][name])} after"


def surest(entry: Entry) -> str:
    """What is won by leaving the least sure slices unanswered."""
    found = entry["calibrated"]
    return (
        f"If the least sure fifth of the slices is left unanswered, {share(found['risk_at_80'])} of the other answers "
        "are wrong. Averaged over all shares that might be answered, surest first, the share of all slices that is "
        f"answered wrong (AUGRC) is {decimal(found['augrc'])}."
    )


def sets(entry: Entry) -> str:
    """What the sets promise, whether they keep it, and how large they are."""
    found = entry["sets"]
    missed = [c.title for c in CLASSES if found["coverage"].get(c.key, {"high": 1})["high"] < 1 - found["alpha"]]
    kept = f"too often missed for {', '.join(missed)}" if missed else "no interval below says otherwise"
    return (
        f"The classes that cannot be ruled out form a set that is meant to miss a slice's own class in at most "
        f"{100 * found['alpha']:.0f} % of each class: {kept}. A set holds {found['size']:.2f} classes on average; "
        f"{percent(found['single'])} hold one alone, {percent(found['empty'])} none. All this is true of images like "
        "the data set's and promises nothing for others."
    )


def rows(entry: Entry) -> list[list[object]]:
    """How often each class's slices have it in their set, one slice a visual group."""
    coverage = entry["sets"]["coverage"]
    found = [(c.title, coverage[c.key]) for c in CLASSES if c.key in coverage]
    return [[title, share(one), one["groups"]] for title, one in found]


def limit(entry: Entry | None) -> str:
    """What may not be expected of a score."""
    if entry is None:
        return "Scores are not calibrated."
    return "How sure a score is was measured on images like the data set's; for others it promises nothing."
