"""How a gate is fitted and measured: against scikit-learn, and what its thresholds promise."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sklearn.covariance import LedoitWolf
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from ctscan.errors import DataError
from ctscan.evaluation.gate import (
    Judged,
    Subject,
    choose,
    count_verdicts,
    deal,
    fit,
    fit_linear,
    judge,
    subject,
    subjects_of_pictures,
    tabulate,
)
from ctscan.imaging.anatomy import find_anatomy
from ctscan.imaging.phantom import draw_phantom
from ctscan.inference.classifier import Classifier
from ctscan.inference.gate import CHEST, KINDS, Gate, Judgement, Signals, measure
from ctscan.io.images import read_slice
from ctscan.model.runtime import Output
from ctscan.results.ledger import read_ledger
from ctscan.results.summary import facts_of
from tests.conftest import ROOT
from tests.samples import png_of

EXAMPLES = sorted((ROOT / "examples").glob("*.png"))


@pytest.fixture(scope="module")
def subjects() -> list[Subject]:
    square, tone = np.zeros((1, 32, 32), np.float32), np.linspace(0, 1, 6, dtype=np.float32)
    kinds = [CHEST] * 60 + [KINDS[1 + i % 5] for i in range(60)]
    groups = ["data set"] * 50 + ["other hospitals"] * 10 + ["elsewhere"] * 60
    return [
        Subject(square, tone, 200, True, k, g, f"source {i // 4}", None)
        for i, (k, g) in enumerate(zip(kinds, groups, strict=True))
    ]


def test_mahalanobis_is_scikit_learns(features: Output, subjects: list[Subject]) -> None:
    reference = fit(features, subjects)
    tones, greys = np.stack([s.tone for s in subjects]), [s.greys for s in subjects]
    found = [s.strangeness for s in measure(features, tones, greys, [True] * len(greys), reference)]
    squared = LedoitWolf().fit(features.shallow[:50]).mahalanobis(features.shallow)
    assert found == pytest.approx(np.sqrt(squared), rel=1e-3)


@pytest.mark.parametrize(("windows", "known"), [(False, 50), (True, 55)])
def test_other_windows_are_usual_where_the_network_learned_from_them(
    windows: bool, known: int, features: Output, subjects: list[Subject]
) -> None:
    half = np.float32(0.5)
    other = [replace(s, group="data set, in another window", tone=s.tone * half) for s in subjects[50:55]]
    reference = fit(features, [*subjects[:50], *other, *subjects[55:]], windows)
    assert len(reference.tones) == known
    assert len(reference.neighbours) == 50
    seen = measure(features, np.stack([s.tone * half for s in subjects]), [200] * 120, [True] * 120, reference)
    assert (seen[0].tone == pytest.approx(0, abs=1e-6)) is windows


def test_the_linear_layer_is_scikit_learns(features: Output, subjects: list[Subject]) -> None:
    kinds = np.array([s.kind for s in subjects])
    both = np.concatenate([features.pooled, features.shallow], axis=1)
    weights, bias = fit_linear(both, kinds, np.ones(len(kinds)))
    scaled = StandardScaler().fit_transform(both)
    order = np.array([KINDS.index(k) for k in kinds])
    model = LogisticRegression(C=0.1, max_iter=1000, class_weight="balanced").fit(scaled, order)
    logits = both @ weights.T + bias
    ours = np.exp(logits - logits.max(axis=1, keepdims=True))
    assert ours / ours.sum(axis=1, keepdims=True) == pytest.approx(model.predict_proba(scaled), abs=2e-3)


def signals(**changed: object) -> Signals:
    calm = Signals((0.95, 0.01, 0.01, 0.01, 0.01, 0.01), 1.0, 10.0, 0.01, 200, True)
    return replace(calm, **changed)  # type: ignore[arg-type]


def test_thresholds_keep_what_they_promise() -> None:
    generator = np.random.default_rng(1)
    chests = [signals(kinds=(p, 1 - p, 0, 0, 0, 0), tone=t) for p, t in generator.random((1000, 2)) ** [0.05, 1]]
    square, tone = np.zeros((1, 8, 8), np.float32), np.zeros(6, np.float32)
    own = [
        Subject(square, tone, 200, True, CHEST, "data set" if i < 800 else "other hospitals", str(i), None)
        for i in range(1000)
    ]
    outside = generator.random(800) ** 3
    at = choose(chests, own, outside)
    judged = judge(chests, own, at)
    for group, limit in (("data set", 0.05), ("other hospitals", 0.10)):
        verdicts = [j.judgement.verdict for j in judged if j.subject.group == group]
        assert verdicts.count("refused") <= limit * len(verdicts)
    assert (outside > at.outside).mean() <= 0.05
    assert at.refused <= at.unusual
    rows = tabulate(judged)
    assert sum(r.n for r in rows if r.group) == 1000
    assert all(r.refused + r.unusual + r.ok == r.n for r in rows)


def test_no_source_is_in_two_parts(subjects: list[Subject]) -> None:
    dealt = deal(subjects)
    for source in {s.source for s in dealt}:
        assert len({s.part for s in dealt if s.source == source}) == 1
    assert {s.part for s in dealt} == set(range(5))


@pytest.mark.parametrize("name", ["chest.png", "kind__chest.png"])
def test_a_picture_whose_name_does_not_tell_its_source_is_named(name: str, tmp_path: Path) -> None:
    (tmp_path / "ct_chest").mkdir()
    (tmp_path / "ct_chest" / "README").write_text("no picture")
    (tmp_path / "ct_chest" / name).write_bytes(png_of(draw_phantom(300, 400)))
    with pytest.raises(DataError, match=f"{name}: the name of a picture must be KIND__SOURCE__NAME"):
        subjects_of_pictures(tmp_path, 64)


def test_exact_intervals_are_those_of_the_tables(subjects: list[Subject]) -> None:
    def counted(refused: int) -> list[Judged]:
        return [Judged(s, Judgement("refused" if i < refused else "ok")) for i, s in enumerate(subjects[:10])]

    assert count_verdicts(CHEST, "", counted(0)).refused95 == pytest.approx((0, 0.3085), abs=1e-4)
    assert count_verdicts(CHEST, "", counted(5)).refused95 == pytest.approx((0.1871, 0.8129), abs=1e-4)


def test_the_gate_sees_the_subject_that_it_was_fitted_to(committed: Classifier) -> None:
    slice_ = read_slice(EXAMPLES[0].read_bytes())
    assert committed.card.gate is not None
    seen = subject(slice_, committed.card.gate.size, CHEST, "data set", "", 0)
    output = committed.runtime.run(seen.square[None])
    assert isinstance(committed.gate, Gate)
    expected = measure(output, seen.tone[None], [seen.greys], [seen.lungs], committed.gate.reference)
    assert committed.gate.measure([slice_], [find_anatomy(slice_.pixels)]) == expected


def test_the_ledger_holds_what_the_committed_gate_is_worth(committed: Classifier) -> None:
    facts = facts_of(read_ledger(ROOT / "checkpoints" / "metrics.json"), committed.card)
    assert facts.gate is not None
    for row in facts.gate.rows:
        assert row.refused + row.unusual + row.ok == row.n
    assert facts.gate_row("chest", "data set").refused == facts.gate.refused
