"""Ledger and card -> what the texts and the page read of one model: its records, and verdicts on them. No words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from ctscan.classes import CLASS_KEYS
from ctscan.model.card import Card
from ctscan.results import records
from ctscan.results.records import CrossValidation, Entry, GateRow, Ledger, Reading

HEADLINE_THRESHOLD = 0.90  # of the visual groups whose number is reported first
STRICT_THRESHOLD = 0.85
CHANCE = 0.25  # balanced accuracy of a guess among four classes
SHORTCUT = 0.65  # AUROC of normal against tumour without lungs or body, above which "normal" is in doubt
# Adenocarcinoma against squamous carcinoma from tumour-centred CT, 311 patients: Chaunzwa et al., Sci Rep 2021.
SUBTYPE, SUBTYPE_LITERATURE, SUBTYPE_SUSPECT = "auroc.adenocarcinoma.squamous_cell_carcinoma", 0.71, 0.80
PUBLISHED_TEST = 315  # slices of the published test split, of which not all could be had
# What the seed design reports of itself on the published split: accuracy and mean cross-entropy.
SEED_DESIGN = {"train": (0.9953, 0.0231), "test": (0.8914, 0.3442)}

Found = TypeVar("Found", bound=Entry)


@dataclass(frozen=True)
class Facts:
    """The newest record of each kind that is about one model; None and empty where there is none."""

    card: Card
    reading: Reading | None = None  # the training's own scores of the published splits
    seed: Reading | None = None  # the same of the seed recipe's newest model
    published: records.PublishedEvaluation | None = None
    deduplicated: records.PublishedEvaluation | None = None
    grouped: CrossValidation | None = None
    again: CrossValidation | None = None  # the same on the same folds from another seed
    stricter: CrossValidation | None = None  # the same recipe where visual groups are linked at `STRICT_THRESHOLD`
    plain: CrossValidation | None = None  # the plain recipe, whatever model came of it
    controls: Mapping[str, records.Control] = field(default_factory=dict)  # by name, of the model's view
    plain_controls: Mapping[str, records.Control] = field(default_factory=dict)  # of the plain recipe's view
    audit: records.Audit | None = None
    gate: records.GateReport | None = None
    confidence: records.Confidence | None = None
    maps: records.MapTests | None = None
    volumes: records.VolumeReadings | None = None
    patients: records.PatientReadings | None = None  # from elsewhere, with known histology
    search: records.Search | None = None

    @property
    def is_evaluated(self) -> bool:
        """Whether it is known how the model does on scans that it knows, and its recipe on those it does not."""
        return self.published is not None and self.grouped is not None

    @property
    def normal_is_doubtful(self) -> bool:
        """Whether a network that could see no disease told normal from tumour better than is allowed.

        False also where no such control was trained: then nothing is known.
        """
        hidden = [control for name, control in self.controls.items() if name in ("border_only", "tone_only")]
        return any(control.auroc_normal.value > SHORTCUT for control in hidden)

    @property
    def shuffled_is_chance(self) -> bool:
        """Whether shuffled labels teach nothing, within two standard errors: else something crosses the folds."""
        shuffled = self.controls.get("shuffled_labels")
        return shuffled is None or abs(shuffled.balanced_accuracy.value - CHANCE) <= 2 * shuffled.balanced_accuracy.se

    @property
    def subtype_is_suspect(self) -> bool:
        """Whether two kinds of tumour are told apart better than patients with known histology allow."""
        found = self.grouped.result.measures.get(SUBTYPE) if self.grouped else None
        return found is not None and found.value > SUBTYPE_SUSPECT

    @property
    def missed_classes(self) -> list[str]:
        """Classes whose slices have their own class in the set too rarely, with all of the interval."""
        if self.confidence is None:
            return []
        sets = self.confidence.sets
        return [key for key in CLASS_KEYS if key in sets.coverage and sets.coverage[key].high < 1 - sets.alpha]

    @property
    def maps_follow_weights(self) -> bool:
        """Whether maps of a network with random weights are less alike the true ones than two slices' maps are."""
        if self.maps is None:
            return False
        *_, last = self.maps.randomised.values()
        return last.spearman < self.maps.pairs.spearman and last.ssim < self.maps.pairs.ssim

    @property
    def maps_mark_the_answer(self) -> bool:
        """Whether filling in what a map marks costs more than by a random and by a centred map, intervals and all."""
        return self.maps is not None and min(self.maps.road_over_random.low, self.maps.road_over_centre.low) > 0

    def gate_row(self, kind: str, group: str = "") -> GateRow:
        """The gate's verdicts on a kind of picture or on one group of it."""
        rows = self.gate.rows if self.gate else ()
        return next(row for row in rows if (row.kind, row.group) == (kind, group))


def _newest(entries: Sequence[Found], **about: object) -> Found | None:
    """The last of the entries that are about all this; the ledger holds them oldest first."""
    return next((e for e in reversed(entries) if all(getattr(e, name) == value for name, value in about.items())), None)


def facts_of(ledger: Ledger, card: Card) -> Facts:
    """What the ledger says of the model of a card."""
    model, headline = card.model_id, HEADLINE_THRESHOLD
    grouped = _newest(ledger.cross_validations, model_id=model, threshold=headline)
    plain = _newest(ledger.cross_validations, recipe_name="plain", threshold=headline)
    recipe, plain_recipe = grouped and grouped.recipe, plain and plain.recipe
    controls = [e for e in ledger.controls if e.threshold == headline]
    return Facts(
        card=card,
        reading=_newest(ledger.readings, model_id=model),
        seed=_newest(ledger.readings, recipe_name="seed"),
        published=_newest(ledger.evaluations, model_id=model, split="published"),
        deduplicated=_newest(ledger.evaluations, model_id=model, split="deduplicated"),
        grouped=grouped,
        again=_newest(ledger.cross_validations, seed_of=recipe, threshold=headline) if recipe else None,
        stricter=_newest(ledger.cross_validations, recipe=recipe, threshold=STRICT_THRESHOLD),
        plain=plain,
        controls={e.control: e for e in controls if e.recipe == recipe},
        plain_controls={e.control: e for e in controls if e.recipe == plain_recipe},
        audit=_newest(ledger.audits),
        gate=_newest(ledger.gates, model_id=model),
        confidence=_newest(ledger.confidences, recipe=recipe, threshold=headline),
        maps=_newest(ledger.map_tests, model_id=model),
        volumes=_newest(ledger.volume_readings, model_id=model),
        patients=_newest(ledger.patient_readings, model_id=model),
        search=_newest(ledger.searches),
    )
