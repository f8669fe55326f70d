"""The app at any address, on any machine: what it listens at, how it ends, where its folder may be."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import gradio as gr
import pytest

from ctscan.errors import CtscanError
from ctscan.io.sandbox import environment
from ctscan.page import launch
from ctscan.page.door import Door
from ctscan.page.server import listen
from tests.caller import Caller
from tests.conftest import ROOT, Command, free_port, one_now, running_app, wait_until

# --- addresses


@pytest.fixture
def sockets(monkeypatch: pytest.MonkeyPatch) -> list[socket.socket]:
    """All that are made meanwhile."""
    made: list[socket.socket] = []

    class Noted(socket.socket):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            made.append(self)

    monkeypatch.setattr(socket, "socket", Noted)
    return made


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "[::1]", "::", "localhost", "0.0.0.0"])
def test_it_listens_at(host: str) -> None:
    port = free_port()
    with listen(host, port) as listener:
        family = listener.family
        reached = host.strip("[]") if host not in ("::", "0.0.0.0") else {"::": "::1", "0.0.0.0": "127.0.0.1"}[host]
        with closing(socket.socket(family)) as visitor:
            visitor.connect((reached, port))


def test_of_two_that_start_together_one_is_told(sockets: list[socket.socket]) -> None:
    port = free_port()
    sockets.clear()
    with listen("127.0.0.1", port), pytest.raises(CtscanError, match=f"^Another program uses 127.0.0.1:{port};"):
        listen("127.0.0.1", port)
    assert len(sockets) == 2
    assert sockets[1].fileno() == -1  # closed


@pytest.mark.parametrize("host", ["no.such.host.invalid", "192.0.2.7", "a" * 64 + ".org"])
def test_an_address_that_is_not_ours_is_said_otherwise(host: str, sockets: list[socket.socket]) -> None:
    with pytest.raises(CtscanError, match=r"--host\.$") as caught:
        listen(host, 7860)
    assert host in str(caught.value)
    assert "Another program" not in str(caught.value)
    assert all(made.fileno() == -1 for made in sockets)


def asked(door: Door, path: str, method: str = "GET") -> tuple[int, dict[str, str]]:
    """Status and headers of an answer."""
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": method, "path": path, "root_path": "", "headers": [], "query_string": b""}
    with ThreadPoolExecutor(1) as thread:  # in the tests' own a browser's loop may still be running
        thread.submit(asyncio.run, door(scope, receive, send)).result()
    return sent[0]["status"], {name.decode(): value.decode() for name, value in sent[0]["headers"]}


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """Answers with the path below the root path."""
    path = scope["path"].removeprefix(scope["root_path"])
    headers = [(b"below", scope["root_path"].encode()), (b"path", path.encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b""})


@pytest.mark.parametrize(
    "typed", ["ctscan", "/ctscan", "/ctscan/", "ctscan/", "//ctscan", "https://example.org/ctscan/", "/%63tscan"]
)
def test_a_root_path_may_be_typed_in_any_way(typed: str) -> None:
    door = Door(echo, lambda _: False, typed)
    assert door.root_path == "/ctscan"
    for path in ("/", "/health", "/static/page.js"):
        for sent in (path, f"/ctscan{path}"):  # cut off by the proxy, or kept
            status, headers = asked(door, sent)
            assert (status, headers["below"], headers["path"]) == (200, "/ctscan", path)
    for method in ("GET", "HEAD"):
        status, headers = asked(door, "/ctscan", method)
        assert (status, headers["location"]) == (307, "/ctscan/")
    assert asked(door, "/ctscan", "POST")[0] == asked(door, "/ctscanner/")[0] == asked(door, "/other/")[0] == 404


@pytest.mark.parametrize("typed", ["", "/"])
def test_without_a_root_path_the_page_is_at_the_root(typed: str) -> None:
    door = Door(echo, lambda _: False, typed)
    assert door.root_path == ""
    assert asked(door, "/")[0] == 200
    assert asked(door, "/ctscan")[0] == asked(door, "/ctscan/")[0] == 404


@pytest.mark.parametrize("below", ["", "/ctscan"])
def test_draining_below_a_sub_path(below: str) -> None:
    door = Door(echo, lambda _: False, "/ctscan")
    door.drain()
    assert asked(door, f"{below}/health")[0] == 200  # it is told by the app, which says 503
    for method, path in (("POST", "/answer"), ("GET", "/example/1"), ("POST", "/gradio_api/queue/join")):
        status, headers = asked(door, f"{below}{path}", method)
        assert (status, headers["ctscan-reason"]) == (503, "stopping")


# --- ends and folders


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="this system has no such signal")
@pytest.mark.parametrize("others", one_now("folder", "file"))
def test_in_a_strange_temporary_folder_it_leaves_nothing(
    others: str, best_checkpoint: Path, slice_png: bytes, tmp_path: Path
) -> None:
    folder, link, home = tmp_path / "a [b] *?#", tmp_path / "link", tmp_path / "home"
    folder.mkdir()
    home.mkdir()
    link.symlink_to(folder)
    gradio = folder / "gradio"
    gradio.write_text("of somebody else") if others == "file" else gradio.mkdir(mode=0o500)
    with running_app(best_checkpoint, link if others == "file" else folder, {"HOME": str(home)}) as app:
        assert Caller(app.address).classify(slice_png)
        assert [path for path in folder.iterdir() if path != gradio and not path.name.startswith("ctscan-")] == []
        app.process.send_signal(signal.SIGHUP)
        assert app.process.wait(timeout=30) == 0
    assert list(folder.iterdir()) == [gradio]
    assert list(home.rglob("*")) == []


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="a folder in use cannot go there")
@pytest.mark.parametrize("output", one_now(">&- 2>&-", ">&-", "| true"))
def test_it_serves_from_a_folder_that_is_gone_to_nobody_who_reads(
    output: str, best_checkpoint: Path, tmp_path: Path
) -> None:
    gone, port, number, status = tmp_path / "gone", free_port(), tmp_path / "pid", tmp_path / "status"
    gone.mkdir()
    program = f"echo $$ >{number}; exec {sys.executable} {ROOT / 'app.py'} --checkpoint {best_checkpoint} --port {port}"
    shell = f"(sh -c '{program}'; echo $? >{status}) {output}"
    shell = f"rmdir {gone}; {shell}"
    with subprocess.Popen(["sh", "-c", shell], cwd=gone, stderr=subprocess.PIPE, text=True) as process:
        caller = Caller(f"http://127.0.0.1:{port}")
        wait_until(lambda: status.exists() or is_up(caller), 90)
        os.kill(int(number.read_text()), signal.SIGTERM)
        wait_until(lambda: status.exists() and status.read_text().strip() != "", 30)
        assert status.read_text().strip() == "0"
        assert process.communicate()[1].replace("sh: 0: getcwd() failed: No such file or directory\n", "") == ""


def is_up(caller: Caller) -> bool:
    """Whether it says so itself."""
    try:
        return caller.health()["status"] == "ok"
    except OSError:
        return False


@pytest.mark.skipif(sys.platform == "win32", reason="PATH is another thing there")
def test_a_child_is_found_where_python_itself_was_found_by_a_relative_path() -> None:
    """Some pythons then know themselves by a relative name, and a child begins elsewhere."""
    folder, name = Path(sys.executable).parent, Path(sys.executable).name
    program = "from ctscan.io.sandbox import Decoder; d = Decoder(1); d.wait_until_ready(); d.close()"
    settings = os.environ | {"PATH": folder.name, "PYTHONPATH": str(ROOT)}
    command = ["/usr/bin/env", name, "-c", program]
    done = subprocess.run(command, cwd=folder.parent, env=settings, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_gradios_own_command_starts_nothing_that_could_outlive_it() -> None:
    command = [sys.executable, "-c", "from gradio.cli import cli; cli()", "app.py"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)  # ends with its child
    assert done.stderr == "app.py: `gradio app.py` reloads nothing here; start it by `python app.py`.\n"


# --- other people's environments

MEANT = {"GRADIO_SERVER_NAME", "GRADIO_SERVER_PORT", "GRADIO_ROOT_PATH"}
READ = {
    name
    for file in Path(gr.__file__ or "").parent.rglob("*.py")
    for name in re.findall(r"GRADIO_[A-Z_]+", file.read_text("utf-8"))
}
ENVIRONMENTS: dict[str, dict[str, str]] = {
    "a proxy that listens, and ones for Gradio": {
        **dict.fromkeys(["HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy"], "http://{proxy}"),
        **dict.fromkeys(READ - MEANT, "1"),
    },
    "a proxy for all that listens": {"ALL_PROXY": "socks5://{proxy}", "all_proxy": "http://{proxy}"},
    "a proxy that is not there": dict.fromkeys(["HTTP_PROXY", "https_proxy", "ALL_PROXY"], "http://127.0.0.1:9"),
    "exceptions in IPv6": {"HTTP_PROXY": "http://{proxy}", "NO_PROXY": "[::1],::1,*", "no_proxy": "[::1"},
    "no addresses": {"HTTP_PROXY": "not an address", "ALL_PROXY": "socks5h://", "all_proxy": "://:"},
    "nonsense for Gradio": dict.fromkeys(READ - MEANT, "nonsense"),
    "nothing for Gradio": dict.fromkeys(READ, ""),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", one_now(*ENVIRONMENTS))
def test_it_starts_and_answers_in_any_environment_and_tells_a_proxy_nothing(
    name: str, best_checkpoint: Path, slice_png: bytes, tmp_path: Path
) -> None:
    temporary = tmp_path / "temporary"
    with closing(socket.create_server(("127.0.0.1", 0))) as proxy:
        proxy.setblocking(False)
        address = f"127.0.0.1:{proxy.getsockname()[1]}"
        settings = {variable: value.format(proxy=address) for variable, value in ENVIRONMENTS[name].items()}
        with running_app(best_checkpoint, temporary, settings) as app:
            assert Caller(app.address).classify(slice_png)["verdict"]
        with pytest.raises(BlockingIOError):
            proxy.accept()  # nobody has come
    heard = app.connections.read_text().splitlines() if app.connections.exists() else []
    assert [line for line in heard if "('127.0.0.1',)" not in line] == []  # where it listens
    assert list(temporary.iterdir()) == []
    assert app.log.read_text() == f"ctscan: {app.address}\n"


@pytest.mark.parametrize("value", ["many", "-1", "0", "99999", "7860.5"])
@pytest.mark.usefixtures("own_process")
def test_a_port_that_is_none_is_one_line(value: str, monkeypatch: pytest.MonkeyPatch, command: Command) -> None:
    monkeypatch.setitem(os.environ, "GRADIO_SERVER_PORT", value)
    done = command(launch.main, "app.py")
    assert done.returncode == 2
    assert re.fullmatch(r"app\.py: [^\n]+\n", done.stderr)


def test_relative_entries_of_the_path_mean_the_same_in_a_child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(["lib", "/abs", ""]))
    assert environment()["PYTHONPATH"].split(os.pathsep) == [str(tmp_path / "lib"), "/abs", str(tmp_path)]
    monkeypatch.setenv("PYTHONPATH", "")
    assert environment()["PYTHONPATH"] == ""
