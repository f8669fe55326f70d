"""The gate: rules, distances against scikit-learn, verdicts, and what it says of pictures drawn here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.neighbors import NearestNeighbors

from ctscan.imaging.anatomy import Pixels, find_anatomy
from ctscan.imaging.phantom import draw_phantom
from ctscan.imaging.preprocess import Preprocess
from ctscan.inference.classifier import Classifier, load
from ctscan.inference.gate import (
    KINDS,
    NEIGHBOURS,
    Judgement,
    Reference,
    Signals,
    Ungated,
    decide,
    find_fault,
    measure,
    share_outside,
    tone_of,
    unit,
    where_disease_can_be,
)
from ctscan.io.images import Slice, read_slice
from ctscan.model.card import Thresholds
from ctscan.model.runtime import Output
from ctscan.notices import Notice, catalogue
from tests.conftest import ROOT
from tests.samples import png_of

ABDOMEN = ROOT.parent / "shared" / "volumes" / "totalsegmentator" / "upper_abdomen_dicom"

EXAMPLES = sorted((ROOT / "examples").glob("*.png"))
AT = Thresholds(refused=0.5, unusual=0.8, far=2.0, strange=20.0, tone=0.04, greys=64, outside=0.2)
WRONG: dict[str, tuple[str, Callable[[Pixels], Pixels]]] = {
    "turned by 90°": ("turned", lambda p: np.rot90(p, 1)),
    "turned by 270°": ("turned", lambda p: np.rot90(p, 3)),
    "turned by 180°": ("upside_down", lambda p: p[::-1, ::-1]),
    "flipped top to bottom": ("upside_down", lambda p: p[::-1]),
    "inverted": ("inverted", lambda p: 1 - p),
}


# --- rules


@pytest.mark.parametrize(
    ("slice_", "code"),
    [
        (Slice(draw_phantom(40, 90)), "few_pixels"),
        (Slice(draw_phantom(100, 300)), "too_long"),
        (Slice(draw_phantom(300, 400), colour=0.2), "in_colour"),
        (Slice(np.full((200, 200), 0.5, np.float32)), "one_grey"),
    ],
)
def test_a_broken_rule_is_named(slice_: Slice, code: str, committed: Classifier) -> None:
    fault = find_fault(slice_)
    assert fault is not None
    assert fault.code == code
    assert str(fault)
    anatomy = find_anatomy(slice_.pixels)
    assert committed.gate.judge([slice_], [anatomy]) == [Judgement("refused", (fault,))]
    assert [j.verdict for j in Ungated().judge([slice_], [anatomy])] == ["unusual"]


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


def test_neighbours_are_scikit_learns(features: Output) -> None:
    known = unit(features.pooled[:60])
    shapes = {"weights": (6, 640), "bias": (6,), "mean": (128,), "whitening": (128, 128), "tones": (9, 6)}
    zeros = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    reference = Reference(neighbours=known, usual=np.ones(1, np.float32), **zeros)
    judged = measure(features, np.zeros((120, 6), np.float32), [0] * 120, [True] * 120, reference)
    asked = unit(features.pooled[60:])
    expected = NearestNeighbors(n_neighbors=NEIGHBOURS).fit(known).kneighbors(asked)[0].mean(axis=1)
    assert [signal.distance for signal in judged[60:]] == pytest.approx(expected, abs=1e-4)


def test_tones_are_of_the_body_alone() -> None:
    chest = draw_phantom(300, 400)
    around = np.pad(chest, 100)
    assert tone_of(around, find_anatomy(around))[0] == pytest.approx(tone_of(chest, find_anatomy(chest))[0], abs=0.05)
    posterised = (np.rint(chest * 7) / 7).astype(np.float32)
    assert tone_of(posterised, find_anatomy(posterised))[1] <= 8


# --- what is CT and no chest


@pytest.mark.skipif(not ABDOMEN.exists(), reason="real slices are not here")
def test_no_slice_of_an_abdomen_without_lung_is_answered(committed: Classifier) -> None:
    """Some of these the network takes for a chest."""
    for path in sorted(ABDOMEN.iterdir()):
        assert committed(path).verdict in ("refused", "unusual")


# --- verdicts


def signals(**changed: object) -> Signals:
    calm = Signals((0.95, 0.01, 0.01, 0.01, 0.01, 0.01), 1.0, 10.0, 0.01, 200, True)
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
        assert [reason.code for reason in given.reasons] == [KINDS[kind]]


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"distance": 2.1}, "far"),
        ({"strangeness": 20.1}, "strange"),
        ({"tone": 0.05}, "other_window"),
        ({"greys": 16}, "few_greys"),
        ({"lungs": False}, "no_lungs"),
    ],
)
def test_distance_makes_unusual_and_never_refuses(changed: dict[str, float], reason: str) -> None:
    given = decide(signals(**changed), AT)
    assert given.verdict == "unusual"
    assert [said.code for said in given.reasons] == [reason]


def test_every_reason_has_a_sentence() -> None:
    codes = {
        *KINDS[1:],
        "far",
        "strange",
        "other_window",
        "few_greys",
        "ungated",
        "few_pixels",
        "too_long",
        "two_slices",
        "in_colour",
    }
    assert codes | {"one_grey", "evidence_outside"} <= set(catalogue()["notices"])


def test_two_slices_in_one_picture_are_named(committed: Classifier) -> None:
    first, second = (read_slice(path.read_bytes()).pixels for path in EXAMPLES[:2])
    apart = np.pad(first, ((0, 0), (0, 30)))
    other = cv2.resize(read_slice(EXAMPLES[4].read_bytes()).pixels, first.shape[::-1])  # of a body that meets the first
    for pair in (np.hstack([apart, second]), np.vstack([first, second]), np.hstack([first, other])):
        given = committed(pair)
        assert given.verdict == "refused"
        assert [reason.code for reason in given.notices] == ["two_slices"]


def test_one_slice_is_never_taken_for_two() -> None:
    shared = ROOT.parent / "shared"
    paths = [
        *EXAMPLES,
        *(shared / "data" / "chest-ctscan").rglob("*.png"),
        *(shared / "pictures" / "ct_chest").glob("*"),
    ]
    assert [path.name for path in paths if not find_anatomy(read_slice(path.read_bytes()).pixels).is_one] == []


@pytest.mark.parametrize("code", KINDS[1:])
def test_what_a_picture_seems_to_show_is_never_claimed(code: str) -> None:
    # a photograph may be taken for any kind: no reason says that it is a slice, or is none
    sentence = str(Notice(code))
    assert sentence.startswith(("If this is", "ctscan does not recognise"))


# --- where evidence lies


def test_evidence_in_the_bars_counts_as_outside() -> None:
    pixels = draw_phantom(200, 400)
    placement, everything = Preprocess().place(find_anatomy(pixels)), np.ones(pixels.shape, bool)
    target = placement.target
    assert target.height < 0.9 * placement.size
    square = np.zeros((placement.size, placement.size), np.float32)
    square[target.top : target.top + target.height, target.left : target.left + target.width] = 1
    assert share_outside(square, placement, everything) == pytest.approx(0, abs=1e-6)
    assert share_outside(1 - square, placement, everything) == pytest.approx(1)
    bars = 1 - square.mean()
    assert share_outside(np.ones((7, 7), np.float32), placement, everything) == pytest.approx(bars)
    assert np.isnan(share_outside(0 * square, placement, everything))


def test_inside_and_outside_are_all_the_evidence() -> None:
    pixels = draw_phantom(256, 320)
    placement, inside = Preprocess().place(find_anatomy(pixels)), where_disease_can_be(find_anatomy(pixels))
    cells = np.random.default_rng(0).random((7, 7), np.float32)
    within, without, bars = (share_outside(cells, placement, m) for m in (~inside, inside, np.ones_like(inside)))
    assert (1 - within) + (1 - without) == pytest.approx(1 - bars, abs=1e-5)
    assert share_outside(3 * cells, placement, inside) == pytest.approx(without)
    assert 0 < bars < without < 1


def test_the_pictures_border_is_not_where_disease_can_be() -> None:
    bright = np.full((100, 140), 0.6, np.float32)
    inside = where_disease_can_be(find_anatomy(bright))
    assert not inside[0].any()
    assert not inside[:, -1].any()
    assert inside[2:-2, 2:-2].all()


# --- batches, and models without a gate


def test_a_batch_is_judged_as_each_alone(committed: Classifier) -> None:
    slices = [read_slice(path.read_bytes()) for path in EXAMPLES[:2]] + [Slice(np.full((90, 90), 0.5, np.float32))]
    anatomies = [find_anatomy(slice_.pixels) for slice_ in slices]
    alone = [committed.gate.judge([s], [a])[0] for s, a in zip(slices, anatomies, strict=True)]
    assert committed.gate.judge(slices, anatomies) == alone


def test_without_a_gate_every_slice_is_unusual(checkpoint_path: Path) -> None:
    given = load(checkpoint_path)(EXAMPLES[0])
    assert given.verdict == "unusual"
    assert [notice.code for notice in given.notices] == ["ungated"]
    assert given.prediction is not None
    assert given.outcome == "uncertain"


# --- the committed gate


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda p: p.stem)
def test_every_example_is_ok(path: Path, committed: Classifier) -> None:
    given = committed(path)
    assert given.verdict == "ok", given.notices


@pytest.mark.parametrize("name", WRONG)
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda p: p.stem)
def test_an_example_shown_wrong_is_refused_or_unusual_and_named(path: Path, name: str, committed: Classifier) -> None:
    kind, turn = WRONG[name]
    given = committed(png_of(turn(read_slice(path.read_bytes()).pixels)))
    assert given.verdict in ("refused", "unusual")
    assert given.notices[0].code == kind
    if given.verdict == "refused":
        assert given.prediction is None
        assert given.probabilities is None
        assert given.top_class is None


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


@pytest.mark.parametrize("draw", [noise, smooth, text, checks])
def test_what_is_no_ct_is_refused(draw: Callable[..., NDArray[np.floating]], committed: Classifier) -> None:
    given = committed(png_of(draw(np.random.default_rng(0))))
    assert given.verdict == "refused"
    assert given.prediction is None
    assert given.slice is not None


@pytest.mark.parametrize(
    "crush", [lambda p: np.rint(p * 7) / 7, lambda p: np.clip(3 * p - 1.4, 0, 1), lambda p: 0.3 * p]
)
def test_crushed_greys_are_at_least_unusual(crush: Callable[..., NDArray[np.floating]], committed: Classifier) -> None:
    crushed = [png_of(crush(read_slice(path.read_bytes()).pixels)) for path in EXAMPLES]
    assert {answer.verdict for answer in committed.many(crushed)} <= {"refused", "unusual"}
