"""What a visitor may send, before Gradio sees it: files without their names, and questions about uploaded files only.

Gradio would write a file under the name that it has on the visitor's machine, and would look up the host of an address
that stands where an uploaded file should.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gradio.utils import get_upload_folder
from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.datastructures import Headers
from starlette.formparsers import MultiPartException
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ctscan.page import words

UPLOAD = "/gradio_api/upload"
FILES = re.compile(r"/gradio_api/file[=/](.*)", re.DOTALL)  # routes that send a file
WITHOUT_BODY = ("GET", "HEAD", "OPTIONS")
MAX_QUESTION = 1 << 16  # bytes of a body that is no upload; an honest one has some hundreds
PART = b'Content-Disposition: form-data; name="files"; filename="slice"\r\n\r\n'


class Refused(ValueError):  # noqa: N818 - it is a verdict on a request, not a fault
    """A request that is answered here, with its status and one sentence."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


class UploadGate:
    """ASGI middleware: uploads go on as files called `slice`, all else only if it names no file but uploaded ones."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        try:
            if scope["type"] == "http":
                receive = await self._check(scope, receive)
        except Refused as refused:
            answer = PlainTextResponse(str(refused), refused.status, {"connection": "close"})
            await answer(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    async def _check(self, scope: Scope, receive: Receive) -> Receive:
        if scope["method"] in WITHOUT_BODY:
            wanted = FILES.search(scope["path"])
            if wanted and not wanted[1].startswith(get_upload_folder() + os.sep):
                raise Refused(404, "Not found")
            return receive
        if scope["path"].rstrip("/").endswith(UPLOAD):
            return without_names(scope, receive)
        body = await read_body(receive)
        check_question(body)
        return replay(body, receive)


# --- uploads


class Renamer:
    """The bytes of a multipart form, piece by piece -> the same parts, each of them a file called `slice`."""

    def __init__(self, boundary: bytes) -> None:
        self._renamed = bytearray()
        mark = b"--" + boundary
        self._parser = MultipartParser(
            boundary,
            {
                "on_headers_finished": lambda: self._renamed.extend(mark + b"\r\n" + PART),
                "on_part_data": lambda data, start, end: self._renamed.extend(data[start:end]),
                "on_part_end": lambda: self._renamed.extend(b"\r\n"),
                "on_end": lambda: self._renamed.extend(mark + b"--\r\n"),
            },
        )

    def __call__(self, piece: bytes) -> bytes:
        """What may go on after this piece. Raises MultiPartException, which Gradio answers with 400."""
        self._renamed.clear()
        try:
            self._parser.write(piece)
        except MultipartParseError as error:
            raise MultiPartException(str(error)) from None
        return bytes(self._renamed)


def without_names(scope: Scope, receive: Receive) -> Receive:
    """Receive a form whose files have lost their names. Raises Refused where the body is said to be no form."""
    kind, options = parse_options_header(Headers(scope=scope).get("content-type"))
    if kind != b"multipart/form-data" or not options.get(b"boundary"):
        raise Refused(400, words.NO_FORM)
    rename = Renamer(options[b"boundary"])

    async def renamed() -> Message:
        message = await receive()
        if message.get("body"):
            message["body"] = rename(message["body"])
        return message

    return renamed


# --- everything else


async def read_body(receive: Receive) -> bytes:
    """A whole body. Raises Refused for one that is longer than a question can be."""
    body, more = b"", True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
        if len(body) > MAX_QUESTION:
            raise Refused(413, words.LONG_QUESTION)
    return body


def replay(body: bytes, receive: Receive) -> Receive:
    """Receive a body that was read before."""
    first: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replayed() -> Message:
        return first.pop() if first else await receive()

    return replayed


def check_question(body: bytes) -> None:
    """Raises Refused for what is no JSON, and for JSON that names a file which was not uploaded here."""
    try:
        question = json.loads(body or b"null")
    except (ValueError, RecursionError):
        raise Refused(400, words.NO_JSON) from None
    # Gradio puts an upload in a folder that is called after the file's hash.
    uploaded = re.compile(re.escape(str(Path(get_upload_folder(), "HASH", "slice"))).replace("HASH", "[0-9a-f]{64}"))
    for path in named_files(question):
        if not isinstance(path, str) or not uploaded.fullmatch(path):
            raise Refused(400, words.NOT_UPLOADED)
    # All that is ever given to an event is an upload or nothing; of other things Gradio's log would quote a word.
    given = question.get("data") if isinstance(question, dict) else None
    if given is not None and not (isinstance(given, list) and all(isinstance(i, dict | None) for i in given)):
        raise Refused(400, words.NOT_UPLOADED)


def named_files(value: Any) -> Iterator[object]:
    """Whatever JSON gives as the path of a file, however deep."""
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, dict):
            if "path" in item:
                yield item["path"]
            waiting.extend(item.values())
        elif isinstance(item, list):
            waiting.extend(item)
