"""Card, ledger and results -> checkpoints/README.md: what the model is for, what it is worth, all that was tried."""

from __future__ import annotations

from typing import Any

from ctscan.classes import CLASSES
from ctscan.model.card import Card
from ctscan.results.chapters import chapters
from ctscan.results.confidence_words import limit
from ctscan.results.data_card import PUBLISHED_TEST
from ctscan.results.entries import Ledger
from ctscan.results.figures import decimal, interval, percent, points, share
from ctscan.results.gate_words import HEAD, alarm, rows, summary
from ctscan.results.goals import size_of_controls, withdrawal
from ctscan.results.grouping_words import stricter
from ctscan.results.markdown import table
from ctscan.results.summary import Entry, Results
from ctscan.results.trials import trial_table

TITLES = [c.title for c in CLASSES]
THRESHOLDS = {
    "refused": "probability of an upright axial chest CT below which no score is given",
    "unusual": "the same, below which the score comes with the doubt",
    "far": "distance to the nearest training slices, in units of the usual one between them, above which it is unusual",
    "strange": "Mahalanobis' distance of the shallow features above which it is unusual",
    "tone": "distance of how greys are spread inside the body to the nearest training slices, above which it is so too",
    "greys": "greys of 256 in use inside the body, below which they are too few",
    "outside": "share of positive evidence outside the body or on the border above which a notice is given",
}


def changed_settings(reading: Entry) -> str:
    """The settings of a reading that make its recipe what it is."""
    keys = ("epochs", "optimiser", "rate", "crop", "tone", "head", "ema", "augmentation", "seed")
    return ", ".join(f"{k} {reading['settings'][k]}" for k in keys)


def reading_table(readings: list[Entry]) -> str:
    """The table of readings, oldest first."""
    rows = []
    for r in readings:
        valid, test, unseen = (r["scores"][s] for s in ("valid", "test", "test_unseen"))
        cells = [r["date"], r["settings"]["recipe"], f"`{r['model_id']}`", changed_settings(r)]
        cells += [f"{percent(s['accuracy'])} (n = {s['n']}; {interval(s)})" for s in (valid, test)]
        cells += [f"{test['cross_entropy']:.4f}", f"{percent(unseen['accuracy'])} (n = {unseen['n']})"]
        rows.append(cells)
    head = ["date", "recipe", "model", "settings", "valid", "test", "test cross-entropy", "test, unseen pixels"]
    return table(head, rows)


def cross_validation_table(entries: list[Entry]) -> str:
    """The table of cross-validations, oldest first."""
    rows = []
    for e in entries:
        s = e["settings"]
        kinds = [("result", f"average, decay {s['ema']}"), ("last", "last")] if s["ema"] else [("result", "last")]
        for kind, name in kinds:
            total = e[kind]
            folds = ", ".join(percent(f["accuracy"]) for f in e["folds"]) if kind == "result" else ""
            cells = [e["date"], s["crop"], s["tone"], s["epochs"], e["k"], name]
            cells += [f"{percent(total['accuracy'])} (n = {total['n']}; {interval(total)})", folds]
            rows.append([*cells, f"{total['cross_entropy']:.4f}"])
    return table(["date", "crop", "tone", "epochs", "folds", "weights", "accuracy", "by fold", "cross-entropy"], rows)


def confusion_table(confusion: list[list[int]]) -> str:
    """The confusion matrix, true classes down."""
    rows = [[title, *counts] for title, counts in zip(TITLES, confusion, strict=True)]
    return table(["true \\ predicted", *TITLES], rows)


def class_table(entry: Entry) -> str:
    """Slices, sensitivity, specificity and AUROC of each class."""
    kinds = {"sensitivity": share, "specificity": share, "auroc": decimal}
    rows = [
        [c.title, sum(counts), *(form(entry["measures"].get(f"{kind}.{c.key}")) for kind, form in kinds.items())]
        for c, counts in zip(CLASSES, entry["confusion"], strict=True)
    ]
    return table(["class", "slices", "sensitivity", "specificity", "AUROC against the rest"], rows)


def pair_table(measures: dict[str, Any]) -> str:
    """AUROC of each pair of classes."""
    pairs = [(a, b) for i, a in enumerate(CLASSES) for b in CLASSES[i + 1 :]]
    rows = [[f"{a.title} against {b.title}", decimal(measures.get(f"auroc.{a.key}.{b.key}"))] for a, b in pairs]
    return table(["pair", "AUROC"], rows)


def evaluation_section(title: str, text: str, entry: Entry | None) -> str:
    """One split in full; nothing where it was not evaluated."""
    if entry is None:
        return ""
    m = entry["measures"]
    named = {"accuracy": share, "balanced_accuracy": share, "auroc_macro": decimal, "nll": decimal}
    named |= {"brier": decimal, "ece": decimal}
    return f"""\
## {title}

{text} n = {entry["n"]} slices in {entry["groups"]} visual groups; 95 % intervals from a bootstrap over groups.

{table(["measure", "value"], [[name.replace("_", " "), form(m[name])] for name, form in named.items()])}

{class_table(entry)}

{pair_table(m)}

{confusion_table(entry["confusion"])}

"""


def grouped_section(results: Results) -> str:
    """The recipe out of fold, by fold, and what the published split adds."""
    grouped = results.grouped
    if grouped is None:
        return ""
    shares, areas = ("accuracy", "balanced_accuracy"), ("auroc_macro", "auroc.normal")
    rows = [
        [f["fold"], f["n"], f["groups"], *(percent(f[key]) for key in shares), *(f"{f[key]:.3f}" for key in areas)]
        for f in grouped["folds"]
    ]
    head = ["fold", "slices", "groups", "accuracy", "balanced accuracy", "AUROC, macro", "AUROC, normal"]
    gap = grouped["published_minus_grouped"]
    text = (
        f"The recipe trained five times ({grouped['repeats']} repeat), each slice scored by the network that has seen "
        f"nothing of its visual group (threshold {grouped['threshold']:.2f}); the last epoch, no early stopping."
    )
    return f"""\
{evaluation_section("Grouped, out of fold", text, grouped)}By fold:

{table(head, rows)}

Published minus grouped, groups drawn for both at once: accuracy {points(gap["accuracy"])}, balanced accuracy
{points(gap["balanced_accuracy"])}, macro AUROC {decimal(gap["auroc_macro"])}.

{grouped["finding"]}

{stricter(results)}

"""


def controls_section(results: Results) -> str:
    """What trainings that must fail have learned."""
    if not results.controls:
        return ""
    first = results.controls[0]
    folds = {row["fold"] for row in first["folds"]}
    said = [size_of_controls(results), *(entry["finding"] for entry in results.controls), withdrawal(results)]
    findings = "\n".join(f"- {sentence}" for sentence in said if sentence)
    return f"""\
## Controls: trainings that must fail

{len(folds)} of the five grouped folds, {first["settings"]["epochs"]} epochs, {first["settings"]["size"]} px.

{findings}

"""


def gate_section(results: Results) -> str:
    """The input gate in full: thresholds, and every group of pictures it was measured on."""
    gate = results.gate
    if gate is None:
        return ""
    thresholds = [[name, f"{value:.3f}", THRESHOLDS[name]] for name, value in gate["thresholds"].items()]
    said = [[reason, n] for reason, n in gate["reasons"].items()]
    return f"""\
## The input gate

`resnet18.gate.safetensors`, fitted to {gate["fitted"]["slices"]} slices that the network learned from and
{gate["fitted"]["pictures"]} other pictures of {gate["fitted"]["sources"]} sources. {summary(gate)} Sources were held
out for all of this; the shipped gate has then learned from all pictures.

{table(["threshold", "value", "meaning"], thresholds)}

{alarm(gate)}

{table(HEAD, rows(gate, whole=True))}

What the data's own slices, judged out of fold, were told:

{table(["reason", "slices"], said)}

"""


def chapter_sections(results: Results) -> str:
    """What is known beside the scores, with every table."""
    return "".join(f"## {one.title}\n\n{one.to_markdown(whole=True)}\n\n" for one in chapters(results))


def model_card(card: Card, ledger: Ledger, results: Results) -> str:
    """The whole of checkpoints/README.md."""
    counts = ", ".join(f"{card.data['slices'][name]} {name}" for name in ("train", "valid", "test"))
    return f"""\
# Model card

Generated by `python -m ctscan report` from the checkpoint's own card and `metrics.json`; not edited by hand.

`resnet18.safetensors` is `{card.model_id}`: ResNet18 started from ImageNet weights, all layers fine-tuned,
{card.architecture.head} head, {card.preprocess.size} px, crop {card.preprocess.crop}, tone {card.preprocess.tone},
surround {card.preprocess.surround}.
Classes in order: {", ".join(f"`{c}`" for c in card.classes)}.

**Intended use.** {card.intended_use}

**Data.** The public Kaggle set “Chest CT-Scan images”: {counts} slices. The published test split has
{PUBLISHED_TEST}; {PUBLISHED_TEST - card.data["slices"]["test"]} of them could not be had. Fingerprint
`{card.data["fingerprint"][:16]}`. What is in it, and what is wrong with it: [DATA.md](DATA.md).

**Limits.** Each tumour class of the data is one site and one stage, so the answer cannot be histology. The published
split leaks: near-copies of test slices stand in train, so its accuracy flatters. The normal slices are stock
pictures in other windows: a shortcut that the preprocessing narrows and need not close. {limit(results.calibration)}
The gate refuses most of what is not an upright axial chest CT slice, not all; what slips through gets an answer that
means nothing.

**Map scale.** The top of the heat map's scale is {card.map_scale_top:.4f} logit units: the 99th percentile of the
positive map values of all classes over the training slices.

{gate_section(results)}{grouped_section(results)}{controls_section(results)}{chapter_sections(results)}\
{evaluation_section("Published test split", "As everybody reads it: it shares scans with train.", results.published)}\
{
        evaluation_section(
            "Published test split without copies",
            "Without the slices whose pixels stand in train or valid; their neighbours still do.",
            results.deduplicated,
        )
    }\
{searches_section(ledger)}\
## Cross-validation inside train + valid

Stratified folds, identical pictures kept in one fold, the last epoch scored, no early stopping. Neighbouring slices
of a scan may lie in different folds, as they do in the published split, so these numbers flatter too; they chose the
first recipe. Test was not read.

{cross_validation_table(ledger["cross_validations"])}

## Every reading of the published test split

{reading_table(ledger["readings"])}
"""


def searches_section(ledger: Ledger) -> str:
    """Every trial of every search, and the plots of the newest."""
    if not ledger["searches"]:
        return ""
    tables = "\n\n".join(f"{e['date']}:\n\n{trial_table(e['trials'])}" for e in ledger["searches"])
    return f"""\
## Every trial of a search

![The best trial so far, trial by trial](../docs/search-history.png)
![What the result depends on](../docs/search-importance.png)

{tables}

"""
