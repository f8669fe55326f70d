"""metrics.json and the checkpoint's card -> the numbers in README.md, the model card and the data card.

    python -m ctscan report

No number of these texts is written by hand; `tests/test_report.py` holds them against their sources.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ctscan.errors import DataError
from ctscan.model.checkpoint import read_checkpoint
from ctscan.results.chapters import chapters
from ctscan.results.confidence_words import limit
from ctscan.results.data_card import PUBLISHED_TEST, data_card
from ctscan.results.entries import read_ledger
from ctscan.results.figures import decimal, interval, percent, points, share
from ctscan.results.gate_words import HEAD, alarm, rows, summary
from ctscan.results.goals import size_of_controls, withdrawal
from ctscan.results.grouping_words import stricter
from ctscan.results.markdown import table
from ctscan.results.model_card import model_card
from ctscan.results.summary import STRICT_THRESHOLD, Results, results_of

BEGIN, END = "<!-- numbers: begin (python -m ctscan report) -->", "<!-- numbers: end -->"
LIMIT_BEGIN, LIMIT_END = "<!-- limit: begin -->", "<!-- limit: end -->"

# What the seed design reports: shares and mean cross-entropies on the published split of 613 and 315 slices.
SEED_DESIGN = {
    "train": {"accuracy": 0.9953, "cross_entropy": 0.0231},
    "test": {"accuracy": 0.8914, "cross_entropy": 0.3442},
}

Scores = dict[str, Any]
Reading = dict[str, Any]


def row(name: str, reading: Reading) -> str:
    """One recipe: train and test, accuracy with n and interval, cross-entropy."""
    train, test = reading["scores"]["train"], reading["scores"]["test"]
    return (
        f"| {name} | {percent(train['accuracy'])} (n = {train['n']}) | {train['cross_entropy']:.4f} "
        f"| {percent(test['accuracy'])} (n = {test['n']}; {interval(test)}) | {test['cross_entropy']:.4f} |"
    )


def seed_row() -> str:
    """What the seed design reports of itself."""
    train, test = SEED_DESIGN["train"], SEED_DESIGN["test"]
    return (
        f"| seed design, as reported | {100 * train['accuracy']:.2f} % | {train['cross_entropy']:.4f} "
        f"| {100 * test['accuracy']:.2f} % (n = {PUBLISHED_TEST}) | {test['cross_entropy']:.4f} |"
    )


def verdicts(name: str, reading: Reading) -> str:
    """Which of the seed design's four figures a recipe meets."""
    words = []
    for split in ("train", "test"):
        ours, theirs = reading["scores"][split], SEED_DESIGN[split]
        met = ours["accuracy"] >= theirs["accuracy"], ours["cross_entropy"] <= theirs["cross_entropy"]
        words += [f"{split} accuracy {'met' if met[0] else 'not met'}"]
        words += [f"{split} cross-entropy {'met' if met[1] else 'not met'}"]
    return f"- {name}: {', '.join(words)}."


def last_reading(readings: list[Reading], recipe: str) -> Reading | None:
    """The newest reading of a recipe."""
    return next((r for r in reversed(readings) if r["settings"]["recipe"] == recipe), None)


def headline(results: Results) -> str:
    """Published beside grouped, the difference as a number of its own, and what the controls say."""
    published, unseen, grouped = results.published, results.deduplicated, results.grouped
    if published is None or unseen is None or grouped is None:
        return "Not evaluated on the grouped folds yet: see `evaluate.py`."
    gap = grouped["published_minus_grouped"]
    named = {"published test split": published, "test without copies": unseen, "**grouped, out of fold**": grouped}
    if results.stricter:
        named[f"grouped, linked from {STRICT_THRESHOLD:.2f} on"] = results.stricter
    if results.gate:
        named["grouped, slices that got a score"] = results.gate["scored"]
    forms = {"accuracy": share, "balanced_accuracy": share, "auroc_macro": decimal, "auroc.normal": decimal}
    forms |= {"ece": decimal}
    lines = [
        [name, e["n"], e.get("refused", ""), e["groups"]]
        + [form(e["measures"].get(key)) for key, form in forms.items()]
        for name, e in named.items()
    ]
    differences = [points(gap["accuracy"]), points(gap["balanced_accuracy"])]
    differences += [decimal(gap["auroc_macro"]), decimal(gap["auroc.normal"])]
    lines.append(["published − grouped", "", "", "", *differences, ""])
    head = ["split", "slices", "got no score", "visual groups", "accuracy", "balanced accuracy", "AUROC, macro"]
    folds = ", ".join(f"{100 * fold['balanced_accuracy']:.0f} %" for fold in grouped["folds"])
    said = [stricter(results), grouped["finding"], size_of_controls(results)]
    said += [*(entry["finding"] for entry in results.controls), withdrawal(results)]
    findings = "\n".join(f"- {sentence}" for sentence in said if sentence)
    return f"""\
{table([*head, "AUROC, normal against tumour", "calibration error (ECE) before calibrating"], lines)}

95 % intervals come from a bootstrap over visual groups, where no other way is named. *Grouped* trains the same recipe
five times and scores each slice with the network that has seen nothing of its visual group (thumbnails that correlate
at {grouped["threshold"]:.2f} or more, linked); balanced accuracy by fold: {folds}. One repeat. A visual group is not a
patient, so a new patient can be harder still.

{findings}"""


def gate_block(results: Results) -> str:
    """What the input gate is worth."""
    if results.gate is None:
        return "This checkpoint has no gate: whatever is uploaded gets four scores, marked as unusual."
    return f"""\
**The input gate.** {summary(results.gate)}

{table(HEAD, rows(results.gate, whole=False))}

{alarm(results.gate)}"""


def chapter_blocks(results: Results) -> str:
    """What is known beside the scores, each under its title."""
    return "".join(f"**{one.title}.**\n\n{one.to_markdown(whole=False)}\n\n" for one in chapters(results))


def numbers(results: Results, readings: list[Reading]) -> str:
    """The block of README.md."""
    ours, seed = results.reading, last_reading(readings, "seed")
    if ours is None:
        return "This checkpoint has no reading."
    test = ours["scores"]["test"]
    named = [("committed checkpoint", ours)] + ([("seed recipe, trained here", seed)] if seed else [])
    lines = "\n".join([*(row(name, reading) for name, reading in named), seed_row()])
    met = "\n".join(verdicts(name, reading) for name, reading in named)
    return f"""\
{headline(results)}

{chapter_blocks(results)}{gate_block(results)}

**Against the seed design's own figures**, on the published split as everybody reads it ({test["n"]} of its
{PUBLISHED_TEST} test slices; the others, adenocarcinoma and squamous cell carcinoma alone, could not be had, so test
figures here and there are not of the same slices): accuracy with its 95 % Wilson interval, which takes slices as
independent, and mean cross-entropy, both in evaluation mode, fp32, without augmentation.

| | train accuracy | train cross-entropy | test accuracy | test cross-entropy |
|---|---|---|---|---|
{lines}

{met}"""


def replace_block(text: str, block: str, begin: str, end: str) -> str:
    """README.md with what stands between two marks made anew."""
    before, rest = text.split(begin)
    return f"{before}{begin}{block}{end}{rest.split(end)[1]}"


def generate(root: Path) -> dict[Path, str]:
    """The texts that belong in a checkout, by path. Raises DataError where nothing is known of the checkpoint."""
    folder = root / "checkpoints"
    card = read_checkpoint(folder / "resnet18.safetensors").card
    ledger = read_ledger(folder / "metrics.json")
    readme = (root / "README.md").read_text(encoding="utf-8")
    results = results_of(ledger, card)
    if results.reading is None:
        raise DataError(f"{folder / 'metrics.json'} holds no reading of {card.model_id}; the texts stay as they are.")
    readme = replace_block(readme, f"\n{numbers(results, ledger['readings'])}\n", BEGIN, END)
    return {
        folder / "README.md": model_card(card, ledger, results),
        folder / "DATA.md": data_card(results),
        root / "README.md": replace_block(readme, limit(results.calibration), LIMIT_BEGIN, LIMIT_END),
    }


def write(root: Path) -> None:
    """Bring the texts up to date."""
    for path, text in generate(root).items():
        path.write_text(text, encoding="utf-8")
