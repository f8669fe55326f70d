"""Requests under way: what is refused politely, whether the app is well, and when it may stop."""

from __future__ import annotations

import re
import time
from contextlib import suppress

from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ctscan.page import words

HEALTH = "/health"
LASTING = "/heartbeat/"  # open as long as a page is
# what a client asks whose work was accepted before: its answer, the overlay's file, and to be forgotten
FINISHING = re.compile(r"GET /gradio_api/(queue/data|call/|file=|upload_progress|heartbeat/)|POST /gradio_api/cancel")
DRAIN_LIMIT = 20  # s that work under way has to finish
QUIET = 1.0  # s: a client asks for the next thing within this, or has all that it wants
RETRY = {"retry-after": "5"}  # s


class Traffic:
    """Counts requests for the server's thread, is asked and told to drain by the main thread."""

    def __init__(self, model_id: str) -> None:
        self.model_id = model_id
        self.draining = False
        self._open = 0
        self._last = time.monotonic()

    def enter(self) -> None:
        """A request begins."""
        self._open += 1

    def leave(self) -> None:
        """A request has ended."""
        self._open -= 1
        self._last = time.monotonic()

    def drain(self) -> None:
        """Take no new work; return when what was under way is done and fetched, or after the limit."""
        self.draining, self._last = True, time.monotonic()
        deadline = time.monotonic() + DRAIN_LIMIT
        while time.monotonic() < min(deadline, self._last + QUIET) or (self._open and time.monotonic() < deadline):
            time.sleep(0.05)

    def health(self) -> Response:
        """200 and the model's name, or 503 while draining."""
        if self.draining:
            return JSONResponse({"status": "draining"}, 503)
        return JSONResponse({"status": "ok", "model_id": self.model_id})


class Reception:
    """ASGI middleware: the health address, a plain sentence where the queue is full or the app stops."""

    def __init__(self, app: ASGIApp, traffic: Traffic) -> None:
        self.app = app
        self.traffic = traffic

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        path = scope.get("path", "")
        if scope["type"] != "http":
            await self.app(scope, receive, send)
        elif path == HEALTH:
            await self.traffic.health()(scope, receive, send)
        elif self.traffic.draining and not is_finishing(scope):
            await refusal(scope, words.STOPPING)(scope, receive, send)
        elif LASTING in path:
            await self.app(scope, receive, send)
        else:
            await self._count(scope, receive, send)

    async def _count(self, scope: Scope, receive: Receive, send: Send) -> None:
        full = False

        async def plain(message: Message) -> None:
            nonlocal full
            full = full or message.get("status") == 503  # nothing but the full queue answers so
            if not full:
                await send(message)
            elif message["type"] == "http.response.body" and not message.get("more_body"):
                await refusal(scope, words.BUSY)(scope, receive, send)

        self.traffic.enter()
        try:
            with suppress(ClientDisconnect):  # in mid-upload; there is nobody to tell, and nothing went wrong here
                await self.app(scope, receive, plain)
        finally:
            self.traffic.leave()


def is_finishing(scope: Scope) -> bool:
    """Whether a request belongs to work that was accepted."""
    return bool(FINISHING.match(f"{scope['method']} {scope['path']}"))


def refusal(scope: Scope, sentence: str) -> Response:
    """503 with a sentence: as text for a browser's address line, as Gradio's errors are for its clients."""
    if "/gradio_api/" in scope["path"]:
        return JSONResponse({"detail": sentence}, 503, RETRY)
    return PlainTextResponse(sentence, 503, RETRY)
