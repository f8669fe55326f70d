"""Slices and other pictures -> a gate, its thresholds, and how often it is right about what it has not seen.

    data set's folds --network of the fold--> features --+                     +--> signals of what was left out
                                                         +--> fit, five times -+        |
    other pictures, dealt by source into five parts -----+                     thresholds, tables
    train slices and all pictures --the shipped network--> features --> fit --> the gate that is written

Each slice and each picture is judged by a gate whose network has not seen the slice's visual group and that was not
fitted to the picture's source; thresholds and all numbers come from these judgements. Wrong sides up are made from
upright slices, so they need no collecting.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest
from sklearn.covariance import LedoitWolf
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from tqdm.auto import tqdm

from ctscan.classes import CLASS_KEYS
from ctscan.errors import DataError, UnreadableSlice
from ctscan.evaluation.cross_validation import Setting, read_folds, read_output, write_output
from ctscan.evaluation.intervals import Answers, evaluate
from ctscan.imaging.anatomy import Pixels, find_anatomy
from ctscan.imaging.preprocess import Preprocess
from ctscan.inference.classifier import load
from ctscan.inference.gate import (
    CHEST,
    KINDS,
    NEIGHBOURS,
    Array,
    Judgement,
    Reference,
    Signals,
    decide,
    find_fault,
    measure,
    share_outside,
    tone_of,
    unit,
    view,
    where_disease_can_be,
)
from ctscan.io.images import Slice, read_slice
from ctscan.model.card import GateCard, Thresholds
from ctscan.model.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from ctscan.model.runtime import Output, Runtime, TorchRuntime, concatenate
from ctscan.notices import Notice
from ctscan.results.records import GateReport, GateRow
from ctscan.training import audit
from ctscan.training.data import FOLDS, Dataset
from ctscan.training.recipe import read_recipe

SEED = 0
SIDE = 128  # px: a third of the pass that the classifier's square takes; of 96 more slices upside down were answered
STRENGTH = 0.1  # C of the logistic regression; of 0.01, 0.1 and 1 the one that lost least at both ends
FOREIGN_WEIGHT = 5.0  # of a picture from elsewhere against a slice of the data set, of which there are many more
WRONG_PER_SLICE = 2  # of the five wrong ways up or inverted, drawn anew for each slice
PER_SLICE = 2 + WRONG_PER_SLICE  # subjects that a slice of the data set gives: as it is, in another window, wrong
BATCH = 32
# At most, of upright chests that had not been seen: one that is refused is lost, and what is in doubt is marked anyway.
REFUSED_OF_DATA, REFUSED_ELSEWHERE = 0.005, 0.03
UNUSUAL_OF_DATA, UNUSUAL_ELSEWHERE = 0.02, 0.10  # the same for doubt about what a picture shows
# Of the data's slices are called far by either distance between features, of another window, or said to have few greys.
FAR_OF_DATA = 0.01
ALARM, ALARMED_OF_DATA = 0.20, 0.05  # share of evidence outside the body that alarms; at most so many of the data's

DATA_SET, ELSEWHERE, REWINDOWED = "data set", "other hospitals", "in another window"
FOLDERS = {"ct_chest": CHEST, "ct_other": "no_lungs", "notct": "no_ct"}  # folder of pictures -> kind
WRONG: dict[str, tuple[str, Callable[[Pixels], Pixels]]] = {
    "turned by 90°": ("turned", lambda p: np.rot90(p, 1)),
    "turned by 270°": ("turned", lambda p: np.rot90(p, 3)),
    "turned by 180°": ("upside_down", lambda p: p[::-1, ::-1]),
    "flipped top to bottom": ("upside_down", lambda p: p[::-1]),
    "inverted": ("inverted", lambda p: 1 - p),
}


@dataclass(frozen=True, eq=False)
class Subject:
    """One picture that a gate is fitted to or judged on, in small."""

    square: Array  # (2, S, S): the whole picture
    tone: Array  # (TONES,)
    greys: int
    lungs: bool
    kind: str  # of KINDS, what it really shows
    group: str  # the row of the tables that it counts in
    source: str  # visual group or repository: what must not stand on both sides
    fault: Notice | None  # the rule that it breaks
    part: int = -1  # 0 to FOLDS - 1


@dataclass(frozen=True)
class Judged:
    """A picture and what the gate said of it."""

    subject: Subject
    judgement: Judgement


def fit_gate(setting: Setting, checkpoint: Path, pictures: Path) -> GateReport:
    """Fit the gate of a checkpoint, write it, and say what it does to what it had not seen.

    Args:
        setting: The data, and where the folds of the checkpoint's recipe were trained.
        checkpoint: Gets the gate.
        pictures: Folder with `ct_chest`, `ct_other` and `notct`, files named `KIND__SOURCE__NAME`.

    Raises:
        DataError: The folds were not trained or are damaged, or the pictures are not as they should be.
        ModelError: The checkpoint cannot be read.
    """
    classifier, pool = load(checkpoint), setting.pool
    card = classifier.card
    recipe = read_recipe(card.recipe)
    folder, windows = setting.folder(recipe), recipe.windows > 0
    out = read_folds(pool, FOLDS, folder)
    output = take(out.output, np.argsort(out.pool.hashes))  # in the order of the pool, which is that of the hashes
    subjects = subjects_of_data(pool, SIDE) + subjects_of_pictures(pictures, SIDE)
    outside = shares_outside(pool, output, card.preprocess)
    signals = cross_fit(subjects, folder, windows)
    thresholds = choose(signals, subjects, outside)
    judged = judge(signals, subjects, thresholds)
    # The gate that ships may learn from what its network has learned from, and from all pictures.
    of_data = len(pool) * PER_SLICE
    fitted = [s for i, s in enumerate(subjects) if i >= of_data or pool.records[i // PER_SLICE].split == "train"]
    reference = fit(run(classifier.runtime, fitted, "the gate itself"), fitted, windows)
    foreign = [s for s in fitted if not s.group.startswith(DATA_SET)]
    facts: dict[str, Any] = {
        "slices": sum(s.group == DATA_SET for s in fitted),
        "pictures": len(foreign),
        "sources": len({s.source for s in foreign}),
    }
    gated = replace(card, gate=GateCard(thresholds, facts, KINDS, SIDE))
    write_checkpoint(checkpoint, Checkpoint(gated, read_checkpoint(checkpoint).tensors, reference.to_tensors()))
    upright = [j for j in judged if j.subject.group == DATA_SET]
    scored = np.array([j.judgement.verdict != "refused" for j in upright])
    passed = Answers(output.logits, pool.labels, pool.groups).take(scored)
    return GateReport(
        model_id=card.model_id,
        **facts,
        rows=tabulate(judged),
        reasons=dict(Counter(reason.code for j in upright for reason in j.judgement.reasons).most_common()),
        refused=int((~scored).sum()),
        scored=evaluate(passed, CLASS_KEYS, setting.draws, "scored").measures["balanced_accuracy"],
        outside=thresholds.outside,
        alarmed=int((outside > thresholds.outside).sum()),
        alarm_slices=len(outside),
    )


def subjects_of_data(pool: Dataset, size: int) -> list[Subject]:
    """Slices of the data set, `PER_SLICE` subjects each; their part is their fold."""
    generator = np.random.default_rng(SEED)
    subjects = []
    for record in tqdm(pool.records, DATA_SET, unit="slice", leave=False):
        shown = record.slice, replace(record.slice, pixels=rewindow(record.pixels, generator))
        names = generator.choice(list(WRONG), WRONG_PER_SLICE, replace=False).tolist()
        for kind, group, slice_ in show(DATA_SET, *shown, zip(names, shown, strict=True)):
            subjects.append(subject(slice_, size, kind, group, f"group {record.group}", record.fold))
    return subjects


def subjects_of_pictures(folder: Path, size: int) -> list[Subject]:
    """Pictures from elsewhere, `KIND__SOURCE__NAME` in `ct_chest`, `ct_other` and `notct`, chests also in other ways.

    A picture that cannot be read would be refused anyway, and is left out.

    Raises:
        DataError: There are none, or a name is not of that form.
    """
    generator = np.random.default_rng(SEED)
    subjects = []
    files = [(path, kind) for name, kind in FOLDERS.items() for path in sorted((folder / name).glob("*"))]
    for path, kind in tqdm(files, "pictures", unit="picture", leave=False):
        try:
            slice_ = read_slice(path.read_bytes())
        except UnreadableSlice:
            continue
        if path.name.count("__") < 2:
            raise DataError(f"{path}: the name of a picture must be KIND__SOURCE__NAME.")
        what, source = path.name.split("__")[:2]
        shown = [(kind, what, slice_)]
        if kind == CHEST:
            mirrored = replace(slice_, pixels=rewindow(np.ascontiguousarray(slice_.pixels[:, ::-1]), generator))
            shown = show(ELSEWHERE, slice_, mirrored, ((name, slice_) for name in WRONG))
        subjects += [subject(seen, size, shows, group, source) for shows, group, seen in shown]
    if not {s.kind for s in subjects} >= {CHEST, "no_lungs", "no_ct"}:
        raise DataError(f"The folder of pictures needs {', '.join(FOLDERS)} with files KIND__SOURCE__NAME in each.")
    return deal(subjects)


def subject(slice_: Slice, size: int, kind: str, group: str, source: str, part: int = -1) -> Subject:
    """What the gate keeps of a slice."""
    anatomy = find_anatomy(slice_.pixels)
    tone, greys = tone_of(slice_.pixels, anatomy)
    square = view(size).square(slice_.pixels, anatomy)
    return Subject(square, tone, greys, bool(anatomy.lungs), kind, group, source, find_fault(slice_), part)


def show(
    group: str, slice_: Slice, rewindowed: Slice, wrong: Iterable[tuple[str, Slice]]
) -> list[tuple[str, str, Slice]]:
    """Kind, row of the tables and slice: as it is, in another window, and others in some of the `WRONG` ways."""
    shown = [(CHEST, group, slice_), (CHEST, f"{group}, {REWINDOWED}", rewindowed)]
    for name, right in wrong:
        kind, spoil = WRONG[name]
        pixels = np.ascontiguousarray(spoil(right.pixels))
        shown.append((kind, f"{group}, {name}", replace(right, pixels=pixels)))
    return shown


def rewindow(pixels: Pixels, generator: np.random.Generator) -> Pixels:
    """The slice as another window might have saved it: greys clipped at both ends, the rest bent."""
    low, high, bend = generator.uniform(0, 0.25), generator.uniform(0.55, 1), np.exp(generator.uniform(-0.5, 0.5))
    return np.asarray(np.clip((pixels - low) / (high - low), 0, 1) ** bend, np.float32)


def deal(subjects: list[Subject]) -> list[Subject]:
    """The same in `FOLDS` parts: no source in two of them, the kinds spread evenly."""
    parts = audit.deal([s.kind for s in subjects], [s.source for s in subjects])
    return [replace(s, part=part) for s, part in zip(subjects, parts.tolist(), strict=True)]


def shares_outside(pool: Dataset, output: Output, preprocess: Preprocess) -> NDArray[np.float64]:
    """(N,): of the top class's positive evidence, the share outside the body, by the network of each slice's fold."""
    maps = np.maximum(output.maps[np.arange(len(pool)), output.logits.argmax(axis=1)], 0)
    shares = []
    for record, evidence in zip(tqdm(pool.records, "evidence", unit="slice", leave=False), maps, strict=True):
        anatomy = find_anatomy(record.pixels)
        shares.append(share_outside(evidence, preprocess.place(anatomy), where_disease_can_be(anatomy)))
    return np.nan_to_num(shares)


def see_all(folder: Path, fold: int, subjects: Sequence[Subject]) -> Output:
    """What the network of a fold says of all subjects; kept in the folder, so that a stopped study goes on."""
    digest = sha256()
    for s in subjects:
        digest.update(s.square.tobytes())
    path = folder / f"gate-{fold}-{digest.hexdigest()[:12]}.npz"
    if not path.exists():
        runtime = TorchRuntime.from_checkpoint(read_checkpoint(folder / f"fold-{fold}.safetensors"))
        write_output(path, run(runtime, subjects, f"fold {fold}"))
    return read_output(path)


def run(runtime: Runtime, subjects: Sequence[Subject], title: str) -> Output:
    """What a network says of all whole pictures; with a progress bar."""
    starts = tqdm(range(0, len(subjects), BATCH), title, unit="batch", leave=False)
    return concatenate([runtime.run(np.stack([s.square for s in subjects[i : i + BATCH]])) for i in starts])


def take(output: Output, index: NDArray[np.integer] | NDArray[np.bool_]) -> Output:
    """The rows at these places."""
    return Output(*(getattr(output, f.name)[index] for f in fields(Output)))


def cross_fit(subjects: Sequence[Subject], folder: Path, windows: bool) -> list[Signals]:
    """Signals of all subjects, each from the part that it is in: network and gate have not seen its source.

    The folder holds the network of each part's fold; `windows` as in `fit`.
    """
    parts = np.array([s.part for s in subjects])
    signals: dict[int, Signals] = {}
    for part in range(FOLDS):
        output, inside = see_all(folder, part, subjects), parts == part
        reference = fit(take(output, ~inside), [s for s in subjects if s.part != part], windows)
        asked = [s for s in subjects if s.part == part]
        tones, greys, lungs = np.stack([s.tone for s in asked]), [s.greys for s in asked], [s.lungs for s in asked]
        judged = measure(take(output, inside), tones, greys, lungs, reference)
        signals |= dict(zip(np.flatnonzero(inside).tolist(), judged, strict=True))
    return [signals[place] for place in range(len(subjects))]


def fit(output: Output, subjects: Sequence[Subject], windows: bool = False) -> Reference:
    """Features and what each picture shows -> a reference. Upright slices of the data set are what is near.

    Where the network has learned from slices in other `windows` too, the greys of these are as usual as the data's own.
    """
    kinds = np.array([s.kind for s in subjects])
    weight = np.array([1.0 if s.group.startswith(DATA_SET) else FOREIGN_WEIGHT for s in subjects])
    weights, bias = fit_linear(np.concatenate([output.pooled, output.shallow], axis=1), kinds, weight)
    near = np.array([s.group == DATA_SET for s in subjects])
    neighbours, covariance = unit(output.pooled[near]), LedoitWolf().fit(output.shallow[near])
    # Usual is the mean distance to the nearest slices in other visual groups.
    distances = np.sqrt(np.maximum(2 - 2 * (neighbours @ neighbours.T), 0))
    sources = np.array([s.source for s in subjects])[near]
    distances[np.equal.outer(sources, sources)] = np.inf
    usual = np.median(np.sort(distances, axis=1)[:, :NEIGHBOURS].mean(axis=1))
    usual_greys = (DATA_SET, f"{DATA_SET}, {REWINDOWED}") if windows else (DATA_SET,)
    return Reference(
        weights=weights,
        bias=bias,
        neighbours=neighbours,
        usual=np.array([usual], np.float32),
        mean=covariance.location_.astype(np.float32),
        whitening=np.linalg.cholesky(covariance.precision_).astype(np.float32),
        tones=np.stack([s.tone for s in subjects if s.group in usual_greys]),
    )


def fit_linear(features: Array, kinds: NDArray[np.str_], weight: NDArray[np.float64]) -> tuple[Array, Array]:
    """Multinomial logistic regression in which every kind weighs the same, standardisation folded in: (K, C), (K,)."""
    total = {kind: weight[kinds == kind].sum() for kind in KINDS}
    share = weight / np.array([total[kind] for kind in kinds])
    scaler = StandardScaler().fit(features)
    order = np.array([KINDS.index(kind) for kind in kinds])
    model = LogisticRegression(C=STRENGTH, max_iter=1000)
    model.fit(scaler.transform(features), order, sample_weight=share / share.mean())
    weights = model.coef_ / scaler.scale_
    return weights.astype(np.float32), (model.intercept_ - weights @ scaler.mean_).astype(np.float32)


def choose(signals: Sequence[Signals], subjects: Sequence[Subject], outside: NDArray[np.float64]) -> Thresholds:
    """Thresholds from upright chests that neither network nor gate had seen.

    `outside` are the shares of evidence outside the body on the data set's slices.
    """

    def quantile(name: str, share: float, group: str = DATA_SET) -> float:
        values = [getattr(g, name) for g, s in zip(signals, subjects, strict=True) if s.group == group]
        return float(np.quantile(values, share))

    refused = min(quantile("chest", REFUSED_OF_DATA), quantile("chest", REFUSED_ELSEWHERE, ELSEWHERE))
    unusual = min(quantile("chest", UNUSUAL_OF_DATA), quantile("chest", UNUSUAL_ELSEWHERE, ELSEWHERE))
    return Thresholds(
        refused=refused,
        unusual=max(refused, unusual),
        far=quantile("distance", 1 - FAR_OF_DATA),
        strange=quantile("strangeness", 1 - FAR_OF_DATA),
        tone=quantile("tone", 1 - FAR_OF_DATA),
        greys=quantile("greys", FAR_OF_DATA),
        outside=max(ALARM, float(np.quantile(outside, 1 - ALARMED_OF_DATA, method="higher"))),
    )


def judge(signals: Sequence[Signals], subjects: Sequence[Subject], at: Thresholds) -> list[Judged]:
    """The verdicts, rules first, as the gate gives them."""
    return [
        Judged(s, Judgement("refused", (s.fault,)) if s.fault else decide(g, at))
        for g, s in zip(signals, subjects, strict=True)
    ]


def tabulate(judged: Sequence[Judged]) -> tuple[GateRow, ...]:
    """One row for each group of upright chests, and one for each kind of picture."""
    subjects = [j.subject for j in judged]
    rows = dict.fromkeys([(CHEST, s.group) for s in subjects if s.kind == CHEST] + [(s.kind, "") for s in subjects])
    return tuple(
        count_verdicts(kind, group, [j for j in judged if j.subject.kind == kind and group in ("", j.subject.group)])
        for kind, group in rows
    )


def count_verdicts(kind: str, group: str, judged: Sequence[Judged]) -> GateRow:
    """Counts by verdict, and two shares with exact intervals, pictures taken as independent: refused, and not ok."""
    n, verdicts = len(judged), Counter(j.judgement.verdict for j in judged)
    refused, unusual = verdicts["refused"], verdicts["unusual"]
    told = [(j.subject, j.judgement.reasons[0]) for j in judged if j.judgement.reasons]
    intervals = (binomtest(k, n).proportion_ci(method="exact") for k in (refused, refused + unusual))
    refused95, not_ok95 = ((float(interval.low), float(interval.high)) for interval in intervals)
    return GateRow(
        kind=kind,
        group=group,
        n=n,
        sources=len({j.subject.source for j in judged}),
        refused=refused,
        unusual=unusual,
        ok=verdicts["ok"],
        named=sum(first == shown.fault or first.code == shown.kind for shown, first in told),
        refused95=refused95,
        not_ok95=not_ok95,
    )
