"""Answers -> the four plots of an evaluation, as PNG. Matplotlib is asked for here and in the trainer alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ctscan.evaluation.intervals import Answers
from ctscan.metrics import reliability, risk_coverage, score, softmax

SIZE = (5.2, 4.6)  # inches


def draw_all(folder: Path, name: str, answers: Answers, titles: Sequence[str]) -> None:
    """Confusion matrix, ROC curves, reliability and risk against coverage, as `<name>-<plot>.png`."""
    folder.mkdir(parents=True, exist_ok=True)
    for draw in (draw_confusion, draw_roc, draw_reliability, draw_risk_coverage):
        figure = Figure(figsize=SIZE, layout="constrained")
        draw(figure.subplots(), answers, titles)
        plot = draw.__name__.removeprefix("draw_").replace("_", "-")
        figure.savefig(folder / f"{name}-{plot}.png", dpi=120)


def draw_confusion(axes: Axes, answers: Answers, titles: Sequence[str]) -> None:
    """Counts, shaded by the share of the true class."""
    counts = np.array(score(answers.logits, answers.labels).confusion)
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axes.imshow(share, cmap="Greys", vmin=0, vmax=1)
    for (row, column), count in np.ndenumerate(counts):
        colour = "white" if share[row, column] > 0.5 else "black"
        axes.text(column, row, str(count), ha="center", va="center", color=colour)
    ticks = range(len(titles))
    axes.set_xticks(ticks, titles, rotation=20, ha="right", fontsize=8)
    axes.set_yticks(ticks, titles, fontsize=8)
    n, groups = len(answers.labels), len(np.unique(answers.groups))
    axes.set(xlabel="predicted", ylabel="true", title=f"n = {n}, {groups} visual groups")


def draw_roc(axes: Axes, answers: Answers, titles: Sequence[str]) -> None:
    """Each class against all others."""
    probabilities = softmax(answers.logits)
    for index, title in enumerate(titles):
        positive = answers.labels == index
        if positive.all() or not positive.any():
            continue
        hit = positive[np.argsort(-probabilities[:, index], kind="stable")]
        rates = [np.concatenate([[0], np.cumsum(kind) / kind.sum()]) for kind in (~hit, hit)]
        axes.plot(*rates, label=title)
    axes.plot([0, 1], [0, 1], color="grey", linewidth=0.8)
    axes.set(xlabel="1 − specificity", ylabel="sensitivity", xlim=(0, 1), ylim=(0, 1.01))
    axes.legend(fontsize=8, loc="lower right")


def draw_reliability(axes: Axes, answers: Answers, titles: Sequence[str]) -> None:
    """How often the top class is right against its probability; the area of a dot is its number of slices."""
    table = np.array([entry for entry in reliability(softmax(answers.logits), answers.labels) if entry[0]])
    axes.plot([0, 1], [0, 1], color="grey", linewidth=0.8)
    axes.scatter(table[:, 1], table[:, 2], s=600 * table[:, 0] / table[:, 0].sum() + 8)
    axes.set(xlabel="probability of the top class", ylabel="share right", xlim=(0, 1.02), ylim=(0, 1.02))


def draw_risk_coverage(axes: Axes, answers: Answers, titles: Sequence[str]) -> None:
    """The share of wrong answers when only the surest slices are answered."""
    risk = risk_coverage(softmax(answers.logits), answers.labels)
    axes.plot(np.arange(1, len(risk) + 1) / len(risk), risk)
    axes.set(xlabel="share of slices answered, surest first", ylabel="share of these that is wrong", xlim=(0, 1.02))
    axes.set_ylim(bottom=0)
