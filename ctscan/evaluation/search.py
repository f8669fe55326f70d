"""A search for a recipe: Optuna over two fixed grouped folds, kept as SQLite and gone on with.

The objective is the cross-entropy, mean over classes, at the temperature that suits the fold's answers best, mean
over the folds. Balanced accuracy is what counts in the end, but on two folds it moves in steps of whole scans, two to
five points each, and most recipes differ by less; the cross-entropy moves with every slice. The temperature is taken
out of it because smoothing and length change it without changing an answer, and what ships is calibrated.

What the network is shown (crop, tone, surround) is no part of the space: a shortcut lowers this loss as well as the
disease does, so the controls and the answers in other windows decide it, and it is given with the base.
"""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from dataclasses import replace
from functools import partial
from hashlib import sha256
from pathlib import Path

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage
from optuna.trial import TrialState
from sqlalchemy.exc import SQLAlchemyError

from ctscan.errors import DataError
from ctscan.evaluation.calibration import fit_temperature
from ctscan.evaluation.cross_validation import check_start, fit_fold
from ctscan.evaluation.intervals import Answers
from ctscan.files import make_folder
from ctscan.metrics import softmax
from ctscan.results.records import Search
from ctscan.training.data import Dataset
from ctscan.training.recipe import Recipe
from ctscan.training.weights import Weights, build_net

STUDY = "trials.db"
FOLDS = (0, 1)  # the same for all trials, so that recipes meet the same slices
RANDOM_TRIALS = 8  # before the sampler leans on what it has seen
UNPRUNED_TRIALS = 4  # before a first fold worse than the median ends a trial
JUDGED = (TrialState.COMPLETE, TrialState.PRUNED)


SPACE: dict[str, BaseDistribution] = {
    "rate": FloatDistribution(1e-4, 1e-3, log=True),
    "weight_decay": FloatDistribution(1e-3, 0.3, log=True),
    "label_smoothing": FloatDistribution(0.0, 0.2),
    "dropout": FloatDistribution(0.0, 0.5),
    "batch": CategoricalDistribution((16, 32, 64)),
    "layer_decay": FloatDistribution(0.5, 1.0),
    "strength": FloatDistribution(0.5, 1.5),
}


def search(base: Recipe, pool: Dataset, weights: Weights, runs: Path, trials: int, device: str = "auto") -> Search:
    """Try recipes until so many trials are complete or pruned; Ctrl-C ends it before, and the same call goes on.

    A trial that was interrupted or whose process was killed is lost: it stays in the study as running and counts for
    nothing.

    Args:
        base: What the first trial tries, and where all that is not in `SPACE` comes from.
        pool: Slices with labels, groups and folds.
        weights: Starting weights.
        runs: Gets a folder with the study.
        trials: How many there are to be.
        device: `auto`, `cpu` or `cuda`.

    Raises:
        DataError: The base lies outside `SPACE`, the weights do not fit, or the study's file cannot be used.
    """
    check_base(base)
    build_net(base, weights)  # before a trial is spent on weights that no trial can begin with
    key = [base.digest, repr(SPACE), pool.hashes, pool.folds.tolist()]
    folder = runs / f"search-{sha256(json.dumps(key).encode()).hexdigest()[:12]}"
    make_folder(folder, "--runs")
    check_start(folder, weights)
    squares = pool.squares(base.preprocess.square)
    try:
        study = open_study(folder, base)
        while len(study.get_trials(deepcopy=False, states=JUDGED)) < trials:
            trial = study.ask(SPACE)
            try:
                study.tell(trial, score_trial(trial, base, pool, squares, weights, device))
            except optuna.TrialPruned:
                study.tell(trial, state=TrialState.PRUNED)
        return sum_up(study)
    except (StorageInternalError, SQLAlchemyError) as error:
        cause = getattr(error, "orig", None) or error.__cause__ or error
        raise DataError(f"{folder / STUDY} cannot be used ({cause}); delete it, or give other --runs.") from None


def check_base(base: Recipe) -> None:
    """Raises DataError where a search cannot begin with the base, because it lies outside `SPACE`."""
    for name, space in SPACE.items():
        value = getattr(base, name)
        inside, allowed = True, ""
        if isinstance(space, CategoricalDistribution):
            inside, allowed = value in space.choices, " or ".join(map(str, space.choices))
        elif isinstance(space, FloatDistribution):
            inside, allowed = space.low <= value <= space.high, f"{space.low:g} to {space.high:g}"
        if not inside:
            raise DataError(f"A search begins with the recipe as given, so {name} must be {allowed}, not {value}.")


def open_study(folder: Path, base: Recipe) -> optuna.Study:
    """The study in the folder, or a new one that begins with the base as it is."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    connect = partial(sqlite3.connect, folder / STUDY, check_same_thread=False)
    study = optuna.create_study(
        storage=RDBStorage("sqlite:///trials.db", {"creator": connect}),  # a path in an address would need quoting
        study_name="recipes",
        load_if_exists=True,
        pruner=optuna.pruners.MedianPruner(n_startup_trials=UNPRUNED_TRIALS),
    )
    # Seeded by how far the study is, so that a second start does not draw the first one's trials again.
    study.sampler = optuna.samplers.TPESampler(seed=base.seed + len(study.trials), n_startup_trials=RANDOM_TRIALS)
    study.enqueue_trial({name: getattr(base, name) for name in SPACE}, skip_if_exists=True)
    return study


def score_trial(
    trial: optuna.Trial, base: Recipe, pool: Dataset, squares: NDArray[np.float32], weights: Weights, device: str
) -> float:
    """Train and score the folds of one trial; pruned after the first where it is worse than most."""
    recipe = replace(base, name="trial", **trial.params)
    losses: list[float] = []
    for fold in FOLDS:
        title = f"trial {trial.number}, fold {fold}"
        _, output = fit_fold(recipe, pool, squares, fold, weights, device, title)
        left_out = pool.take(pool.folds == fold)
        losses.append(balanced_loss(Answers(output.logits, left_out.labels, left_out.groups)))
        trial.report(losses[-1], fold)
        if fold != FOLDS[-1] and trial.should_prune():
            raise optuna.TrialPruned
    return float(np.mean(losses))


def balanced_loss(answers: Answers) -> float:
    """Mean over classes of the cross-entropy, at the one temperature that suits these answers best."""
    probabilities = softmax(answers.logits / fit_temperature(answers.logits, answers.labels))
    loss = -np.log(np.maximum(probabilities[np.arange(len(answers.labels)), answers.labels], 1e-12))
    return float(np.mean([loss[answers.labels == label].mean() for label in np.unique(answers.labels)]))


def sum_up(study: optuna.Study) -> Search:
    """What the ledger keeps of a study."""
    complete = study.get_trials(states=(TrialState.COMPLETE,))
    fanova = optuna.importance.FanovaImportanceEvaluator(seed=0)
    try:
        importance = optuna.importance.get_param_importances(study, evaluator=fanova)
    except (ValueError, RuntimeError):  # fewer than two complete trials, or none that differ
        importance = {}
    return Search(
        folds=len(FOLDS),
        trials=dict(Counter(trial.state.name.lower() for trial in study.trials if trial.state.is_finished())),
        lowest_loss=min((trial.value for trial in complete if trial.value is not None), default=None),
        importance=importance,
    )
