"""A search for a recipe: Optuna over two fixed grouped folds; every trial is kept, the failed and pruned ones too.

The objective is the cross-entropy, mean over classes, at the temperature that suits the fold's answers best, mean
over the folds. Balanced accuracy is what counts in the end, but on two folds it moves in steps of whole scans, two to
five points each, and most recipes differ by less; the cross-entropy moves with every slice. The temperature is taken
out of it because smoothing, mixup and length change it without changing an answer, and what ships is calibrated.

What the network is shown (crop, tone, surround) is no part of the space: a shortcut lowers this loss as well as the
disease does, so the controls and the test with one histogram decide it, and it is given with the base.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ctscan.classes import CLASS_KEYS
from ctscan.errors import DataError
from ctscan.evaluation.cross_validation import check_start, fit_fold
from ctscan.evaluation.intervals import Answers
from ctscan.inference.calibration import calibrate, fit_temperature
from ctscan.metrics import measures
from ctscan.results.trials import trial_table
from ctscan.training.manifest import Pool
from ctscan.training.recipe import TrainConfig
from ctscan.training.trainer import Weights, build_net

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.importance import BaseImportanceEvaluator
    from optuna.storages import RDBStorage
    from optuna.trial import BaseTrial, FrozenTrial

FOLDS = (0, 1)  # the same for all trials, so that recipes meet the same slices
RANDOM_TRIALS = 8  # before the sampler leans on what it has seen
UNPRUNED_TRIALS = 4  # before a first fold worse than the median ends a trial
HEARTBEAT = 10  # s between two signs of life of a running trial
SILENCE = 60  # s without one, and the trial's process counts as dead
PATIENCE = 30  # s of waiting while another process writes; a heartbeat that is late by as much is no silence


@dataclass(frozen=True)
class Range:
    """Numbers between two ends."""

    low: float
    high: float
    log: bool = False

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high

    def __str__(self) -> str:
        return f"{self.low:g} to {self.high:g}"


SPACE: dict[str, Range | tuple[Any, ...]] = {
    "rate": Range(1e-4, 1e-3, log=True),
    "weight_decay": Range(1e-3, 0.3, log=True),
    "label_smoothing": Range(0.0, 0.2),
    "dropout": Range(0.0, 0.5),
    "batch": (16, 32, 64),
    "ema": (0.0, 0.95, 0.98),
    "mixup": (0.0, 0.2, 0.4),
    "freeze": (0, 1, 2),
    "layer_decay": Range(0.5, 1.0),
    "augmentation": ("full", "windows"),
    "strength": Range(0.5, 1.5),
}


def check_base(base: TrainConfig) -> None:
    """Raises DataError where a search cannot begin with the base, because it lies outside `SPACE`."""
    for name, space in SPACE.items():
        if (value := getattr(base, name)) not in space:
            flag = f"--{name.replace('_', '-')}"
            allowed = space if isinstance(space, Range) else " or ".join(map(str, space))
            raise DataError(f"A search begins with the recipe as given, so {flag} must be {allowed}, not {value}.")


def suggest(trial: BaseTrial, base: TrainConfig) -> TrainConfig:
    """The base with every setting of `SPACE` as the trial draws it."""
    drawn: dict[str, Any] = {
        name: trial.suggest_float(name, space.low, space.high, log=space.log)
        if isinstance(space, Range)
        else trial.suggest_categorical(name, space)
        for name, space in SPACE.items()
    }
    return replace(base, **drawn)


def balanced_loss(answers: Answers) -> float:
    """Mean over classes of the cross-entropy, at the one temperature that suits these answers best."""
    probabilities = calibrate(answers.logits, fit_temperature(answers.logits, answers.labels))
    own = -np.log(np.maximum(probabilities[np.arange(len(answers.labels)), answers.labels], 1e-12))
    return float(np.mean([own[answers.labels == label].mean() for label in np.unique(answers.labels)]))


def queue_again(study: Study, trial: FrozenTrial) -> None:
    """Queue the recipe of a trial that did not come to its end, to be tried once more under a new number."""
    from optuna.storages import RetryHeartbeatStaleTrialCallback

    RetryHeartbeatStaleTrialCallback()(study, trial)


class Search:
    """A study, kept in `folder` as SQLite, that goes on where it stopped. Several processes may share it.

    A trial that was interrupted, or whose process died, is queued again. One that failed of itself is not.
    Raises DataError for a base or weights that no trial could begin with.
    """

    def __init__(self, base: TrainConfig, pool: Pool, weights: Weights, device: str) -> None:
        check_base(base)
        build_net(base, weights)  # a trial that failed for them would not be tried again with better ones
        self.base, self.pool, self.weights, self.device = base, pool, weights, device
        self.folder = base.runs / self.name()
        self.folder.mkdir(parents=True, exist_ok=True)
        check_start(self.folder, weights)
        self.study = self.open_study()

    def name(self) -> str:
        """A folder name that two searches never share that differ in recipe, space, slices or folds."""
        key = [self.base.settings(), repr(SPACE), self.pool.split.hashes, self.pool.folds.tolist()]
        return f"search-{hashlib.sha256(json.dumps(key).encode()).hexdigest()[:12]}"

    def open_study(self) -> Study:
        """The study in the folder, or a new one that begins with the base as it is."""
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # its version is pinned
        study = optuna.create_study(
            storage=self.open_storage(),
            study_name="recipes",
            load_if_exists=True,
            pruner=optuna.pruners.MedianPruner(n_startup_trials=UNPRUNED_TRIALS),
        )
        # Seeded by how far the study is, so that a second start does not draw the first one's trials again.
        seed = self.base.seed + len(study.trials)
        study.sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=RANDOM_TRIALS)
        study.enqueue_trial({name: getattr(self.base, name) for name in SPACE}, skip_if_exists=True)
        return study

    def open_storage(self) -> RDBStorage:
        """The file of the study, in which running trials give signs of life; one without them is queued again."""
        from optuna.storages import RDBStorage

        return RDBStorage(
            f"sqlite:///{self.folder / 'trials.db'}",
            engine_kwargs={"connect_args": {"timeout": PATIENCE}},
            heartbeat_interval=HEARTBEAT,
            grace_period=SILENCE,
            heartbeat_stale_trial_callback=queue_again,
        )

    def run(self, trials: int) -> None:
        """Until so many trials are complete or pruned, or as many as were missing have been tried and some failed.

        Ctrl-C ends it before, raising KeyboardInterrupt.
        """
        from optuna.study import MaxTrialsCallback
        from optuna.trial import TrialState

        judged = (TrialState.COMPLETE, TrialState.PRUNED)
        left = trials - len(self.study.get_trials(deepcopy=False, states=judged))
        if left > 0:
            enough = MaxTrialsCallback(trials, judged)  # counts those of other processes too
            self.study.optimize(
                self.attempt, n_trials=left, catch=(RuntimeError,), callbacks=[enough], show_progress_bar=True
            )

    def attempt(self, trial: Trial) -> float:
        """The score of a trial; one that is interrupted is queued again before KeyboardInterrupt goes on."""
        try:
            return self.score(trial)
        except KeyboardInterrupt:
            queue_again(self.study, self.study.trials[trial.number])
            raise

    def score(self, trial: Trial) -> float:
        """Train and score the folds of one trial; pruned after the first where it is worse than most."""
        from optuna import TrialPruned

        config, pool = suggest(trial, self.base), self.pool
        found: list[dict[str, float]] = []
        for fold in FOLDS:
            _, output = fit_fold(config, pool, fold, self.weights, self.device, f"trial {trial.number}, fold {fold}")
            here = pool.folds == fold
            answers = Answers(output.logits, pool.split.labels[here], pool.groups[here])
            balanced = measures(answers.logits, answers.labels, CLASS_KEYS)["balanced_accuracy"]
            found.append({"loss": balanced_loss(answers), "balanced_accuracy": balanced})
            trial.set_user_attr("folds", found)
            trial.report(found[-1]["loss"], fold)
            if fold != FOLDS[-1] and trial.should_prune():
                raise TrialPruned
        return float(np.mean([one["loss"] for one in found]))

    def judge_importance(self) -> BaseImportanceEvaluator:
        """fANOVA with a seed of its own, so that table and plot say the same."""
        from optuna.importance import FanovaImportanceEvaluator

        return FanovaImportanceEvaluator(seed=self.base.seed)

    def importance(self) -> dict[str, float]:
        """How much each setting explains of the objective, by Optuna's fANOVA; empty where there is too little."""
        import optuna

        try:
            found = optuna.importance.get_param_importances(self.study, evaluator=self.judge_importance())
        except (ValueError, RuntimeError):  # fewer than two complete trials, or none that differ
            return {}
        return {name: float(value) for name, value in found.items()}

    def report(self) -> dict[str, Any]:
        """Keep table and plots in the folder; gives what the ledger keeps."""
        trials = self.study.trials
        again = {number for trial in trials for number in trial.system_attrs.get("retry_history", [])}
        rows = [describe(trial) for trial in trials if trial.state.is_finished() and trial.number not in again]
        said = {"settings": self.base.settings(), "folds": FOLDS, "trials": rows, "importance": self.importance()}
        (self.folder / "trials.json").write_text(json.dumps(said, indent=1) + "\n", encoding="utf-8")
        (self.folder / "trials.md").write_text(trial_table(rows) + "\n", encoding="utf-8")
        self.draw(bool(said["importance"]))
        return said

    def draw(self, importance: bool) -> None:
        """History and importance as PNG."""
        from optuna.visualization import matplotlib as plots

        drawn = {"history": plots.plot_optimization_history(self.study)}
        if importance:
            drawn["importance"] = plots.plot_param_importances(self.study, evaluator=self.judge_importance())
        for name, axes in drawn.items():
            if figure := axes.get_figure(root=True):
                figure.savefig(self.folder / f"{name}.png", dpi=110, bbox_inches="tight")


def describe(trial: FrozenTrial) -> dict[str, Any]:
    """One trial for the ledger."""
    return {
        "number": trial.number,
        "state": trial.state.name.lower(),
        "loss": trial.value if trial.state.name == "COMPLETE" else None,
        "folds": trial.user_attrs.get("folds", []),
        "settings": trial.params,
        "seconds": round(trial.duration.total_seconds()) if trial.duration else None,
    }
