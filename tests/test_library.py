"""The public door as a user opens it: what goes in, what comes out, and that nobody gets past the gate."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL.Image import Image

import ctscan
from ctscan.classes import CLASS_KEYS
from ctscan.imaging.phantom import draw_phantom
from tests.conftest import COMMITTED, ROOT

EXAMPLES = sorted((ROOT / "examples").glob("*.png"))
# Probabilities of the shipped model for the bundled examples, in the order of CLASS_KEYS: they must not change with the
# code.
GOLDEN = [
    (0.506400296, 0.030794444, 0.004010551, 0.458794708),  # 01-lower-lobe-mass-wide-window.png
    (0.552044639, 0.023803720, 0.003356462, 0.420795179),  # 02-lower-lobe-mass-lung-window.png
    (0.826838284, 0.048137279, 0.091913677, 0.033110761),  # 03-upper-lobe-nodule-wide-window.png
    (0.516719885, 0.444444163, 0.004839362, 0.033996590),  # 04-no-mass-upper-chest-wide-window.png
    (0.279692027, 0.697360778, 0.007370660, 0.015576535),  # 05-no-mass-wide-window.png
    (0.602947762, 0.381851311, 0.004731956, 0.010468971),  # 06-no-mass-lung-window.png
]


@pytest.fixture(scope="module")
def answers(committed: ctscan.Classifier) -> list[ctscan.Answer]:
    return [committed(path) for path in EXAMPLES]


def test_the_bundled_model_is_what_is_loaded_without_a_path(committed: ctscan.Classifier) -> None:
    assert committed.card == ctscan.load(COMMITTED).card
    assert committed.card.model_id == "resnet18-661400533d1b"


def test_the_examples_are_answered_as_before(answers: list[ctscan.Answer]) -> None:
    for answer, golden in zip(answers, GOLDEN, strict=True):
        assert answer.verdict == "ok"
        assert list((answer.probabilities or {}).values()) == pytest.approx(golden, abs=1e-6)


def test_an_answer_holds_what_it_says(answers: list[ctscan.Answer]) -> None:
    for answer in answers:
        assert answer.probabilities is not None
        assert answer.slice is not None
        assert answer.possible is not None
        assert list(answer.probabilities) == list(CLASS_KEYS)
        assert sum(answer.probabilities.values()) == pytest.approx(1)
        assert answer.top_class == max(answer.probabilities, key=lambda key: (answer.probabilities or {})[key])
        assert set(answer.possible) <= set(CLASS_KEYS)
        assert answer.outcome == ("single" if len(answer.possible) == 1 else "uncertain")
        assert set(answer.maps) == set(CLASS_KEYS)
        for map_ in answer.maps.values():
            assert map_.dtype == np.float32
            assert map_.shape == answer.slice.pixels.shape
            assert map_.min() >= 0
        as_json = answer.to_dict()
        assert as_json["probabilities"] == answer.probabilities
        assert as_json["set"] == list(answer.possible)
        assert as_json["notices"] == [str(notice) for notice in answer.notices]
        assert as_json["notice_codes"] == [notice.code for notice in answer.notices]


def test_all_ways_to_give_a_slice_give_one_answer(committed: ctscan.Classifier, answers: list[ctscan.Answer]) -> None:
    path, expected = EXAMPLES[0], answers[0].probabilities
    slice_ = ctscan.read(path)
    for source in (str(path), path.read_bytes(), slice_, slice_.pixels, slice_.pixels.astype(np.float64)):
        assert committed(source).probabilities == pytest.approx(expected, abs=1e-6)
    assert np.array_equal(ctscan.read(path.read_bytes()).pixels, slice_.pixels)


@pytest.mark.parametrize("batch", [2, 32])
def test_many_answer_as_each_alone(batch: int, committed: ctscan.Classifier, answers: list[ctscan.Answer]) -> None:
    noise = np.random.default_rng(0).random((200, 200))
    together = list(committed.many([*EXAMPLES, b"?", noise], batch))
    for answer, alone in zip(together, answers, strict=False):
        assert (answer.verdict, answer.possible, answer.notices) == (alone.verdict, alone.possible, alone.notices)
        assert answer.probabilities == pytest.approx(alone.probabilities, abs=1e-5)
        for key in CLASS_KEYS:
            assert np.abs(answer.maps[key] - alone.maps[key]).max() < 1e-5
    assert [answer.verdict for answer in together[len(EXAMPLES) :]] == ["unreadable", "refused"]


def test_a_batch_is_two_passes_however_many_it_holds(committed: ctscan.Classifier) -> None:
    class Counted:
        def __init__(self) -> None:
            self.sizes: list[int] = []

        def run(self, squares: np.ndarray) -> object:
            self.sizes.append(len(squares))
            return committed.runtime.run(squares)

    counted = Counted()
    from ctscan.model.checkpoint import read_checkpoint

    other = ctscan.Classifier(committed.card, counted, read_checkpoint(COMMITTED).gate)  # type: ignore[arg-type]
    assert len(list(other.many(EXAMPLES[:3], batch=3))) == 3
    assert counted.sizes == [3, 3]


def test_sources_are_taken_as_they_are_needed(committed: ctscan.Classifier) -> None:
    taken = []

    def sources() -> object:
        for number in range(5):
            taken.append(number)
            yield b"?"

    first = next(committed.many(sources(), batch=2))  # type: ignore[arg-type]
    assert first.verdict == "unreadable"
    assert taken == [0, 1]
    with pytest.raises(ValueError, match="batch"):
        next(committed.many([], batch=0))


@pytest.mark.parametrize(
    ("source", "error", "sentence"),
    [
        (7, TypeError, "not int"),
        (None, TypeError, "not NoneType"),
        (np.zeros((80, 80), np.uint8), TypeError, "not uint8"),
        (ctscan.Slice(np.zeros((80, 80), np.uint8)), TypeError, "not uint8"),
        (np.zeros((3, 80, 80)), ValueError, r"\(3, 80, 80\)"),
        (np.zeros((0, 80)), ValueError, r"\(0, 80\)"),
        (np.full((80, 80), 255.0), ValueError, "255"),
        (np.full((80, 80), np.nan), ValueError, "nan"),
        (ctscan.Slice([[0.1]]), TypeError, "array, not list"),  # type: ignore[arg-type]
    ],
)
def test_what_is_no_slice_is_named(
    source: object, error: type[Exception], sentence: str, committed: ctscan.Classifier
) -> None:
    with pytest.raises(error, match=sentence):
        committed(source)  # type: ignore[arg-type]


def test_a_file_that_cannot_be_read_is_an_answer(committed: ctscan.Classifier, tmp_path: Path) -> None:
    huge = tmp_path / "huge.png"
    with huge.open("wb") as file:
        file.truncate(6 << 30)
    closed: list[str | Path] = [tmp_path / "none.png", tmp_path, "a\0b", "\ud800"]
    wrong: list[tuple[str | Path | bytes, str]] = [(source, "cannot_open") for source in closed] + [
        (huge, "large_file"),
        ("/dev/zero", "large_file"),
        (b"?", "unknown_format"),
    ]
    for source, code in wrong:
        answer = committed(source)
        assert (answer.verdict, answer.probabilities, answer.possible) == ("unreadable", None, None)
        assert [notice.code for notice in answer.notices] == [code]
        assert answer.maps == {}
        assert str(tmp_path) not in str(answer.to_dict())
        with pytest.raises(ctscan.UnreadableSlice):
            ctscan.read(source)


def test_noise_is_refused_and_there_is_no_way_round(committed: ctscan.Classifier) -> None:
    noise = np.random.default_rng(0).random((256, 256))
    answer = committed(noise)
    assert (answer.verdict, answer.probabilities, answer.top_class) == ("refused", None, None)
    assert answer.slice is not None
    with pytest.raises(ValueError, match="no map"):
        answer.overlay("normal")
    doors = {name for name, _ in inspect.getmembers(ctscan.Classifier, inspect.isfunction) if not name.startswith("_")}
    assert doors == {"many", "cover"}
    assert committed.cover(noise, [ctscan.inference.classifier.Patch(9, 9, 3)]) is None


def test_an_unusual_slice_gets_no_firm_answer(checkpoint_path: Path) -> None:
    answer = ctscan.load(checkpoint_path)(draw_phantom(300, 400))  # a model without a gate
    assert (answer.verdict, answer.outcome, answer.possible) == ("unusual", "uncertain", None)
    assert answer.to_dict()["set"] is None


def test_an_overlay_is_the_slice_where_there_is_no_evidence(answers: list[ctscan.Answer]) -> None:
    answer = answers[0]
    assert answer.slice is not None
    overlay = answer.overlay("adenocarcinoma")
    assert isinstance(overlay, Image)
    height, width = answer.slice.pixels.shape
    assert (overlay.mode, overlay.size) == ("RGB", (width, height))
    picture, plain = np.asarray(overlay), np.rint(answer.slice.pixels * 255).astype(np.uint8)
    nothing = answer.maps["adenocarcinoma"] == 0
    assert nothing.any()
    assert (picture[nothing] == plain[nothing][:, None]).all()
    assert (picture[~nothing] != plain[~nothing][:, None]).any()
    with pytest.raises(ValueError, match="benign"):
        answer.overlay("benign")


def test_errors_have_one_base() -> None:
    with pytest.raises(ctscan.CtscanError, match="There is no model"):
        ctscan.load("nowhere.safetensors")
    assert all(issubclass(e, ctscan.CtscanError) for e in (ctscan.ModelError, ctscan.DataError, ctscan.UnreadableSlice))


def test_nothing_is_imported_before_it_is_asked_for() -> None:
    program = (
        "import sys, ctscan; from ctscan import Slice, read, load, Answer, Notice; assert 'load' in dir(ctscan);"
        "print(sorted({'torch', 'torchvision', 'onnxruntime', 'gradio', 'scipy', 'PIL'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, text=True, capture_output=True, check=True)
    assert done.stdout == "[]\n"
    with pytest.raises(AttributeError, match="nonsense"):
        _ = ctscan.nonsense
