"""What is asked of a model and of its recipe: one function a question, each gives a record for the ledger.

published       the published test split, whole and without the slices that train and valid hold too
grouped         the recipe out of fold, where no visual group lies in two folds
control         a training that must fail, on the same folds
calibrate       temperature and conformal sets from the recipe's answers out of fold
explain         the checkpoint's maps put to the test; whole scans, outlined slices against the others
score_outside   class folders from elsewhere
"""

from __future__ import annotations

import sys
import zlib
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ctscan.classes import CLASS_KEYS, NORMAL
from ctscan.errors import DataError
from ctscan.evaluation.calibration import fit_temperature, fold_temperatures, judge_calibration, judge_sets
from ctscan.evaluation.cross_validation import (
    SHUFFLES,
    Setting,
    answer_again,
    cross_validate,
    read_folds,
    shuffle_labels,
)
from ctscan.evaluation.elsewhere import judge_volumes
from ctscan.evaluation.gate import rewindow
from ctscan.evaluation.intervals import Answers, average, bootstrap, difference, evaluate
from ctscan.evaluation.maps import judge_maps
from ctscan.imaging.anatomy import Pixels, find_anatomy
from ctscan.inference.classifier import Classifier, load
from ctscan.io.volumes import read_free_volumes, read_volumes
from ctscan.metrics import softmax
from ctscan.model.card import Calibration, Card
from ctscan.model.checkpoint import read_checkpoint, write_checkpoint
from ctscan.model.runtime import run_in_batches
from ctscan.results.records import (
    Audit,
    Confidence,
    Control,
    CrossValidation,
    Difference,
    Evaluation,
    MapTests,
    PublishedEvaluation,
    Reading,
    Score,
    VolumeReadings,
)
from ctscan.results.summary import HEADLINE_THRESHOLD
from ctscan.training import recipe as recipes
from ctscan.training.data import FOLDS, Dataset, Manifest, find_outside_files, read_files
from ctscan.training.recipe import Recipe, read_recipe

BATCH = 32
EXPLAINED = 50  # slices; ROAD fills each of them in eighteen times
PAIRED = ("accuracy", "balanced_accuracy", "auroc.normal", "nll")
COMPARED = ("accuracy", "balanced_accuracy", "auroc_macro", "auroc.normal")


def count_copies(manifest: Manifest) -> Audit:
    """What the data holds twice, and what crosses its splits."""
    near = {f"near_duplicate_{name}": count for name, count in manifest.near.items()}
    return Audit(manifest=manifest.digest, **(manifest.facts() | near))


def reading(card: Card) -> Reading:
    """The scores that a training has put into its card."""
    recipe = read_recipe(card.recipe)
    scores = {
        split: Score.model_validate({name: figures[name] for name in Score.model_fields})
        for split, figures in card.metrics.items()
    }
    return Reading(model_id=card.model_id, recipe=recipe.digest, recipe_name=recipe.name, scores=scores)


def published(setting: Setting, classifier: Classifier) -> list[PublishedEvaluation]:
    """The published test split, and the part of it that is in neither train nor valid where there is one.

    Raises:
        DataError: The gate refuses every slice.
    """
    answers, scored = answer(setting.test, classifier)
    unseen = setting.test.unseen_by(setting.data.of("train", "valid"))
    parts: dict[Literal["published", "deduplicated"], NDArray[np.bool_]]
    parts = {"published": np.ones(len(scored), bool), "deduplicated": unseen}
    return [
        PublishedEvaluation(
            model_id=classifier.card.model_id,
            split=split,
            threshold=setting.threshold,
            refused=int((part & ~scored).sum()),
            result=evaluate(answers.take(part[scored]), CLASS_KEYS, setting.draws, split),
        )
        for split, part in parts.items()
        if (part & scored).any()
    ]


def answer(data: Dataset, classifier: Classifier) -> tuple[Answers, NDArray[np.bool_]]:
    """Raw logits of the slices that the gate lets pass, and which those are, (N,) of all.

    Raises:
        DataError: It refuses all of them.
    """
    scored = []
    for start in range(0, len(data), BATCH):
        slices = [record.slice for record in data.records[start : start + BATCH]]
        judged = classifier.gate.judge(slices, [find_anatomy(slice_.pixels) for slice_ in slices])
        scored += [judgement.verdict != "refused" for judgement in judged]
    if not any(scored):
        raise DataError(f"The gate refuses all {len(data)} slices, so there is nothing to evaluate.")
    passed = data.take(np.array(scored))
    logits = run_in_batches(classifier.runtime, passed.squares(classifier.card.preprocess.square)).logits
    return Answers(logits, passed.labels, passed.groups), np.array(scored)


def grouped(
    setting: Setting,
    recipe: Recipe,
    *,
    folds: int = FOLDS,
    classifier: Classifier | None = None,
    against: Recipe | None = None,
) -> CrossValidation:
    """A recipe out of fold; trains the folds that are not there yet.

    Args:
        setting: The data.
        recipe: What is trained.
        folds: How many of the five to leave out.
        classifier: Where it is of this recipe: what the published split adds to its figures is measured too.
        against: Another recipe whose folds are there, to be compared slice by slice.

    Raises:
        DataError: As `cross_validate`, or the other recipe's folds are not there.
    """
    other = read_folds(setting.pool, folds, setting.folder(against)).answers if against else None
    out = cross_validate(setting, recipe, folds)
    subtract = partial(difference, keys=CLASS_KEYS, draws=setting.draws)

    def see(pixels: Pixels) -> Pixels:  # in another window, the same at every call
        return recipe.preprocess.square(rewindow(pixels, np.random.default_rng(zlib.crc32(pixels.tobytes()))))

    elsewhere = answer_again(out, setting.folder(recipe), see, setting.device).answers
    entry = CrossValidation(
        recipe=recipe.digest,
        recipe_name=recipe.name,
        size=recipe.size,
        epochs=recipe.epochs,
        threshold=setting.threshold,
        folds=out.by_fold,
        result=evaluate(out.answers, CLASS_KEYS, setting.draws, "grouped"),
        window_fall=subtract(out.answers, elsewhere, names=["balanced_accuracy"])["balanced_accuracy"],
    )
    if against and other:
        gap = subtract(out.answers, other, names=PAIRED)
        same = replace(recipe, seed=against.seed, name=against.name) == against != recipe
        found = {
            "against": Difference(recipe=against.digest, measures=gap),
            "seed_of": against.digest if same else None,
        }
        entry = entry.model_copy(update=found)
    if classifier and read_recipe(classifier.card.recipe) == recipe and folds == FOLDS:
        gap = subtract(answer(setting.test, classifier)[0], out.answers, names=COMPARED)
        entry = entry.model_copy(update={"model_id": classifier.card.model_id, "published_minus_grouped": gap})
    return entry


def control(
    setting: Setting, kind: recipes.Control, recipe: Recipe, *, about: Recipe | None = None, folds: int = FOLDS
) -> Control:
    """A training that must fail.

    Args:
        setting: The data.
        kind: What is hidden from it.
        recipe: How it is trained; a smaller or shorter one will do, for it must see as the shipped one does.
        about: The recipe that it says something about, where that is another.
        folds: How many of the five.

    Raises:
        DataError: As `cross_validate`, or the two recipes show other things to the network.
    """
    of = about or recipe
    if replace(of.preprocess, size=recipe.size) != recipe.preprocess:
        raise DataError("A control must have the crop, tone, surround and pool of the recipe that it is about.")
    shuffles = range(SHUFFLES) if kind == "shuffled_labels" else ()
    pools = [shuffle_labels(setting.pool, seed) for seed in shuffles] or [setting.pool]
    repeats = []
    for pool in pools:
        out = cross_validate(setting, recipe, folds, kind, pool)
        repeats.append(evaluate(out.answers, CLASS_KEYS, setting.draws, kind))
    return Control(
        control=kind,
        recipe=of.digest,
        size=recipe.size,
        epochs=recipe.epochs,
        threshold=setting.threshold,
        folds=folds,
        repeats=len(repeats),
        n=repeats[0].n,
        groups=repeats[0].groups,
        balanced_accuracy=average([repeat.measures["balanced_accuracy"] for repeat in repeats]),
        auroc_normal=average([repeat.measures["auroc.normal"] for repeat in repeats]),
    )


def calibrate(setting: Setting, recipe: Recipe, *, checkpoint: Path, folds: int = FOLDS) -> Confidence:
    """Temperature and sets from the recipe's kept answers out of fold, and what they are worth.

    Args:
        setting: The data.
        recipe: Whose folds are there.
        checkpoint: Gets temperature and thresholds into its card; its weights, and so its name, stay.
        folds: How many of the five.

    Raises:
        DataError: The folds are not there, or the checkpoint is of another recipe, threshold or number of folds.
    """
    if folds < 2:
        raise DataError("A calibration needs two folds or more, for each is judged by the others.")
    written = read_checkpoint(checkpoint)
    usual = (setting.threshold, folds) == (HEADLINE_THRESHOLD, FOLDS)
    if not usual or read_recipe(written.card.recipe) != recipe:
        raise DataError(
            f"{checkpoint} takes a calibration of its own recipe alone, from all {FOLDS} folds at a threshold of "
            f"{HEADLINE_THRESHOLD:.2f}."
        )
    out = read_folds(setting.pool, folds, setting.folder(recipe))
    logits, labels = out.output.logits, out.pool.labels

    def fit(places: NDArray[np.int64]) -> dict[str, float]:
        return {"temperature": fit_temperature(logits[places], labels[places])}

    temperatures = fold_temperatures(out.answers, out.pool.folds)
    raw, calibrated, perfect = judge_calibration(out.answers, temperatures, CLASS_KEYS, setting.draws)
    sets, thresholds = judge_sets(out.answers, out.pool.folds, temperatures, CLASS_KEYS)
    temperature = bootstrap([out.pool.groups], fit, setting.draws, "temperature")["temperature"]
    calibration = Calibration(temperature.value, sets.alpha, thresholds)
    write_checkpoint(checkpoint, replace(written, card=replace(written.card, calibration=calibration)))
    return Confidence(
        recipe=recipe.digest,
        threshold=setting.threshold,
        folds=folds,
        temperature=temperature,
        raw=raw,
        calibrated=calibrated,
        perfect_ece=perfect,
        sets=sets,
    )


def explain(setting: Setting, checkpoint: Path, volumes: Path | None = None) -> tuple[MapTests | VolumeReadings, ...]:
    """The checkpoint's maps on `EXPLAINED` slices of test, one a visual group, chosen at random.

    Args:
        setting: The data.
        checkpoint: Whose maps.
        volumes: Folder of scans: the maps are held against the lesions that are outlined there, and the scans are read
            slice by slice, which is the second record.

    Raises:
        DataError: The folder of scans cannot be used.
    """
    outlined = read_volumes(volumes) if volumes else []
    free = read_free_volumes(volumes) if volumes else []
    groups, first = np.unique(setting.test.groups, return_index=True)
    chosen = first[np.random.default_rng(0).permutation(len(groups))[:EXPLAINED]]
    slices = [setting.test.records[place].pixels for place in chosen]
    maps = judge_maps(read_checkpoint(checkpoint), slices, outlined, setting.draws)
    if not volumes:
        return (maps,)
    readings, left_out = judge_volumes(load(checkpoint), outlined, free)
    for name in left_out:
        print(f"{name} is left out: it has no slice with lung, or none away from the outline.", file=sys.stderr)
    return maps, readings


def score_outside(folder: Path, classifier: Classifier, draws: int = 1000) -> tuple[Evaluation, int, int]:
    """Slices from elsewhere. Each picture counts as a group of its own, for nothing is known of it.

    Args:
        folder: Class folders: ours, or `tumour` and `normal`.
        classifier: What answers.
        draws: For the intervals.

    Returns:
        The evaluation, how many files could not be read, and how many slices were refused.

    Raises:
        DataError: The folder is not as it should be, or nothing is left to score.
    """
    files, keys = find_outside_files(folder)
    data = read_files(folder, [("outside", path, label) for path, label in files])
    _, groups = np.unique(data.hashes, return_inverse=True)
    answers, scored = answer(data.assign(group=groups), classifier)
    if keys != CLASS_KEYS:
        normal = softmax(answers.logits)[:, NORMAL]
        two = np.log(np.clip(np.stack([1 - normal, normal], axis=1), 1e-12, 1)).astype(np.float32)
        answers = replace(answers, logits=two)
    return evaluate(answers, keys, draws, folder.name), len(data.skipped), int((~scored).sum())
