"""The only ways into the server: which addresses there are, how much may come, and what is said while it is busy."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from contextlib import suppress

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ctscan.notices import catalogue

MAX_BYTES = 16 << 20  # of an upload
MAX_QUESTION = 1 << 16  # bytes of a body that is no upload; an honest one has some hundreds
OWN = re.compile(r"(GET|HEAD) /(static/[\w.-]+|example/\d+|health)?|POST /answer")
# What gradio_client asks, and a program that does without it: the listing, an upload, a question, its answer, a file.
ASKING = re.compile(r"POST /gradio_api/(queue/join|call/classify)")
UPLOADING = "POST /gradio_api/upload"
LISTING = re.compile(r"(GET|HEAD) /(config|gradio_api/info)")
FINISHING = re.compile(
    r"GET /gradio_api/(queue/data|call/classify/\w+|file=[\w.]+|heartbeat/\w+)|POST /gradio_api/(cancel|reset)"
)
LASTING = "/gradio_api/heartbeat/"  # open for as long as a client is
DRAIN_LIMIT = 20.0  # s that work under way has to finish
QUIET = 1.0  # s: a client asks for the next thing within this, or has all that it wants
HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'",  # a Space is shown in a frame, so frames are allowed
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}


class TooLarge(Exception):  # noqa: N818 - it is a verdict on a request, not a fault
    """A body went over its limit while it was read."""


class Door:
    """ASGI middleware around everything.

    Args:
        app: What answers.
        is_uploaded: Whether a name is that of a file which was uploaded.
    """

    def __init__(self, app: ASGIApp, is_uploaded: Callable[[object], bool]) -> None:
        self.app = app
        self.is_uploaded = is_uploaded
        self.draining = False
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
        root = scope.get("root_path", "")
        way = f"{scope['method']} {scope['path'].removeprefix(root) if root else scope['path']}"
        if LASTING in way:
            await self._pass(way, scope, receive, send)
            return
        self._open += 1
        try:
            with suppress(ClientDisconnect):  # in mid-upload; there is nobody to tell, and nothing went wrong here
                await self._pass(way, scope, receive, send)
        finally:
            self._open -= 1
            self._last = time.monotonic()

    async def _pass(self, way: str, scope: Scope, receive: Receive, send: Send) -> None:
        sender = with_headers(send)
        uploading = way in (UPLOADING, "POST /answer")
        asking = bool(ASKING.fullmatch(way))
        known = uploading or asking or any(ways.fullmatch(way) for ways in (OWN, LISTING, FINISHING))
        limit = MAX_QUESTION if asking else MAX_BYTES + (MAX_QUESTION if way == UPLOADING else 0)
        if stated_length(scope) > limit:
            await refuse(413, "long_question" if asking else "large", scope)(scope, receive, sender)
        elif not known:
            await drop(receive, sender, scope, limit)
        elif self.draining and (uploading or asking):
            await refuse(503, "stopping", scope)(scope, receive, sender)
        elif asking:
            await self._ask(scope, receive, sender)
        else:
            await limited(self.app, limit, scope, receive, sender)

    async def _ask(self, scope: Scope, receive: Receive, send: Send) -> None:
        """A question goes on if it names an uploaded file and nothing else; Gradio's log would quote what is wrong."""
        body, more = b"", True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
            if len(body) > MAX_QUESTION:
                await refuse(413, "long_question", scope)(scope, receive, send)
                return
        try:
            question = json.loads(body)
            (file,) = question["data"]
            asked = self.is_uploaded(file["path"])
        except (ValueError, RecursionError, KeyError, TypeError):
            asked = False
        if not asked:
            await refuse(400, "not_uploaded", scope)(scope, receive, send)
            return
        first: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def replay() -> Message:
            return first.pop() if first else await receive()

        full = False

        async def polite(message: Message) -> None:
            nonlocal full
            full = full or message.get("status") == 503  # nothing but the full queue answers so
            if not full:
                await send(message)
            elif message["type"] == "http.response.body" and not message.get("more_body"):
                await refuse(503, "busy", scope)(scope, receive, send)

        await self.app(scope, replay, polite)


async def limited(app: ASGIApp, limit: int, scope: Scope, receive: Receive, send: Send) -> None:
    """Let the app answer; 413 where the body goes over its limit, whatever the app makes of that."""
    seen, started = 0, False

    async def counted() -> Message:
        nonlocal seen
        message = await receive()
        seen += len(message.get("body", b""))
        if seen > limit:
            raise TooLarge
        return message

    async def watched(message: Message) -> None:
        nonlocal started
        if seen > limit and not started:
            raise TooLarge
        started = True
        await send(message)

    try:
        await app(scope, counted, watched)
    except TooLarge:
        if not started:
            await refuse(413, "large", scope)(scope, receive, send)


async def drop(receive: Receive, send: Send, scope: Scope, limit: int) -> None:
    """404 for an address that is none; 413 where what comes with it is too large."""

    async def nothing(scope: Scope, receive: Receive, send: Send) -> None:
        while (message := await receive()).get("more_body"):
            del message
        await PlainTextResponse("Not found", 404)(scope, receive, send)

    await limited(nothing, limit, scope, receive, send)


def with_headers(send: Send) -> Send:
    """Send every answer with the page's own headers."""

    async def sender(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in HEADERS.items():
                headers.setdefault(name, value)
        await send(message)

    return sender


def stated_length(scope: Scope) -> int:
    """The Content-Length of a request, 0 where there is none or it is no number."""
    stated = Headers(scope=scope).get("content-length", "")
    return int(stated) if stated.isdecimal() else 0


def refuse(status: int, reason: str, scope: Scope) -> Response:
    """An answer of one sentence; as JSON where Gradio's clients look for it."""
    sentence = catalogue()["page"]["reasons"][reason]
    headers = {"ctscan-reason": reason} | ({"retry-after": "5"} if status == 503 else {"connection": "close"})
    if "/gradio_api/" in scope["path"] and status == 503:
        return JSONResponse({"detail": sentence}, status, headers)
    return PlainTextResponse(sentence, status, headers)
