"""The page's own routes beside Gradio's queue and API, in one server that finishes what it has begun."""

from __future__ import annotations

import asyncio
import ctypes
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

import anyio.to_thread
import gradio as gr
import uvicorn
from fastapi import FastAPI
from gradio.components.api_component import Api
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from ctscan.errors import CtscanError
from ctscan.page.door import MAX_BYTES, Door, refuse
from ctscan.page.memory import Memory
from ctscan.page.views import Views

STATIC = Path(__file__).parent / "static"
KINDS = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
FOR_A_YEAR = {"cache-control": "public, max-age=31536000, immutable"}  # addresses of static files name their content
NEVER = {"cache-control": "no-store"}
AT_ONCE = 2  # slices; the network uses all cores for one
WAITING = 16  # slices, of visitors of the page and of clients of the API each
PERIOD = 5.0  # s between two looks at what clients left behind
UNREAD = 32  # answers that may wait for their client; about a kilobyte each
SESSIONS = 32  # whose last values Gradio remembers; more than can wait and compute, and none is needed later
M_ARENA_MAX = -8  # of glibc's malloc.h
CLASSIFY = """Classify one chest CT slice: research and education only, not for diagnosis.

Gives the answer and, as PNG, the slice under the map of the most likely class on the fixed scale."""

T = TypeVar("T")


class Desk:
    """Work on slices: so many at once, so many waiting."""

    def __init__(self) -> None:
        self._seats = asyncio.Semaphore(AT_ONCE)
        self._waiting = 0

    @property
    def full(self) -> bool:
        """Whether nobody else may wait."""
        return self._waiting >= WAITING

    async def run(self, work: Callable[..., T], *arguments: object) -> T:
        """The result of work in a thread of its own, when it is its turn."""
        self._waiting += 1
        try:
            await self._seats.acquire()
        finally:
            self._waiting -= 1
        try:
            return await anyio.to_thread.run_sync(work, *arguments)
        finally:
            self._seats.release()


class Listener:
    """The address, taken before a model is loaded for it.

    Raises:
        CtscanError: Nothing can listen there.
    """

    def __init__(self, host: str, port: int) -> None:
        if not 0 < port < 1 << 16:
            raise CtscanError(f"There is no port {port}; try --port.")
        try:
            family, kind, protocol, _, address = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)[0]
            self.socket = socket.socket(family, kind, protocol)
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self.socket.bind(address)
        except OSError as error:
            raise CtscanError(f"{host}:{port} cannot be had ({error.strerror}); try --port or --host.") from None
        self.url = f"http://{f'[{host}]' if family == socket.AF_INET6 and '[' not in host else host}:{port}"

    def __enter__(self) -> Listener:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()


class Server(uvicorn.Server):
    """SIGTERM lets finish what is under way; Ctrl-C, or a second signal, does not wait."""

    def __init__(self, config: uvicorn.Config, door: Door) -> None:
        super().__init__(config)
        self.door = door

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Handler of both signals."""
        if sig == signal.SIGTERM and not self.door.draining:
            self.door.drain()
        else:
            super().handle_exit(sig, frame)

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second: whether to stop."""
        return await super().on_tick(counter) or self.door.drained


class FormInMemory(MultiPartParser):
    """Starlette's, but for the files that it would put on disk."""

    spool_max_size = 2 * MAX_BYTES


def serve(views: Views, listener: Listener, root_path: str = "") -> None:
    """Serve until stopped."""
    limit_arenas()
    memory, desk = Memory(), Desk()
    app = build(views, memory, desk)
    door = Door(app, lambda name: memory.get(name) is not None, root_path)
    app.router.routes.insert(0, Route("/health", health(door, views.classifier.card.model_id)))
    config = uvicorn.Config(
        door,
        access_log=False,
        log_level="warning",
        server_header=False,
        timeout_graceful_shutdown=1,  # for clients that listen for nothing; work has had its time before
    )
    print(f"ctscan: {listener.url}{root_path}", flush=True)
    Server(config, door).run(sockets=[listener.socket])


def build(views: Views, memory: Memory, desk: Desk) -> FastAPI:
    """Our routes first, then Gradio's."""
    files = {path.name: path.read_bytes() for path in STATIC.iterdir()}
    home = views.home()

    async def show_home(_: Request) -> Response:
        return HTMLResponse(home, headers=NEVER)

    async def static(request: Request) -> Response:
        name = request.path_params["name"]
        if name not in files:
            return PlainTextResponse("Not found", 404)
        return Response(files[name], headers=FOR_A_YEAR, media_type=KINDS[Path(name).suffix])

    async def answer(request: Request) -> Response:
        data = await request.body()
        if desk.full:
            return refuse(503, "busy", request.scope)
        return JSONResponse(await desk.run(views.answer, data), headers=NEVER)

    async def example(request: Request) -> Response:
        number = int(request.path_params["number"])
        if number >= len(views.examples):
            return PlainTextResponse("Not found", 404)
        if desk.full:
            return refuse(503, "busy", request.scope)
        return JSONResponse(await desk.run(views.example, number), headers=NEVER)

    async def upload(request: Request) -> Response:
        try:
            form = await FormInMemory(request.headers, request.stream()).parse()
        except (MultiPartException, KeyError):
            return refuse(400, "no_form", request.scope)
        sent = [value if isinstance(value, str) else await value.read() for _, value in form.multi_items()]
        return JSONResponse([memory.put(data.encode() if isinstance(data, str) else data) for data in sent])

    async def file(request: Request) -> Response:
        data = memory.get(request.path_params["name"])
        return PlainTextResponse("Not found", 404) if data is None else Response(data, media_type="image/png")

    blocks = build_api(views, memory, desk)
    routes = [
        Route("/", show_home),
        Route("/static/{name}", static),
        Route("/answer", answer, methods=["POST"]),
        Route("/example/{number:int}", example),
        Route("/gradio_api/upload", upload, methods=["POST"]),
        Route("/gradio_api/file={name}", file),
    ]
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, lifespan=housekeeping(memory, blocks))
    app.router.routes[:0] = routes
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
    return app


def build_api(views: Views, memory: Memory, desk: Desk) -> gr.Blocks:
    """The one endpoint, in Gradio's queue."""

    async def classify(data: dict[str, str]) -> tuple[dict[str, Any], dict[str, Any] | None]:
        uploaded = memory.get(data["path"])
        if uploaded is None:  # it grew old while it waited
            raise gr.Error(views.texts["reasons"]["not_uploaded"], print_exception=False)
        answer, overlay = await desk.run(views.classify, uploaded)
        file = {"path": memory.put(overlay, ".png"), "meta": {"_type": "gradio.FileData"}} if overlay else None
        return answer, file

    classify.__doc__ = CLASSIFY
    blocks: gr.Blocks
    with gr.Blocks(title="ctscan", analytics_enabled=False, mode="server") as blocks:
        outputs = [Api(None, {"type": "object"}, "answer"), held("overlay")]
        gr.Button().click(classify, held("slice"), outputs, api_name="classify", concurrency_limit=AT_ONCE)
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


def housekeeping(memory: Memory, blocks: gr.Blocks) -> Callable[[FastAPI], Any]:
    """A lifespan in which files grow old, and Gradio's queue forgets clients that never come back."""

    def forget() -> None:
        queue = blocks._queue
        messages, events = queue.pending_messages_per_session, queue.pending_event_ids_session
        waiting = {s for s, ids in events.items() if any(i in queue.event_ids_to_events for i in ids)}
        done = [s for s in events if not events[s] or s not in messages]
        unread = [s for s in messages if s not in waiting and not messages[s].empty()]
        for session in [*done, *unread[:-UNREAD]]:
            messages.pop(session, None)
            events.pop(session, None)

    async def work() -> None:
        while True:
            await asyncio.sleep(PERIOD)
            memory.forget()
            forget()

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        task = asyncio.create_task(work())
        yield
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task

    return lifespan


def health(door: Door, model_id: str) -> Callable[[Request], Any]:
    """200 and the model's name, or 503 while draining."""

    async def show(_: Request) -> Response:
        if door.draining:
            return JSONResponse({"status": "draining"}, 503, {"ctscan-reason": "stopping"})
        return JSONResponse({"status": "ok", "model_id": model_id})

    return show


def limit_arenas() -> None:
    """Tell glibc, before there are threads, to have as few arenas as slices are computed at once.

    Each thread that ever ran the network would have an arena of its own, which keeps what the network once needed (8
    to 16 MiB), so memory would grow in steps until there are eight arenas a core. Elsewhere nothing happens.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(M_ARENA_MAX, AT_ONCE)
