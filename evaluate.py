"""Say what a checkpoint is worth: `python evaluate.py --checkpoint F --data DIR`. All flags: `--help`.

    (nothing more)     the published test split, and the part of it whose pixels are in neither train nor valid
    --cross-validate   the recipe out of fold, where no visual group lies in two folds; goes on where it stopped;
                       then the same networks on the same slices, all of one histogram
    --against RUN      with it: the difference to another cross-validation, kept in RUN, on the same folds
    --calibrate        temperature and conformal sets from the recipe's cross-validation, kept in the checkpoint's card
    --explain          tests of the checkpoint's maps: randomised weights, ROAD, evidence outside the body
    --volumes DIR      with it: CT volumes, the maps against outlined lesions, outlined slices against the others
    --control NAME     a training that must fail, on the same folds
    --folder DIR       instead of --data: class folders from elsewhere, our classes or tumour and normal

Results are kept in metrics.json beside the checkpoint (of --folder: in the folder of plots alone), plots in runs/.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import date, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ctscan.classes import CLASS_KEYS, CLASSES, NORMAL
from ctscan.errors import CtscanError, DataError, UnreadableSlice
from ctscan.evaluation.confidence import Confidence, Coverage, judge_confidence
from ctscan.evaluation.cross_validation import OutOfFold, answer_again, cross_validate, has_run, name_run
from ctscan.evaluation.histogram import body_quantiles, match, mean_quantiles
from ctscan.evaluation.intervals import Answers, Estimate, Evaluation, average, difference, evaluate
from ctscan.evaluation.maps import judge_faithfulness, judge_lesions
from ctscan.evaluation.plots import draw_all
from ctscan.evaluation.volumes import VolumeReading, judge_volumes
from ctscan.imaging.anatomy import Pixels, find_anatomy
from ctscan.inference.classifier import Classifier
from ctscan.io.images import Slice
from ctscan.io.volumes import Volume, read_free_volumes, read_volumes
from ctscan.metrics import measures, softmax
from ctscan.model.card import Calibration
from ctscan.model.checkpoint import read_checkpoint, write_checkpoint
from ctscan.model.runtime import run_in_batches
from ctscan.results.entries import append, read_ledger
from ctscan.results.findings import judge_control, judge_subtype, judge_tone
from ctscan.results.summary import FOLDS, HEADLINE_THRESHOLD
from ctscan.training.audit import known_or_new
from ctscan.training.control import CONTROLS, SHUFFLES, Control, shuffle_labels, view
from ctscan.training.data import (
    SPLITS,
    Split,
    find_files,
    find_outside_files,
    join,
    load_files,
    load_split,
    pixel_hash,
    read_all,
)
from ctscan.training.manifest import Manifest, Pool, load_pool
from ctscan.training.recipe import EvaluateConfig, Recipe, parse_flags
from ctscan.training.trainer import imagenet_weights

TITLES = tuple(c.title for c in CLASSES)
EXPLAINED = 50  # slices; ROAD fills each of them in eighteen times
PAIRED = ("accuracy", "balanced_accuracy", "auroc.normal", "nll")
COMPARED = ("accuracy", "balanced_accuracy", "auroc_macro", "auroc.normal")


class Report:
    """One run of the command over a data folder: what it needs, read once, and what it finds, kept and drawn."""

    def __init__(self, config: EvaluateConfig, data: Path) -> None:
        self.config = config
        self.data = data
        self.classifier = Classifier.load(config.checkpoint)
        self.plots = config.runs / f"evaluation-{datetime.now():%Y%m%d-%H%M%S}"
        read_ledger(config.ledger_path)
        folder = config.ledger_path.parent
        if folder.exists() and not os.access(folder, os.W_OK):
            raise DataError(f"{folder} cannot be written to; give a --ledger elsewhere.")

    @cached_property
    def manifest(self) -> Manifest:
        """The one beside the checkpoint where it knows all of the data, else a new audit."""
        return known_or_new(self.config.checkpoint.parent / "manifest.json", self.data, self.splits)

    @cached_property
    def splits(self) -> dict[str, Split]:
        """The published splits as the checkpoint sees them; of test, also what its gate refuses."""
        square, refuses = self.classifier.card.preprocess.square, self.classifier.refuses
        found = {name: load_split(self.data / name, square, refuses if name == "test" else None) for name in SPLITS}
        for name, split in found.items():
            for line in split.skipped:
                print(f"{name}: skipped {line}")
        return found

    @cached_property
    def published(self) -> Answers:
        """What the checkpoint says of the slices of the published test split that its gate lets pass."""
        test = scored(self.splits["test"])
        logits = run_in_batches(self.classifier.runtime, test.squares).logits
        return Answers(logits, test.labels, self.manifest.groups_of(test.hashes, self.config.threshold))

    def entry(self, **more: Any) -> dict[str, Any]:
        """What every result says of itself."""
        facts = {"date": f"{date.today()}", "threshold": self.config.threshold, "manifest": self.manifest.digest[:16]}
        return facts | more

    def evaluate_published(self) -> None:
        """The published test split, whole and deduplicated."""
        train, valid, test = (self.splits[name] for name in SPLITS)
        earlier = set(train.hashes + valid.hashes)
        unseen = np.array([h not in earlier for h in scored(test).hashes])
        parts = {
            "published": (test, self.published),
            "deduplicated": (test.unseen_by(train, valid), self.published.take(unseen)),
        }
        for split, (of, answers) in parts.items():
            if not len(answers.labels):
                print(f"{split} test split: no slice is left, so nothing is said of it.")
                continue
            found = evaluate(answers, CLASS_KEYS, self.config.draws, split)
            draw_all(self.plots, split, found, answers, TITLES)
            said = self.entry(model_id=self.classifier.card.model_id, split=split, refused=count_refused(of))
            append(self.config.ledger_path, "evaluations", said | found.to_dict())
            print_evaluation(f"{split} test split, {count_refused(of)} refused", found)

    def load_pool(self, see: Callable[[Pixels], Pixels]) -> Pool:
        """The grouped slices of all three splits, each as `see` shows it."""
        return load_pool(self.data, self.manifest, self.config.threshold, see)

    def folder(self, recipe: Recipe, control: Control, pool: Pool) -> Path:
        """Where a cross-validation is kept."""
        return self.config.runs / name_run(recipe, self.config.threshold, control, pool)

    def pools(self, control: Control) -> list[Pool]:
        """What the recipe, or a control of it, learns from: read once, under each of the labels it is to have."""
        pool = self.load_pool(view(control, self.config.preprocess))
        if control != "shuffled_labels":
            return [pool]
        return [pool.relabel(shuffle_labels(pool.split.labels, pool.groups, seed)) for seed in range(SHUFFLES)]

    def train_folds(self, control: Control, pool: Pool) -> OutOfFold:
        """The recipe, or a control of it, on the grouped folds."""
        folder = self.folder(self.config, control, pool)
        folds = range(self.config.folds)
        check_classes(pool, folds)
        weights = {} if has_run(folder, folds) and not self.config.init else imagenet_weights(self.config.init)
        return cross_validate(self.config, pool, folds, folder, weights, self.config.device)

    def evaluate_grouped(self) -> None:
        """The recipe out of fold, by fold and over all, and what the published split adds to it."""
        (pool,) = self.pools("none")
        other = self.other(pool, self.config.against) if self.config.against else None
        out = self.train_folds("none", pool)
        answers = gather(pool, out)
        found = evaluate(answers, CLASS_KEYS, self.config.draws, "grouped")
        draw_all(self.plots, "grouped", found, answers, TITLES)
        fall = self.match_tones(answers)
        said = self.entry(
            settings=self.config.settings(),
            folds=by_fold(pool, out),
            repeats=1,
            finding=judge_subtype(found),
            matched={"fall": vars(fall), "finding": judge_tone(fall)},
            **found.to_dict(),
        )
        if other:
            said |= {"against": self.compare(answers, *other)}
        if self.classifier.card.training == self.config.settings() and self.config.folds == FOLDS:
            gap = difference(self.published, answers, CLASS_KEYS, COMPARED, self.config.draws)
            said |= {"model_id": self.classifier.card.model_id}
            said |= {"published_minus_grouped": {name: vars(value) for name, value in gap.items()}}
            print_estimates("published minus grouped", gap)
        append(self.config.ledger_path, "grouped", said)
        print_evaluation("grouped, out of fold", found)
        print(said["finding"], said["matched"]["finding"], sep="\n")

    def match_tones(self, answers: Answers) -> Estimate:
        """How far balanced accuracy falls when every slice has the mean histogram of train. Needs the kept folds.

        The files are changed and the preprocessing runs as it is: what a picture in another window would meet.
        """
        files = [path for path, _ in find_files(self.data / "train")]
        seen = read_all(files, lambda slice_: body_quantiles(slice_.pixels), "histograms of train")
        reference = mean_quantiles([found for found in seen if not isinstance(found, UnreadableSlice)])

        def matched_square(pixels: Pixels) -> Pixels:
            return self.config.preprocess.square(match(pixels, find_anatomy(pixels).body, reference))

        pool = self.load_pool(matched_square)
        folder, folds = self.folder(self.config, "none", pool), range(self.config.folds)
        matched = gather(pool, answer_again(pool, folds, folder, self.config.device))
        return difference(answers, matched, CLASS_KEYS, ["balanced_accuracy"], self.config.draws)["balanced_accuracy"]

    def other(self, pool: Pool, folder: Path) -> tuple[Recipe, Answers]:
        """Another recipe and its answers, kept in `folder`. Raises DataError before anything is trained."""
        checkpoint = folder / "fold-0.safetensors"
        other = EvaluateConfig(**read_checkpoint(checkpoint).card.training, data=self.data)
        if name_run(other, self.config.threshold, "none", pool) != folder.name:
            raise DataError(f"--against {folder.name}: not a cross-validation of these slices on these folds.")
        return other, gather(pool, self.kept(other, pool, folder))

    def compare(self, answers: Answers, other: Recipe, theirs: Answers) -> dict[str, Any]:
        """These answers minus those of another recipe on the same slices, groups drawn for both."""
        gap = difference(answers, theirs, CLASS_KEYS, PAIRED, self.config.draws)
        print_estimates("minus the other recipe", gap)
        return {"settings": other.settings(), "measures": {name: vars(value) for name, value in gap.items()}}

    def kept(self, recipe: Recipe, pool: Pool, folder: Path) -> OutOfFold:
        """What a cross-validation that is there says. Raises DataError where it is not."""
        folds = range(self.config.folds)
        if not has_run(folder, folds):
            raise DataError(f"{folder.name} does not hold {len(folds)} folds: run --cross-validate first.")
        return cross_validate(recipe, pool, folds, folder, {}, "cpu")

    def calibrate(self) -> None:
        """Temperature and sets from the recipe's answers out of fold, and what they are worth."""
        pool = self.load_pool(self.config.preprocess.square)
        out = self.kept(self.config, pool, self.folder(self.config, "none", pool))
        found = judge_confidence(gather(pool, out), pool.folds[out.index], CLASS_KEYS, self.config.draws)
        said = self.entry(settings=self.config.settings(), folds=self.config.folds, **found.to_dict())
        append(self.config.ledger_path, "calibrations", said)
        print_confidence(found)
        headline = (self.config.threshold, self.config.folds) == (HEADLINE_THRESHOLD, FOLDS)
        if headline and self.config.settings() == self.classifier.card.training:
            self.keep_calibration(found)
        else:
            print(
                f"{self.config.checkpoint} stays as it is: it takes a calibration of its own recipe alone, from all "
                f"{FOLDS} folds at --threshold {HEADLINE_THRESHOLD:.2f}."
            )

    def keep_calibration(self, found: Confidence) -> None:
        """Write temperature and thresholds into the checkpoint's card; its weights, and so its name, stay."""
        checkpoint = read_checkpoint(self.config.checkpoint)
        calibration = Calibration(found.temperature.value, found.sets.alpha, found.sets.thresholds)
        write_checkpoint(self.config.checkpoint, replace(checkpoint.card, calibration=calibration), checkpoint.tensors)
        print(f"{self.config.checkpoint} now gives calibrated probabilities and sets.")

    def explain(self) -> None:
        """The checkpoint's maps on slices of the test split, one a visual group."""
        checkpoint = read_checkpoint(self.config.checkpoint)
        outlined = read_volumes(self.config.volumes) if self.config.volumes else []
        free = read_free_volumes(self.config.volumes) if self.config.volumes else []
        found = judge_faithfulness(checkpoint, self.one_a_group(), self.config.draws)
        said = self.entry(model_id=checkpoint.card.model_id, **found.to_dict())
        said |= {"lesions": [vars(lesion) for lesion in judge_lesions(checkpoint, outlined)]}
        print(json.dumps(said, indent=1))
        append(self.config.ledger_path, "explanations", said)
        if outlined:
            self.score_volumes(outlined, free)

    def score_volumes(self, outlined: Sequence[Volume], free: Sequence[Volume]) -> None:
        """Whether the checkpoint scores a mass above the rest of its scan, and how often it sees one in no mass."""
        found = judge_volumes(self.classifier, outlined, free)
        said = {"date": f"{date.today()}", "model_id": self.classifier.card.model_id, **found.to_dict()}
        append(self.config.ledger_path, "volumes", said)
        print_volumes(found)

    def one_a_group(self) -> list[Pixels]:
        """The first slice of each of `EXPLAINED` visual groups of the published test split, chosen at random."""
        files = [path for path, _ in find_files(self.data / "test")]
        read = [s for s in read_all(files, lambda slice_: slice_, "slices of test") if isinstance(s, Slice)]
        groups = self.manifest.groups_of([pixel_hash(s) for s in read], self.config.threshold).tolist()
        first = {group: slice_.pixels for slice_, group in zip(reversed(read), reversed(groups), strict=True)}
        chosen = np.random.default_rng(0).permutation(sorted(first))[:EXPLAINED]
        return [first[group] for group in chosen.tolist()]

    def evaluate_control(self, control: Control) -> None:
        """A control beside the last cross-validation of the committed recipe on the same folds."""
        reference = self.reference()  # first: it may be missing, and the trainings take long
        runs = [(pool, self.train_folds(control, pool)) for pool in self.pools(control)]
        found = [evaluate(gather(*run), CLASS_KEYS, self.config.draws, control) for run in runs]
        whole = average(found) if len(found) > 1 else found[0]
        folds = [row for run in runs for row in by_fold(*run)]
        said = self.entry(control=control, settings=self.config.settings(), folds=folds)
        said |= {"finding": judge_control(control, whole, reference, self.config.surround), **whole.to_dict()}
        append(self.config.ledger_path, "controls", said)
        print(said["finding"])

    def reference(self) -> Evaluation:
        """The checkpoint's own recipe on the folds of a control. Raises DataError where it was not trained."""
        recipe = self.classifier.card.training
        own = EvaluateConfig(**recipe, data=self.data, runs=self.config.runs)
        train, valid, test = (self.splits[name] for name in SPLITS)
        pool = self.manifest.pool(join(join(train, valid), test), self.config.threshold)
        out = self.kept(own, pool, self.folder(own, "none", pool))
        return evaluate(gather(pool, out), CLASS_KEYS, self.config.draws, "reference")


def scored(split: Split) -> Split:
    """The slices that a gate lets pass. Raises DataError where it lets none."""
    if split.refused is None:
        return split
    if split.refused.all():
        raise DataError(f"The gate refuses all {len(split)} slices, so there is nothing to evaluate.")
    return split.take(~split.refused)


def count_refused(split: Split) -> int:
    """How many slices are given no score."""
    return 0 if split.refused is None else int(split.refused.sum())


def check_classes(pool: Pool, folds: Sequence[int]) -> None:
    """Raises DataError where a class has no slice in these folds: half of the measures would not exist."""
    found = {int(label) for label in pool.split.labels[np.isin(pool.folds, folds)]}
    missing = [c.title for place, c in enumerate(CLASSES) if place not in found]
    if missing:
        raise DataError(f"Folds {', '.join(map(str, folds))} hold no slice of {', '.join(missing)}: take more.")


def gather(pool: Pool, out: OutOfFold) -> Answers:
    """Out-of-fold answers with their labels and groups."""
    return Answers(out.output.logits, pool.split.labels[out.index], pool.groups[out.index])


def by_fold(pool: Pool, out: OutOfFold) -> list[dict[str, float]]:
    """Each fold's size and scores, without intervals: they differ by more than any interval says."""
    answers, folds = gather(pool, out), pool.folds[out.index]
    rows = []
    for fold in np.unique(folds):
        here = answers.take(folds == fold)
        found = measures(here.logits, here.labels, CLASS_KEYS)
        sizes = {"fold": int(fold), "n": len(here.labels), "groups": len(np.unique(here.groups))}
        rows.append(sizes | {name: found[name] for name in COMPARED})
    return rows


def evaluate_outside(config: EvaluateConfig, folder: Path) -> None:
    """Slices from elsewhere. Each file counts as a group of its own, for nothing is known of it."""
    classifier = Classifier.load(config.checkpoint)
    files, keys = find_outside_files(folder)
    whole = load_files(folder, files, classifier.card.preprocess.square, classifier.refuses)
    split = scored(whole)
    logits = run_in_batches(classifier.runtime, split.squares).logits
    titles: Sequence[str] = TITLES
    if keys != CLASS_KEYS:
        normal = softmax(logits)[:, NORMAL]
        logits = np.log(np.clip(np.stack([1 - normal, normal], axis=1), 1e-12, 1)).astype(np.float32)
        titles = ("Tumour", "Normal")
    _, groups = np.unique(split.hashes, return_inverse=True)
    answers = Answers(logits, split.labels, groups)
    found = evaluate(answers, keys, config.draws, folder.name)
    plots = config.runs / f"evaluation-{datetime.now():%Y%m%d-%H%M%S}"
    draw_all(plots, "outside", found, answers, titles)
    said: dict[str, Any] = {"date": f"{date.today()}", "model_id": classifier.card.model_id, "classes": keys}
    said |= {"refused": count_refused(whole), **found.to_dict()}
    (plots / "metrics.json").write_text(json.dumps(said, indent=1) + "\n", encoding="utf-8")
    unread = f"{len(whole.skipped)} files could not be read, {count_refused(whole)} slices were refused"
    print_evaluation(f"{unread}; the others", found)
    print(f"Plots and metrics.json: {plots}")


def print_evaluation(title: str, found: Evaluation) -> None:
    """Every measure on a line."""
    print_estimates(
        f"{title}: {found.n} slices in {found.groups} visual groups, 95 % intervals over groups", found.measures
    )


def print_confidence(found: Confidence) -> None:
    """Temperature, what it changes, and the sets."""
    print_estimates("as they are", {"temperature": found.temperature, **found.raw})
    print_estimates("calibrated out of fold", found.calibrated)
    print(f"  {'ECE of a perfectly calibrated model, 95th percentile':<55} {found.perfect_ece:7.3f}")
    sets = found.sets
    print_estimates(f"sets at {sets.alpha:.2f}, share that holds the class", sets.coverage)
    print(f"  {sets.size:.2f} classes a set; one class in {sets.single:.0%}, none in {sets.empty:.0%} of the sets")


def print_volumes(found: VolumeReading) -> None:
    """A volume and a window on a line, and the volumes that could not be read."""
    for r in found.outlined:
        print(
            f"{r.volume}, {r.window} window: AUROC {r.auroc:.3f}, {r.outlined} outlined slices against {r.others}; "
            f"the gate refuses {r.refused} and calls {r.unusual} unusual"
        )
    for a in found.free:
        print(
            f"{a.volume}, {a.window} window: {a.alarms} alarms in {a.slices} slices without a mass, "
            f"{a.alarms / a.slices:.3f} ({a.low:.3f} to {a.high:.3f}, slices taken as independent); "
            f"the gate refuses {a.refused} and calls {a.unusual} unusual"
        )
    for name in found.left_out:
        print(f"{name} is left out: it has no slice with lung, or none away from the outline")


def print_estimates(title: str, estimates: Mapping[str, Estimate | Coverage]) -> None:
    """A name, a value and an interval on a line."""
    print(title)
    for name, value in estimates.items():
        print(f"  {name:<55} {value.value:7.3f}  ({value.low:.3f} to {value.high:.3f})")


def evaluate_data(config: EvaluateConfig, data: Path) -> None:
    """What was asked for, the quick things first."""
    report = Report(config, data)
    asked: tuple[Control, ...] = CONTROLS if config.control == "all" else (config.control,)
    if not (config.cross_validate or config.calibrate or config.explain or config.control != "none"):
        report.evaluate_published()
    if config.explain:
        report.explain()
    if config.cross_validate:
        report.evaluate_grouped()
    if config.calibrate:
        report.calibrate()
    for control in asked:
        if control != "none":
            report.evaluate_control(control)


def main() -> int:
    """Exit status: 0, or 2 with one sentence for what a user can mend."""
    config = parse_flags(EvaluateConfig)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C
    try:
        if config.folder:
            evaluate_outside(config, config.folder)
        elif config.data:
            evaluate_data(config, config.data)
    except CtscanError as error:
        print(f"evaluate.py: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"evaluate.py: {error.filename}: {error.strerror}.", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("evaluate.py: interrupted; the folds that are done are kept.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
