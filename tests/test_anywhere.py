"""The app at any address, on any machine: what it listens at, how it ends, where its folder may be."""

from __future__ import annotations

import asyncio
import socket
from contextlib import closing
from typing import Any

import pytest

from ctscan.errors import CtscanError
from ctscan.page.door import Door
from ctscan.page.server import listen
from tests.conftest import free_port

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
    asyncio.run(door(scope, receive, send))
    return sent[0]["status"], {name.decode(): value.decode() for name, value in sent[0]["headers"]}


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """Answers with the path below the root path."""
    path = scope["path"].removeprefix(scope["root_path"])
    headers = [(b"below", scope["root_path"].encode()), (b"path", path.encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b""})


@pytest.mark.parametrize("typed", ["ctscan", "/ctscan", "/ctscan/", "ctscan/", "//ctscan"])
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
