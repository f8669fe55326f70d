"""What metrics.json holds: measurements as typed records. Figures only; the words that explain them stand in templates.

A record names what it is about: a model by its `model_id` (which two different sets of weights never share), a recipe
by its digest, and the correlation from which two slices belong to one visual group. Those fields are its `key`: a new
record takes the place of the old one with the same key.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

Figures = tuple[float, float]
ControlName = Literal["shuffled_labels", "border_only", "lungs_black", "tone_only"]


class Record(BaseModel):
    """Cannot be changed, and refuses fields that it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Entry(Record):
    """A record that stands in a section of the ledger.

    Attributes:
        date: Day of the measurement, ISO 8601.
    """

    section: ClassVar[str]  # of the ledger
    about: ClassVar[tuple[str, ...]]  # names of the fields that make up the key
    date: str = Field(pattern=r"^\d{4}-\d\d-\d\d$")

    @property
    def key(self) -> tuple[object, ...]:
        """What this is about; no two entries of a section share it."""
        return tuple(getattr(self, name) for name in self.about)


class Estimate(Record):
    """A value with its 95 % interval over visual groups, and the standard error behind it."""

    value: float
    low: float
    high: float
    se: float


class Score(Record):
    """How a model did on `n` slices of a published split; Wilson's 95 % interval, slices taken as independent."""

    n: int
    accuracy: float
    interval95: Figures
    cross_entropy: float  # mean, natural logarithm


class Evaluation(Record):
    """All measures of some answers that are defined.

    Attributes:
        n: Slices.
        groups: Visual groups that they belong to.
        measures: By the names of `ctscan.metrics.measures`.
        confusion: [true class][predicted class], in the order of `CLASS_KEYS`.
    """

    n: int
    groups: int
    measures: dict[str, Estimate]
    confusion: tuple[tuple[int, ...], ...]


class Reading(Entry):
    """The scores of a training on the published splits, by split: train, valid, test."""

    section = "readings"
    about = ("model_id",)
    model_id: str
    recipe: str  # digest
    recipe_name: str
    scores: dict[str, Score]


class PublishedEvaluation(Entry):
    """A model on the published test split, whole or without the slices that train and valid hold too."""

    section = "evaluations"
    about = ("model_id", "split")
    model_id: str
    split: Literal["published", "deduplicated"]
    threshold: float  # of the visual groups of the intervals
    refused: int  # slices that the gate gave no score; they are not in `result`
    result: Evaluation


class Fold(Record):
    """One fold, scored by the network that was trained on the others."""

    fold: int
    n: int
    groups: int
    accuracy: float
    balanced_accuracy: float
    auroc_macro: float
    auroc_normal: float


class Difference(Record):
    """Measures minus those of another recipe on the same slices, groups drawn for both."""

    recipe: str  # digest of the other
    measures: dict[str, Estimate]


class CrossValidation(Entry):
    """A recipe out of fold: no visual group lies in two folds.

    Attributes:
        recipe: Digest.
        model_id: The model that has this recipe, where there is one; `published_minus_grouped` is about it.
        size: Side of the model's square, px.
        threshold: Correlation from which two slices belong to one visual group.
        histogram_fall: Balanced accuracy that is lost when all slices get one histogram.
    """

    section = "cross_validations"
    about = ("recipe", "threshold")
    recipe: str
    recipe_name: str
    size: int
    epochs: int
    threshold: float
    model_id: str | None = None
    folds: tuple[Fold, ...]
    result: Evaluation
    histogram_fall: Estimate | None = None
    published_minus_grouped: dict[str, Estimate] | None = None
    against: Difference | None = None


class Control(Entry):
    """A training that must fail, on the grouped folds, with the view of the recipe that it is about.

    Attributes:
        recipe: Digest of the recipe whose preprocessing it shares; `size` and `epochs` are the control's own.
        repeats: Trainings of each fold; more than one for shuffled labels alone.
        auroc_normal: Normal against tumour.
    """

    section = "controls"
    about = ("control", "recipe", "threshold")
    control: ControlName
    recipe: str
    size: int
    epochs: int
    threshold: float
    folds: int
    repeats: int
    n: int
    groups: int
    balanced_accuracy: Estimate
    auroc_normal: Estimate


class Audit(Entry):
    """What the data holds twice. Counts are of files or of distinct images; thresholds are written `0.90`."""

    section = "audits"
    about = ("manifest",)
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
    """Verdicts on pictures of one kind, or of one group of a kind; exact 95 % intervals (Clopper and Pearson).

    Attributes:
        named: How many were given the reason that is true of them.
        not_ok95: Of the share that was refused or marked unusual.
    """

    kind: str
    group: str  # empty: all of the kind
    n: int
    sources: int
    refused: int
    unusual: int
    ok: int
    named: int
    refused95: Figures
    not_ok95: Figures


class GateReport(Entry):
    """What the gate of a model does to pictures of sources that it had not seen.

    Attributes:
        pictures: That the shipped gate was fitted to, besides `slices` of the data set.
        reasons: Slices of the data set by the code of a notice that they were given.
        rows: One for each kind of picture, and one for each group of upright chests.
        refused: Slices of the data set that got no score; `scored` is the balanced accuracy out of fold of the others.
        outside: Share of positive evidence outside the body above which a notice is given.
        alarmed: Slices of the data set that got this notice, of `alarm_slices`.
    """

    section = "gates"
    about = ("model_id",)
    model_id: str
    slices: int
    pictures: int
    sources: int
    rows: tuple[GateRow, ...]
    reasons: dict[str, int]
    refused: int
    scored: Estimate
    outside: float
    alarmed: int
    alarm_slices: int


class Coverage(Record):
    """Share of sets that hold the true class, one slice a visual group; exact 95 % interval over `groups`."""

    value: float
    low: float
    high: float
    groups: int


class Sets(Record):
    """Sets of the classes that remain possible, judged out of fold.

    Attributes:
        alpha: Share of each class's scans whose set may miss it.
        coverage: By class key.
        size: Mean number of classes in a set.
        single: Share of sets of one class; `empty`: of none.
    """

    alpha: float
    coverage: dict[str, Coverage]
    size: float
    single: float
    empty: float


class Confidence(Entry):
    """Temperature and sets of a recipe from its answers out of fold, and what they are worth.

    Attributes:
        raw: `nll`, `brier`, `ece`, `augrc` and `risk_at_80` of the scores as they are.
        calibrated: The same, each fold at the temperature of the others.
        perfect_ece: 95th percentile of the error of a perfectly calibrated model of as few groups.
    """

    section = "confidences"
    about = ("recipe", "threshold")
    recipe: str
    threshold: float
    folds: int
    temperature: Estimate
    raw: dict[str, Estimate]
    calibrated: dict[str, Estimate]
    perfect_ece: float
    sets: Sets


class Likeness(Record):
    """How alike maps are on average; 1 for the same."""

    spearman: float
    ssim: float


class Lesion(Record):
    """Evidence and a radiologist's outline in one volume under one window: shares are means over the slices.

    Attributes:
        inside: Share of the evidence that lies in the outline.
        area: Share of the body that the outline covers.
        peaks: Slices whose strongest place lies in the outline.
    """

    volume: str
    window: str
    slices: int
    inside: float
    area: float
    peaks: int


class MapTests(Entry):
    """The maps of a model put to the test on `n` slices of the published test split, one a visual group.

    Attributes:
        randomised: Likeness to the true maps, by the lowest block at random; the last has all weights at random.
        pairs: Likeness of the maps of two different slices.
        road: Probability lost by filling in what a map marks most instead of least; its lead over two other maps.
        outside: Mean share of the evidence that lies outside the body, and its lead over evenly spread evidence.
    """

    section = "map_tests"
    about = ("model_id",)
    model_id: str
    n: int
    randomised: dict[str, Likeness]
    pairs: Likeness
    road: Estimate
    road_over_random: Estimate
    road_over_centre: Estimate
    outside: Estimate
    outside_lead: Estimate
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

    section = "volume_readings"
    about = ("model_id",)
    model_id: str
    outlined: tuple[Ranking, ...]
    free: tuple[Alarms, ...]


class Search(Entry):
    """A search for a recipe, summed up: trials by how they ended, and what the result depends on (fANOVA)."""

    section = "searches"
    about = ("date",)
    folds: int
    trials: dict[str, int]  # by state: complete, pruned, fail
    lowest_loss: float | None = None
    importance: dict[str, float]


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
    searches: tuple[Search, ...] = ()
