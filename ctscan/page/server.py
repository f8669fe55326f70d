"""The page's own routes beside Gradio's queue and API, in one server that finishes what it has begun."""

from __future__ import annotations

import asyncio
import ctypes
import errno
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from functools import partial
from types import FrameType
from typing import Any
from urllib.parse import quote

import gradio as gr
import uvicorn
from anyio import CapacityLimiter
from anyio.to_thread import run_sync
from fastapi import FastAPI
from gradio.components.api_component import Api
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from ctscan.errors import CtscanError
from ctscan.notices import catalogue
from ctscan.page.choice import read_choice
from ctscan.page.door import MAX_BYTES, Door, refuse
from ctscan.page.memory import Memory
from ctscan.page.routes import WAITING, page_routes
from ctscan.page.shelf import Shelf
from ctscan.page.tool import build_tool
from ctscan.page.views import Views

AT_ONCE = 2  # slices; the network uses all cores for one
PERIOD = 5.0  # s between two looks at what clients left behind
UNREAD = 32  # answers that may wait for their client; about a kilobyte each
SESSIONS = 32  # whose last values Gradio remembers; more than can wait and compute, and none is needed later
M_ARENA_MAX = -8  # of glibc's malloc.h
CLASSIFY = """Classify one chest CT slice: research and education only, not for diagnosis.

Gives the answer and, as PNG, the slice under the map of the most likely class on the fixed scale."""


def listen(host: str, port: int) -> socket.socket:
    """The address, taken before a model is loaded for it. Raises CtscanError where it cannot be had."""
    if not 0 < port < 1 << 16:
        raise CtscanError(f"There is no port {port}; try --port.")
    shown = f"{in_address(host)}:{port}"
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
    except UnicodeError:
        raise CtscanError(f"{host} is no name of a host; try --host.") from None
    except OSError as error:
        raise CtscanError(f"{shown} cannot be had ({error.strerror}); try --host.") from None
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen()  # several may bind with that option, and one listens
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise CtscanError(f"Another program uses {shown}; try another --port.") from None
        raise CtscanError(f"{shown} cannot be had ({error.strerror}); try --port or --host.") from None
    return listener


def in_address(host: str) -> str:
    """A host as it stands before a port: IPv6 in brackets."""
    return f"[{host}]" if ":" in host and "[" not in host else host


class Server(uvicorn.Server):
    """SIGTERM and SIGHUP let finish what is under way; Ctrl-C, or a second signal, does not wait."""

    def __init__(self, config: uvicorn.Config, door: Door) -> None:
        super().__init__(config)
        self.door = door

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Uvicorn's, and SIGHUP where somebody minds it: `nohup` does not."""
        with super().capture_signals():
            if sys.platform != "win32" and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
                signal.signal(signal.SIGHUP, self.handle_exit)
            yield

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Handler of all these signals."""
        if sig != signal.SIGINT and not self.door.draining:
            self.door.drain()
        else:
            super().handle_exit(sig, frame)

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second: whether to stop."""
        return await super().on_tick(counter) or self.door.drained


class FormInMemory(MultiPartParser):
    """Starlette's, but for the files that it would put on disk."""

    spool_max_size = 2 * MAX_BYTES


def serve(views: Views, listener: socket.socket, host: str, root_path: str = "") -> None:
    """Serve until stopped.

    Each thread that ever ran the network would have an arena of its own in glibc's malloc, which keeps what the network
    once needed (8 to 16 MiB), so memory would grow in steps until there are eight arenas a core. Before there are
    threads, glibc is told to have as few as slices are computed at once.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(M_ARENA_MAX, AT_ONCE)
    door = build(views, root_path)
    config = uvicorn.Config(
        door,
        access_log=False,
        log_level="warning",
        use_colors=False,  # or it would ask a standard output that may be closed
        server_header=False,
        timeout_graceful_shutdown=1,  # for clients that listen for nothing; work has had its time before
    )
    below = quote(f"{door.root_path}/") if door.root_path else ""
    try:
        print(f"ctscan: http://{in_address(host)}:{listener.getsockname()[1]}{below}", flush=True)
    except OSError:  # nobody reads; nor shall what Python still writes as it ends fail
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    Server(config, door).run(sockets=[listener])


def build(views: Views, root_path: str) -> Door:
    """Our routes first, then Gradio's, and the door before both."""
    memory, shelf, desk = Memory(), Shelf(), CapacityLimiter(AT_ONCE)

    async def health(_: Request) -> Response:
        if door.draining:
            return JSONResponse({"status": "draining"}, 503, {"ctscan-reason": "stopping"})
        return JSONResponse({"status": "ok", "model_id": views.classifier.card.model_id})

    async def upload(request: Request) -> Response:
        try:
            form = await FormInMemory(request.headers, request.stream()).parse()
        except (MultiPartException, KeyError):
            return refuse(400, "no_form", request.scope)
        sent = [value if isinstance(value, str) else await value.read() for _, value in form.multi_items()]
        return JSONResponse(
            [memory.put(data.encode(errors="replace") if isinstance(data, str) else data) for data in sent]
        )

    async def file(request: Request) -> Response:
        data = memory.get(request.path_params["name"])
        return PlainTextResponse("Not found", 404) if data is None else Response(data, media_type="image/png")

    blocks = build_api(views, memory, desk)
    tool_routes, tool = build_tool(views, desk)
    app = FastAPI(
        docs_url=None, redoc_url=None, openapi_url=None, lifespan=partial(housekeeping, memory, shelf, blocks, tool)
    )
    app.router.routes[:0] = [
        *page_routes(views, desk, shelf),
        *tool_routes,
        Route("/health", health),
        Route("/gradio_api/upload", upload, methods=["POST"]),
        Route("/gradio_api/file={name}", file),
    ]
    gr.mount_gradio_app(
        app,
        blocks,
        path="/",
        show_error=False,
        run_history=False,
        mcp_server=False,
        ssr_mode=False,
        enable_monitoring=False,
        pwa=False,
        max_file_size=MAX_BYTES,
        footer_links=[],
    )
    queue = blocks._queue

    def is_awaited(name: str) -> bool:
        sessions = queue.pending_event_ids_session
        return name in queue.pending_messages_per_session or any(name in events for events in sessions.values())

    door = Door(app, lambda name: memory.get(name) is not None, root_path, is_awaited)
    return door


def build_api(views: Views, memory: Memory, desk: CapacityLimiter) -> gr.Blocks:
    """The one endpoint, in Gradio's queue."""

    async def classify(
        data: dict[str, str], slice: int | None = None, window: str | None = None
    ) -> tuple[dict[str, Any], dict[str, Any] | None]:
        uploaded = memory.get(data["path"])
        if uploaded is None:  # it grew old while it waited
            raise gr.Error(catalogue()["page"]["reasons"]["not_uploaded"], print_exception=False)
        answer, overlay = await run_sync(views.classify, uploaded, read_choice(slice, window), limiter=desk)
        file = {"path": memory.put(overlay, ".png"), "meta": {"_type": "gradio.FileData"}} if overlay else None
        return answer, file

    classify.__doc__ = CLASSIFY
    blocks: gr.Blocks
    with gr.Blocks(title="ctscan", analytics_enabled=False, mode="server") as blocks:
        outputs = [Api(None, {"type": "object"}, "answer"), held("overlay")]
        inputs = [held("slice"), Api(None, {"type": "integer"}, "number"), Api(None, {"type": "string"}, "window")]
        gr.Button().click(classify, inputs, outputs, api_name="classify", concurrency_limit=AT_ONCE)
    blocks.space_id = None
    blocks.state_session_capacity = SESSIONS
    blocks.queue(max_size=WAITING, default_concurrency_limit=AT_ONCE, api_open=False)
    return blocks


def held(label: str) -> Api:
    """A file of the API that lies in memory; Gradio's own components write theirs to disk, and fetch addresses.

    No subclass, for Gradio would write a stub of one beside this module.
    """

    async def stay(path: Any) -> Any:
        return path

    file = Api(None, gr.FileData.model_json_schema() | {"description": ""}, label)
    file.async_move_resource_to_block_cache = stay  # type: ignore[assignment, method-assign]
    return file


@asynccontextmanager
async def housekeeping(
    memory: Memory, shelf: Shelf, blocks: gr.Blocks, tool: AbstractAsyncContextManager[None], _: FastAPI
) -> AsyncIterator[None]:
    """A lifespan in which the tool runs, files and scans grow old, and Gradio's queue forgets clients that are gone."""

    async def work() -> None:
        queue = blocks._queue
        messages, events = queue.pending_messages_per_session, queue.pending_event_ids_session
        while True:
            await asyncio.sleep(PERIOD)
            memory.forget()
            shelf.forget()
            waiting = {s for s, ids in events.items() if any(i in queue.event_ids_to_events for i in ids)}
            done = [s for s in events if not events[s] or s not in messages]
            unread = [s for s in messages if s not in waiting and not messages[s].empty()]
            for session in [*done, *unread[:-UNREAD]]:
                messages.pop(session, None)
                events.pop(session, None)

    task = asyncio.create_task(work())
    async with tool:
        yield
    task.cancel()
