"""What Gradio is told when the page is served: private by configuration, bounded, and with a folder of its own."""

from __future__ import annotations

import atexit
import os
import shutil
import socket
import stat
import tempfile
import uuid
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any

import gradio as gr
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ctscan.page import words
from ctscan.page.upload import UploadGate

MAX_BYTES = 16 << 20  # of an upload, and of any request's body
CLOSED_ROUTES = ("/gradio_api/deep_link",)  # it would write a visitor's page to disk
STARTING = "starting"  # lock file that a process holds while it sets up its folder
HERE = Path(__file__).parent


class ServerError(ValueError):
    """The page cannot be served; the text is one sentence."""


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


class TemporaryFolder:
    """A folder of this process alone, mode 0700; what earlier processes left behind is deleted.

    A process holds a lock on its folder while it lives, so a folder whose lock can be had is a dead one's. Where the
    system has no such locks (Windows), folders are left to the system's own cleaning.
    """

    def __init__(self) -> None:
        try:
            base = open_base(Path(tempfile.gettempdir()))
            with base.joinpath(STARTING).open("ab") as starting:
                wait_for_lock(starting)  # between making a folder and locking it, it must not look like a dead one's
                delete_left_behind(base)
                self.path = base / uuid.uuid4().hex
                self.path.mkdir(mode=0o700)
                self._lock = open_locked(self.path.with_suffix(".lock"))
        except OSError as error:
            raise ServerError(f"No temporary folder can be made ({error.strerror}); set TMPDIR.") from None

    def delete(self) -> None:
        """Leave nothing."""
        shutil.rmtree(self.path, ignore_errors=True)
        self.path.with_suffix(".lock").unlink(missing_ok=True)


def open_base(parent: Path) -> Path:
    """The folder that holds one folder for each process of this user. Raises ServerError where it is not theirs."""
    owner = os.getuid() if hasattr(os, "getuid") else os.environ.get("USERNAME", "user")
    base = parent / f"ctscan-{owner}"
    with suppress(FileExistsError):
        base.mkdir(mode=0o700)
    found = base.lstat()
    if not stat.S_ISDIR(found.st_mode) or (hasattr(os, "getuid") and found.st_uid != owner):
        raise ServerError(f"{base} belongs to somebody else; remove it or set TMPDIR.")
    base.chmod(0o700)
    return base


def delete_left_behind(base: Path) -> None:
    """Delete the folders whose process is gone."""
    for lock in base.glob("*.lock"):
        held = open_locked(lock)
        if held is not None:
            shutil.rmtree(lock.with_suffix(""), ignore_errors=True)
            held.close()
            lock.unlink(missing_ok=True)


def wait_for_lock(file: IO[bytes]) -> None:
    """Lock an open file until it is closed; nothing where the system has no such locks."""
    if find_spec("fcntl") is not None:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX)


def open_locked(path: Path) -> IO[bytes] | None:
    """Open a lock file and take its lock; None where another process has it or there are no locks."""
    if find_spec("fcntl") is None:
        return None
    import fcntl

    file = path.open("ab")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        return None
    return file


def prepare() -> TemporaryFolder:
    """Set what Gradio reads from the environment; to be called before the page is built.

    The folder is deleted when the process ends. Raises ServerError where there can be none.
    """
    folder = TemporaryFolder()
    atexit.register(folder.delete)
    os.environ["GRADIO_TEMP_DIR"] = str(folder.path)
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
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
    script = (HERE / "page.js").read_text(encoding="utf-8").replace("CTSCAN_TOO_LARGE", repr(words.TOO_LARGE))
    return f"<script>{script}</script>"


def settings(host: str, port: int) -> dict[str, Any]:
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
        "app_kwargs": {"middleware": [Middleware(Guard), Middleware(UploadGate)]},
        "theme": theme(),
        "css": (HERE / "style.css").read_text(encoding="utf-8"),
        "head": head(),
        "quiet": True,
        "prevent_thread_lock": True,
    }


def check_address(host: str, port: int) -> None:
    """Raises ServerError where nothing can listen there, before a model is loaded for it."""
    if not 0 < port < 1 << 16:
        raise ServerError(f"There is no port {port}; try --port.")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            trial.bind(address)
    except OSError as error:
        raise ServerError(f"{host}:{port} cannot be had ({error.strerror}); try --port or --host.") from None


def serve(blocks: gr.Blocks, host: str, port: int) -> None:
    """Serve until interrupted. Raises ServerError where the address cannot be had."""
    try:
        blocks.launch(**settings(host, port))
    except OSError:
        raise ServerError(f"{host}:{port} cannot be had: another program uses the port; try --port.") from None
    print(f"{words.NAME}: http://{host}:{port}", flush=True)
    blocks.block_thread()
