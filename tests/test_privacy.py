"""What the app promises to keep and to send: nothing. Each line twice, as on a laptop and as on a Space."""

from __future__ import annotations

import http.client
import json
import re
import stat
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from anyio import CapacityLimiter

from ctscan.errors import CtscanError
from ctscan.page.door import HEADERS, MAX_BYTES, MAX_QUESTION
from ctscan.page.launch import private_folder
from ctscan.page.memory import Memory
from ctscan.page.routes import WAITING
from ctscan.page.server import AT_ONCE, build_api
from ctscan.page.views import Views
from ctscan.results.summary import Facts
from tests.conftest import RECORDER, ROOT, App, running_app


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


def test_the_page_is_served_by_python_and_names_no_other_host(served: App) -> None:
    with urllib.request.urlopen(served.address) as response:
        html = response.read().decode()
    fetched = re.sub(r"<a [^>]*>", "", html)  # a link is followed by a visitor, not by the page
    assert not re.findall(r'(?:src|href)="(?:https?:)?//[^"]*', fetched)


@pytest.mark.parametrize("path", ["/", "/health", "/config", "/gradio_api/info", "/nowhere"])
def test_every_answer_forbids_other_hosts_and_inline_scripts(served: App, path: str) -> None:
    try:
        response: Any = urllib.request.urlopen(served.address + path)
    except urllib.error.HTTPError as error:
        response = error
    with response:
        assert {name: response.headers[name] for name in HEADERS} == HEADERS
    assert "unsafe" not in HEADERS["content-security-policy"]


def test_the_server_connects_to_nobody(served: App, tmp_path: Path) -> None:
    lines = served.connections.read_text().splitlines() if served.connections.exists() else []
    assert not [line for line in lines if not re.match(r"socket.getaddrinfo \('(127\.0\.0\.1|0\.0\.0\.0)',", line)]
    # the recorder works
    program = RECORDER.format(connections=str(tmp_path / "seen"), pictures=str(tmp_path / "pictures"))
    look = "import urllib.request as r\ntry: r.urlopen('http://127.0.0.1:9')\nexcept OSError: pass"
    subprocess.run([sys.executable, "-c", program + look], check=True)
    assert "127.0.0.1" in (tmp_path / "seen").read_text()


@pytest.mark.parametrize("path", ["/config", "/gradio_api/info", "/"])
def test_no_listing_names_a_path_of_the_machine(served: App, path: str) -> None:
    with urllib.request.urlopen(served.address + path) as response:
        text = response.read().decode()
    for secret in (str(served.temporary), str(ROOT), ".safetensors"):
        assert secret not in text


@pytest.mark.parametrize("path", ["/gradio_api/deep_link", "/gradio_api/deep_link/"])
def test_deep_links_answer_404(served: App, path: str) -> None:
    assert status(served.address + path) == 404
    assert status(f"{served.address}{path}?session_hash=x", b"{}") == 404


@pytest.mark.parametrize("number", ["6", "-1", "1.5", "9" * 5000])
def test_an_example_that_is_not_there_answers_404(served: App, number: str) -> None:
    assert status(f"{served.address}/example/{number}") == 404


def test_monitoring_is_closed(served: App) -> None:
    assert status(f"{served.address}/monitoring") in (403, 404)
    assert status(f"{served.address}/monitoring/summary") in (403, 404)


OURS = ["/answer", "/cover?at=1,1,1", "/check", "/mcp"]
ROUTES = ["/", *OURS, "/gradio_api/upload", "/gradio_api/queue/join", "/gradio_api/call/classify"]


@pytest.mark.parametrize("path", [*ROUTES, "/gradio_api/component_server", "/nowhere"])
def test_a_body_above_the_limit_is_413_wherever_a_body_may_come(served: App, path: str) -> None:
    host = served.address.removeprefix("http://")
    connection = http.client.HTTPConnection(host, timeout=20)
    connection.putrequest("POST", path)
    connection.putheader("Content-Type", "application/json")
    connection.putheader("Content-Length", str(MAX_BYTES + MAX_QUESTION + 1))  # a form is a little longer than its file
    connection.endheaders()
    assert connection.getresponse().status == (413 if path in ROUTES[1:] else 404)  # neither reads the body
    connection.close()


def chunks(head: bytes, tail: bytes) -> Iterator[bytes]:
    yield head
    for _ in range(17):
        yield b"A" * (1 << 20)
    yield tail


JSON = b'{"data": ["', b'"]}'
FORM = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a"\r\n\r\n', b"\r\n--x--\r\n"


STREAMED = [*OURS, "/gradio_api/queue/join", "/gradio_api/call/classify", "/gradio_api/upload"]


@pytest.mark.parametrize("path", STREAMED)
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


def post(address: str, data: bytes, kind: str) -> Any:
    """The JSON of an answer."""
    request = urllib.request.Request(address, data, {"Content-Type": kind})
    with urllib.request.urlopen(request, timeout=60) as response:
        return json.load(response)


def files_in(folder: Path) -> list[Path]:
    """All files, however deep."""
    return [path for path in folder.rglob("*") if path.is_file()]


def test_nothing_that_is_sent_is_ever_on_a_disk(served: App) -> None:
    """Neither an upload of the page, nor one of a program, nor the picture made of it, while the app has them."""
    mass = (ROOT / "examples" / "02-lower-lobe-mass-lung-window.png").read_bytes()
    for question in ("answer", "cover?at=200,200,30"):
        assert post(f"{served.address}/{question}", mass, "application/octet-stream")
    large = FORM[0] + b"CANARY" * (1 << 20) + FORM[1]  # more than Starlette keeps in memory
    (name,) = post(f"{served.address}/gradio_api/upload", large, "multipart/form-data; boundary=x")
    with urllib.request.urlopen(f"{served.address}/gradio_api/file={name}") as response:
        assert response.read() == b"CANARY" * (1 << 20)
    assert files_in(served.temporary) == []
    (folder,) = served.temporary.iterdir()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    process = psutil.Process(served.process.pid)
    opened = [file.path for p in [process, *process.children(recursive=True)] for file in p.open_files()]
    assert not [path for path in opened if Path(path).is_relative_to(served.temporary)]  # nor in one that has no name


def test_a_file_of_the_api_has_a_name_of_ours(served: App) -> None:
    named = FORM[0].replace(b'"a"', b'"CANARY of a patient.png"') + b"a slice" + FORM[1]
    named = named.replace(b"--x--", b'--x\r\nContent-Disposition: form-data; name="CANARY"\r\n\r\na field\r\n--x--')
    names = post(f"{served.address}/gradio_api/upload", named, "multipart/form-data; boundary=x")
    assert len(names) == 2
    assert all(re.fullmatch("[0-9a-f]{32}", name) for name in names)


def test_what_is_no_form_is_not_uploaded_and_what_is_no_json_not_asked(served: App) -> None:
    upload, ask = f"{served.address}/gradio_api/upload", f"{served.address}/gradio_api/queue/join"
    assert status(upload, b"{}") == 400
    assert status(upload, b"no form", "multipart/form-data; boundary=x") == 400
    assert status(ask, FORM[0] + FORM[1], "multipart/form-data; boundary=x") == 422
    assert status(ask, b"[" * 60_000) == 422


def test_files_of_the_api_are_forgotten_when_they_are_old_or_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    memory = Memory(age=600, room=100)
    first = memory.put(b"x" * 60)
    now = 599.0
    assert memory.get(first) == b"x" * 60
    second = memory.put(b"y" * 60, ".png")
    assert memory.get(first) is None  # no room for both
    now = 1198.0
    assert memory.get(second) == b"y" * 60
    now = 1200.0
    assert memory.get(second) is None
    assert memory.get(None) is None
    assert first != second


def test_the_queue_is_bounded(classifier: Any) -> None:
    blocks = build_api(Views(classifier, (), Facts(classifier.card)), Memory(), CapacityLimiter(AT_ONCE))
    assert blocks._queue.max_size == WAITING == 16
    assert AT_ONCE == 2
    assert not blocks.api_open


@pytest.mark.slow
def test_a_killed_app_leaves_no_more_than_an_empty_folder(checkpoint_path: Path, tmp_path: Path) -> None:
    """What a stopped one leaves: tests/test_load.py."""
    with running_app(checkpoint_path, tmp_path) as app:
        post(f"{app.address}/gradio_api/upload", FORM[0] + b"CANARY" + FORM[1], "multipart/form-data; boundary=x")
        app.process.kill()
        app.process.wait()
        assert files_in(tmp_path) == []


def test_no_room_for_the_folder_is_said_in_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))
    with pytest.raises(CtscanError, match=r"No temporary folder can be made \(No such file"), private_folder():
        pass
