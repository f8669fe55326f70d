"""A lean client of the public API: the requests that any program would send, one by one."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from ctscan.imaging.phantom import draw_phantom

LIMIT = 120  # s
MARK = "ctscan-test"


@dataclass(frozen=True)
class Caller:
    """Talks to a running app; urllib's HTTPError where it refuses."""

    address: str

    def upload(self, picture: bytes) -> str:
        """The server's name for the file."""
        paths: list[str] = self.post("upload", form(picture), f"multipart/form-data; boundary={MARK}")
        return paths[0]

    def ask(self, path: str) -> str:
        """The number of the event, whose answer may be fetched."""
        event: str = self.post("call/classify", json.dumps(request(path)).encode())["event_id"]
        return event

    def fetch(self, event: str) -> dict[str, Any]:
        """The answer, when it is there."""
        with urllib.request.urlopen(f"{self.address}/gradio_api/call/classify/{event}", timeout=LIMIT) as stream:
            text = stream.read().decode()
        assert "event: complete" in text, text
        answer: dict[str, Any] = json.loads(text.rstrip().rpartition("data: ")[2])[0]
        return answer

    def classify(self, picture: bytes) -> dict[str, Any]:
        """All three."""
        return self.fetch(self.ask(self.upload(picture)))

    def health(self) -> dict[str, str]:
        """What the health address says."""
        with urllib.request.urlopen(f"{self.address}/health", timeout=LIMIT) as response:
            health: dict[str, str] = json.load(response)
        return health

    def post(self, route: str, body: bytes, kind: str = "application/json") -> Any:
        """The JSON of an answer."""
        sent = urllib.request.Request(f"{self.address}/gradio_api/{route}", body, {"Content-Type": kind})
        with urllib.request.urlopen(sent, timeout=LIMIT) as response:
            return json.load(response)


def form(picture: bytes) -> bytes:
    """A multipart body with one file."""
    head = f'--{MARK}\r\nContent-Disposition: form-data; name="files"; filename="slice.png"\r\n\r\n'
    return head.encode() + picture + f"\r\n--{MARK}--\r\n".encode()


def request(path: str) -> dict[str, Any]:
    """The body that asks about an uploaded file."""
    return {"data": [{"path": path, "meta": {"_type": "gradio.FileData"}}]}


def large_slice() -> bytes:
    """One that takes long enough that a queue can fill."""
    return cv2.imencode(".png", (draw_phantom(1600, 2000) * 255).astype(np.uint8))[1].tobytes()


def fill(caller: Caller, path: str) -> list[str]:
    """Ask until the queue is full: the events."""
    events: list[str] = []
    while (event := try_to_ask(caller, path)) is not None:
        events.append(event)
        assert len(events) < 1000, "the queue has no end"
    return events


def try_to_ask(caller: Caller, path: str) -> str | None:
    """The event, None where the queue is full."""
    try:
        return caller.ask(path)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code != 503:
            raise
        return None
