"""The gate: rules, the committed file, the maths against scikit-learn, and what it says of pictures drawn here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.covariance import LedoitWolf
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import StandardScaler

from ctscan.errors import DataError, ModelError
from ctscan.evaluation.gate import (
    WRONG,
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
from ctscan.inference.answer import answer
from ctscan.inference.classifier import Classifier
from ctscan.inference.gate import (
    CHEST,
    FAR,
    FEW_GREYS,
    KINDS,
    NEIGHBOURS,
    OTHER_WINDOW,
    STRANGE,
    UNGATED,
    WHAT_IT_IS,
    Judgement,
    Reference,
    Signals,
    Thresholds,
    decide,
    distance,
    measure,
    tone_of,
    unit,
)
from ctscan.inference.gate_file import GateCard, gate_path, read_gate, write_gate
from ctscan.inference.rules import find_fault
from ctscan.io.images import Slice, read_slice
from ctscan.model.runtime import Output
from ctscan.results.ledger import read_ledger
from ctscan.results.summary import facts_of
from tests.conftest import COMMITTED, ROOT

EXAMPLES = sorted((ROOT / "examples").glob("*.png"))
AT = Thresholds(refused=0.5, unusual=0.8, far=2.0, strange=20.0, tone=0.04, greys=64, outside=0.2)
needs_gate = pytest.mark.skipif(not gate_path(COMMITTED).exists(), reason="no gate is committed")


@pytest.fixture(scope="module")
def committed() -> Classifier:
    return Classifier.load(COMMITTED)


def png(pixels: NDArray[np.floating]) -> bytes:
    return cv2.imencode(".png", np.rint(np.asarray(pixels) * 255).astype(np.uint8))[1].tobytes()


# --- rules


@pytest.mark.parametrize(
    ("slice_", "words"),
    [
        (Slice(draw_phantom(40, 300)), "only 300 × 40"),
        (Slice(draw_phantom(100, 300)), "far longer than wide"),
        (Slice(draw_phantom(300, 400), colour=0.2), "in colour"),
        (Slice(np.full((200, 200), 0.5, np.float32)), "one grey"),
    ],
)
def test_a_broken_rule_is_named(slice_: Slice, words: str) -> None:
    assert words in (find_fault(slice_) or "")


def test_a_chest_breaks_no_rule() -> None:
    assert find_fault(Slice(draw_phantom(300, 400))) is None
    assert find_fault(Slice(draw_phantom(300, 400), colour=0.02)) is None  # a coloured arrow


def test_colour_is_measured_from_the_channels() -> None:
    grey = np.rint(draw_phantom(200, 200) * 255).astype(np.uint8)
    colours = np.dstack([grey, grey, grey])
    colours[:50, :, 2] = 255 - colours[:50, :, 2]
    share = read_slice(cv2.imencode(".png", colours)[1].tobytes()).colour
    unequal = np.abs(colours[..., 2].astype(int) - colours[..., 0]) > 24
    assert share == pytest.approx(unequal.mean())
    assert share > 0.1
    assert read_slice(cv2.imencode(".png", np.dstack([grey] * 3))[1].tobytes()).colour == 0
    assert read_slice(cv2.imencode(".jpg", np.dstack([grey] * 3))[1].tobytes()).colour == 0


# --- the maths, against scikit-learn


@pytest.fixture(scope="module")
def features() -> Output:
    generator = np.random.default_rng(0)
    pooled, shallow = generator.gamma(2, 1, (120, 512)), generator.gamma(2, 1, (120, 128))
    pooled[60:] += generator.gamma(1, 1, 512)
    nothing = np.zeros((120, 4, 1, 1), np.float32)
    return Output(nothing[..., 0, 0], nothing, pooled.astype(np.float32), shallow.astype(np.float32))


@pytest.fixture(scope="module")
def subjects() -> list[Subject]:
    square, tone = np.zeros((1, 32, 32), np.float32), np.linspace(0, 1, 6, dtype=np.float32)
    kinds = [CHEST] * 60 + [KINDS[1 + i % 5] for i in range(60)]
    groups = ["data set"] * 50 + ["other hospitals"] * 10 + ["elsewhere"] * 60
    return [
        Subject(square, tone, 200, k, g, f"source {i // 4}", None)
        for i, (k, g) in enumerate(zip(kinds, groups, strict=True))
    ]


def test_neighbours_are_scikit_learns(features: Output) -> None:
    known, asked = unit(features.pooled[:60]), unit(features.pooled[60:])
    expected = NearestNeighbors(n_neighbors=NEIGHBOURS).fit(known).kneighbors(asked)[0].mean(axis=1)
    assert distance(asked, known) == pytest.approx(expected, abs=1e-4)


def test_mahalanobis_is_scikit_learns(features: Output, subjects: list[Subject]) -> None:
    reference = fit(features, subjects)
    tones, greys = np.stack([s.tone for s in subjects]), np.array([s.greys for s in subjects])
    found = [s.strangeness for s in measure(features, tones, greys, reference)]
    squared = LedoitWolf().fit(features.shallow[:50]).mahalanobis(features.shallow)
    assert found == pytest.approx(np.sqrt(squared), rel=1e-3)


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


def test_tones_are_of_the_body_alone() -> None:
    chest = draw_phantom(300, 400)
    around = np.pad(chest, 100)
    assert tone_of(around, find_anatomy(around))[0] == pytest.approx(tone_of(chest, find_anatomy(chest))[0], abs=0.05)
    posterised = (np.rint(chest * 7) / 7).astype(np.float32)
    assert tone_of(posterised, find_anatomy(posterised))[1] <= 8


# --- verdicts


def signals(**changed: object) -> Signals:
    calm = Signals((0.95, 0.01, 0.01, 0.01, 0.01, 0.01), 1.0, 10.0, 0.01, 200)
    return replace(calm, **changed)  # type: ignore[arg-type]


def test_a_calm_slice_is_ok() -> None:
    assert decide(signals(), AT).verdict == "ok"
    assert decide(signals(), AT).reasons == ()


@pytest.mark.parametrize("kind", range(1, len(KINDS)))
def test_what_a_picture_shows_is_the_reason(kind: int) -> None:
    for chest, verdict in ((0.3, "refused"), (0.7, "unusual")):
        kinds = [0.0] * len(KINDS)
        kinds[0], kinds[kind] = chest, 1 - chest
        given = decide(signals(kinds=tuple(kinds)), AT)
        assert given.verdict == verdict
        assert given.reasons == (WHAT_IT_IS[KINDS[kind]],)


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"distance": 2.1}, FAR),
        ({"strangeness": 20.1}, STRANGE),
        ({"tone": 0.05}, OTHER_WINDOW),
        ({"greys": 16}, FEW_GREYS),
    ],
)
def test_distance_makes_unusual_and_never_refuses(changed: dict[str, float], reason: str) -> None:
    given = decide(signals(**changed), AT)
    assert given.verdict == "unusual"
    assert given.reasons == (reason,)


def test_thresholds_keep_what_they_promise() -> None:
    generator = np.random.default_rng(1)
    chests = [signals(kinds=(p, 1 - p, 0, 0, 0, 0), tone=t) for p, t in generator.random((1000, 2)) ** [0.05, 1]]
    square, tone = np.zeros((1, 8, 8), np.float32), np.zeros(6, np.float32)
    own = [
        Subject(square, tone, 200, CHEST, "data set" if i < 800 else "other hospitals", str(i), None)
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
    (tmp_path / "ct_chest" / name).write_bytes(png(draw_phantom(300, 400)))
    with pytest.raises(DataError, match=f"{name}: the name of a picture must be KIND__SOURCE__NAME"):
        subjects_of_pictures(tmp_path, 64)


def test_exact_intervals_are_those_of_the_tables(subjects: list[Subject]) -> None:
    def counted(refused: int) -> list[Judged]:
        return [Judged(s, Judgement("refused" if i < refused else "ok")) for i, s in enumerate(subjects[:10])]

    assert count_verdicts(CHEST, "", counted(0)).refused95 == pytest.approx((0, 0.3085), abs=1e-4)
    assert count_verdicts(CHEST, "", counted(5)).refused95 == pytest.approx((0.1871, 0.8129), abs=1e-4)


# --- the file


@pytest.fixture
def reference(features: Output, subjects: list[Subject]) -> Reference:
    return fit(features, subjects)


def test_a_gate_is_read_as_it_was_written(reference: Reference, tmp_path: Path) -> None:
    path = tmp_path / "x.gate.safetensors"
    card = write_gate(path, GateCard("model", AT, {"slices": 50}), reference)
    again, read = read_gate(path)
    assert again == card
    assert read.weights == pytest.approx(reference.weights, rel=1e-3, abs=1e-6)
    assert read.usual == reference.usual


@pytest.mark.parametrize("damage", ["cut", "flip", "card", "other schema"])
def test_a_damaged_gate_is_refused_in_words(damage: str, reference: Reference, tmp_path: Path) -> None:
    path = tmp_path / "x.gate.safetensors"
    write_gate(path, GateCard("model", AT, {}, schema=2 if damage == "other schema" else 1), reference)
    raw = bytearray(path.read_bytes())
    if damage == "cut":
        raw = raw[:-10]
    elif damage == "flip":
        raw[-10] ^= 1
    elif damage == "card":
        raw = raw.replace(b"model_id", b"model_ix")
    path.write_bytes(raw)
    with pytest.raises(ModelError, match="is refused"):
        read_gate(path)


def test_a_gate_of_another_model_is_not_used(checkpoint_path: Path, reference: Reference, tmp_path: Path) -> None:
    copy = tmp_path / "resnet18.safetensors"
    copy.write_bytes(checkpoint_path.read_bytes())
    write_gate(gate_path(copy), GateCard("another", AT, {}), reference)
    classifier = Classifier.load(copy)
    assert classifier.gate is None
    given = answer(classifier, png(draw_phantom(300, 400)))
    assert given.verdict == "unusual"
    assert given.notices[0] == UNGATED
    assert given.prediction is not None


def test_onnx_and_torch_share_a_gate() -> None:
    assert (
        gate_path(Path("a/resnet18.onnx"))
        == gate_path(Path("a/resnet18.int8.onnx"))
        == Path("a/resnet18.gate.safetensors")
    )


# --- the committed gate


@needs_gate
def test_the_committed_gate_belongs_to_the_committed_model(committed: Classifier) -> None:
    assert committed.gate is not None
    assert read_gate(gate_path(COMMITTED))[0].model_id == committed.card.model_id


@needs_gate
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda p: p.stem)
def test_every_example_is_ok(path: Path, committed: Classifier) -> None:
    given = answer(committed, path.read_bytes())
    assert given.verdict == "ok", given.notices


@needs_gate
@pytest.mark.parametrize("name", WRONG)
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda p: p.stem)
def test_an_example_shown_wrong_is_refused_or_unusual_and_named(path: Path, name: str, committed: Classifier) -> None:
    kind, turn = WRONG[name]
    given = answer(committed, png(turn(read_slice(path.read_bytes()).pixels)))
    assert given.verdict in ("refused", "unusual")
    assert given.notices[0] == WHAT_IT_IS[kind]
    if given.verdict == "refused":
        assert given.prediction is None
        assert given.to_json()["probabilities"] is None
        assert given.to_json()["top_class"] is None


def noise(generator: np.random.Generator) -> NDArray[np.floating]:
    return generator.random((256, 256))


def smooth(generator: np.random.Generator) -> NDArray[np.floating]:
    return cv2.normalize(cv2.GaussianBlur(generator.random((256, 256)), (0, 0), 12), None, 0, 1, cv2.NORM_MINMAX)  # type: ignore[call-overload,no-any-return]


def text(generator: np.random.Generator) -> NDArray[np.floating]:
    page = np.full((400, 300), 255, np.uint8)
    for row in range(30, 380, 22):
        cv2.putText(page, "not a slice of anything", (12, row), cv2.FONT_HERSHEY_SIMPLEX, 0.6, 0, 1)
    return page / 255


def checks(generator: np.random.Generator) -> NDArray[np.floating]:
    return np.kron(np.indices((8, 8)).sum(axis=0) % 2, np.ones((32, 32)))


@needs_gate
@pytest.mark.parametrize("draw", [noise, smooth, text, checks])
def test_what_is_no_ct_is_refused(draw: Callable[..., NDArray[np.floating]], committed: Classifier) -> None:
    given = answer(committed, png(draw(np.random.default_rng(0))))
    assert given.verdict == "refused"
    assert given.prediction is None
    assert given.slice is not None


@needs_gate
@pytest.mark.parametrize(
    "crush", [lambda p: np.rint(p * 7) / 7, lambda p: np.clip(3 * p - 1.4, 0, 1), lambda p: 0.3 * p]
)
def test_crushed_greys_are_at_least_unusual(crush: Callable[..., NDArray[np.floating]], committed: Classifier) -> None:
    for path in EXAMPLES:
        assert answer(committed, png(crush(read_slice(path.read_bytes()).pixels))).verdict in ("refused", "unusual")


@needs_gate
def test_the_gate_sees_the_subject_that_it_was_fitted_to(committed: Classifier) -> None:
    slice_ = read_slice(EXAMPLES[0].read_bytes())
    assert committed.gate is not None
    size = committed.card.preprocess.size
    seen = subject(slice_, size, CHEST, "data set", "", 0)
    output = committed.runtime.run(seen.square[None])
    (expected,) = measure(output, seen.tone[None], np.array([seen.greys]), committed.gate.reference)
    assert committed.gate.signals(slice_) == expected


@needs_gate
def test_the_ledger_holds_what_the_committed_gate_is_worth(committed: Classifier) -> None:
    facts = facts_of(read_ledger(ROOT / "checkpoints" / "metrics.json"), committed.card)
    assert facts.gate is not None
    for row in facts.gate.rows:
        assert row.refused + row.unusual + row.ok == row.n
    assert facts.gate_row("chest", "data set").refused == facts.gate.refused
