"""The only ways into the server: which addresses there are, how much may come, and what is said while it is busy."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from contextlib import suppress
from urllib.parse import unquote

from starlette.datastructures import MutableHeaders
from starlette.middleware.body_limit import RequestBodyLimitMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ctscan.notices import catalogue
from ctscan.page.choice import read_choice

MAX_BYTES = 16 << 20  # of an upload
MAX_SCAN = 128 << 20  # of a scan, all slices at once
MAX_QUESTION = 1 << 16  # bytes of a body that is no upload; an honest one has some hundreds
# What the page asks, and what gradio_client asks: a listing, an upload, a question, its answer, a file. No more.
BEGINNING = re.compile(r"POST /(answer|cover|check|series(/scores)?|mcp|gradio_api/upload)|GET /example/\d+")
SCAN_COMES = "POST /series"
ASKING = re.compile(r"POST /gradio_api/(queue/join|call/classify)")
OTHER = re.compile(
    r"(GET|HEAD) /((static|picture|scan|text)/[\w.-]+|health|config|gradio_api/info)?|GET /series/units|DELETE /series"
    r"|GET /gradio_api/(queue/data|call/classify/\w+|file=[\w.]+|heartbeat/\w+)|POST /gradio_api/(cancel|reset)"
)
AWAITING = re.compile(r"GET /gradio_api/(?:queue/data|call/classify/(\w+))")  # an answer, by its number or its session
LASTING = "/gradio_api/heartbeat/"  # open for as long as a client is
DRAIN_LIMIT = 20.0  # s that work under way has to finish
QUIET = 1.0  # s: a client asks for the next thing within this, or has all that it wants
HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'",  # a Space is shown in a frame, so frames are allowed
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}


class Door:
    """ASGI middleware around everything.

    Args:
        app: What answers.
        is_uploaded: Whether a name is that of a file which was uploaded.
        is_awaited: Whether there is, or will be, an answer of this number or session; Gradio fails over any other.
        root_path: Path below which a proxy serves the page, whether it cuts it off or not, as in an address, or a whole
            one; slashes around it are free.
    """

    def __init__(
        self,
        app: ASGIApp,
        is_uploaded: Callable[[object], bool],
        root_path: str = "",
        is_awaited: Callable[[str], bool] = lambda _: True,
    ) -> None:
        self.app = app
        path = re.sub(r"^https?://[^/]*", "", root_path)
        self.root_path = f"/{unquote(path).strip('/')}".rstrip("/")
        self.is_uploaded, self.is_awaited = is_uploaded, is_awaited
        self.draining = False
        self._limited = RequestBodyLimitMiddleware(app, MAX_BYTES + MAX_QUESTION)  # a form is longer than its file
        self._scans = RequestBodyLimitMiddleware(app, MAX_SCAN)
        self._asked = RequestBodyLimitMiddleware(self._ask, MAX_QUESTION)
        self._open = 0
        self._last = self._deadline = time.monotonic()

    def drain(self) -> None:
        """Take no new work from now on."""
        self.draining = True
        self._last = time.monotonic()
        self._deadline = self._last + DRAIN_LIMIT

    @property
    def drained(self) -> bool:
        """Whether all that was under way when draining began is done and fetched, or has had its time."""
        now = time.monotonic()
        return self.draining and (now > self._deadline or (self._open == 0 and now > self._last + QUIET))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        below = f"{scope['path']}/".startswith(f"{self.root_path}/")
        path = scope["path"].removeprefix(self.root_path) if below else scope["path"]
        scope = {**scope, "root_path": self.root_path, "path": self.root_path + path}
        way = f"{scope['method']} {path}"
        lasting = LASTING in way
        self._open += not lasting
        try:
            with suppress(ClientDisconnect):  # in mid-upload; there is nobody to tell, and nothing went wrong here
                await self._pass(way, scope, receive, in_our_words(way, scope, receive, send))
        finally:
            self._open -= not lasting
            self._last = self._last if lasting else time.monotonic()

    async def _pass(self, way: str, scope: Scope, receive: Receive, send: Send) -> None:
        if self.draining and (BEGINNING.fullmatch(way) or ASKING.fullmatch(way)):
            await refuse(503, "stopping", scope)(scope, receive, send)
        elif ASKING.fullmatch(way):
            await self._asked(scope, receive, send)
        elif (awaiting := AWAITING.fullmatch(way)) and not self.is_awaited(
            awaiting[1] or Request(scope).query_params.get("session_hash", "")
        ):
            await PlainTextResponse("Not found", 404)(scope, receive, send)
        elif way == SCAN_COMES:
            await self._scans(scope, receive, send)
        elif BEGINNING.fullmatch(way) or OTHER.fullmatch(way):
            await self._limited(scope, receive, send)
        elif way in ("GET ", "HEAD "):  # the root path alone, below which the page's relative addresses would not lie
            await RedirectResponse(f"{self.root_path}/")(scope, receive, send)
        else:
            await PlainTextResponse("Not found", 404, {"connection": "close"})(scope, receive, send)

    async def _ask(self, scope: Scope, receive: Receive, send: Send) -> None:
        """A question goes on if it names an uploaded file, and perhaps a slice and a window, and nothing else.

        Gradio's log would quote what is wrong; and it would refuse a question that leaves out what is optional.
        """
        body, wrong = await Request(scope, receive).body(), "not_uploaded"
        try:
            question = json.loads(body)
            file, *chosen = question["data"]
            if self.is_uploaded(file["path"]):
                wrong = "odd_choice"
                read_choice(*chosen)
                question["data"] = [file, *chosen, None, None][:3]
                body, wrong = json.dumps(question).encode(), ""
        except (ValueError, RecursionError, KeyError, TypeError):
            pass
        if wrong:
            await refuse(422, wrong, scope)(scope, receive, send)
            return
        length = [(name, value) for name, value in scope["headers"] if name != b"content-length"]
        scope = {**scope, "headers": [*length, (b"content-length", str(len(body)).encode())]}
        first: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def replay() -> Message:
            return first.pop() if first else await receive()

        await self.app(scope, replay, send)


def in_our_words(way: str, scope: Scope, receive: Receive, send: Send) -> Send:
    """Send with the page's own headers, and with its own sentence where a queue is full or a body too large."""
    large = "long_question" if ASKING.fullmatch(way) else "large_series" if way == SCAN_COMES else "large"
    reasons = {503: "busy", 413: large}
    replaced = 0  # status of an answer that is not ours

    async def sender(message: Message) -> None:
        nonlocal replaced
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            replaced = message["status"] if message["status"] in reasons and "ctscan-reason" not in headers else 0
            for name, value in HEADERS.items():
                headers.setdefault(name, value)
        if not replaced:
            await send(message)
        elif message["type"] == "http.response.body" and not message.get("more_body"):
            status, replaced = replaced, 0
            await refuse(status, reasons[status], scope)(scope, receive, sender)

    return sender


def refuse(status: int, reason: str, scope: Scope) -> Response:
    """An answer of one sentence; as JSON where Gradio's clients look for it, so that they show it."""
    sentence = catalogue()["page"]["reasons"][reason]
    headers = {"ctscan-reason": reason} | ({"retry-after": "5"} if status == 503 else {"connection": "close"})
    if "/gradio_api/" in scope["path"] and status == 503:
        return JSONResponse({"detail": sentence}, status, headers)
    if "/gradio_api/" in scope["path"] and status == 422:  # as of a validator of Gradio's
        said = {"__type__": "validate", "is_valid": False, "parameter_name": "slice", "message": sentence}
        return JSONResponse({"detail": [said]}, status, headers)
    return PlainTextResponse(sentence, status, headers)
