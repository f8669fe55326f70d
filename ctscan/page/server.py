"""What Gradio is told when the page is served: private by configuration, bounded, and with a folder of its own."""

from __future__ import annotations

import atexit
import json
import os
import signal
import socket
import time
from pathlib import Path
from typing import Any, NoReturn

import gradio as gr
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ctscan.errors import CtscanError
from ctscan.page import words
from ctscan.page.allocator import limit_arenas
from ctscan.page.housekeeping import Housekeeping
from ctscan.page.temporary_folder import TemporaryFolder
from ctscan.page.traffic import Reception, Traffic
from ctscan.page.upload import UploadGate

MAX_BYTES = 16 << 20  # of an upload, and of any request's body
CLOSED_ROUTES = ("/gradio_api/deep_link",)  # it would write a visitor's page to disk
SESSIONS = 32  # whose last values Gradio remembers; more than can wait and compute, and none is needed later
HERE = Path(__file__).parent


class TooLarge(Exception):  # noqa: N818 - it is a verdict on a request, not a fault
    """A body went over the limit while it was read."""


class Guard:
    """ASGI middleware: 413 for a body above the limit, stated or streamed, on every route; 404 on closed routes."""

    def __init__(self, app: ASGIApp, limit: int = MAX_BYTES) -> None:
        self.app = app
        self.limit = limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
        elif scope["path"].rstrip("/").endswith(CLOSED_ROUTES):
            await PlainTextResponse("Not found", 404)(scope, receive, send)
        elif stated_length(scope) > self.limit:
            await self._refuse(scope, receive, send)
        else:
            await self._count(scope, receive, send)

    async def _count(self, scope: Scope, receive: Receive, send: Send) -> None:
        seen, started = 0, False

        async def counted() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > self.limit:
                raise TooLarge
            return message

        async def watched(message: Message) -> None:
            nonlocal started
            if seen > self.limit and not started:  # an inner handler turned TooLarge into an answer of its own
                raise TooLarge
            started = True
            await send(message)

        try:
            await self.app(scope, counted, watched)
        except TooLarge:
            if not started:
                await self._refuse(scope, receive, send)

    async def _refuse(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = {"connection": "close"}
        await PlainTextResponse(words.TOO_LARGE, 413, headers)(scope, receive, send)


def stated_length(scope: Scope) -> int:
    """The Content-Length of a request, 0 where there is none or it is no number."""
    stated = dict(scope["headers"]).get(b"content-length", b"0")
    return int(stated) if stated.isdigit() else 0


def prepare() -> TemporaryFolder:
    """Set what Gradio reads from the environment; to be called before the page is built.

    The folder is deleted when the process ends. Raises CtscanError where there can be none.
    """
    limit_arenas()
    try:
        folder = TemporaryFolder()
    except CtscanError as error:
        raise CtscanError(str(error)) from None
    atexit.register(folder.delete)
    os.environ["GRADIO_TEMP_DIR"] = str(folder.path)
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["GRADIO_ANALYTICS_MAX_EVENTS"] = "1"  # or the last 10,000 requests are listed, and counted at each
    return folder


def theme() -> gr.themes.Base:
    """System fonts, greys, little rounding: nothing is fetched."""
    return gr.themes.Base(
        primary_hue="cyan",
        neutral_hue="zinc",
        radius_size="sm",
        font=["system-ui", "sans-serif"],
        font_mono=["ui-monospace", "monospace"],
    ).set(
        body_background_fill="#f6f7f8",
        body_background_fill_dark="#1b1d21",
        block_background_fill="#ffffff",
        block_background_fill_dark="#24272c",
    )


def head() -> str:
    """The page's own script."""
    script = (HERE / "page.js").read_text(encoding="utf-8")
    for name in ("TOO_LARGE", "FAILED"):
        script = script.replace(f"CTSCAN_{name}", json.dumps(getattr(words, name)))
    return f"<script>{script}</script>"


def settings(host: str, port: int, traffic: Traffic, housekeeping: Housekeeping) -> dict[str, Any]:
    """The arguments of launch: every one that would let anything out is off, whatever Gradio's default."""
    return {
        "server_name": host,
        "server_port": port,
        "share": False,
        "run_history": False,
        "pwa": False,
        "ssr_mode": False,
        "enable_monitoring": False,
        "show_error": False,
        "mcp_server": False,
        "max_file_size": MAX_BYTES,
        "footer_links": [],
        "state_session_capacity": SESSIONS,
        "app_kwargs": {
            "middleware": [Middleware(Reception, traffic), Middleware(Guard), Middleware(UploadGate)],
            "lifespan": housekeeping,
        },
        "theme": theme(),
        "css": (HERE / "style.css").read_text(encoding="utf-8"),
        "head": head(),
        "quiet": True,
        "prevent_thread_lock": True,
    }


def check_address(host: str, port: int) -> None:
    """Raises CtscanError where nothing can listen there, before a model is loaded for it."""
    if not 0 < port < 1 << 16:
        raise CtscanError(f"There is no port {port}; try --port.")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            trial.bind(address)
    except OSError as error:
        raise CtscanError(f"{host}:{port} cannot be had ({error.strerror}); try --port or --host.") from None


def serve(blocks: gr.Blocks, host: str, port: int, folder: TemporaryFolder, model_id: str) -> None:
    """Serve until interrupted or terminated. Raises CtscanError where the address cannot be had."""
    traffic = Traffic(model_id)
    try:
        blocks.launch(**settings(host, port, traffic, Housekeeping(folder, blocks._queue)))
    except OSError:
        raise CtscanError(f"{host}:{port} cannot be had: another program uses the port; try --port.") from None
    print(f"{words.NAME}: http://{host}:{port}", flush=True)
    try:
        wait_for_the_end(traffic)
    finally:
        blocks.close(verbose=False)


def wait_for_the_end(traffic: Traffic) -> None:
    """Return after SIGTERM, when what was under way is done; Ctrl-C, or a second signal, raises KeyboardInterrupt."""
    signal.signal(signal.SIGTERM, raise_terminated)
    try:
        while True:
            time.sleep(1)
    except Terminated:
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        traffic.drain()


class Terminated(BaseException):
    """SIGTERM came; no fault, so nothing that handles faults may catch it."""


def raise_terminated(*_: object) -> NoReturn:
    """Handler of SIGTERM."""
    raise Terminated
