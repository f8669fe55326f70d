"""The page's own addresses: what a browser asks for."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from functools import partial
from math import isfinite
from pathlib import Path
from typing import Any

from anyio import CapacityLimiter
from anyio.to_thread import run_sync
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from ctscan.errors import UnreadableSlice
from ctscan.inference.classifier import Patch
from ctscan.io.images import Slice
from ctscan.io.sandbox import read_stack
from ctscan.io.stack import Stack
from ctscan.notices import LANGUAGES
from ctscan.page.choice import Choice, read_choice
from ctscan.page.door import refuse
from ctscan.page.languages import choose
from ctscan.page.shelf import Shelf
from ctscan.page.views import Views

KINDS = {
    ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml", ".png": "image/png",
    ".json": "application/json", ".jpg": "image/jpeg", ".md": "text/plain", ".txt": "text/plain",
    ".zip": "application/zip",
}  # fmt: skip
FOR_A_YEAR = {"cache-control": "public, max-age=31536000, immutable"}  # addresses of static files name their content
NEVER = {"cache-control": "no-store"}
WAITING = 16  # slices, of visitors of the page and of clients of the API each
UPLOAD_TIME = 300.0  # s that a scan may take to come
SCAN = "ctscan-scan"  # the header that names a scan: an address would stand in the logs of proxies
MOST_PATCHES = 200  # that one question covers


def page_routes(views: Views, desk: CapacityLimiter, shelf: Shelf) -> list[Route]:
    """All of them.

    Args:
        views: What answers.
        desk: Of the slices that are answered at once.
        shelf: Of scans that are scrolled through.
    """
    reading = CapacityLimiter(1)  # of whole scans: each takes up to 600 MB meanwhile, here and in its process
    pages = {language: views.home(language).encode() for language in LANGUAGES}
    packed = {language: gzip.compress(page, mtime=0) for language, page in pages.items()}

    async def show_home(request: Request) -> Response:
        language = language_of(request)
        headers = NEVER | {"vary": "Accept-Language, Accept-Encoding", "content-language": language}
        if "gzip" in request.headers.get("accept-encoding", ""):
            return HTMLResponse(packed[language], headers=headers | {"content-encoding": "gzip"})
        return HTMLResponse(pages[language], headers=headers)

    async def kept(request: Request) -> Response:
        name = "/".join(request.scope["path"].split("/")[-2:])
        if name not in views.assets.files:
            return PlainTextResponse("Not found", 404)
        return Response(views.assets.files[name], headers=FOR_A_YEAR, media_type=KINDS[Path(name).suffix])

    async def at_the_desk(request: Request, work: Callable[[], dict[str, Any]]) -> Response:
        if desk.statistics().tasks_waiting >= WAITING:
            return refuse(503, "busy", request.scope)
        return JSONResponse(await run_sync(work, limiter=desk), headers=NEVER)

    async def source_of(request: Request, choice: Choice) -> bytes | int | Slice | None:
        """The slice of a scan that is in memory, the number of an example, or the body; None where there is none.

        Raises UnreadableSlice for a gap in the scan.
        """
        scan, number = request.headers.get(SCAN), request.query_params.get("example")
        if scan is not None:
            held, slice_ = shelf.get(scan), choice.slice or 0
            return held.slice(slice_) if held and slice_ < len(held.slices) else None
        if number is not None:
            return example_of(number)
        return await request.body()

    def example_of(number: str) -> int | None:
        return int(number) if number in map(str, range(len(views.examples))) else None

    async def ask(request: Request, ask_about: Callable[..., Awaitable[Response]]) -> Response:
        """What is said of the slice that a request means, or why there is nothing to say."""
        choice = choice_of(request)
        if choice is None:
            return refuse(422, "odd_choice", request.scope)
        try:
            source = await source_of(request, choice)
        except UnreadableSlice as error:
            return JSONResponse(views.unread(error.notice, language_of(request)), headers=NEVER)
        if source is None:
            return refuse(404, "gone", request.scope)
        if desk.statistics().tasks_waiting >= WAITING:
            return refuse(503, "busy", request.scope)
        return await ask_about(source, choice)

    async def answer(request: Request) -> Response:
        language = language_of(request)
        return await ask(request, lambda *asked: at_the_desk(request, partial(views.answer, *asked, language=language)))

    async def example(request: Request) -> Response:
        number = example_of(request.path_params["number"])
        if number is None:
            return PlainTextResponse("Not found", 404)
        return await at_the_desk(request, partial(views.example, number, language_of(request)))

    async def cover(request: Request) -> Response:
        patches = read_patches(request.query_params.getlist("at"))
        if not patches:
            return PlainTextResponse("Not found", 404)
        return await ask(request, lambda *asked: at_the_desk(request, partial(views.cover, *asked, patches=patches)))

    async def check(request: Request) -> Response:
        language = language_of(request)
        return await ask(request, lambda *asked: lines_of(views.check(*asked, language=language)))

    async def lines_of(steps: Iterator[dict[str, Any]]) -> Response:
        """A line of JSON for each, which waits for its turn, so that others are answered between two."""

        async def lines() -> AsyncIterator[str]:
            while step := await run_sync(next, steps, None, limiter=desk):
                yield json.dumps(step) + "\n"

        return StreamingResponse(lines(), media_type="application/x-ndjson", headers=NEVER)

    # --- a scan: all its slices come once, and then only those travel that are asked for

    async def take(request: Request) -> Response:
        with shelf.place() as is_free:
            data = bytearray()
            try:
                async with asyncio.timeout(UPLOAD_TIME):
                    async for part in request.stream():
                        data += part if is_free else b""  # all is taken, or a browser would not hear the reason
            except TimeoutError:
                return refuse(408, "failed", request.scope)
            if not is_free:
                return refuse(503, "scans_full", request.scope)
            try:
                scan = await run_sync(read_stack, data, limiter=reading)
            except UnreadableSlice as error:
                return JSONResponse(views.unread(error.notice, language_of(request)), headers=NEVER)
            if scan is None:
                return await at_the_desk(request, partial(views.answer, bytes(data), language=language_of(request)))
            if await request.is_disconnected():  # nobody would ever ask for it, and its place be taken
                return Response(status_code=204)
            return JSONResponse({"scan": shelf.put(scan)} | facts_of(scan), headers=NEVER)

    async def units(request: Request) -> Response:
        scan, choice = shelf.get(request.headers.get(SCAN, "")), choice_of(request)
        if scan is None or choice is None or not 0 <= (choice.slice or 0) < len(scan.slices):
            return refuse(404, "gone", request.scope)
        body = scan.units[choice.slice or 0].astype("<i2", copy=False).tobytes()
        return Response(body, headers=NEVER, media_type="application/octet-stream")

    async def score(request: Request) -> Response:
        scan = shelf.get(request.headers.get(SCAN, ""))
        if scan is None:
            return refuse(404, "gone", request.scope)
        return await lines_of(views.score(partial(scan.slice, number)) for number in range(len(scan.slices)))

    async def drop(request: Request) -> Response:
        shelf.drop(request.headers.get(SCAN, ""))
        return Response(status_code=204)

    small = [Middleware(GZipMiddleware, minimum_size=1024)]  # pictures are compressed already
    return [
        Route("/", show_home),
        Route("/static/{name}", kept, middleware=small),
        Route("/picture/{name}", kept),
        Route("/scan/{name}", kept, middleware=small),
        Route("/text/{name}", kept, middleware=small),
        Route("/answer", answer, methods=["POST"]),
        Route("/cover", cover, methods=["POST"]),
        Route("/check", check, methods=["POST"]),
        Route("/example/{number}", example, middleware=small),
        Route("/series", take, methods=["POST"]),
        Route("/series", drop, methods=["DELETE"]),
        Route("/series/units", units, middleware=[Middleware(GZipMiddleware, compresslevel=1)]),
        Route("/series/scores", score, methods=["POST"]),
    ]


def language_of(request: Request) -> str:
    """The language that a request is to be answered in."""
    return choose(request.query_params.get("lang", ""), request.headers.get("accept-language", ""))


def choice_of(request: Request) -> Choice | None:
    """The slice and the window that the address asks for; None where it asks for what there cannot be, or for two."""
    asked = request.query_params
    try:
        is_one = all(len(asked.getlist(name)) < 2 for name in ("slice", "window"))
        return read_choice(asked.get("slice"), asked.get("window")) if is_one else None
    except ValueError:
        return None


def facts_of(scan: Stack) -> dict[str, Any]:
    """What a browser needs to know of a scan before it shows a slice."""
    count, height, width = scan.units.shape
    slices = [slice_ for slice_ in scan.slices if isinstance(slice_, Slice)]
    return {
        "slices": count,
        "unit": scan.unit,
        "height": height,
        "width": width,
        "positions": scan.positions,
        "spacing": slices[0].spacing,
        "sides_known": all(slice_.is_radiological for slice_ in slices),
    }


def read_patches(places: Sequence[str]) -> tuple[Patch, ...]:
    """`x,y,radius` each, in pixels of the slice; nothing where one is no such place, or there are too many."""
    try:
        patches = tuple(Patch(*map(float, place.split(","))) for place in places)
    except (TypeError, ValueError):
        return ()
    finite = all(isfinite(value) for patch in patches for value in (patch.x, patch.y, patch.radius))
    return patches if finite and len(patches) <= MOST_PATCHES else ()
