"""What the page says: numbers, sentences, and which pictures it draws, without a browser."""

from __future__ import annotations

import io
import itertools
import json
import re
import socket
from dataclasses import replace
from pathlib import Path
from zipfile import ZipFile

import cv2
import gradio as gr
import numpy as np
import pytest
import torch
from markupsafe import escape

import ctscan.page.views
from ctscan.classes import CLASS_KEYS, CLASSES
from ctscan.errors import DataError
from ctscan.imaging.phantom import draw_phantom
from ctscan.inference.answer import Answer, Prediction
from ctscan.inference.classifier import Classifier
from ctscan.inference.gate import KINDS
from ctscan.model.card import Calibration
from ctscan.model.checkpoint import read_checkpoint
from ctscan.notices import LANGUAGES, Notice, catalogue
from ctscan.page import launch
from ctscan.page.examples import MOST, read_examples
from ctscan.page.views import Views, find_peak, view
from ctscan.page.words import place, whole
from ctscan.results.ledger import read_ledger
from ctscan.results.summary import Facts, facts_of
from tests.conftest import COMMITTED, ROOT, Command, free_port

EXAMPLES = ROOT / "examples"
FIRST = min(EXAMPLES.glob("*.png"))
CALIBRATION = Calibration(1.7, 0.10, (0.5, 0.5, 0.5, 0.5))
TEXTS = catalogue()


@pytest.fixture(scope="module")
def given(committed: Classifier) -> Answer:
    """An answer with scores."""
    return committed(FIRST.read_bytes())


@pytest.fixture(scope="module")
def prediction(given: Answer) -> Prediction:
    assert given.prediction is not None
    return given.prediction


def shown(classifier: Classifier, given: Answer) -> str:
    """The answer's HTML."""
    views = Views(classifier, (), Facts(classifier.card))
    html: str = views.render(view(given))["html"]
    return html


def cv2_png(pixels: np.ndarray) -> bytes:
    return cv2.imencode(".png", (pixels * 255).astype(np.uint8))[1].tobytes()


@pytest.mark.parametrize(
    ("share", "text"), [(0, "<1"), (0.004, "<1"), (0.0051, "1"), (0.4567, "46"), (0.994, "99"), (0.9951, ">99")]
)
def test_numbers_are_whole_and_never_certain(share: float, text: str) -> None:
    assert whole(share) == f"{text}\u00a0%"


def test_rows_name_every_class_and_sum_to_a_hundred(committed: Classifier, given: Answer) -> None:
    html = shown(committed, given)
    assert all(c.title in html for c in CLASSES)
    numbers = re.findall(r'class="number">&?l?t?;?(\d+)\u00a0%', html)
    assert len(numbers) == 4
    assert sum(map(int, numbers)) == pytest.approx(100, abs=2)


def test_sides_are_facts_where_the_file_states_them(committed: Classifier, given: Answer) -> None:
    assert given.slice
    told, page = TEXTS["page"]["sides_told"], TEXTS["page"]
    by_file = shown(committed, replace(given, slice=replace(given.slice, is_radiological=True)))
    assumed = shown(committed, given)
    for sentence in told.values():
        assert escape(sentence) in by_file
        assert escape(sentence) not in assumed
    for doubt in ('id="flip"', 'class="flipped"', escape(page["usual_view"]), escape(page["right"])):
        assert doubt in assumed
        assert doubt not in by_file
    assert re.findall(r'class="side[^>]*>.*?</title>(.)<', by_file) == ["R", "L"]


def test_an_unreadable_file_gives_the_readers_sentence_and_no_number(classifier: Classifier) -> None:
    given = classifier(b"<b>no picture</b>")
    html = shown(classifier, given)
    assert TEXTS["page"]["unreadable"] in html
    assert str(given.notices[0]) in html
    assert "%" not in html
    assert "<svg" not in html


def test_the_numbers_of_all_four_maps_are_delivered_at_once(
    committed: Classifier, given: Answer, prediction: Prediction
) -> None:
    html = shown(committed, given)
    told = json.loads(re.findall(r'id="evidence">(.*?)</script>', html)[0])
    assert np.allclose(told["maps"], prediction.maps, atol=1e-5)
    sums = np.sum(told["maps"], axis=(1, 2)) + told["bias"]
    assert np.allclose(sums, prediction.logits, atol=1e-3)
    assert told["answer"] == given.to_dict()
    assert html.count(" checked") == 3  # one class, evidence for it, and that the map is shown


def test_words_of_a_file_or_a_listing_are_no_html(classifier: Classifier, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(cv2_png(draw_phantom(90, 90)))
    entry = {"file": "a.png", "title": "<b>T</b>", "description": "<b>D</b>", "source": "<b>S</b>"}
    (tmp_path / "examples.json").write_text(json.dumps([entry]))
    html = Views(classifier, read_examples(tmp_path), Facts(classifier.card)).home()
    assert "<b>T</b>" not in html
    assert html.count("&lt;b&gt;") == 3


def test_a_weak_map_is_said_to_be_none_and_is_not_stretched(given: Answer, prediction: Prediction) -> None:
    nowhere = [TEXTS["page"]["places"]["nowhere"].format(title=c.title) for c in CLASSES]
    weak = replace(given, prediction=replace(prediction, maps=prediction.maps * 1e-3))
    assert [place("en", c) for c in view(weak).classes] == nowhere
    full = replace(prediction, maps=np.full_like(prediction.maps, 1.28 * prediction.map_top))
    strong = view(replace(given, prediction=full))
    assert all("beyond the scale" in place("en", c) for c in strong.classes)


BODY = np.zeros((100, 100), bool)
BODY[20:80, 10:90] = True  # the middle of the body is not the middle of the picture
LUNGS = np.zeros_like(BODY)
LUNGS[40:70, 20:40] = True


@pytest.mark.parametrize(
    ("row", "column", "place"),
    [
        (5, 50, ("outside",)),
        (25, 15, ("right_side", "anterior")),
        (50, 30, ("right_lung", "between")),
        (66, 30, ("right_lung", "posterior")),
        (75, 50, ("midline", "posterior")),
        (50, 80, ("left_side", "between")),
    ],
)
def test_the_peak_is_named_by_anatomy(row: int, column: int, place: tuple[str, ...]) -> None:
    for scale in (1, 2):  # of the evidence, against the masks
        evidence = np.zeros((100 * scale, 100 * scale), np.float32)
        evidence[row * scale, column * scale] = 1
        assert find_peak(evidence, BODY, LUNGS) == place
    assert set(place) <= TEXTS["page"]["places"].keys()


def test_the_probabilities_do_not_depend_on_the_container(classifier: Classifier) -> None:
    grey = (draw_phantom(211, 300) * 255).astype(np.uint8)
    files = [cv2.imencode(kind, grey)[1].tobytes() for kind in (".png", ".bmp", ".tif")]
    files.append(cv2.imencode(".png", grey.astype(np.uint16) * 257)[1].tobytes())
    files.append(cv2.imencode(".webp", grey, [cv2.IMWRITE_WEBP_QUALITY, 101])[1].tobytes())
    predictions = [classifier(data).prediction for data in files]
    for p in predictions:
        assert p is not None
        assert predictions[0] is not None
        assert np.abs(p.probabilities - predictions[0].probabilities).max() <= 1e-5


def calibrated(classifier: Classifier, *thresholds: float) -> Classifier:
    """The same network, with a calibration."""
    card = replace(classifier.card, calibration=replace(CALIBRATION, thresholds=thresholds))
    return Classifier(card, classifier.runtime, read_checkpoint(COMMITTED).gate if card.gate else None)


def test_what_cannot_be_ruled_out_is_said_in_words(committed: Classifier, prediction: Prediction) -> None:
    data, texts = FIRST.read_bytes(), TEXTS["page"]
    only = [0.0] * 4
    only[prediction.top] = 1.0
    single = calibrated(committed, *only)
    html = shown(single, single(data))
    assert texts["likeliest"] in html
    assert texts["possible"] not in html

    several = calibrated(committed, 1, 1, 1, 1)
    html = shown(several, several(data))
    assert all(f"<b>{c.title}</b>" in html for c in CLASSES)
    assert f" {texts['or']} <b>" in html
    assert html.count(texts["possible"]) == 4
    assert texts["likeliest"] not in html
    assert texts["normal_means"].split(":")[1] in html

    none = calibrated(committed, 0, 0, 0, 0)
    html = shown(none, none(data))
    assert texts["uncertain_none"] in html
    assert texts["normal_means"].split(":")[1] not in html


USUAL, MARKED = 40, 70  # words of an answer
DOUBTS = ("far", "strange", "other_window", "few_greys")


@pytest.mark.parametrize("language", LANGUAGES)
def test_an_answer_is_short_whatever_it_is_in_every_language(
    committed: Classifier, given: Answer, prediction: Prediction, language: str
) -> None:
    views = Views(committed, (), Facts(committed.card))
    small = Notice("few_pixels", {"width": 70, "height": 70, "least": 80})
    kinds = tuple(map(Notice, KINDS[1:]))
    outside = Notice("evidence_outside", {"share": 0.31})

    def count(one: Answer) -> int:
        said = re.sub("</summary>.*?</details>", "", views.render(view(one), language)["html"].split("</div>")[0])
        return len(re.sub("<[^>]*>", "", said).split())

    for reason in (*kinds, small, *map(Notice, ("too_long", "two_slices", "in_colour", "one_grey"))):
        assert 10 < count(replace(given, verdict="refused", notices=(reason,), prediction=None)) <= USUAL, reason
    for top in range(4):
        probabilities = np.full(4, 0.1)
        probabilities[top] = 0.7
        for possible in (CLASS_KEYS[top : top + 1], CLASS_KEYS, (), None):
            one = replace(prediction, probabilities=probabilities, possible=possible)
            assert 10 < count(replace(given, notices=(), prediction=one)) <= USUAL, possible
            for notice in (outside, Notice("lettering")):
                assert count(replace(given, notices=(notice,), prediction=one)) <= MARKED, (possible, notice)
            assert count(replace(given, notices=(outside, Notice("lettering")), prediction=one)) <= MARKED, possible
    doubts = (*kinds, *map(Notice, DOUBTS), outside, Notice("lettering"))
    for reasons in (*itertools.permutations(doubts, 2), doubts):
        unusual = replace(given, verdict="unusual", notices=reasons, prediction=one)
        assert 10 < count(unusual) <= MARKED, reasons
        html = views.render(view(unusual), language)["html"]
        assert all(escape(reason.text(language)) in html for reason in reasons)


def test_what_is_said_of_a_file_alone_is_no_warning(committed: Classifier, given: Answer) -> None:
    assert given.slice
    facts = tuple(map(Notice, ("contrast", "derived")))
    slice_ = replace(given.slice, notices=facts)
    html = shown(committed, replace(given, notices=(Notice("lettering"), *facts), slice=slice_))
    assert re.findall(r'class="notice">(.*?)</p>', html) == [str(Notice("lettering"))]
    assert all(str(fact) in html.split('class="facts"')[1] for fact in facts)


def test_an_unusual_slice_gets_no_class_and_nothing_calibrated(classifier: Classifier, slice_png: bytes) -> None:
    model = calibrated(classifier, 1, 1, 1, 1)
    given = model(slice_png)  # without a gate every slice is unusual
    html = shown(model, given)
    assert given.verdict == "unusual"
    assert TEXTS["page"]["unusual"] in html
    assert "alibrated" not in html
    assert not re.search(r"<b>(" + "|".join(c.title for c in CLASSES) + ")", html)


# --- the home page


def test_the_home_page_has_no_inline_script_or_style_and_names_no_host(committed: Classifier) -> None:
    html = Views(committed, read_examples(EXAMPLES), Facts(committed.card)).home()
    assert not re.search(r"<script(?![^>]* (?:src=|type=.application/json))|<style|\sstyle=|\son\w+=", html)
    fetched = re.sub(r"<a [^>]*>", "", html)  # a link is followed by a visitor, not by the page
    assert not re.findall(r'(?:src|href)="(?:https?:)?//[^"]*', fetched)
    assert len(re.findall(r'static/[\w.]+\?[0-9a-f]{12}"', html)) == 5  # the script names its modules


def test_a_shared_link_has_a_picture_where_the_address_is_known(committed: Classifier) -> None:
    views = Views(committed, read_examples(EXAMPLES), Facts(committed.card), address="https://a.b/", space="c/d")
    html = views.home()
    (picture,) = re.findall(r'og:image" content="https://a\.b/(picture/\w+\.png)"', html)
    assert views.assets.files[picture].startswith(b"\x89PNG")
    assert 'href="https://huggingface.co/spaces/c/d/tree/main"' in html


def test_what_is_said_of_a_model_is_shown_for_that_model_alone(committed: Classifier, classifier: Classifier) -> None:
    brought, other = (Views(one, (), Facts(one.card)) for one in (committed, classifier))
    assert brought.assets.files.keys() - other.assets.files.keys() == {"text/model-card.md"}
    assert {"text/data-card.md", "text/security.md", "text/licence.txt"} < other.assets.files.keys()


def test_the_code_that_runs_is_to_be_had_on_the_page(classifier: Classifier) -> None:
    views = Views(classifier, (), Facts(classifier.card))
    assert f'href="{views.assets.texts["ctscan.zip"]}"' in views.home()
    with ZipFile(io.BytesIO(views.assets.files["text/ctscan.zip"])) as packed:
        names = set(packed.namelist())
        assert packed.read("ctscan/page/views.py") == Path(ctscan.page.views.__file__).read_bytes()
    assert {"ctscan/locales/de.json", "ctscan/page/static/page.js", "ctscan/page/templates/page.html.j2"} < names
    assert not [name for name in names if name.endswith((".safetensors", ".png", ".pyc"))]


def test_classes_and_the_model_are_explained(classifier: Classifier) -> None:
    html = Views(classifier, (), Facts(classifier.card)).home()
    for key in CLASS_KEYS:
        assert TEXTS["classes"][key]["long"] in html
    side = classifier.card.preprocess.size
    assert f"{side} × {side} pixels" in html
    assert f"{side // 32} × {side // 32} cells" in html
    assert "They are not calibrated" in html
    assert TEXTS["page"]["empty"] in html
    assert 'class="row' not in html


def test_the_section_on_worth_shows_what_the_records_hold(committed: Classifier) -> None:
    facts = facts_of(read_ledger(COMMITTED.parent / "metrics.json"), committed.card)
    html = Views(committed, (), facts).home()
    assert facts.grouped is not None
    assert facts.published is not None
    for record in (facts.grouped, facts.published):
        assert f"{record.result.n} ({record.result.groups})" in html
        for counts in record.result.confusion:
            assert all(f">{n}</td>" in html for n in counts)
    assert html.count('class="matrix"') == 2
    assert "has not been evaluated" not in html
    assert "has not been evaluated" in Views(committed, (), Facts(committed.card)).home()


# --- examples


def test_the_bundled_examples_are_six_with_source_and_licence() -> None:
    assert len(read_examples(EXAMPLES)) == 6
    readme = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    for entry in json.loads((EXAMPLES / "examples.json").read_text()):
        assert entry["file"] in readme
        assert not any(c.title.lower() in (entry["title"] + entry["description"]).lower() for c in CLASSES)
    assert (EXAMPLES / "LICENSE-pyradiomics.txt").exists()
    assert (EXAMPLES / "LICENSE-TotalSegmentator.txt").exists()


def test_any_folder_can_be_shown_and_what_is_unreadable_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "b.png").write_bytes(cv2_png(draw_phantom()))
    (tmp_path / "a patient.png").write_bytes(cv2_png(draw_phantom(90, 90)))
    (tmp_path / "broken.png").write_bytes(b"?")
    (tmp_path / "README.md").write_text("words")
    examples = read_examples(tmp_path)
    assert [e.entry.title for e in examples] == ["Example 1", "Example 2"]
    with pytest.raises(DataError, match="cannot be read"):
        read_examples(tmp_path / "none")
    (tmp_path / "examples.json").write_text('[{"file": "b.png"}]')
    with pytest.raises(DataError, match="not a list"):
        read_examples(tmp_path)


def test_folders_of_classes_are_the_truth_about_their_slices(classifier: Classifier, tmp_path: Path) -> None:
    for name in ("normal", "squamous.cell.carcinoma_left.hilum", "other things"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "Jane Doe.png").write_bytes(cv2_png(draw_phantom(120, 120)))
    examples = read_examples(tmp_path)
    assert [example.entry.truth for example in examples] == ["normal", "squamous_cell_carcinoma"]
    html = Views(classifier, examples, Facts(classifier.card)).home()
    assert "Known:" in html
    assert "Jane" not in html


def test_a_large_folder_is_read_no_further_than_it_is_shown(tmp_path: Path) -> None:
    (tmp_path / "slice.png").write_bytes(cv2_png(draw_phantom(40, 40)))
    files = ["slice.png"] * MOST + ["to open it would be an error.png"]
    listing = [{"file": file, "title": "t", "description": "d", "source": ""} for file in files]
    (tmp_path / "examples.json").write_text(json.dumps(listing))
    assert len(read_examples(tmp_path)) == MOST
    (tmp_path / "examples.json").write_text(json.dumps([listing[0] | {"title": 3}]))
    with pytest.raises(DataError, match="not a list"):
        read_examples(tmp_path)


# --- the command line


def test_only_what_is_meant_is_taken_from_the_environment() -> None:
    told = {"GRADIO_SERVER_NAME": "::1", "GRADIO_SERVER_PORT": "80", "GRADIO_ROOT_PATH": "/ct"}
    settings = launch.parse_flags([], told)
    assert (settings.host, settings.port, settings.root_path) == ("::1", 80, "/ct")
    settings = launch.parse_flags([], dict.fromkeys(told, ""))
    assert (settings.host, settings.port, settings.root_path) == ("127.0.0.1", 7860, "")
    assert launch.parse_flags([], {"SPACE_ID": "a/b"}).host == "0.0.0.0"
    assert launch.parse_flags(["--port", "9"], told).port == 9
    with pytest.raises(SystemExit) as stopped:
        launch.parse_flags([], {"GRADIO_SERVER_PORT": "many"})
    assert stopped.value.code == 2


def test_no_variable_that_gradio_reads_reaches_it() -> None:
    source = Path(gr.__file__ or "").parent
    names = {name for file in source.rglob("*.py") for name in re.findall(r"GRADIO_[A-Z_]+", file.read_text("utf-8"))}
    assert len(names) > 30
    proxies = {"HTTP_PROXY": "http://127.0.0.1:9", "all_proxy": "socks5://127.0.0.1:9", "NO_PROXY": "[::1]"}
    environment = dict.fromkeys(names, "1") | proxies | {"HOME": "/home"}
    launch.clean(environment, "/folder")
    assert environment == {
        "HOME": "/home",
        "GRADIO_TEMP_DIR": "/folder",
        "TORCHINDUCTOR_CACHE_DIR": "/folder",
        "GRADIO_ANALYTICS_ENABLED": "False",
        "GRADIO_ANALYTICS_MAX_EVENTS": "1",
    }


MENDABLE = [
    ["--checkpoint", "none.safetensors"],
    ["--examples", "none"],
    ["--port", "BUSY"],
    ["--port", "99999"],
    ["--port", "many"],
    ["--host", "no.such.host.invalid"],
    ["--device", "cuda"],
    ["--device", "tpu"],
]


@pytest.mark.usefixtures("own_process")
@pytest.mark.parametrize("flags", MENDABLE, ids="=".join)
def test_what_a_user_can_mend_is_one_line_and_exit_2(flags: list[str], checkpoint_path: Path, command: Command) -> None:
    if "cuda" in flags and torch.cuda.is_available():
        pytest.skip("this machine has the device")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        flags = [str(taken.getsockname()[1]) if f == "BUSY" else f for f in flags]
        defaults = ["--checkpoint", str(checkpoint_path), "--port", str(free_port())]
        done = command(launch.main, "app.py", *defaults, *flags)
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert done.stderr.startswith("app.py: ")
    assert flags[-1] in done.stderr
