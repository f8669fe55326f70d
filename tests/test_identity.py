"""Nobody can be recognised by a file's name or texts: a canary goes in through every door and comes out of none."""

from __future__ import annotations

import base64
import contextlib
import gzip
import io
import json
import struct
import traceback
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Iterator
from http.client import HTTPResponse
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nibabel
import numpy as np
import pytest
from gradio_client import Client, handle_file
from PIL import ExifTags, Image
from PIL.PngImagePlugin import PngInfo

from ctscan.cli import main
from ctscan.errors import UnreadableSlice
from ctscan.imaging.phantom import draw_phantom
from ctscan.inference.classifier import Classifier
from ctscan.io.images import Slice, read_slice
from tests.conftest import ANSWERED, ROOT, App, Ctscan, running_app
from tests.test_dicom import make as make_dicom
from tests.test_dicom import write as write_dicom

if TYPE_CHECKING:
    from playwright.sync_api import Browser

CANARY = "Jane-Doe-19700101"
ENCODINGS = ("utf-8", "utf-16-le", "utf-16-be")
PICTURE = Image.fromarray((draw_phantom(300, 400) * 255).astype(np.uint8))
XMP = f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><creator>{CANARY}</creator></x:xmpmeta>'.encode()
BY_LINE = b"\x1c\x02\x50" + struct.pack(">H", len(CANARY)) + CANARY.encode()  # IPTC-IIM 2:80, the author
AGING = (1, 2)  # s: look every second, delete what is older than two
AGED = 30  # s within which all must be gone


def exif() -> Image.Exif:
    """Texts in the main directory, in Microsoft's UTF-16 tags, and in the EXIF directory."""
    block = Image.Exif()
    base, tags = ExifTags.Base, (ExifTags.Base.ImageDescription, ExifTags.Base.Artist, ExifTags.Base.Copyright)
    for tag in (*tags, base.DateTime, base.Make, base.Software):
        block[tag] = CANARY
    for tag in (base.XPTitle, base.XPComment, base.XPAuthor, base.XPSubject):
        block[tag] = CANARY.encode("utf-16-le") + b"\0\0"
    block.get_ifd(ExifTags.IFD.Exif)[base.UserComment] = b"ASCII\0\0\0" + CANARY.encode()
    return block


def save(kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    PICTURE.save(buffer, kind, **options)
    return buffer.getvalue()


def profile(name: str) -> bytes:
    """An `iCCP` chunk with a profile that is none, which libpng complains of by its name."""
    content = b"iCCP" + name.encode() + b"\0\0" + zlib.compress(np.random.default_rng(0).bytes(4000))
    return struct.pack(">I", len(content) - 4) + content + struct.pack(">I", zlib.crc32(content))


def png() -> bytes:
    """`tEXt`, `zTXt`, `iTXt`, `eXIf`, and the name of a colour profile."""
    texts = PngInfo()
    texts.add_text("Author", CANARY)
    texts.add_text("Description", CANARY * 100, zip=True)
    texts.add_itxt("Title", CANARY, lang="en", tkey=CANARY)
    texts.add_itxt("XML:com.adobe.xmp", XMP.decode(), zip=True)
    data = save("PNG", pnginfo=texts, exif=exif())
    return data[:33] + profile(CANARY) + data[33:]  # behind IHDR


def jpeg() -> bytes:
    """EXIF, XMP, IPTC and a comment."""
    resource = b"8BIM\x04\x04\0\0" + struct.pack(">I", len(BY_LINE)) + BY_LINE
    content = b"Photoshop 3.0\0" + resource
    iptc = b"\xff\xed" + struct.pack(">H", len(content) + 2) + content
    return save("JPEG", quality=95, exif=exif(), xmp=XMP, comment=CANARY, extra=iptc)


def tiff() -> bytes:
    """Texts of TIFF 6.0, XMP and IPTC."""
    texts: dict[int, Any] = dict.fromkeys((269, 270, 285, 305, 306, 315, 316, 33432), CANARY)
    return save("TIFF", tiffinfo=texts | {700: XMP, 33723: BY_LINE})


MARKED = {
    "marked.png": png(),
    "marked.jpg": jpeg(),
    "marked.tif": tiff(),
    "marked.webp": save("WEBP", lossless=True, exif=exif(), xmp=XMP),
    "marked.bmp": save("BMP") + CANARY.encode(),
}


def dicom() -> bytes:
    """Names, ids, dates and texts in the elements for them, in private ones and in the file meta information."""
    units = (np.asarray(PICTURE).astype(np.int16) - 128) * 8
    file = make_dicom(units, PatientName=CANARY, PatientID=CANARY, PatientComments=CANARY, ImageComments=CANARY)
    file.StudyInstanceUID = file.SeriesInstanceUID = file.SOPInstanceUID = "1.2.19700101"
    file.PatientBirthDate, file.ImagePositionPatient = "19700101", [0, 0, 1]
    file.file_meta.ImplementationVersionName = CANARY[:16]
    file.add_new(0x00091001, "LO", CANARY)
    return write_dicom(file)


def nifti() -> bytes:
    """All text fields of the header, and an extension."""
    units = (np.asarray(PICTURE).astype(np.int16).T - 128) * 8
    image = nibabel.Nifti1Image(np.stack([units] * 2, axis=-1), np.diag([-1.0, -1, 1, 1]))
    for name, length in (("descrip", 80), ("aux_file", 24), ("db_name", 18), ("intent_name", 16)):
        image.header[name] = CANARY[:length].encode()
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", CANARY.encode()))
    data: bytes = image.to_bytes()
    return data


def nrrd() -> bytes:
    """A comment, a field and a key of the file's own."""
    head = f"NRRD0004\n# {CANARY}\ncontent: {CANARY}\ntype: int16\ndimension: 3\nspace: LPS\nsizes: 400 300 2\n"
    head += "space directions: (1,0,0) (0,1,0) (0,0,1)\nspace origin: (0,0,0)\nencoding: raw\nendian: little\n"
    units = (np.asarray(PICTURE).astype("<i2") - 128) * 8
    return f"{head}patient:={CANARY}\n\n".encode() + np.stack([units] * 2).tobytes()


def packed(data: bytes) -> bytes:
    """By gzip, which keeps a name."""
    buffer = io.BytesIO()
    with gzip.GzipFile(f"{CANARY}.nii", "wb", fileobj=buffer) as packer:
        packer.write(data)
    return buffer.getvalue()


def series() -> bytes:
    """A zip with names and a comment."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.comment = CANARY.encode()
        archive.writestr(f"{CANARY}/1.dcm", dicom())
        archive.writestr(f"{CANARY}/report.txt", CANARY)
    return buffer.getvalue()


MEDICAL = {
    "marked.dcm": dicom(),
    "marked.nii": nifti(),
    "marked.nii.gz": packed(nifti()),
    "marked.nrrd": nrrd(),
    "marked.zip": series(),
}
NO_PICTURES = {
    "text.png": f"{CANARY}, born 1970".encode(),
    "letter.pdf": f"%PDF-1.7 {CANARY}".encode(),
    "scan.dcm": b"\0" * 128 + b"DICM\x10\0\x10\0PN" + struct.pack("<H", len(CANARY)) + CANARY.encode(),
    "volume.nii": b"\x5c\x01\0\0" + CANARY.encode().ljust(340, b"\0") + b"n+1\0",
}
BROKEN = {f"cut-{name}": data[: len(data) - 40] for name, data in MARKED.items() if name != "marked.bmp"} | {
    "cut-marked.bmp": MARKED["marked.bmp"][:-10_000] + CANARY.encode(),
    **{f"cut-{name}": data[:-4000] for name, data in MEDICAL.items()},
    "forged.png": MARKED["marked.png"].replace(b"IDAT", CANARY[:4].encode(), 1),
}
FILES = MARKED | MEDICAL | BROKEN | NO_PICTURES


def betrays(data: bytes) -> bool:
    """Whether the canary stands in bytes, in any of the encodings that files use."""
    return any(CANARY.encode(encoding) in data for encoding in ENCODINGS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All files, the canary in their names too."""
    made = tmp_path_factory.mktemp("visitor")
    for name, data in FILES.items():
        (made / f"{CANARY}-{name}").write_bytes(data)
    return made


@pytest.mark.parametrize("name", FILES)
def test_every_file_holds_the_canary_and_only_the_marked_ones_are_read(name: str) -> None:
    assert betrays(FILES[name])
    if name in MARKED:
        assert read_slice(FILES[name]).notices == ()
    elif name in MEDICAL:
        assert read_slice(FILES[name]).unit == "HU"
    else:
        with pytest.raises(UnreadableSlice):
            read_slice(FILES[name])


@pytest.mark.parametrize("name", MARKED)
def test_a_slice_holds_pixels_and_sentences_only(name: str) -> None:
    slice_ = read_slice(MARKED[name])
    facts = {"unit": None, "spacing": None, "window": None, "is_radiological": False, "position": None}
    assert set(vars(slice_)) == {"pixels", "notices", "colour"} | facts.keys()
    assert type(slice_.colour) is float
    assert {name: vars(slice_)[name] for name in facts} == facts
    assert_holds_no_bytes_of_the_file(slice_)


@pytest.mark.parametrize("name", MEDICAL)
def test_a_slice_of_a_medical_file_holds_numbers_and_sentences_besides(name: str) -> None:
    slice_ = read_slice(MEDICAL[name], window="lung")
    assert (slice_.unit, slice_.window, slice_.is_radiological) == ("HU", (-600, 1500), True)
    assert all(type(length) is float for length in slice_.spacing or ())
    assert type(slice_.position) is float
    assert not any(isinstance(value, str) for notice in slice_.notices for value in notice.values.values())
    assert_holds_no_bytes_of_the_file(slice_)


def assert_holds_no_bytes_of_the_file(slice_: Slice) -> None:
    assert not slice_.pixels.flags.writeable
    assert slice_.pixels.dtype == np.float32
    assert not betrays(f"{slice_!r}{slice_.notices}".encode() + slice_.pixels.tobytes())
    base: Any = slice_.pixels
    while base is not None:  # a view would keep the file's own bytes alive
        assert isinstance(base, np.ndarray)
        assert base.dtype == np.float32
        base = base.base


@pytest.mark.parametrize("name", [*BROKEN, *NO_PICTURES])
def test_no_error_quotes_the_file(name: str) -> None:
    with pytest.raises(UnreadableSlice) as caught:
        read_slice(FILES[name])
    error: BaseException | None = caught.value
    while error is not None:  # what was raised inside is kept on the error, shown or not
        assert not betrays("".join(traceback.format_exception(error)).encode() + repr(vars(error)).encode())
        error = error.__cause__ or error.__context__


@pytest.mark.parametrize("name", FILES)
def test_no_library_prints_what_the_file_says(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    with contextlib.suppress(UnreadableSlice):
        read_slice(FILES[name])
    printed = capfd.readouterr()  # of the C libraries too
    assert not betrays((printed.out + printed.err).encode())


@pytest.mark.parametrize("name", FILES)
def test_no_answer_quotes_the_file(name: str, classifier: Classifier) -> None:
    given = classifier(FILES[name])
    assert not betrays(json.dumps(given.to_dict()).encode() + repr(given).encode())
    assert given.slice is None or isinstance(given.slice, Slice)


def test_the_command_line_prints_no_name(
    folder: Path, checkpoint_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    files = sorted(folder.iterdir())
    assert main(["predict", *map(str, files), "--checkpoint", str(checkpoint_path)]) == 0
    printed = capfd.readouterr()  # of the C libraries too
    assert len(printed.out.splitlines()) == len(files) == len(FILES)
    assert not betrays((printed.out + printed.err).encode())


def test_the_command_line_names_only_the_file_that_is_not_there(
    folder: Path, checkpoint_path: Path, run_ctscan: Ctscan
) -> None:
    """The user typed that name, and must learn which of several is meant."""
    missing, there = folder / f"{CANARY}-none.png", folder / f"{CANARY}-marked.png"
    done = run_ctscan("predict", there, missing, "--checkpoint", checkpoint_path)
    assert done.returncode == 2
    named = [line for line in done.stderr.splitlines() if CANARY in line]
    assert named == [f"ctscan: {missing}: No such file or directory."]
    assert len(done.stdout.splitlines()) == 2
    assert not betrays(done.stdout.encode())


# --- the server


def upload(address: str, name: str, data: bytes) -> str:
    """Post a file as a program does; the name by which the server has it."""
    head = f'--x\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'.encode()
    request = urllib.request.Request(
        f"{address}/gradio_api/upload",
        head + data + b"\r\n--x--\r\n",
        {"Content-Type": "multipart/form-data; boundary=x"},
    )
    with urllib.request.urlopen(request, timeout=20) as response:
        (path,) = json.load(response)
    return str(path)


def ask_page(address: str, data: bytes, *questions: str) -> bytes:
    """Ask as the page does: headers and bodies of what comes."""
    given = b""
    for question in questions:
        request = urllib.request.Request(f"{address}/{question}", data, {"Content-Type": "application/octet-stream"})
        with urllib.request.urlopen(request, timeout=60) as response:
            given += said(response)
    return given


def said(response: HTTPResponse) -> bytes:
    """All that came: headers and body."""
    return str(response.headers).encode() + response.read()


def classify(address: str, name: str, data: bytes) -> bytes:
    """Ask the API without its client: headers and bodies of the call, the answer and the overlay."""
    file = {"path": upload(address, name, data), "orig_name": name, "meta": {"_type": "gradio.FileData"}}
    called = f"{address}/gradio_api/call/classify"
    request = urllib.request.Request(
        called, json.dumps({"data": [file]}).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=20) as response:
        asked = said(response)
    event = json.loads(asked[asked.rindex(b"{") :])["event_id"]
    with urllib.request.urlopen(f"{called}/{event}", timeout=60) as response:
        answered = said(response)
    assert b'"verdict"' in answered
    _, overlay = json.loads(answered[answered.rindex(b"data: ") + 6 :])
    if overlay is None:
        return asked + answered
    with urllib.request.urlopen(f"{address}/gradio_api/file={overlay['path']}", timeout=20) as response:
        return asked + answered + said(response)


def png_chunk_types(data: bytes) -> set[bytes]:
    position, kinds = 8, set()
    while position < len(data):
        (length,) = struct.unpack_from(">I", data, position)
        kinds.add(data[position + 4 : position + 8])
        position += 12 + length
    return kinds


@pytest.mark.parametrize("name", FILES)
def test_no_answer_of_page_and_api_and_no_log_quotes_the_file(name: str, app: App) -> None:
    assert not betrays(classify(app.address, f"{CANARY}-{name}", FILES[name]))
    many = ["check"] if name == "marked.png" else []  # thirteen answers, which are no more of a file than the first is
    assert not betrays(ask_page(app.address, FILES[name], "answer", "cover?at=20,20,9", *many))
    assert app.address in app.log.read_text()
    assert not betrays(app.log.read_bytes())


def test_the_overlay_has_no_text_and_no_name(app: App, folder: Path, tmp_path: Path) -> None:
    client = Client(app.address, verbose=False, download_files=tmp_path)
    for name in MARKED:
        given, overlay = client.predict(handle_file(folder / f"{CANARY}-{name}"), api_name="/classify")
        assert given["verdict"] in ("ok", "unusual")
        assert CANARY not in overlay
        assert png_chunk_types(Path(overlay).read_bytes()) == {b"IHDR", b"IDAT", b"IEND"}


EVERYWHERE = """() => document.documentElement.outerHTML + document.body.innerText + document.title + location.href
  + JSON.stringify([...document.querySelectorAll('input')].map((e) => [e.value, [...e.files ?? []].map((f) => f.name)]))
  + JSON.stringify(localStorage) + JSON.stringify(sessionStorage) + document.cookie"""


def test_the_page_forgets_the_name(browser: Browser, app: App) -> None:
    page = browser.new_page()
    printed: list[str] = []
    page.on("console", lambda message: printed.append(message.text))
    page.goto(app.address)
    for name, sentence in (("text.png", "Not read"), ("marked.png", ANSWERED), ("cut-marked.jpg", "Not read")):
        file: Any = {"name": f"{CANARY}-{name}", "mimeType": "image/png", "buffer": FILES[name]}
        page.set_input_files("#file", file)
        page.locator(".said:not(:has(.origin))", has_text=sentence).wait_for(timeout=20_000)
        assert CANARY not in page.evaluate(EVERYWHERE)
        page.click("#clear")
        page.locator(".said", has_text="No slice yet").wait_for(timeout=20_000)
        assert CANARY not in page.evaluate(EVERYWHERE)
    assert CANARY not in "".join(printed)
    page.close()


# --- what is left

# The app itself, but for all logs, which it prints.
TALKATIVE = """
import logging, sys
sys.path.insert(0, {root!r})
logging.basicConfig(level=logging.DEBUG)
logging.debug("the log is on")
import app
sys.exit(app.main())
"""


@pytest.fixture(scope="module")
def talkative(best_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    """An app that prints all logs; what it leaves lies in folders of its own."""
    made = tmp_path_factory.mktemp("talkative")
    program = made / "talkative.py"
    program.write_text(TALKATIVE.format(root=str(ROOT)))
    (made / "tmp").mkdir()
    homes = {name: str(made / "home") for name in ("HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME")}
    with running_app(best_checkpoint, made / "tmp", homes, program=program) as running:
        yield running


def left_in(folder: Path) -> list[str]:
    """Files and folders that the canary names, and files that hold it."""
    places = (p for p in folder.rglob("*") if CANARY in p.name or (p.is_file() and betrays(p.read_bytes())))
    return [str(p.relative_to(folder)) for p in places]


def test_nothing_is_on_disk_or_in_the_log_of_programs_and_of_a_browser(talkative: App, browser: Browser) -> None:
    for name, data in FILES.items():
        classify(talkative.address, f"{CANARY}-{name}", data)
    page = browser.new_page()
    page.goto(talkative.address)
    for name in ("marked.jpg", "text.png"):
        file: Any = {"name": f"{CANARY}-{name}", "mimeType": "image/png", "buffer": FILES[name]}
        page.set_input_files("#file", file)
        sentence = "Not read" if name in NO_PICTURES else ANSWERED
        page.locator(".said:not(:has(.origin))", has_text=sentence).wait_for(timeout=20_000)
    page.close()
    assert left_in(talkative.temporary.parent) == []
    assert not list(talkative.temporary.rglob("*.png"))  # overlays show a visitor's pixels
    assert "the log is on" in talkative.log.read_text()
    assert not betrays(talkative.log.read_bytes())


# Notes every moment at which the canary can be read on the page or stands in its source.
WATCH = """(canary) => {
  window.seen = [];
  const look = () => { if (document.documentElement.outerHTML.includes(canary)) window.seen.push(performance.now()); };
  new MutationObserver(look).observe(document.documentElement,
    { subtree: true, childList: true, attributes: true, characterData: true });
}"""
DROP = """([name, data]) => {
  const transfer = new DataTransfer();
  const bytes = Uint8Array.from(atob(data), (c) => c.charCodeAt(0));
  transfer.items.add(new File([bytes], name, { type: 'image/png' }));
  const event = new DragEvent('drop', { dataTransfer: transfer, bubbles: true, cancelable: true });
  document.querySelector('#answer').dispatchEvent(event);
}"""


def test_the_page_never_shows_or_sends_the_name(browser: Browser, app: App) -> None:
    page = browser.new_page()
    sent: list[bytes] = []
    page.on(
        "request",
        lambda request: sent.append(f"{request.url}{request.headers}".encode() + (request.post_data_buffer or b"")),
    )
    page.goto(app.address)
    page.evaluate(WATCH, CANARY)
    data = (ROOT / "examples" / "02-lower-lobe-mass-lung-window.png").read_bytes()
    for way in ("choose", "drop"):
        if way == "choose":
            file: Any = {"name": f"{CANARY}.png", "mimeType": "image/png", "buffer": data}
            page.set_input_files("#file", file)
        else:
            page.evaluate(DROP, [f"{CANARY}.png", base64.b64encode(data).decode()])
        page.locator(".said:not(:has(.origin))", has_text=ANSWERED).wait_for(timeout=20_000)
        page.click("#clear")
        page.locator(".said", has_text="No slice yet").wait_for(timeout=20_000)
    assert page.evaluate("window.seen") == []
    assert sum(b"/answer" in request for request in sent) == 2
    assert not any(betrays(request) for request in sent)
    page.close()


INSTEAD_OF_AN_UPLOAD: list[Any] = [
    f"/home/{CANARY}.png",
    {"path": f"/home/{CANARY}.png", "meta": {"_type": "gradio.FileData"}},
    {"path": f"data:image/png;base64,{CANARY}", "orig_name": f"{CANARY}.png", "meta": {"_type": "gradio.FileData"}},
]


@pytest.mark.parametrize("sent", INSTEAD_OF_AN_UPLOAD, ids=["path", "file", "data"])
def test_what_is_no_upload_is_refused_without_a_word_in_the_log(sent: Any, app: App) -> None:
    called = f"{app.address}/gradio_api/call/classify"
    body = json.dumps({"data": [sent]}).encode()
    request = urllib.request.Request(called, body, {"Content-Type": "application/json"})
    with contextlib.suppress(urllib.error.HTTPError), urllib.request.urlopen(request, timeout=20) as response:
        event = json.load(response)["event_id"]
        with urllib.request.urlopen(f"{called}/{event}", timeout=30) as stream:
            assert b"verdict" not in stream.read()
    assert not betrays(app.log.read_bytes())
