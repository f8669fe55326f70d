"""Many clients at once, clients that vanish, a thousand requests in a row, and the end of the app."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import psutil
import pytest
from gradio_client import Client, handle_file
from gradio_client.utils import QueueError

from ctscan.inference.classifier import Classifier
from ctscan.notices import catalogue
from ctscan.page.door import DRAIN_LIMIT
from ctscan.page.routes import WAITING
from ctscan.page.server import AT_ONCE, UNREAD
from tests.caller import Caller, fill, form, large_slice, request, try_to_ask
from tests.conftest import ROOT, App, one_now, running_app
from tests.process_tree import Holding, children_of, holding

REASONS = catalogue()["page"]["reasons"]
CLIENTS = 20
WARM_UP, REQUESTS, STEP = 200, 2000, 50
SLOPE = 0.02  # MiB a request
# A worker joins a pool only when all others are busy, which may first happen after the warm-up; a thread that stays
# behind once in a hundred requests would be twenty.
CLOSING = 4  # files: each client's last connection may not be closed yet; a leak of one in a hundred would be twenty
POOL_GROWTH = 6
EXAMPLES = sorted((ROOT / "examples").glob("*.png"))

linux = pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads /proc")


def png(pixels: np.ndarray[Any, Any]) -> bytes:
    return cv2.imencode(".png", pixels)[1].tobytes()


def different_slices(count: int) -> list[bytes]:
    """The examples, then each a little smaller, none twice: all of them are given scores."""
    slices = [file.read_bytes() for file in EXAMPLES[:count]]
    for index in range(count - len(slices)):
        pixels = cv2.imdecode(np.frombuffer(slices[index % len(EXAMPLES)], np.uint8), cv2.IMREAD_GRAYSCALE)
        assert pixels is not None
        scale = 1 - 0.05 * (1 + index // len(EXAMPLES))
        slices.append(png(cv2.resize(pixels, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)))
    assert len(set(slices)) == count
    return slices


def refused(act: Callable[[], object]) -> tuple[int, str]:
    """Status and sentence of a refusal."""
    with pytest.raises(urllib.error.HTTPError) as caught:
        act()
    with caught.value as error:
        return error.code, str(json.load(error)["detail"])


@pytest.fixture
def caller(app: App) -> Caller:
    return Caller(app.address)


def right(committed: Classifier, picture: bytes) -> dict[str, Any]:
    """The serial answer, to compare with."""
    expected: dict[str, Any] = dict(committed(picture).to_dict())
    return expected | {"probabilities": pytest.approx(expected["probabilities"], abs=1e-5)}


def test_twenty_at_once_get_each_their_own_answer_or_busy(caller: Caller, committed: Classifier) -> None:
    slices = different_slices(CLIENTS)
    together = threading.Barrier(CLIENTS)

    def visit(picture: bytes) -> dict[str, Any] | None:
        path = caller.upload(picture)
        together.wait(timeout=60)
        event = try_to_ask(caller, path)
        return None if event is None else caller.fetch(event)

    with ThreadPoolExecutor(CLIENTS) as threads:
        given = list(threads.map(visit, slices))
    answered = [index for index, got in enumerate(given) if got]
    assert len(answered) >= WAITING
    for index in answered:
        assert given[index] == right(committed, slices[index])
    assert caller.classify(slices[0]) == right(committed, slices[0])


def test_a_full_queue_is_said_in_one_sentence_on_every_way(caller: Caller, committed: Classifier) -> None:
    client = Client(caller.address, verbose=False)
    with urllib.request.urlopen(f"{caller.address}/config") as response:
        index = next(d["id"] for d in json.load(response)["dependencies"] if d["api_name"] == "classify")
    picture = large_slice()
    path = caller.upload(picture)
    body = json.dumps(request(path) | {"fn_index": index, "session_hash": "x"}).encode()
    events = fill(caller, path)
    assert f" {WAITING} slices " in REASONS["busy"]
    assert caller.health()["status"] == "ok"  # at once: the queue is full still
    assert refused(lambda: caller.ask(path)) == (503, REASONS["busy"])
    assert refused(lambda: caller.post("queue/join", body)) == (503, REASONS["busy"])
    with pytest.raises(QueueError, match="try again"):
        client.predict(handle_file(EXAMPLES[0]), api_name="/classify")
    assert len(events) >= WAITING + AT_ONCE
    expected = right(committed, picture)
    for event in events:
        assert caller.fetch(event) == expected


def ask_page(app: App, picture: bytes) -> tuple[int, str]:
    """Status and state of an answer to the page, or the reason why there is none."""
    request = urllib.request.Request(f"{app.address}/answer", picture, {"Content-Type": "application/octet-stream"})
    try:
        with urllib.request.urlopen(request, timeout=120) as response:
            return response.status, json.load(response)["state"]
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers["ctscan-reason"] + " " + error.read().decode()


def test_visitors_beyond_the_queue_are_told_and_the_others_answered(app: App) -> None:
    picture = large_slice()
    with ThreadPoolExecutor(60) as threads:
        given = list(threads.map(lambda _: ask_page(app, picture), range(60)))
    answered = [state for status, state in given if status == 200]
    assert len(answered) >= WAITING + AT_ONCE
    assert len(set(answered)) == 1
    assert {pair for pair in given if pair[0] != 200} <= {(503, f"busy {REASONS['busy']}")}
    assert ask_page(app, picture) == (200, answered[0])


def test_health_names_the_model_and_nothing_else(caller: Caller, committed: Classifier) -> None:
    assert caller.health() == {"status": "ok", "model_id": committed.card.model_id}
    head = urllib.request.Request(f"{caller.address}/health", method="HEAD")
    with urllib.request.urlopen(head) as response:
        assert response.status == 200
        assert response.read() == b""


@linux
def test_a_killed_decoder_changes_nothing_for_anybody(app: App, caller: Caller, committed: Classifier) -> None:
    slices = different_slices(4)
    before = decoders(app)
    assert before
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    with ThreadPoolExecutor(len(slices)) as threads:
        given = list(threads.map(caller.classify, slices))
    assert given == [right(committed, picture) for picture in slices]
    assert not set(before) & set(decoders(app))
    assert len(decoders(app)) == len(before)


def decoders(app: App) -> list[int]:
    """The app's decoding processes."""
    return [
        p
        for p in children_of(app.process.pid)
        if any("ctscan.io.child" in part for part in psutil.Process(p).cmdline())
    ]


# --- clients that vanish


def begin_upload(app: App) -> socket.socket:
    """A connection on which half an upload was sent."""
    body = form(b"\x89PNG" + b"CANARY" * 50_000)
    head = f"POST /gradio_api/upload HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n"
    kind = "Content-Type: multipart/form-data; boundary=ctscan-test\r\n\r\n"
    begun = connect(app)
    begun.sendall((head + kind).encode() + body[: len(body) // 2])
    time.sleep(0.05)  # so that it is read
    return begun


def listen_and_leave(app: App, caller: Caller, path: str) -> None:
    """Ask, open the stream of the answer, and be gone before it comes."""
    event = caller.ask(path)
    with connect(app) as sent:
        sent.sendall(f"GET /gradio_api/call/classify/{event} HTTP/1.1\r\nHost: x\r\n\r\n".encode())


def connect(app: App) -> socket.socket:
    host, _, port = app.address.removeprefix("http://").partition(":")
    return socket.create_connection((host, int(port)), timeout=20)


def settled(app: App, before: Holding) -> Holding:
    """What the app holds when it has let go, or after a while."""
    for _ in range(100):
        now = holding(app.process.pid)
        if now.files <= before.files:
            break
        time.sleep(0.1)
    return now


@linux
def test_who_vanishes_changes_nothing_for_others(app: App, caller: Caller, committed: Classifier) -> None:
    picture = EXAMPLES[1].read_bytes()
    path = caller.upload(picture)
    with ThreadPoolExecutor(4) as threads:  # as many threads as the app will ever need for this
        list(threads.map(caller.classify, [picture] * 8))
    before = holding(app.process.pid)
    with ThreadPoolExecutor(1) as threads:
        others = threads.submit(lambda: [caller.classify(picture) for _ in range(5)])
        for _ in range(6):
            begin_upload(app).close()
            listen_and_leave(app, caller, path)
        assert others.result() == [right(committed, picture)] * 5
    now = settled(app, before)
    assert now.files <= before.files
    assert now.processes == before.processes


def ask_until_taken(caller: Caller, path: str) -> str:
    """The event, after waiting for the queue where it is full."""
    while (event := try_to_ask(caller, path)) is None:
        time.sleep(0.2)
    return event


def is_forgotten(caller: Caller, event: str) -> bool:
    """Whether it is 404, as an answer is that nobody awaits; if not, a while passes."""
    try:
        caller.fetch(event)
    except urllib.error.HTTPError as error:
        error.close()
        return error.code == 404
    time.sleep(1)
    return False


@pytest.mark.slow
def test_answers_that_nobody_fetches_do_not_pile_up(caller: Caller) -> None:
    path = caller.upload(png(np.zeros((200, 200), np.uint8)))  # refused without the network: it is many answers
    events = [ask_until_taken(caller, path) for _ in range(UNREAD + WAITING + AT_ONCE + 1)]
    caller.fetch(ask_until_taken(caller, path))  # comes after all of them
    assert any(is_forgotten(caller, event) for event in events[: WAITING + AT_ONCE])
    assert caller.fetch(events[-1])["verdict"] == "refused"


# --- a long day


@linux
@pytest.mark.nightly
def test_thousands_of_requests_leave_nothing(best_checkpoint: Path, tmp_path: Path) -> None:
    example = cv2.imread(str(EXAMPLES[0]), cv2.IMREAD_GRAYSCALE)
    assert example is not None
    small = cv2.resize(example, (200, 200), interpolation=cv2.INTER_AREA)
    with running_app(best_checkpoint, tmp_path) as app:
        for _ in range(5):
            begin_upload(app).close()
        held = list(work_through(app, small))
    warm, measured = held[: WARM_UP // STEP], held[WARM_UP // STEP :]
    slope = float(np.polyfit(STEP * np.arange(len(measured)), [h.memory for h in measured], 1)[0])
    print(f"{slope:.4f} MiB a request:", *(f"{h.memory:.0f}" for h in held))
    assert slope < SLOPE
    assert measured[-1].files <= max(h.files for h in warm) + CLOSING
    assert measured[-1].threads <= max(h.threads for h in warm) + POOL_GROWTH
    assert measured[-1].processes == warm[-1].processes


def work_through(app: App, pixels: np.ndarray[Any, Any]) -> Iterator[Holding]:
    """Four clients classify a picture, never twice the same; every few requests all are done and it is measured."""
    caller = Caller(app.address)

    def classify(number: int) -> str:
        own = pixels.copy()
        own[0, :16] = [255 * (number >> bit & 1) for bit in range(16)]
        return str(caller.classify(png(own))["verdict"])

    with ThreadPoolExecutor(4) as threads:
        for begin in range(0, WARM_UP + REQUESTS + 1, STEP):
            assert set(threads.map(classify, range(begin, begin + STEP))) <= {"ok", "unusual"}
            yield holding(app.process.pid)
    assert not [path for path in app.temporary.rglob("*") if path.is_file()]


# --- the end


def folders(app: App) -> list[Path]:
    """The temporary folders of running apps."""
    return [path for path in app.temporary.iterdir() if path.is_dir()]


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.slow
def test_sigterm_lets_finish_what_is_under_way(best_checkpoint: Path, committed: Classifier, tmp_path: Path) -> None:
    slices = [large_slice(), *different_slices(6)]
    with running_app(best_checkpoint, tmp_path) as app, ThreadPoolExecutor(len(slices)) as threads:
        caller = Caller(app.address)
        events = [caller.ask(path) for path in [caller.upload(picture) for picture in slices]]
        answers = threads.map(caller.fetch, events)
        app.process.send_signal(signal.SIGTERM)
        wait_for(lambda: health(app) == (503, {"status": "draining"}))
        assert refused(lambda: caller.upload(slices[0])) == (503, REASONS["stopping"])
        assert refused(lambda: caller.ask("x")) == (503, REASONS["stopping"])
        assert list(answers) == [right(committed, picture) for picture in slices]
        assert app.process.wait(timeout=30) == 0
        assert not folders(app)


def health(app: App) -> tuple[int, dict[str, str]]:
    """Status and text of the health address."""
    try:
        return 200, Caller(app.address).health()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


@pytest.mark.slow
@pytest.mark.parametrize(
    "signals", one_now([signal.SIGTERM, signal.SIGINT], [signal.SIGINT], [signal.SIGTERM, signal.SIGTERM])
)
def test_ctrl_c_and_a_second_signal_do_not_wait(
    signals: list[signal.Signals], checkpoint_path: Path, tmp_path: Path
) -> None:
    with running_app(checkpoint_path, tmp_path) as app, begin_upload(app):
        app.process.send_signal(signals[0])
        if signals[1:]:
            wait_for(lambda: health(app) == (503, {"status": "draining"}))
            time.sleep(1.5)  # longer than a drain with nothing under way
            app.process.send_signal(signals[1])
        assert app.process.wait(timeout=DRAIN_LIMIT) == 0
        assert not folders(app)
