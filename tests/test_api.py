"""The public API over the wire, with the client that users have."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest
from gradio_client import Client, handle_file

from ctscan.answer import answer
from ctscan.classes import CLASS_KEYS
from ctscan.classifier import Classifier
from ctscan.page.page import draw_overlay
from tests.conftest import ROOT, App

EXAMPLE = ROOT / "examples" / "01-lower-lobe-mass-wide-window.png"


@pytest.fixture(scope="module")
def client(app: App) -> Client:
    return Client(app.address, verbose=False)


def test_classify_gives_the_answer_and_the_overlay(client: Client, best_checkpoint: Path) -> None:
    given, overlay_png = client.predict(handle_file(EXAMPLE), api_name="/classify")
    expected = answer(Classifier.load(best_checkpoint), EXAMPLE.read_bytes())
    probabilities = given.pop("probabilities")
    assert list(probabilities) == list(CLASS_KEYS)
    assert sum(probabilities.values()) == pytest.approx(1, abs=1e-6)
    assert given == {k: v for k, v in expected.to_json().items() if k != "probabilities"}
    for key, value in (expected.to_json()["probabilities"] or {}).items():
        assert probabilities[key] == pytest.approx(value, abs=1e-6)
    assert Path(overlay_png).read_bytes().startswith(b"\x89PNG")
    shown = cv2.cvtColor(cv2.imread(overlay_png), cv2.COLOR_BGR2RGB)  # type: ignore[arg-type]
    drawn = draw_overlay(expected)
    assert drawn is not None
    assert np.array_equal(shown, drawn)


def test_an_unreadable_file_is_an_answer_too(client: Client, tmp_path: Path) -> None:
    path = tmp_path / "slice.png"
    path.write_text("not a picture")
    given, overlay_png = client.predict(handle_file(path), api_name="/classify")
    assert given["verdict"] == "unreadable"
    assert given["probabilities"] is None
    assert "PNG, JPEG" in given["notices"][0]
    assert overlay_png is None


def test_the_command_line_gives_the_same_answer(client: Client, best_checkpoint: Path) -> None:
    given, _ = client.predict(handle_file(EXAMPLE), api_name="/classify")
    command = [sys.executable, "-m", "ctscan", "predict", str(EXAMPLE), "--checkpoint", str(best_checkpoint)]
    line = json.loads(subprocess.run(command, cwd=ROOT, text=True, capture_output=True, check=True).stdout)
    assert line.keys() == given.keys()
    for key in CLASS_KEYS:
        assert line["probabilities"][key] == pytest.approx(given["probabilities"][key], abs=1e-5)


def test_classify_is_the_only_endpoint(client: Client, app: App) -> None:
    listing = client.view_api(return_format="dict")
    assert list(listing["named_endpoints"]) == ["/classify"]
    assert not listing["unnamed_endpoints"]
    with urllib.request.urlopen(f"{app.address}/gradio_api/info") as response:
        assert list(json.load(response)["named_endpoints"]) == ["/classify"]


def test_clients_side_by_side_get_each_their_own_answer(app: App, best_checkpoint: Path) -> None:
    files = sorted((ROOT / "examples").glob("*.png"))
    classifier = Classifier.load(best_checkpoint)
    expected = [answer(classifier, file.read_bytes()).to_json()["probabilities"] or {} for file in files]

    def ask(file: Path) -> dict[str, float]:
        given, _ = Client(app.address, verbose=False).predict(handle_file(file), api_name="/classify")
        probabilities: dict[str, float] = given["probabilities"]
        return probabilities

    with ThreadPoolExecutor(len(files)) as threads:
        for own, right in zip(threads.map(ask, files), expected, strict=True):
            assert own == pytest.approx(right, abs=1e-5)


def test_an_address_instead_of_an_upload_does_no_harm(client: Client, app: App) -> None:
    body = {"data": [{"path": "http://127.0.0.1:9/x.png", "meta": {"_type": "gradio.FileData"}}]}
    request = urllib.request.Request(
        f"{app.address}/gradio_api/call/classify", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request) as response:
        event = json.load(response)["event_id"]
    with urllib.request.urlopen(f"{app.address}/gradio_api/call/classify/{event}", timeout=30) as stream:
        assert b"probabilities" not in stream.read()
    given, _ = client.predict(handle_file(EXAMPLE), api_name="/classify")
    assert given["verdict"] == "ok"
