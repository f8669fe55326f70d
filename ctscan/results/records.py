"""What metrics.json holds: measurements as typed records. Figures only; the words that explain them stand in templates.

A record names what it is about by fields of `IDENTITY`: a model by its `model_id`, which two different sets of weights
never share, a recipe by its digest, visual groups by the correlation from which two slices belong to one.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

IDENTITY = ("model_id", "recipe", "control", "split", "threshold", "manifest")

Interval = tuple[float, float]
Defined = Annotated[float | None, BeforeValidator(lambda value: None if value != value else value)]  # NaN is None


class Record(BaseModel):
    """Cannot be changed, and refuses fields that it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Entry(Record):
    """A record that stands in a section of the ledger, in the place of an older one with the same key."""

    date: str = Field(default_factory=lambda: datetime.date.today().isoformat(), pattern=r"^\d{4}-\d\d-\d\d$")

    @property
    def key(self) -> tuple[object, ...]:
        """What this is about; no two entries of a section share it."""
        return tuple(getattr(self, name) for name in IDENTITY if name in type(self).model_fields)


class Estimate(Record):
    """A value with its 95 % interval over visual groups, and the standard error behind it."""

    value: float
    low: float
    high: float
    se: float


class Coverage(Record):
    """Share of sets that hold the true class, one slice a visual group, with an exact 95 % interval."""

    value: float
    low: float
    high: float
    groups: int


class Score(Record):
    """How a model did on `n` slices of a published split; Wilson's 95 % interval takes slices as independent."""

    n: int
    accuracy: float
    interval95: Interval
    cross_entropy: float  # mean, natural logarithm


class Evaluation(Record):
    """All that is measured of some answers."""

    n: int
    groups: int  # visual groups
    measures: dict[str, Estimate]  # those of `ctscan.metrics.measures` that are defined
    confusion: tuple[tuple[int, ...], ...]  # [true class][predicted class], in the order of `CLASS_KEYS`


class Reading(Entry):
    """The scores of a training on the published splits: train, valid, test."""

    model_id: str
    recipe: str
    recipe_name: str
    scores: dict[str, Score]


class PublishedEvaluation(Entry):
    """A model on the published test split, whole or without the slices that train and valid hold too."""

    model_id: str
    split: Literal["published", "deduplicated"]
    threshold: float
    refused: int  # slices without a score; they are not in `result`
    result: Evaluation


class Fold(Record):
    """One fold, scored by the network that was trained on the others."""

    fold: int
    n: int
    groups: int
    accuracy: float
    balanced_accuracy: float
    auroc_macro: Defined = None
    auroc_normal: Defined = None  # where the fold has no normal slice, there is none


class Difference(Record):
    """Measures minus those of another recipe on the same slices, groups drawn for both."""

    recipe: str
    measures: dict[str, Estimate]


class CrossValidation(Entry):
    """A recipe out of fold: no visual group lies in two folds."""

    recipe: str
    recipe_name: str
    size: int  # side of the model's square, px
    epochs: int
    threshold: float
    model_id: str | None = None  # the model of this recipe that `published_minus_grouped` is about
    seed_of: str | None = None  # the recipe that this one is, begun from another seed
    folds: tuple[Fold, ...]
    result: Evaluation
    window_fall: Estimate | None = None  # balanced accuracy lost when each slice is in another window
    published_minus_grouped: dict[str, Estimate] | None = None
    against: Difference | None = None


class Control(Entry):
    """A training that must fail, with the view of the recipe that it is about; `size` and `epochs` are its own."""

    control: Literal["shuffled_labels", "border_only", "lungs_black", "tone_only"]
    recipe: str
    size: int
    epochs: int
    threshold: float
    folds: int
    repeats: int  # more than one for shuffled labels alone
    n: int
    groups: int
    balanced_accuracy: Estimate
    auroc_normal: Estimate  # normal against tumour


class Audit(Entry):
    """What the data holds twice: counts of files or of distinct images. Thresholds as keys are written `0.90`."""

    manifest: str  # digest
    files_by_split: dict[str, int]
    images: int
    images_by_class: dict[str, int]
    images_in_several_splits: int
    conflicting_labels: int
    test_files_by_class: dict[str, int]
    test_files_seen_in_train_or_valid: dict[str, int]
    near_duplicate_pairs: int
    near_duplicate_pairs_across_splits: int
    groups: dict[str, int]
    largest_group: dict[str, int]
    groups_in_several_splits: dict[str, int]


class GateRow(Record):
    """Verdicts on pictures of one kind, or of one group of a kind; exact 95 % intervals (Clopper and Pearson)."""

    kind: str
    group: str  # empty: all of the kind
    n: int
    sources: int
    refused: int
    unusual: int
    ok: int
    named: int  # given the reason that is true of them
    refused95: Interval
    not_ok95: Interval  # of the share that was refused or marked unusual


class GateReport(Entry):
    """What the gate of a model does to pictures of sources that it had not seen."""

    model_id: str
    slices: int  # of the data set that the shipped gate was fitted to
    pictures: int  # the same from elsewhere
    sources: int
    rows: tuple[GateRow, ...]  # one for each kind of picture, and for each group of upright chests
    reasons: dict[str, int]  # slices of the data set by the code of a notice that they were given
    refused: int  # slices of the data set without a score
    scored: Estimate  # balanced accuracy out of fold of the others
    outside: float  # share of positive evidence outside the body above which a notice is given
    alarmed: int  # slices of the data set that got it, of `alarm_slices`
    alarm_slices: int


class Sets(Record):
    """Sets of the classes that remain possible, judged out of fold."""

    alpha: float  # share of each class's scans whose set may miss it
    coverage: dict[str, Coverage]  # by class key
    size: float  # mean number of classes in a set
    single: float  # share of sets of one class
    empty: float


class Confidence(Entry):
    """Temperature and sets of a recipe from its answers out of fold, and what they are worth."""

    recipe: str
    threshold: float
    folds: int
    temperature: Estimate
    raw: dict[str, Estimate]  # `nll`, `brier`, `ece`, `augrc`, `risk_at_80` of the scores as they are
    calibrated: dict[str, Estimate]  # the same, each fold at the temperature of the others
    perfect_ece: float  # 95th percentile for a perfectly calibrated model of as few groups
    sets: Sets


class Likeness(Record):
    """How alike maps are on average; 1 for the same."""

    spearman: float
    ssim: float


class Lesion(Record):
    """Evidence and a radiologist's outline in one volume under one window."""

    volume: str
    window: str
    slices: int
    inside: float  # mean share of the evidence that lies in the outline
    area: float  # mean share of the body that the outline covers
    peaks: int  # slices whose strongest place lies in the outline


class MapTests(Entry):
    """The maps of a model put to the test on `n` slices of the published test split, one a visual group."""

    model_id: str
    n: int
    randomised: dict[str, Likeness]  # to the true maps, by the lowest block at random; the last: all weights are
    pairs: Likeness  # of the maps of two different slices
    road: Estimate  # probability lost by filling in what a map marks most, minus what it marks least
    road_over_random: Estimate  # its lead over a random map
    road_over_centre: Estimate  # and over one that always marks the centre
    # Mean share of cells whose covering changes the score by what the map promised, within a factor of two: of those
    # that mark most, and of as many others.
    covered: Estimate | None = None
    covered_elsewhere: Estimate | None = None
    outside: Estimate  # mean share of the evidence that lies outside the body
    outside_lead: Estimate  # minus that of evenly spread evidence
    lesions: tuple[Lesion, ...] = ()


class Ranking(Record):
    """Slices with an outlined tumour against the others of their volume, by the odds of a tumour."""

    volume: str
    window: str
    outlined: int
    others: int
    auroc: float
    refused: int
    unusual: int


class Alarms(Record):
    """Slices of a volume without a mass; `alarms` are those whose likeliest class is a tumour."""

    volume: str
    window: str
    slices: int
    alarms: int
    refused: int
    unusual: int


class VolumeReadings(Entry):
    """What a model says of whole scans from other hospitals."""

    model_id: str
    outlined: tuple[Ranking, ...]
    free: tuple[Alarms, ...]


class PatientWindow(Record):
    """What a model says of patients with known histology under one window; intervals over patients."""

    window: str
    adenocarcinoma: int  # patients
    squamous: int
    subtype: Estimate | None  # AUROC of the one against the other, by patient
    lesions: int  # slices that show one
    free: int  # slices of patients without a lung cancer that is known of
    free_patients: int
    lesion: Estimate | None  # AUROC of the one against the other, by slice
    alarms: int  # of `free`, those whose likeliest class is a tumour
    refused: int
    unusual: int
    boxes: int  # slices with an expert's box of the lesion
    hits: int  # of these, those whose strongest evidence lies in it
    hits_of_centre: int  # those in whose box the centre of the thorax lies
    inside: Defined  # mean share of the evidence that lies in the box
    even: Defined  # mean share of the thorax that the box covers


class Agreement(Record):
    """Slices of the patients with the same likeliest class under two windows."""

    windows: tuple[str, str]
    same: int


class PatientReadings(Entry):
    """What a model says of patients from elsewhere, one entry a model."""

    model_id: str
    patients: int
    slices: int
    windows: tuple[PatientWindow, ...]
    agreement: tuple[Agreement, ...]


class Search(Entry):
    """The newest search for a recipe, summed up."""

    folds: int
    trials: dict[str, int]  # by how they ended: complete, pruned, fail
    lowest_loss: float | None = None
    importance: dict[str, float]  # share of the differences that a setting explains (fANOVA)


class Ledger(Record):
    """The whole of metrics.json. Sections hold their entries oldest first."""

    version: Literal[2] = Field(default=2, alias="schema")
    readings: tuple[Reading, ...] = ()
    evaluations: tuple[PublishedEvaluation, ...] = ()
    cross_validations: tuple[CrossValidation, ...] = ()
    controls: tuple[Control, ...] = ()
    audits: tuple[Audit, ...] = ()
    gates: tuple[GateReport, ...] = ()
    confidences: tuple[Confidence, ...] = ()
    map_tests: tuple[MapTests, ...] = ()
    volume_readings: tuple[VolumeReadings, ...] = ()
    patient_readings: tuple[PatientReadings, ...] = ()
    searches: tuple[Search, ...] = ()

    def put(self, entry: Entry) -> Ledger:
        """The ledger with an entry at the end of its section, without the one that has the same key."""
        sections = {get_args(field.annotation)[0]: name for name, field in type(self).model_fields.items()}
        section = sections[type(entry)]
        others = [old for old in getattr(self, section) if old.key != entry.key]
        return self.model_copy(update={section: (*others, entry)})


def figures(name: str, value: Any) -> Iterator[str]:
    """What a record holds, as `model_dump` gives it, a figure a line; an estimate as `0.81 (0.74 to 0.87)`."""
    parts = dict(enumerate(value)) if isinstance(value, tuple) and value and isinstance(value[0], dict) else value
    if isinstance(parts, dict) and not {"value", "low", "high"} <= parts.keys():
        for key, inner in parts.items():
            yield from figures(f"{name}.{key}" if name else key, inner)
    elif isinstance(parts, dict):
        yield f"{name:<60} {parts['value']:.3f} ({parts['low']:.3f} to {parts['high']:.3f})"
    elif value is not None:
        yield f"{name:<60} {value:.3f}" if isinstance(value, float) else f"{name:<60} {value}"
