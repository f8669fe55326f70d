"""Results -> what the shipped recipe was to reach, what was measured, and whether that is met."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ctscan.imaging.preprocess import Surround
from ctscan.results.figures import decimal
from ctscan.results.findings import OUTSIDE, SHORTCUT, TONE_FALL
from ctscan.results.summary import SCALE, Entry, Results, is_plain

HEAD = ("goal", "measured", "met")
# unit -> its factor and digits: one more than elsewhere, so that a value beside its bound is not rounded across it
UNITS = {"%": (100, 1), "points": (100, 1), "": (1, 3)}

Find = Callable[[Results], Entry | None]


@dataclass(frozen=True)
class Goal:
    """A bound on one estimate. It is met by the value, a difference by its interval: `end` says which."""

    title: str
    relation: str  # "at least" or "at most"
    bound: float  # shares in [0, 1]
    unit: str  # a key of `UNITS`
    find: Find
    end: str = "value"  # a key of the estimate

    def cells(self, results: Results) -> list[str]:
        """Title with the bound, value with interval, and `met` or `not met`."""
        factor, digits = UNITS[self.unit]
        wanted = f"{self.title}: {self.relation} {factor * self.bound:g} {self.unit}".strip()
        found = self.find(results)
        if found is None:
            return [wanted, "not measured", ""]
        value, low, high = (f"{factor * found[key]:.{digits}f}" for key in ("value", "low", "high"))
        verdict = "met" if self.is_met(found[self.end]) else "not met"
        return [wanted, f"{value} {self.unit}".strip() + f" ({low} to {high})", verdict]

    def is_met(self, value: float) -> bool:
        """Whether a value is on the right side of the bound, or on it."""
        return value >= self.bound if self.relation == "at least" else value <= self.bound


def out_of_fold(measure: str) -> Find:
    """A measure of the recipe's grouped cross-validation."""
    return lambda results: results.grouped["measures"][measure] if results.grouped else None


def gain(results: Results) -> Entry | None:
    """Balanced accuracy out of fold beyond the plain recipe's of the same size, paired."""
    own = results.tries_of(results.grouped["settings"]) if results.grouped else []
    against = [one.entry["against"] for one in own if "against" in one.entry]
    found = [a["measures"]["balanced_accuracy"] for a in against if is_plain(a["settings"])]
    return found[-1] if found else None


def fall(results: Results) -> Entry | None:
    """Balanced accuracy lost when every slice has one histogram."""
    found: Entry | None = (results.grouped or {}).get("matched", {}).get("fall")
    return found


def without_disease(control: str) -> Find:
    """Normal against tumour, AUROC, by a network that a control kept from seeing the disease."""
    return lambda results: next(
        (e["measures"]["auroc.normal"] for e in results.controls if e["control"] == control), None
    )


def published(results: Results) -> Entry | None:
    """Accuracy on the published test split."""
    found: Entry | None = results.published["measures"]["accuracy"] if results.published else None
    return found


SHORTCUTS = tuple(
    Goal(f"AUROC, normal against tumour, {what}", "at most", SHORTCUT, "", without_disease(control))
    for control, what in (("border_only", "with the body hidden"), ("tone_only", "with the pixels shuffled"))
)
GOALS = (
    Goal("balanced accuracy, out of fold", "at least", 0.88, "%", out_of_fold("balanced_accuracy")),
    Goal("the same minus the plain recipe's, with all of its interval", "at least", 0, "points", gain, "low"),
    Goal("AUROC, normal against tumour, out of fold", "at least", 0.98, "", out_of_fold("auroc.normal")),
    Goal("balanced accuracy lost when all slices have one histogram", "at most", TONE_FALL, "points", fall),
    *SHORTCUTS,
    Goal("right on the published test split", "at least", 0.985, "%", published),
)


def rows(results: Results) -> list[list[str]]:
    """One row a goal."""
    return [goal.cells(results) for goal in GOALS]


def normal_is_doubtful(results: Results) -> bool:
    """Whether a network that could not see the disease told normal from tumour better than is allowed.

    False also where no such control was trained: then nothing is known.
    """
    found = [(goal, goal.find(results)) for goal in SHORTCUTS]
    return any(estimate is not None and not goal.is_met(estimate["value"]) for goal, estimate in found)


def withdrawal(results: Results) -> str:
    """Why "normal" is no claim, with the figures that say so; empty where it may stand."""
    if not normal_is_doubtful(results):
        return ""
    pairs = zip(SHORTCUTS, what_is_left(results), strict=True)
    found = [(goal, goal.find(results), left) for goal, left in pairs]
    told = [
        f"by {left} alone with AUROC {decimal(estimate)}"
        for goal, estimate, left in found
        if estimate is not None and not goal.is_met(estimate["value"])
    ]
    return (
        "“Normal” is withdrawn as a claim about the chest: networks that could see no disease told normal from tumour "
        f"{' and '.join(told)}, where at most {SHORTCUT} was allowed. It means that a slice looks like this data's "
        "normal pictures."
    )


def size_of_controls(results: Results) -> str:
    """That the controls are smaller or shorter trainings than the recipe, where they are."""
    if results.grouped is None or not results.controls:
        return ""
    own, small = results.grouped["settings"], results.controls[0]["settings"]
    if all(own[name] == small[name] for name in SCALE):
        return ""
    return (
        f"The controls are small networks ({small['size']} px, {small['epochs']} epochs, where the recipe has "
        f"{own['size']} px and {own['epochs']} epochs): a larger one might find more."
    )


def what_is_left(results: Results) -> tuple[str, str]:
    """What the networks of `SHORTCUTS` could still see."""
    surrounds: list[Surround] = [e["settings"].get("surround", "keep") for e in results.controls]
    return OUTSIDE[surrounds[0]][1], "how often each grey occurs"  # all controls of one recipe share its view
