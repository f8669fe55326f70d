"""Evaluations and answers -> the four plots of a report, as PNG. Matplotlib is asked for here and nowhere else."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ctscan.evaluation.intervals import Answers, Evaluation
from ctscan.metrics import softmax

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SIZE = (5.2, 4.6)  # inches


def draw_all(folder: Path, name: str, evaluation: Evaluation, answers: Answers, titles: Sequence[str]) -> None:
    """Confusion matrix, ROC curves, reliability and risk against coverage, as `<name>-<plot>.png`."""
    folder.mkdir(parents=True, exist_ok=True)
    _save(folder / f"{name}-confusion.png", lambda axes: draw_confusion(axes, evaluation, titles))
    _save(folder / f"{name}-roc.png", lambda axes: draw_roc(axes, answers, titles))
    _save(folder / f"{name}-reliability.png", lambda axes: draw_reliability(axes, evaluation))
    _save(folder / f"{name}-risk-coverage.png", lambda axes: draw_risk_coverage(axes, evaluation))


def _save(path: Path, draw: Any) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=SIZE, layout="constrained")
    draw(figure.subplots())
    figure.savefig(path, dpi=120)


def draw_confusion(axes: Axes, evaluation: Evaluation, titles: Sequence[str]) -> None:
    """Counts, shaded by the share of the true class."""
    counts = np.array(evaluation.confusion)
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axes.imshow(share, cmap="Greys", vmin=0, vmax=1)
    for (row, column), count in np.ndenumerate(counts):
        colour = "white" if share[row, column] > 0.5 else "black"
        axes.text(column, row, str(count), ha="center", va="center", color=colour)
    ticks = range(len(titles))
    axes.set_xticks(ticks, titles, rotation=20, ha="right", fontsize=8)
    axes.set_yticks(ticks, titles, fontsize=8)
    axes.set(xlabel="predicted", ylabel="true", title=f"n = {evaluation.n}, {evaluation.groups} visual groups")


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


def draw_reliability(axes: Axes, evaluation: Evaluation) -> None:
    """How often the top class is right against its probability; the area of a dot is its number of slices."""
    table = np.array([entry for entry in evaluation.reliability if entry[0]])
    axes.plot([0, 1], [0, 1], color="grey", linewidth=0.8)
    axes.scatter(table[:, 1], table[:, 2], s=600 * table[:, 0] / table[:, 0].sum() + 8)
    axes.set(xlabel="probability of the top class", ylabel="share right", xlim=(0, 1.02), ylim=(0, 1.02))


def draw_risk_coverage(axes: Axes, evaluation: Evaluation) -> None:
    """The share of wrong answers when only the surest slices are answered."""
    coverage, risk = zip(*evaluation.risk_coverage, strict=True)
    axes.plot(coverage, risk, marker=".")
    axes.set(xlabel="share of slices answered, surest first", ylabel="share of these that is wrong", xlim=(0, 1.02))
    axes.set_ylim(bottom=0)
