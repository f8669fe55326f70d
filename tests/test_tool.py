"""The tool of the Model Context Protocol: a real client against the running app."""

from __future__ import annotations

import base64
import json
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import anyio
import cv2
import numpy as np
import pytest
from mcp.client.client import Client
from mcp.types import CallToolResult, ImageContent, TextContent

from ctscan.inference.classifier import Classifier
from ctscan.notices import catalogue
from tests.conftest import ROOT, App
from tests.test_volume_files import nifti

Answer = TypeVar("Answer")

NAME = "classify_chest_ct_slice"
EXAMPLE = ROOT / "examples" / "02-lower-lobe-mass-lung-window.png"
TEXTS = catalogue()["page"]


def ask(app: App, question: Callable[[Client], Awaitable[Answer]]) -> Answer:
    """One visit of a client, in a thread of its own: the browser's loop may still be running in the tests' thread."""

    async def visit() -> Answer:
        async with Client(f"{app.address}/mcp") as client:
            return await question(client)

    with ThreadPoolExecutor(1) as thread:
        return thread.submit(anyio.run, visit).result()


def call(app: App, picture: str) -> CallToolResult:
    return ask(app, lambda client: client.call_tool(NAME, {"picture": picture}))


def read(result: CallToolResult) -> dict[str, Any]:
    (text,) = [part for part in result.content if isinstance(part, TextContent)]
    given: dict[str, Any] = json.loads(text.text)
    return given


def test_there_is_one_tool_and_it_says_what_it_is_not_for(app: App) -> None:
    (tool,) = ask(app, lambda client: client.list_tools()).tools
    assert tool.name == NAME
    assert "not for diagnosis" in str(tool.description)
    assert list(tool.input_schema["properties"]) == ["picture", "slice", "window"]
    assert tool.input_schema["required"] == ["picture"]


@pytest.mark.parametrize("prefix", ["", "data:image/png;base64,"])
def test_a_slice_is_answered_as_everywhere(app: App, prefix: str, committed: Classifier) -> None:
    result = call(app, prefix + base64.b64encode(EXAMPLE.read_bytes()).decode())
    answer, expected = read(result), committed(EXAMPLE).to_dict()
    assert answer.pop("disclaimer") == TEXTS["disclaimer"]
    assert answer.pop("probabilities") == pytest.approx(expected.pop("probabilities"), abs=1e-5)
    assert answer == expected
    (image,) = [part for part in result.content if isinstance(part, ImageContent)]
    overlay = cv2.imdecode(np.frombuffer(base64.b64decode(image.data), np.uint8), cv2.IMREAD_COLOR)
    assert overlay is not None
    assert overlay.shape == (512, 512, 3)


def test_a_slice_and_a_window_can_be_asked_for(app: App) -> None:
    volume = base64.b64encode(nifti()).decode()
    for chosen in ({"slice": 3, "window": "lung"}, {"window": "-600/1500"}):
        asked = {"picture": volume, **chosen}
        answer = read(ask(app, lambda client, asked=asked: client.call_tool(NAME, asked)))  # type: ignore[misc]
        assert "centre -600 and width 1500" in " ".join(answer["notices"])
        assert ("middle_slice" in answer["notice_codes"]) is ("slice" not in chosen)
    odd = ask(app, lambda client: client.call_tool(NAME, {"picture": volume, "window": "Jane Doe"}))
    assert odd.is_error
    assert isinstance(odd.content[0], TextContent)
    assert odd.content[0].text == TEXTS["reasons"]["odd_choice"]


def test_a_call_leaves_nothing_in_the_log(app: App) -> None:
    before = app.log.read_text()
    call(app, base64.b64encode(b"Jane Doe, born 1960").decode())
    call(app, "Jane Doe")
    assert app.log.read_text() == before


def test_what_is_no_slice_is_said_in_our_words(app: App) -> None:
    assert read(call(app, base64.b64encode(b"no picture").decode()))["verdict"] == "unreadable"
    for picture in ("https://example.org/slice.png", "/etc/passwd", "file:///etc/passwd"):
        result = call(app, picture)
        assert result.is_error
        assert isinstance(result.content[0], TextContent)
        assert result.content[0].text == TEXTS["reasons"]["no_base64"]
