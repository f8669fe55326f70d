"""Files and requests that mean harm, made here: each ends in a sentence, soon and in little memory, and the next is
answered. First the decoder alone, then the running app.
"""

from __future__ import annotations

import http.client
import json
import os
import random
import struct
import subprocess
import sys
import urllib.error
import urllib.request
import zlib
from base64 import b64encode
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from functools import cache, partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from ctscan.errors import UnreadableSlice
from ctscan.io.headers import sniff
from ctscan.io.images import read_slice
from ctscan.io.sandbox import Decoder
from ctscan.notices import catalogue
from tests.caller import Caller
from tests.conftest import ROOT, App, one_now
from tests.process_tree import children_of, descendants
from tests.samples import (
    ALL,
    GREY,
    HUGE,
    LOSSLESS,
    NOT_PICTURES,
    SEEDS,
    liars,
    many_parts,
    png,
    strangers,
    tiff,
    webp_of_many_parts,
    with_strip_of_4_gib,
    zip_of,
)

TIME = 5.0  # s
REASONS = catalogue()["page"]["reasons"]
GROWTH = 256  # MiB

pytestmark = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="memory is looked up in /proc")


HEAP = 300 << 20  # bytes: more than the decoder may have


def deflated_zeros(length: int) -> bytes:
    """As zlib would give them, without the zeros ever being in memory."""
    return deflated(b"", length)


def deflated(content: bytes, zeros: int) -> bytes:
    """Content and zeros behind it."""
    packer, block, length = zlib.compressobj(1), bytes(1 << 20), zeros
    packed = [packer.compress(content)]
    packed += [packer.compress(block[: min(len(block), length - done)]) for done in range(0, length, len(block))]
    return b"".join(packed) + packer.flush()


def png_of(width: int, height: int, bits: int, colour: int, pixels: bytes, *between: tuple[bytes, bytes]) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    return png((b"IHDR", header), *between, (b"IDAT", pixels), (b"IEND", b""))


SCAN = min((ROOT / "examples").glob("*.png"))  # a slice that is given scores
SIDE, LARGE = 4472, 13_272  # 20 and 176 million pixels
# Small files that would be large; made when they are asked for.
BOMBS: dict[str, Callable[[], bytes]] = {
    "png of 176 megapixels": lambda: png_of(LARGE, LARGE, 8, 0, deflated_zeros((LARGE + 1) * LARGE)),
    "png of 20 megapixels, 64 bits each": lambda: png_of(SIDE, SIDE, 16, 6, deflated_zeros((8 * SIDE + 1) * SIDE)),
    "png of 20 megapixels, cut": lambda: png_of(SIDE, SIDE, 8, 6, deflated_zeros(4 * SIDE * SIDE)[:40_000]),
    "tiff of 19 megapixels, 96 bits each": lambda: tiff(np.zeros((64, 64, 3), np.float32), sample=3).replace(
        struct.pack("<I", 64), struct.pack("<I", 4400)
    ),
    "tiff of tiles of 65,536": lambda: tiff(GREY, tags={322: 65_536, 323: 65_536, 324: 8, 325: GREY.size}),
}


COMMENT = b"<html><script>alert(1)</script></html>"
ROWS = b"".join(b"\0" + row.tobytes() for row in GREY)
PNG, JPEG, TIFF = LOSSLESS["png L"], ALL["jpeg L"], tiff(GREY)
# Odd files that are whole pictures: these are read, and nothing else in them is.
HARMLESS: dict[str, Callable[[], bytes]] = {
    "tiff of a strip of 4 GiB": with_strip_of_4_gib,
    "webp of 200,000 parts": webp_of_many_parts,
    "png and zip": lambda: PNG + zip_of(b"inside"),
    "png and html": lambda: PNG + COMMENT,
    "jpeg and html": lambda: JPEG[:2] + b"\xff\xfe" + struct.pack(">H", len(COMMENT) + 2) + COMMENT + JPEG[2:],
    "png with a text of 300 MB": lambda: PNG[:33] + png((b"zTXt", b"a\0\0" + deflated_zeros(HEAP)))[8:] + PNG[33:],
    "png with a profile of 300 MB": lambda: PNG[:33] + png((b"iCCP", b"a\0\0" + deflated_zeros(HEAP)))[8:] + PNG[33:],
    "png with 300 MB behind its rows": lambda: png_of(GREY.shape[1], GREY.shape[0], 8, 0, deflated(ROWS, HEAP)),
    "tiff with 300 MB behind its rows": lambda: tiff_of_strip(deflated(GREY.tobytes(), HEAP)),
    "tiff whose directories are a ring": lambda: TIFF[:-4] + TIFF[4:8],
}


def tiff_of_strip(strip: bytes) -> bytes:
    """As GREY, of one deflated strip behind the directory."""
    directory = tiff(GREY, tags={259: 8, 273: len(TIFF), 279: len(strip)})
    return directory + strip


MADE = HUGE | many_parts() | liars() | strangers()
REFUSED = [*MADE, *BOMBS]


@cache
def file(name: str) -> bytes:
    """One of them."""
    return MADE[name] if name in MADE else (BOMBS | HARMLESS)[name]()


def cut_and_flipped(seed: int, each: int) -> Iterator[bytes]:
    """Every kind cut at many places and with bits flipped, half of them in its first 200 bytes."""
    chance = random.Random(seed)
    for data in SEEDS:
        yield from (data[: len(data) * k // each] for k in range(1, each))
        for k in range(each):
            broken = bytearray(data)
            for _ in range(chance.randint(1, 4)):
                broken[chance.randrange(min(len(broken), 200) if k % 2 else len(broken))] ^= 1 << chance.randrange(8)
            yield bytes(broken)


# --- memory of a process and all that it has started


def memory(pid: int, entry: str) -> int:
    """MiB; 0 where it is gone."""
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines():
            if line.startswith(entry):
                return int(line.split()[1]) >> 10
    return 0


class Growth:
    """MiB that a process and its children have taken since: the sum of each one's own peak."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.before = {}
        for found in descendants(pid):
            Path(f"/proc/{found}/clear_refs").write_text("5", encoding="ascii")  # a new peak from here
            self.before[found] = memory(found, "VmRSS")

    def __call__(self) -> int:
        return sum(memory(found, "VmHWM") - self.before.get(found, 0) for found in descendants(self.pid))


# --- the decoder


@pytest.fixture(scope="module")
def decoder() -> Iterator[Decoder]:
    with closing(Decoder()) as started:
        started.wait_until_ready()
        yield started


@pytest.mark.parametrize("name", BOMBS)
def test_the_decoder_refuses(decoder: Decoder, name: str) -> None:
    """What is no slice is named by the reader, in its own tests; here is what only the child's limits hold."""
    data = file(name)
    growth = Growth(os.getpid())
    with pytest.raises(UnreadableSlice):
        decoder.read(data)
    assert growth() <= GROWTH
    assert np.array_equal(decoder.read(LOSSLESS["png L"]).pixels, read_slice(LOSSLESS["png L"]).pixels)


@pytest.mark.parametrize("name", HARMLESS)
def test_the_decoder_reads_the_picture_and_nothing_else(decoder: Decoder, name: str) -> None:
    data = file(name)
    growth = Growth(os.getpid())
    expected = ALL["jpeg L"] if name.startswith("jpeg") else LOSSLESS["png L"]
    assert np.array_equal(decoder.read(data).pixels, read_slice(expected).pixels)
    assert growth() <= GROWTH


def test_the_decoder_reads_or_refuses_what_is_cut_or_flipped(decoder: Decoder) -> None:
    growth = Growth(os.getpid())
    for data in cut_and_flipped(1, 20):
        with suppress(UnreadableSlice):
            pixels = decoder.read(data).pixels
            assert 0 <= pixels.min() <= pixels.max() <= 1
    assert growth() <= GROWTH


# --- the app


def ask(app: App, data: bytes) -> dict[str, Any]:
    """The app's answer, had in little memory; how long a file may take is the decoder's to say."""
    growth = Growth(app.process.pid)
    given = Caller(app.address).classify(data)
    assert growth() <= GROWTH
    return given


# What a file is, is decided by the decoder, above; one of each kind shows that the app asks it.
REPRESENTATIVES = [next(iter(kind)) for kind in (HUGE, liars(), strangers())] + [*BOMBS]


@pytest.mark.parametrize("name", REPRESENTATIVES)
def test_the_app_refuses(app: App, name: str) -> None:
    given = ask(app, file(name))
    assert given["verdict"] == "unreadable"
    assert given["probabilities"] is None
    assert len(given["notices"]) == 1


@pytest.mark.parametrize("name", HARMLESS)
def test_the_app_reads_the_picture_and_nothing_else(app: App, name: str) -> None:
    expected = ALL["jpeg L"] if name.startswith("jpeg") else LOSSLESS["png L"]
    given, plain = ask(app, file(name)), ask(app, expected)
    assert given["verdict"] != "unreadable"
    said: dict[str, Any] = {"notices": [], "notice_codes": []}
    assert given | said == plain | said  # a file of several pages is said to be one


@pytest.mark.slow
def test_the_app_reads_or_refuses_what_is_cut_or_flipped(app: App) -> None:
    for data in cut_and_flipped(2, 2):
        given = ask(app, data)
        assert (given["probabilities"] is None) == (given["verdict"] in ("unreadable", "refused"))


# --- large pictures, which are no harm meant

AT_ONCE = 2  # files that are read and answered at the same time; the others wait
LARGE_SIDE = 4400


@cache
def enlarged(dtype: type[np.unsignedinteger[Any]]) -> bytes:
    """A real slice as a screen of many pixels would save it."""
    pixels = read_slice(SCAN.read_bytes()).pixels
    large = cv2.resize(pixels, (LARGE_SIDE, LARGE_SIDE), interpolation=cv2.INTER_LINEAR)
    greys = np.rint(large * 255).astype(dtype) * (np.iinfo(dtype).max // 255)
    return cv2.imencode(".png", greys)[1].tobytes()


LARGE_PICTURES: dict[str, Callable[[], bytes]] = {
    "black": lambda: png_of(LARGE_SIDE, LARGE_SIDE, 8, 0, deflated_zeros((LARGE_SIDE + 1) * LARGE_SIDE)),
    "black in colours and alpha": lambda: png_of(
        LARGE_SIDE, LARGE_SIDE, 8, 6, deflated_zeros((4 * LARGE_SIDE + 1) * LARGE_SIDE)
    ),
    "slice": lambda: enlarged(np.uint8),
    "slice of 16 bits": lambda: enlarged(np.uint16),
}


@pytest.fixture(scope="module")
def warm(app: App) -> App:
    """Both ways have answered, so that what is measured is what a file takes and not what a program is."""
    files = [SCAN.read_bytes()] * 3 * AT_ONCE
    with ThreadPoolExecutor(AT_ONCE) as threads:
        list(threads.map(Caller(app.address).classify, files))
        list(threads.map(partial(on_the_page, app), files))
    return app


def on_the_page(app: App, data: bytes) -> dict[str, Any]:
    """The answer that a browser is given."""
    asked = urllib.request.Request(f"{app.address}/answer", data, {"Content-Type": "application/octet-stream"})
    with urllib.request.urlopen(asked, timeout=120) as response:
        answer: dict[str, Any] = json.load(response)["answer"]
        return answer


@pytest.mark.parametrize("way", ["program", "page"])
@pytest.mark.parametrize("name", LARGE_PICTURES)
def test_a_large_picture_is_answered_in_little_memory(warm: App, name: str, way: str) -> None:
    data = LARGE_PICTURES[name]()
    answer = Caller(warm.address).classify if way == "program" else partial(on_the_page, warm)
    growth = Growth(warm.process.pid)
    given = answer(data)
    assert growth() <= GROWTH
    assert given["verdict"] == ("refused" if name.startswith("black") else "ok")


@pytest.mark.parametrize("name", one_now("slice", "black"))
def test_more_large_pictures_than_are_read_at_once_are_all_answered(warm: App, name: str) -> None:
    data, count = LARGE_PICTURES[name](), 2 * AT_ONCE + 1
    growth = Growth(warm.process.pid)
    with ThreadPoolExecutor(count) as threads:
        given = list(threads.map(Caller(warm.address).classify, [data] * count))
    assert growth() <= AT_ONCE * GROWTH
    assert [answer["verdict"] for answer in given] == ["refused" if name == "black" else "ok"] * count


BODIES = {
    "data: URL": {"path": "data:image/png;base64," + "A" * (12 << 20), "meta": {"_type": "gradio.FileData"}},
    "numbers": [0] * (4 << 20),
}


@pytest.mark.parametrize("path", ["queue/join", "call/classify"])
@pytest.mark.parametrize("name", BODIES)
def test_large_questions_are_413(app: App, path: str, name: str) -> None:
    growth = Growth(app.process.pid)
    body = json.dumps({"data": [BODIES[name]], "session_hash": "x", "fn_index": 0})
    assert post(app, path, body.encode()) == (413, REASONS["long_question"])
    assert growth() <= GROWTH
    assert ask(app, SCAN.read_bytes())["probabilities"]


def test_bombs_inside_data_urls_are_refused(app: App) -> None:
    for name in REFUSED:
        bomb = {
            "path": f"data:image/png;base64,{b64encode(file(name)[:40_000]).decode()}",
            "meta": {"_type": "gradio.FileData"},
        }
        status, said = post(app, "call/classify", json.dumps({"data": [bomb]}).encode())
        assert (status, json.loads(said)["detail"][0]["message"]) == (422, REASONS["not_uploaded"]), name
    with pytest.raises(urllib.error.HTTPError, match="404"):
        urllib.request.urlopen(f"{app.address}/gradio_api/file=data:image/png;base64,AAAA")
    assert ask(app, SCAN.read_bytes())["probabilities"]


def post(app: App, path: str, body: bytes) -> tuple[int, str]:
    """Status and text. The server may answer before it has everything."""
    with closing(http.client.HTTPConnection(app.address.removeprefix("http://"), timeout=20)) as connection:
        with suppress(BrokenPipeError, ConnectionResetError):
            connection.request("POST", f"/gradio_api/{path}", body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        return answer.status, answer.read().decode()


# --- Pillow


def test_pillow_opens_no_uploaded_byte_in_any_process(app: App) -> None:
    by_container = {sniff(data): data for data in ALL.values()}
    for data in [*by_container.values(), *map(file, HARMLESS), NOT_PICTURES["gif"][0]]:
        Caller(app.address).classify(data)
    assert not app.pictures.exists()  # nor does it make a picture
    # The watch is there in the children too.
    children = children_of(app.process.pid)
    assert len(children) == 2
    watch = f"PYTHONPATH={app.pictures.parent}".encode()
    assert all(watch in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0") for pid in children)


def test_the_watch_sees_who_opens_a_picture(app: App, tmp_path: Path) -> None:
    own = tmp_path / "sitecustomize.py"
    noted = tmp_path / "noted.txt"
    program = app.pictures.with_name("sitecustomize.py").read_text(encoding="utf-8")
    own.write_text(program.replace(str(app.pictures), str(noted)), encoding="utf-8")
    picture = tmp_path / "slice.png"
    picture.write_bytes(LOSSLESS["png L"])
    look = f"from PIL import Image; Image.open({str(picture)!r})"
    subprocess.run([sys.executable, "-c", look], env=os.environ | {"PYTHONPATH": str(tmp_path)}, check=True)
    assert noted.read_text(encoding="utf-8").startswith("open ")
