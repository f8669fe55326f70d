"""metrics.json and the checkpoint's card -> the numbers in README.md and the whole of checkpoints/README.md.

    python -m ctscan report

No number of these texts is written by hand; `tests/test_report.py` holds them against their sources.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ctscan.card import Card
from ctscan.checkpoint import read_checkpoint
from ctscan.classes import CLASSES
from ctscan.ledger import read_ledger

BEGIN, END = "<!-- numbers: begin (python -m ctscan report) -->", "<!-- numbers: end -->"

# What the seed design reports: shares and mean cross-entropies on the published split of 613 and 315 slices.
SEED_DESIGN = {
    "train": {"accuracy": 0.9953, "cross_entropy": 0.0231},
    "test": {"accuracy": 0.8914, "cross_entropy": 0.3442},
}
PUBLISHED_TEST = 315

Scores = dict[str, Any]
Reading = dict[str, Any]


def percent(share: float) -> str:
    """`97.3 %`."""
    return f"{100 * share:.1f} %"


def interval(score: Scores) -> str:
    """`94.5 to 98.7 %`."""
    low, high = score["interval95"]
    return f"{100 * low:.1f} to {100 * high:.1f} %"


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


def current_reading(readings: list[Reading], card: Card) -> Reading:
    """The reading of the committed checkpoint."""
    return next(r for r in readings if r["model_id"] == card.model_id)


def numbers(card: Card, readings: list[Reading]) -> str:
    """The block of README.md."""
    ours, seed = current_reading(readings, card), last_reading(readings, "seed")
    test, unseen = ours["scores"]["test"], ours["scores"]["test_unseen"]
    named = [("committed checkpoint", ours)] + ([("seed recipe, trained here", seed)] if seed else [])
    table = "\n".join([*(row(name, reading) for name, reading in named), seed_row()])
    met = "\n".join(verdicts(name, reading) for name, reading in named)
    return f"""\
Published split, {test["n"]} of its {PUBLISHED_TEST} test slices (the others could not be had): accuracy with its
95 % Wilson interval, which takes slices as independent, and mean cross-entropy, both in evaluation mode, fp32,
without augmentation.

| | train accuracy | train cross-entropy | test accuracy | test cross-entropy |
|---|---|---|---|---|
{table}

Against the seed design's own figures:

{met}

On the {unseen["n"]} test slices whose pixels occur neither in train nor in valid the committed checkpoint reaches
{percent(unseen["accuracy"])} ({interval(unseen)}), cross-entropy {unseen["cross_entropy"]:.4f}.

**These numbers flatter.** Neighbouring slices of the same scans stand in train and in test, so they say how well
the model knows these scans, not how well it would do on a new patient."""


def changed_settings(reading: Reading) -> str:
    """The settings of a reading that make its recipe what it is."""
    keys = ("epochs", "optimiser", "rate", "crop", "tone", "head", "ema", "augmentation", "seed")
    return ", ".join(f"{k} {reading['settings'][k]}" for k in keys)


def reading_table(readings: list[Reading]) -> str:
    """The table of readings, oldest first."""
    lines = [
        "| date | recipe | model | settings | valid | test | test cross-entropy | test, unseen pixels |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for r in readings:
        valid, test, unseen = (r["scores"][s] for s in ("valid", "test", "test_unseen"))
        cells = [r["date"], r["settings"]["recipe"], f"`{r['model_id']}`", changed_settings(r)]
        cells += [f"{percent(s['accuracy'])} (n = {s['n']}; {interval(s)})" for s in (valid, test)]
        cells += [f"{test['cross_entropy']:.4f}", f"{percent(unseen['accuracy'])} (n = {unseen['n']})"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def cross_validation_table(entries: list[dict[str, Any]]) -> str:
    """The table of cross-validations, oldest first."""
    lines = [
        "| date | crop | tone | epochs | folds | weights | accuracy | by fold | cross-entropy |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for e in entries:
        s = e["settings"]
        kinds = [("result", f"average, decay {s['ema']}"), ("last", "last")] if s["ema"] else [("result", "last")]
        for kind, name in kinds:
            total = e[kind]
            folds = ", ".join(percent(f["accuracy"]) for f in e["folds"]) if kind == "result" else ""
            cells = [e["date"], s["crop"], s["tone"], s["epochs"], e["k"], name]
            cells += [f"{percent(total['accuracy'])} (n = {total['n']}; {interval(total)})", folds]
            lines.append(f"| {' | '.join(str(c) for c in cells)} | {total['cross_entropy']:.4f} |")
    return "\n".join(lines)


def confusion_table(score: Scores) -> str:
    """The confusion matrix, true classes down."""
    titles = [c.title for c in CLASSES]
    lines = [f"| true \\ predicted | {' | '.join(titles)} |", "|---" * (len(titles) + 1) + "|"]
    for title, counts in zip(titles, score["confusion"], strict=True):
        lines.append(f"| {title} | {' | '.join(map(str, counts))} |")
    return "\n".join(lines)


def model_card(card: Card, ledger: dict[Any, list[dict[str, Any]]]) -> str:
    """The whole of checkpoints/README.md."""
    readings, validations = ledger["readings"], ledger["cross_validations"]
    test = current_reading(readings, card)["scores"]["test"]
    counts = ", ".join(f"{card.data['slices'][name]} {name}" for name in ("train", "valid", "test"))
    return f"""\
# Model card

Generated by `python -m ctscan report` from the checkpoint's own card and `metrics.json`; not edited by hand.

`resnet18.safetensors` is `{card.model_id}`: ResNet18 started from ImageNet weights, all layers fine-tuned,
{card.architecture.head} head, {card.preprocess.size} px, crop {card.preprocess.crop}, tone {card.preprocess.tone}.
Classes in order: {", ".join(f"`{c}`" for c in card.classes)}.

**Intended use.** {card.intended_use}

**Data.** The public Kaggle set “Chest CT-Scan images”: {counts} slices. The published test split has
{PUBLISHED_TEST}; {PUBLISHED_TEST - test["n"]} of them could not be had. Fingerprint
`{card.data["fingerprint"][:16]}`.

**Limits.** Each tumour class of the data is one site and one stage, so the answer cannot be histology. The published
split leaks: near-copies of test slices stand in train, so the accuracy below flatters. The normal slices are stock
pictures in other windows: a shortcut that the preprocessing narrows and does not close. Scores are not calibrated.
Anything that is not an upright axial chest CT slice gets an answer that means nothing.

**Map scale.** The top of the heat map's scale is {card.map_scale_top:.4f} logit units: the 99th percentile of the
positive map values of all classes over the training slices.

## Confusion on the published test split (n = {test["n"]})

{confusion_table(test)}

## How the recipe was chosen: cross-validation inside train + valid

Stratified folds, identical pictures kept in one fold, the last epoch scored, no early stopping. Neighbouring slices
of a scan may lie in different folds, as they do in the published split. Test was not read.

{cross_validation_table(validations)}

## Every reading of the published test split

{reading_table(readings)}
"""


def replace_block(text: str, block: str) -> str:
    """README.md with its generated block made anew."""
    before, rest = text.split(BEGIN)
    return f"{before}{BEGIN}\n{block}\n{END}{rest.split(END)[1]}"


def generate(root: Path) -> dict[Path, str]:
    """The texts that belong in a checkout, by path."""
    folder = root / "checkpoints"
    card = read_checkpoint(folder / "resnet18.safetensors").card
    ledger = read_ledger(folder / "metrics.json")
    readme = (root / "README.md").read_text(encoding="utf-8")
    return {
        folder / "README.md": model_card(card, dict(ledger)),
        root / "README.md": replace_block(readme, numbers(card, ledger["readings"])),
    }


def write(root: Path) -> None:
    """Bring both texts up to date."""
    for path, text in generate(root).items():
        path.write_text(text, encoding="utf-8")
