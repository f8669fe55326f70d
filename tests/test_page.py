"""What the page says: numbers, sentences, and which pictures it draws, without a browser."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
from dataclasses import replace
from html import escape
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from ctscan.classes import CLASSES
from ctscan.errors import DataError
from ctscan.imaging.phantom import draw_phantom
from ctscan.imaging.preprocess import Preprocess
from ctscan.inference.answer import answer
from ctscan.inference.classifier import Classifier, Prediction
from ctscan.io.images import read_slice
from ctscan.metrics import softmax
from ctscan.model.card import Calibration
from ctscan.model.checkpoint import read_checkpoint
from ctscan.page import how_good, result, words
from ctscan.page.about import about, how_to_read
from ctscan.page.examples import MOST, read_examples
from ctscan.page.explanation import EMPTY, describe, explanation, find_peak
from ctscan.page.page import Page
from ctscan.results.ledger import read_ledger
from ctscan.results.report import share
from ctscan.results.summary import Facts, facts_of
from tests.conftest import COMMITTED, free_port

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"
FIRST = min(EXAMPLES.glob("*.png"))
CALIBRATION = Calibration(1.7, 0.10, (0.5, 0.5, 0.5, 0.5))


@pytest.fixture(scope="module")
def committed() -> Classifier:
    return Classifier.load(COMMITTED)


@pytest.fixture(scope="module")
def prediction(classifier: Classifier, slice_png: bytes) -> Prediction:
    given = answer(classifier, slice_png).prediction
    assert given is not None
    return given


@pytest.mark.parametrize(
    ("probability", "text"),
    [(0, "<0.1"), (0.0009, "<0.1"), (0.001, "0.1"), (0.4567, "45.7"), (0.999, "99.9"), (0.9991, ">99.9"), (1, ">99.9")],
)
def test_numbers_have_one_decimal_and_are_never_certain(probability: float, text: str) -> None:
    assert result.percent(probability) == f"{text}\u00a0%"


def test_rows_name_every_class_and_sum_to_a_hundred(classifier: Classifier, slice_png: bytes) -> None:
    given = answer(classifier, slice_png)
    html = result.rows(given)
    assert all(c.title in html for c in CLASSES)
    shares = [float(n) for n in re.findall(r"([\d.]+)\u00a0%", html)]
    assert sum(shares) == pytest.approx(100, abs=0.2)
    assert "alibrated" not in html  # unusual: the model has no gate
    assert "not calibrated" in result.rows(replace(given, verdict="ok"))


def test_an_unreadable_file_gives_the_readers_sentence_and_no_number(classifier: Classifier) -> None:
    given = answer(classifier, b"<b>no picture</b>")
    assert given.to_json() == {
        "verdict": "unreadable",
        "probabilities": None,
        "top_class": None,
        "outcome": None,
        "set": None,
        "model_id": classifier.card.model_id,
        "notices": list(given.notices),
    }
    assert given.notices[0] in result.sentence(given)
    assert "%" not in result.sentence(given) + result.rows(given)
    assert explanation(given) == EMPTY


def test_all_four_maps_are_delivered_at_once(classifier: Classifier, slice_png: bytes) -> None:
    html = explanation(answer(classifier, slice_png))
    assert html.count('<img class="layer"') == 4
    assert html.count("data:image/png;base64,") == 7  # slice twice, four layers, the square
    assert html.count(" checked") == 1
    assert len(html) < 3_000_000


def test_a_weak_map_is_said_to_be_none_and_is_not_stretched(prediction: Prediction) -> None:
    weak = replace(prediction, maps=prediction.maps * 1e-3)
    evidence = [weak.evidence(i) for i in range(4)]
    assert all(words.NO_EVIDENCE in describe(weak, evidence, i) for i in range(4))
    strong = replace(prediction, maps=np.full_like(prediction.maps, prediction.map_top))
    assert all("top of the scale" in describe(strong, [strong.evidence(i) for i in range(4)], i) for i in range(4))
    at_the_limit = replace(prediction, maps=np.full_like(prediction.maps, prediction.map_top * 0.101))
    assert at_the_limit.is_localised(0)


@pytest.mark.parametrize(
    ("row", "column", "place"),
    [
        (5, 5, "in the upper left of the picture (the patient's right)"),
        (50, 95, "in the middle right of the picture (the patient's left)"),
        (90, 50, "in the lower middle of the picture (between the patient's right and left)"),
        (50, 50, "in the centre of the picture (between the patient's right and left)"),
    ],
)
def test_the_peak_is_named_for_picture_and_patient(row: int, column: int, place: str) -> None:
    evidence = np.zeros((99, 99), np.float32)
    evidence[row, column] = 1
    assert find_peak(evidence) == place


def test_the_probabilities_do_not_depend_on_the_container(classifier: Classifier) -> None:
    grey = (draw_phantom(211, 300) * 255).astype(np.uint8)
    files = [cv2.imencode(kind, grey)[1].tobytes() for kind in (".png", ".bmp", ".tif")]
    files.append(cv2.imencode(".png", grey.astype(np.uint16) * 257)[1].tobytes())
    files.append(cv2.imencode(".webp", grey, [cv2.IMWRITE_WEBP_QUALITY, 101])[1].tobytes())
    predictions = [answer(classifier, data).prediction for data in files]
    for p in predictions:
        assert p is not None
        assert predictions[0] is not None
        assert np.abs(p.probabilities - predictions[0].probabilities).max() <= 1e-5


def test_the_signed_maps_and_the_bias_make_the_logits(classifier: Classifier, prediction: Prediction) -> None:
    sums = prediction.maps.sum(axis=(1, 2))
    other = classifier.predict(answer(classifier, cv2_png(draw_phantom(200, 333))).slice)  # type: ignore[arg-type]
    bias = prediction.logits - sums
    assert np.abs(bias - (other.logits - other.maps.sum(axis=(1, 2)))).max() < 1e-4


def cv2_png(pixels: np.ndarray) -> bytes:
    return cv2.imencode(".png", (pixels * 255).astype(np.uint8))[1].tobytes()


def test_the_square_shown_is_what_the_model_was_given(classifier: Classifier, prediction: Prediction) -> None:
    pixels = (draw_phantom(300, 400) * 255).astype(np.uint8).astype(np.float32) / np.float32(255)
    assert np.array_equal(prediction.square, classifier.card.preprocess(pixels)[0][0])
    assert classifier.card.preprocess == Preprocess()


def test_classes_are_explained_with_the_facts_and_the_caveat(classifier: Classifier) -> None:
    text = about(classifier.card)
    for fact in ("glands", "never smoked", "women", "fast-growing", "abnormal cells", "rapidly", "bronchi", "smoking"):
        assert fact in text
    assert "normal chests" in text
    assert "follow-up" in text
    assert "cannot be histology" in text
    assert "T2_N0" not in text
    assert "not where a tumour is" in how_to_read(classifier.card)


def test_how_to_read_it_says_what_this_model_does(classifier: Classifier) -> None:
    card = classifier.card
    assert "224 × 224 pixels" in how_to_read(card)
    assert "7 × 7 cells" in how_to_read(card)
    assert "They are not calibrated" in how_to_read(card)
    other = replace(card, preprocess=Preprocess(160, "body", "rank", "hull"), calibration=CALIBRATION)
    text = how_to_read(other)
    for fact in ("160 × 160", "5 × 5 cells", "cropped to the body", "its rank", "made black", "10 of 100 scans"):
        assert fact in text
    assert "not calibrated" not in text


def calibrated(classifier: Classifier, *thresholds: float) -> Classifier:
    """The same network, with a calibration."""
    card = replace(classifier.card, calibration=replace(CALIBRATION, thresholds=thresholds))
    return Classifier(card, classifier.runtime, classifier.gate)


def test_probabilities_are_taken_at_the_temperature(classifier: Classifier, slice_png: bytes) -> None:
    raw, warm = (c.predict(read_slice(slice_png)) for c in (classifier, calibrated(classifier, 1, 1, 1, 1)))
    assert np.array_equal(raw.logits, warm.logits)
    assert np.allclose(raw.probabilities, softmax(raw.logits))
    assert np.allclose(warm.probabilities, softmax(raw.logits / CALIBRATION.temperature))
    assert raw.possible is None
    assert not raw.uncertain


def test_what_cannot_be_ruled_out_is_said_in_words(committed: Classifier) -> None:
    data = FIRST.read_bytes()
    plain = answer(committed, data)
    assert plain.prediction is not None
    top = plain.prediction.top
    only = [0.0] * 4
    only[top] = 1.0
    given = answer(calibrated(committed, *only), data)
    assert given.outcome == "single"
    assert given.to_json()["set"] == [CLASSES[top].key]
    assert words.SINGLE in result.sentence(given)
    assert words.SCORES in result.rows(given)

    given = answer(calibrated(committed, 1, 0, 0, 1), data)
    assert given.verdict == plain.verdict
    assert given.to_json()["outcome"] == "uncertain"
    assert given.to_json()["set"] == [CLASSES[0].key, CLASSES[3].key]
    assert escape(words.UNCERTAIN) in result.sentence(given)
    assert all(f"<b>{c.title}</b>" in result.sentence(given) for c in (CLASSES[0], CLASSES[3]))
    assert result.rows(given).count(words.IN_SET) == 2
    assert "Looks most like" not in result.sentence(given)

    given = answer(calibrated(committed, 0, 0, 0, 0), data)
    assert given.verdict == plain.verdict
    assert given.to_json()["outcome"] == "uncertain"
    assert given.to_json()["set"] == []
    assert escape(words.UNCERTAIN_NONE) in result.sentence(given)


def test_normal_is_withdrawn_wherever_it_is_named(committed: Classifier) -> None:
    data = FIRST.read_bytes()
    for thresholds, named in (((0, 0, 0, 1), True), ((1, 0, 0, 1), True), ((1, 0, 0, 0), False), ((0, 0, 0, 0), False)):
        given = answer(calibrated(committed, *thresholds), data)
        if thresholds == (0, 0, 0, 1):  # whatever it says, that it is normal
            assert given.prediction is not None
            given = replace(given, prediction=replace(given.prediction, probabilities=np.array([0, 0, 0, 1.0])))
        assert (escape(words.NORMAL_WITHDRAWN) in result.sentence(given, withdrawn=True)) == named
        assert escape(words.NORMAL_WITHDRAWN) not in result.sentence(given)


@pytest.mark.parametrize("thresholds", [(1, 1, 1, 1), (0, 0, 0, 1), (0, 0, 0, 0)])
def test_an_unusual_slice_gets_no_firm_answer(
    thresholds: tuple[float, ...], classifier: Classifier, slice_png: bytes
) -> None:
    given = answer(calibrated(classifier, *thresholds), slice_png)
    assert given.prediction is not None
    assert (given.verdict, given.outcome) == ("unusual", "uncertain")
    assert given.to_json()["set"] is None
    assert list((given.to_json()["probabilities"] or {}).values()) == pytest.approx(softmax(given.prediction.logits))
    sentence = result.sentence(given, withdrawn=True)
    assert words.NO_ANSWER in sentence
    assert not [c for c in CLASSES if c.title in sentence]
    assert "alibrated" not in sentence + result.rows(given) + explanation(given)


def test_the_bundled_examples_are_six_with_source_and_licence(classifier: Classifier) -> None:
    examples = read_examples(EXAMPLES)
    assert len(examples) == 6
    readme = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    for entry in json.loads((EXAMPLES / "examples.json").read_text()):
        assert entry["file"] in readme
        assert not any(c.title.lower() in (entry["title"] + entry["description"]).lower() for c in CLASSES)
    assert (EXAMPLES / "LICENSE-pyradiomics.txt").exists()
    assert (EXAMPLES / "LICENSE-TotalSegmentator.txt").exists()
    _, sentence, _, rows = Page(classifier, examples, Facts(classifier.card)).show_numbered(0)
    assert "Bundled example" in sentence
    assert "Adenocarcinoma" in rows


def test_any_folder_can_be_shown_and_what_is_unreadable_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "b.png").write_bytes(cv2_png(draw_phantom()))
    (tmp_path / "a patient.png").write_bytes(cv2_png(draw_phantom(90, 90)))
    (tmp_path / "broken.png").write_bytes(b"?")
    (tmp_path / "README.md").write_text("words")
    examples = read_examples(tmp_path)
    assert [e.title for e in examples] == ["Example 1", "Example 2"]
    with pytest.raises(DataError, match="cannot be read"):
        read_examples(tmp_path / "none")
    (tmp_path / "examples.json").write_text('[{"file": "b.png"}]')
    with pytest.raises(DataError, match="not a list"):
        read_examples(tmp_path)


def test_a_large_folder_is_read_no_further_than_it_is_shown(tmp_path: Path) -> None:
    (tmp_path / "slice.png").write_bytes(cv2_png(draw_phantom(40, 40)))
    files = ["slice.png"] * MOST + ["to open it would be an error.png"]
    listing = [{"file": file, "title": "t", "description": "d", "source": ""} for file in files]
    (tmp_path / "examples.json").write_text(json.dumps(listing))
    assert len(read_examples(tmp_path)) == MOST
    (tmp_path / "examples.json").write_text(json.dumps([listing[0] | {"title": 3}]))
    with pytest.raises(DataError, match="not a list"):
        read_examples(tmp_path)


def test_a_page_without_examples_starts_empty(classifier: Classifier) -> None:
    assert Page(classifier, (), Facts(classifier.card)).show_numbered(0)[1:] == (result.EMPTY_SENTENCE, EMPTY, "")


MENDABLE = [
    ["--checkpoint", "none.safetensors"],
    ["--examples", "none"],
    ["--port", "BUSY"],
    ["--port", "99999"],
    ["--device", "cuda"],
    ["--device", "tpu"],
]


@pytest.mark.parametrize("flags", MENDABLE, ids="=".join)
def test_what_a_user_can_mend_is_one_line_and_exit_2(flags: list[str], checkpoint_path: Path) -> None:
    if "cuda" in flags and torch.cuda.is_available():
        pytest.skip("this machine has the device")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        flags = [str(taken.getsockname()[1]) if f == "BUSY" else f for f in flags]
        defaults = ["--checkpoint", str(checkpoint_path), "--port", str(free_port())]
        command = [sys.executable, str(ROOT / "app.py"), *defaults, *flags]
        done = subprocess.run(command, text=True, capture_output=True, timeout=90, check=False)
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert done.stderr.startswith("app.py: ")
    assert flags[-1] in done.stderr


def test_the_tab_on_worth_shows_both_splits_with_n_and_intervals() -> None:
    card = read_checkpoint(COMMITTED).card
    facts = facts_of(read_ledger(COMMITTED.parent / "metrics.json"), card)
    shown = how_good.how_good(facts)
    assert facts.grouped is not None
    assert facts.published is not None
    for split in (facts.grouped.result, facts.published.result):
        assert f"{split.n} ({split.groups})" in shown
        assert share(split.measures["accuracy"]) in shown
        assert all(f">{n}</td>" in shown for counts in split.confusion for n in counts)
    assert all(share(facts.grouped.result.measures[f"sensitivity.{c.key}"]) in shown for c in CLASSES)


def test_a_model_that_was_not_evaluated_has_no_number_on_the_tab() -> None:
    card = read_checkpoint(COMMITTED).card
    other = replace(card, tensors_sha256="0" * 64)
    ledger = read_ledger(COMMITTED.parent / "metrics.json")
    for facts in (Facts(card), facts_of(ledger, other)):
        assert not re.search(r"\d", re.sub(r"<[^>]+>", "", how_good.how_good(facts)))
