"""What the app promises to keep and to send: nothing. Each line twice, as on a laptop and as on a Space."""

from __future__ import annotations

import http.client
import json
import os
import re
import stat
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import gradio as gr
import pytest

from ctscan.errors import CtscanError
from ctscan.page.housekeeping import Housekeeping
from ctscan.page.page import DELETE_CACHE, QUEUE, Page
from ctscan.page.server import MAX_BYTES, settings
from ctscan.page.temporary_folder import STARTING, TemporaryFolder, delete_left_behind
from ctscan.page.traffic import Traffic
from ctscan.page.upload import Renamer
from ctscan.results.summary import Facts
from tests.conftest import ROOT, App, running_app


@pytest.fixture(params=["app", "app_on_space"])
def served(request: pytest.FixtureRequest) -> App:
    running: App = request.getfixturevalue(request.param)
    return running


@pytest.fixture
def config(served: App) -> dict[str, Any]:
    with urllib.request.urlopen(f"{served.address}/config") as response:
        loaded: dict[str, Any] = json.load(response)
    return loaded


def status(address: str, data: bytes | None = None, kind: str = "application/json") -> int:
    request = urllib.request.Request(address, data, {"Content-Type": kind})
    try:
        with urllib.request.urlopen(request, timeout=20) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        return error.code


def test_nothing_that_tells_or_remembers_is_on(config: dict[str, Any]) -> None:
    assert config["analytics_enabled"] is False
    assert config["run_history"] is False
    assert config["show_error"] is False
    assert config["footer_links"] == []
    assert not config.get("pwa")
    assert not config.get("mcp_server")
    assert config["max_file_size"] == MAX_BYTES


def test_no_flag_share_or_deep_link_button(config: dict[str, Any]) -> None:
    kinds = {c["type"] for c in config["components"]}
    assert not kinds & {"deeplinkbutton", "loginbutton", "duplicatebutton", "logoutbutton"}
    for component in config["components"]:
        assert "share" not in (component["props"].get("buttons") or [])
        assert "flag" not in str(component["props"].get("value", "")).lower()[:40]


def test_the_launch_settings_leave_nothing_to_defaults() -> None:
    folder = TemporaryFolder()
    given = settings("127.0.0.1", 7860, Traffic("x"), Housekeeping(folder, gr.Blocks()._queue))
    folder.delete()
    off = ("share", "run_history", "pwa", "ssr_mode", "enable_monitoring", "show_error", "mcp_server")
    assert [given[name] for name in off] == [False] * len(off)
    assert given["max_file_size"] == MAX_BYTES == 16 * 1024 * 1024


def test_the_page_is_served_by_python_and_names_no_other_host(served: App) -> None:
    with urllib.request.urlopen(served.address) as response:
        html = response.read().decode()
    assert not re.findall(r'<(?:script|link)[^>]+(?:src|href)="(?:https?:)?//[^"]*', html)


def test_the_server_connects_to_nobody(served: App) -> None:
    lines = served.connections.read_text().splitlines()
    assert lines  # Gradio asks its own server once whether it is up: the recorder works
    known = r"'(127\.0\.0\.1|localhost|0\.0\.0\.0)'"
    assert not [line for line in lines if not re.search(known, line)]


@pytest.mark.parametrize("path", ["/config", "/gradio_api/info", "/"])
def test_no_listing_names_a_path_of_the_machine(served: App, path: str) -> None:
    with urllib.request.urlopen(served.address + path) as response:
        text = response.read().decode()
    for secret in (str(served.temporary), str(ROOT), f"ctscan-{os.getuid()}", ".safetensors"):
        assert secret not in text


@pytest.mark.parametrize("path", ["/gradio_api/deep_link", "/gradio_api/deep_link/"])
def test_deep_links_answer_404(served: App, path: str) -> None:
    assert status(served.address + path) == 404
    assert status(f"{served.address}{path}?session_hash=x", b"{}") == 404


def test_monitoring_is_closed(served: App) -> None:
    assert status(f"{served.address}/monitoring") in (403, 404)
    assert status(f"{served.address}/monitoring/summary") in (403, 404)


ROUTES = ["/", "/gradio_api/upload", "/gradio_api/queue/join", "/gradio_api/call/classify", "/gradio_api/run/classify"]


@pytest.mark.parametrize("path", [*ROUTES, "/gradio_api/component_server", "/nowhere"])
def test_a_body_above_the_limit_is_413_on_every_route(served: App, path: str) -> None:
    host = served.address.removeprefix("http://")
    connection = http.client.HTTPConnection(host, timeout=20)
    connection.putrequest("POST", path)
    connection.putheader("Content-Type", "application/json")
    connection.putheader("Content-Length", str(MAX_BYTES + 1))
    connection.endheaders()
    assert connection.getresponse().status == 413
    connection.close()


def chunks(head: bytes, tail: bytes) -> Iterator[bytes]:
    yield head
    for _ in range(17):
        yield b"A" * (1 << 20)
    yield tail


JSON = b'{"data": ["', b'"]}'
FORM = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a"\r\n\r\n', b"\r\n--x--\r\n"


@pytest.mark.parametrize("path", ["/gradio_api/queue/join", "/gradio_api/call/classify", "/gradio_api/upload"])
def test_a_body_of_unstated_length_is_413_too(served: App, path: str) -> None:
    form = path.endswith("upload")
    kind = "multipart/form-data; boundary=x" if form else "application/json"
    connection = http.client.HTTPConnection(served.address.removeprefix("http://"), timeout=20)
    with suppress(BrokenPipeError, ConnectionResetError):  # the server may answer before it has everything
        body = chunks(*(FORM if form else JSON))
        connection.request("POST", path, body, {"Content-Type": kind}, encode_chunked=True)
    try:
        assert connection.getresponse().status == 413
    except (ConnectionResetError, http.client.RemoteDisconnected):
        pytest.fail("closed without an answer")
    finally:
        connection.close()
    assert status(served.address) == 200


def test_the_temporary_folder_is_the_apps_own(served: App) -> None:
    (base,) = served.temporary.glob("ctscan-*")
    (folder,) = (p for p in base.iterdir() if p.is_dir())
    assert stat.S_IMODE(base.stat().st_mode) == stat.S_IMODE(folder.stat().st_mode) == 0o700
    form = FORM[0] + b"CANARY" + FORM[1]
    assert status(f"{served.address}/gradio_api/upload", form, "multipart/form-data; boundary=x") == 200
    kept = [p for p in served.temporary.rglob("*") if p.is_file() and p.suffix != ".lock" and p.name != STARTING]
    assert kept
    assert all(folder in p.parents for p in kept)


def test_the_name_of_a_file_is_never_written(served: App) -> None:
    named = FORM[0].replace(b'"a"', b'"CANARY of a patient.png"') + b"a slice of " + os.urandom(9) + FORM[1]
    named = named.replace(b"--x--", b'--x\r\nContent-Disposition: form-data; name="CANARY"\r\n\r\na field\r\n--x--')
    request = urllib.request.Request(
        f"{served.address}/gradio_api/upload", named, {"Content-Type": "multipart/form-data; boundary=x"}
    )
    with urllib.request.urlopen(request) as response:
        paths = [Path(path) for path in json.load(response)]
    assert [path.name for path in paths] == ["slice", "slice"]
    assert paths[0].read_bytes().startswith(b"a slice of ")
    assert paths[1].read_bytes() == b"a field"
    written = [p for p in served.temporary.rglob("*") if p.is_file()]
    assert written
    assert not [p for p in written if "CANARY" in str(p) or b"CANARY of" in p.read_bytes()]


@pytest.mark.parametrize("cut", [1, 7, 30, 80, 100, 110])
def test_a_form_is_renamed_however_it_is_cut_into_pieces(cut: int) -> None:
    body = FORM[0].replace(b'"a"', b'"CANARY.png"') + b"\r\n--y\r\nslice" + FORM[1]
    rename = Renamer(b"x")
    renamed = b"".join(rename(body[i : i + cut]) for i in range(0, len(body), cut))
    assert renamed == FORM[0].replace(b'"a"', b'"slice"') + b"\r\n--y\r\nslice" + FORM[1]


def test_what_is_no_form_is_not_uploaded_and_what_is_no_json_not_asked(served: App) -> None:
    upload, ask = f"{served.address}/gradio_api/upload", f"{served.address}/gradio_api/queue/join"
    assert status(upload, b"{}") == 400
    assert status(upload, b"no form", "multipart/form-data; boundary=x") == 400
    assert status(ask, FORM[0] + FORM[1], "multipart/form-data; boundary=x") == 400
    assert status(f"{served.address}/gradio_api/process_recording", FORM[0] + FORM[1], "multipart/form-data") == 400
    assert status(ask, b"[" * 60_000) == 400


def test_uploads_age_out_and_the_queue_is_bounded(classifier: Any) -> None:
    blocks = Page(classifier, (), Facts(classifier.card)).build()
    assert blocks.delete_cache == DELETE_CACHE == (60, 600)
    assert blocks._queue.max_size == QUEUE == 16
    assert {f.concurrency_id for f in blocks.fns.values() if f.fn} == {"model"}
    assert not blocks.api_open


@pytest.mark.slow
def test_what_a_killed_app_left_is_deleted_at_the_next_start(checkpoint_path: Path, tmp_path: Path) -> None:
    with running_app(checkpoint_path, tmp_path) as first:
        (base,) = tmp_path.glob("ctscan-*")
        (left,) = (p for p in base.iterdir() if p.is_dir())
        (left / "upload").write_text("CANARY")
        first.process.kill()
        first.process.wait()
        assert (left / "upload").exists()
    with running_app(checkpoint_path, tmp_path) as second:
        assert not left.exists()
        (own,) = (p for p in base.iterdir() if p.is_dir())
        delete_left_behind(base)
        assert own.exists()
        assert second.process.poll() is None
    assert not [p for p in base.iterdir() if p.is_dir()]


@pytest.mark.parametrize("kind", ["link", "file"])
def test_a_folder_of_somebody_else_is_not_used(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = tmp_path / f"ctscan-{os.getuid()}"
    if kind == "link":
        (tmp_path / "elsewhere").mkdir()
        base.symlink_to(tmp_path / "elsewhere")
    else:
        base.write_text("")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(CtscanError, match="somebody else"):
        TemporaryFolder()


def test_folders_of_the_living_stay_and_of_the_dead_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    first = TemporaryFolder()
    dead = first.path.with_name("0" * 32)
    dead.mkdir()
    (dead / "upload").write_text("CANARY")
    dead.with_suffix(".lock").write_text("")
    second = TemporaryFolder()
    assert first.path.is_dir()
    assert second.path.is_dir()
    assert not dead.exists()
    first.delete()
    assert not first.path.exists()
    assert second.path.is_dir()
    second.delete()


def test_no_room_for_the_folder_is_said_in_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))
    with pytest.raises(CtscanError, match=r"No temporary folder can be made \(No such file"):
        TemporaryFolder()
