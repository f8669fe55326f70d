"""The public API over the wire, with the client that users have."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import ValidationError

from ctscan.classes import CLASS_KEYS
from ctscan.inference.classifier import Classifier
from ctscan.io.images import read_slice
from ctscan.notices import catalogue
from ctscan.page.choice import read_choice
from ctscan.page.views import Views
from ctscan.results.summary import Facts
from tests.conftest import ROOT, App, Ctscan
from tests.test_volume_files import nifti

EXAMPLE = ROOT / "examples" / "01-lower-lobe-mass-wide-window.png"


@pytest.fixture(scope="module")
def client(app: App) -> Client:
    return Client(app.address, verbose=False)


def test_classify_gives_the_answer_and_the_overlay(client: Client, committed: Classifier) -> None:
    given, overlay_png = client.predict(handle_file(EXAMPLE), api_name="/classify")
    expected = committed(EXAMPLE.read_bytes())
    probabilities = given.pop("probabilities")
    assert list(probabilities) == list(CLASS_KEYS)
    assert sum(probabilities.values()) == pytest.approx(1, abs=1e-6)
    assert given == {k: v for k, v in expected.to_dict().items() if k != "probabilities"}
    for key, value in (expected.to_dict()["probabilities"] or {}).items():
        assert probabilities[key] == pytest.approx(value, abs=1e-6)
    views = Views(committed, (), Facts(committed.card))
    assert Path(overlay_png).read_bytes() == views.classify(EXAMPLE.read_bytes())[1]
    drawn = cv2.imread(overlay_png)
    assert drawn is not None
    assert drawn.shape[:2] == read_slice(EXAMPLE.read_bytes()).pixels.shape


def test_an_unreadable_file_is_an_answer_too(client: Client, tmp_path: Path) -> None:
    path = tmp_path / "slice.png"
    path.write_text("not a picture")
    given, overlay_png = client.predict(handle_file(path), api_name="/classify")
    assert given["verdict"] == "unreadable"
    assert given["probabilities"] is None
    assert "PNG, JPEG" in given["notices"][0]
    assert overlay_png is None


def test_the_command_line_gives_the_same_answer(client: Client, best_checkpoint: Path, run_ctscan: Ctscan) -> None:
    given, _ = client.predict(handle_file(EXAMPLE), api_name="/classify")
    line = json.loads(run_ctscan("predict", EXAMPLE, "--checkpoint", best_checkpoint).stdout)
    assert line.keys() == given.keys()
    for key in CLASS_KEYS:
        assert line["probabilities"][key] == pytest.approx(given["probabilities"][key], abs=1e-5)


def test_classify_is_the_only_endpoint(client: Client, app: App) -> None:
    listing = client.view_api(return_format="dict")
    assert list(listing["named_endpoints"]) == ["/classify"]
    assert not listing["unnamed_endpoints"]
    with urllib.request.urlopen(f"{app.address}/gradio_api/info") as response:
        assert list(json.load(response)["named_endpoints"]) == ["/classify"]


def test_clients_side_by_side_get_each_their_own_answer(app: App, committed: Classifier) -> None:
    files = sorted((ROOT / "examples").glob("*.png"))
    expected = [committed(file.read_bytes()).to_dict()["probabilities"] or {} for file in files]

    def ask(file: Path) -> dict[str, float]:
        given, _ = Client(app.address, verbose=False).predict(handle_file(file), api_name="/classify")
        probabilities: dict[str, float] = given["probabilities"]
        return probabilities

    with ThreadPoolExecutor(len(files)) as threads:
        for own, right in zip(threads.map(ask, files), expected, strict=True):
            assert own == pytest.approx(right, abs=1e-5)


def test_a_slice_and_a_window_of_a_medical_file_can_be_asked_for(
    client: Client, app: App, committed: Classifier, tmp_path: Path
) -> None:
    path = tmp_path / "volume.nii"
    path.write_bytes(nifti())
    for slice_, window in ((3, "lung"), (None, "-600/1500"), (7, None), (0, "")):
        given, _ = client.predict(handle_file(path), slice_, window, api_name="/classify")
        read = read_choice(slice_, window).reader(read_slice)
        assert given["notices"] == committed(path.read_bytes(), read).to_dict()["notices"]
    given, _ = client.predict(handle_file(path), slice=500, api_name="/classify")
    assert given["notice_codes"] == ["no_such_slice"]
    listed = client.view_api(return_format="dict")["named_endpoints"]["/classify"]["parameters"]
    assert [parameter["parameter_has_default"] for parameter in listed] == [False, True, True]
    with urllib.request.urlopen(
        urllib.request.Request(f"{app.address}/answer?slice=3&window=lung", path.read_bytes())
    ) as answered:
        assert b"centre -600 and width 1500" in answered.read()


@pytest.mark.parametrize("chosen", [[-1], ["x"], [1.5], [True], [3, "blue"], [3, 4], [3, "1/0"], [3, "lung", 5], [{}]])
def test_an_odd_slice_or_window_is_a_sentence_that_quotes_nothing(app: App, chosen: list[object]) -> None:
    before, sentence = app.log.read_text(), catalogue()["page"]["reasons"]["odd_choice"]
    body = b"--x\r\nContent-Disposition: form-data; name=a; filename=a\r\n\r\nslice\r\n--x--\r\n"
    request = urllib.request.Request(
        f"{app.address}/gradio_api/upload", body, {"Content-Type": "multipart/form-data; boundary=x"}
    )
    with urllib.request.urlopen(request) as response:
        (name,) = json.load(response)
    question = json.dumps({"data": [{"path": name, "meta": {"_type": "gradio.FileData"}}, *chosen]}).encode()
    request = urllib.request.Request(
        f"{app.address}/gradio_api/call/classify", question, {"Content-Type": "application/json"}
    )
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request)
    assert refused.value.code == 422
    assert json.load(refused.value)["detail"][0]["message"] == sentence
    assert app.log.read_text() == before


ODD = ["slice=-1", "slice=x", "window=blue", "slice=1&window=1/2/3", "slice=" + "9" * 99, "slice=3&slice=4"]


@pytest.mark.parametrize("query", [*ODD, "window=lung&window=lung"])
@pytest.mark.parametrize("path", ["answer?", "check?", "cover?at=1,1,1&"])
def test_the_page_says_the_same_of_an_odd_slice_or_window(app: App, path: str, query: str) -> None:
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(urllib.request.Request(f"{app.address}/{path}{query}", nifti()))
    assert (refused.value.code, refused.value.headers["ctscan-reason"]) == (422, "odd_choice")
    assert refused.value.read().decode() == catalogue()["page"]["reasons"]["odd_choice"]


ADDRESSES = [
    "http://127.0.0.1:9/x.png",
    "https://example.com/x.png",
    "data:image/png;base64,AAAA",
    "file:///etc/passwd",
]
ADDRESSES += ["ftp://127.0.0.1/x.png", "//127.0.0.1/x.png", "/etc/passwd", ""]


@pytest.mark.parametrize("path", ["call/classify", "queue/join"])
@pytest.mark.parametrize("address", ADDRESSES)
def test_an_address_instead_of_an_upload_is_refused(app: App, address: str, path: str) -> None:
    file = {"path": address, "meta": {"_type": "gradio.FileData"}}
    body = json.dumps({"data": [[{"deep": file}]], "slice": file, "session_hash": "x", "fn_index": 2}).encode()
    request = urllib.request.Request(f"{app.address}/gradio_api/{path}", body, {"Content-Type": "application/json"})
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request)
    assert refused.value.code == 422
    assert json.load(refused.value)["detail"][0]["message"] == catalogue()["page"]["reasons"]["not_uploaded"]


@pytest.mark.parametrize("route", ["file=", "file/"])
@pytest.mark.parametrize("address", ["http://example.com/x.png", "https://127.0.0.1:9/x.png", "/etc/passwd"])
def test_the_server_fetches_no_address_for_anybody(app: App, route: str, address: str) -> None:
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(f"{app.address}/gradio_api/{route}{address}")
    assert refused.value.code == 404


def test_after_refusals_the_next_request_is_answered(client: Client) -> None:
    with pytest.raises(ValidationError, match=catalogue()["page"]["reasons"]["not_uploaded"]):
        client.predict(handle_file("http://127.0.0.1:9/x.png"), api_name="/classify")
    given, _ = client.predict(handle_file(EXAMPLE), api_name="/classify")
    assert given["verdict"] == "ok"


@pytest.mark.parametrize("path", ["queue/data?session_hash=unknown", "call/classify/0123", "queue/data"])
def test_an_answer_that_nobody_awaits_is_404_and_nothing_in_the_log(app: App, path: str) -> None:
    before = app.log.read_text()
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(f"{app.address}/gradio_api/{path}")
    assert (refused.value.code, refused.value.read()) == (404, b"Not found")
    assert app.log.read_text() == before


GONE = [
    "call/v2/classify",
    "run/classify",
    "api/classify",
    "component_server",
    "process_recording",
    "vibe-edit",
    "stream/1",
]


@pytest.mark.parametrize("path", GONE)
def test_what_no_client_needs_is_not_there(app: App, path: str) -> None:
    request = urllib.request.Request(f"{app.address}/gradio_api/{path}", b"{}", {"Content-Type": "application/json"})
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request)
    assert refused.value.code == 404
