"""The tool of the Model Context Protocol: a real client against the running app."""

from __future__ import annotations

import base64
import json
from typing import Any

import anyio
import cv2
import numpy as np
import pytest
from mcp.client.client import Client
from mcp.types import CallToolResult, ImageContent, TextContent

import ctscan
from ctscan.notices import catalogue
from tests.conftest import ROOT, App

NAME = "classify_chest_ct_slice"
EXAMPLE = ROOT / "examples" / "02-lower-lobe-mass-lung-window.png"
TEXTS = catalogue()["page"]


def call(app: App, picture: str) -> CallToolResult:
    async def ask() -> CallToolResult:
        async with Client(f"{app.address}/mcp") as client:
            return await client.call_tool(NAME, {"picture": picture})

    return anyio.run(ask)


def read(result: CallToolResult) -> dict[str, Any]:
    (text,) = [part for part in result.content if isinstance(part, TextContent)]
    given: dict[str, Any] = json.loads(text.text)
    return given


def test_there_is_one_tool_and_it_says_what_it_is_not_for(app: App) -> None:
    async def ask() -> list[Any]:
        async with Client(f"{app.address}/mcp") as client:
            return list((await client.list_tools()).tools)

    (tool,) = anyio.run(ask)
    assert tool.name == NAME
    assert "not for diagnosis" in tool.description
    assert list(tool.input_schema["properties"]) == ["picture"]


@pytest.mark.parametrize("prefix", ["", "data:image/png;base64,"])
def test_a_slice_is_answered_as_everywhere(app: App, prefix: str) -> None:
    result = call(app, prefix + base64.b64encode(EXAMPLE.read_bytes()).decode())
    answer, expected = read(result), ctscan.load()(EXAMPLE).to_dict()
    assert answer.pop("disclaimer") == TEXTS["disclaimer"]
    assert answer.pop("probabilities") == pytest.approx(expected.pop("probabilities"), abs=1e-5)
    assert answer == expected
    (image,) = [part for part in result.content if isinstance(part, ImageContent)]
    overlay = cv2.imdecode(np.frombuffer(base64.b64decode(image.data), np.uint8), cv2.IMREAD_COLOR)
    assert overlay is not None
    assert overlay.shape == (512, 512, 3)


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
