"""Evaluations of controls -> the sentence that says what each one means. Kept in metrics.json with its numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ctscan.results.figures import decimal, points
from ctscan.training.control import SHUFFLES, Control

if TYPE_CHECKING:  # the page reads the constants and computes nothing
    from ctscan.evaluation.intervals import Estimate, Evaluation

CHANCE = 0.25  # balanced accuracy of a guess among four classes
SHORTCUT = 0.65  # AUROC of normal against tumour without the lungs or the body, above which "normal" is in doubt
# Adenocarcinoma against squamous carcinoma from tumour-centred CT, 311 patients: Chaunzwa et al., Sci Rep 2021.
SUBTYPE_LITERATURE, SUBTYPE_SUSPECT = 0.71, 0.80
TONE_FALL = 0.03  # of balanced accuracy, that one histogram for all slices may cost
SUBTYPE = "auroc.adenocarcinoma.squamous_cell_carcinoma"
# surround -> what border_only leaves to be seen
OUTSIDE: dict[str, tuple[str, str]] = {
    "keep": ("Everything inside the body black", "table, cushions and outline"),
    "black": ("One flat grey inside the body", "size and outline of the body"),
    "hull": ("One flat grey inside the body's hull", "size and outline of the body's hull"),
    "chest": ("One flat grey inside the lungs' hull", "size and outline of the lungs' hull"),
    "oval": ("One flat grey inside the oval", "the gaps between the body and the oval"),
}


def judge_subtype(evaluation: Evaluation) -> str:
    """Adenocarcinoma against squamous carcinoma beside what patients with known histology gave."""
    found = evaluation.measures[SUBTYPE]
    sentence = (
        f"Adenocarcinoma against squamous cell carcinoma: AUROC {decimal(vars(found))}, beside {SUBTYPE_LITERATURE} "
        "from tumour-centred CT of 311 patients in the literature."
    )
    if found.value <= SUBTYPE_SUSPECT:
        return sentence
    return (
        f"{sentence} Above {SUBTYPE_SUSPECT:.2f} that is suspect: slices of one scan may stand in two groups, and the "
        "data's two classes differ in site, stage and source too, which the network may tell apart."
    )


def judge_tone(fall: Estimate) -> str:
    """What it means how far balanced accuracy falls when all slices have one histogram."""
    verdict = "as wanted" if fall.value <= TONE_FALL else "so the answers lean on the window"
    return (
        f"Every slice's greys matched to one histogram: balanced accuracy falls by {points(vars(fall))}; at most "
        f"{100 * TONE_FALL:.0f} are wanted, {verdict}."
    )


def judge_control(control: Control, evaluation: Evaluation, reference: Evaluation, surround: str = "keep") -> str:
    """What a control says; `reference` is the shipped recipe on the same folds, `surround` what both were shown."""
    balanced, normal = evaluation.measures["balanced_accuracy"], evaluation.measures["auroc.normal"]
    beside = f"the shipped recipe reaches {reference.measures['balanced_accuracy'].value:.2f} on the same folds"
    if control == "shuffled_labels":
        within = abs(balanced.value - CHANCE) <= 2 * balanced.se
        verdict = "as it must be" if within else "which it must not be: something crosses the folds"
        return (
            f"Labels shuffled among visual groups, {SHUFFLES} times: balanced accuracy {decimal(vars(balanced))}, "
            f"{'within' if within else 'outside'} {CHANCE} ± 2 standard errors ({2 * balanced.se:.2f}), {verdict}."
        )
    title, left = {
        "border_only": OUTSIDE[surround],
        "lungs_black": ("Lungs blacked out", "what lies around and between the lungs"),
        "tone_only": ("Pixels shuffled", "the frequencies of the greys"),
    }[control]
    unseen = (
        "part of a tumour or of its nodes at the hilum may remain in sight, so this says less than the other controls."
        if control == "lungs_black"
        else "a network can be right without seeing the disease, and the grouped figure is partly recognition of scans."
    )
    verdict = (
        f"Above chance with {left} alone: {unseen}"
        if balanced.low > CHANCE
        else f"Not clearly above chance: by {left} alone the classes are not told apart."
    )
    doubt = (
        f"above {SHORTCUT}, so “normal” stands for the look of a picture too"
        if normal.value > SHORTCUT
        else f"not above {SHORTCUT}"
    )
    return (
        f"{title}: balanced accuracy {decimal(vars(balanced))} (chance {CHANCE}; {beside}). {verdict} Normal against "
        f"tumour: AUROC {decimal(vars(normal))}, {doubt}."
    )
