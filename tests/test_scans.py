"""A visitor's own scan: in memory for a while and bounded, scrolled in a real browser, in windows of the browser's."""

from __future__ import annotations

import gc
import json
import re
import urllib.error
import urllib.request
import weakref
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import nibabel
import numpy as np
import pytest

import ctscan
from ctscan.imaging.phantom import draw_phantom
from ctscan.io.medical import PRESETS
from ctscan.io.sandbox import read_stack
from ctscan.notices import Notice, catalogue
from ctscan.page.door import MAX_BYTES, MAX_SCAN
from ctscan.page.shelf import PLACES, Shelf
from tests.conftest import ROOT, App, wait_until
from tests.test_browser import DESKTOP, LIMIT, PHONE, Visit
from tests.test_dicom import CANARY, make, write
from tests.test_prose import violations
from tests.test_series import SHUFFLED, at, zip_of
from tests.test_volume_files import nrrd_of

if TYPE_CHECKING:
    from playwright.sync_api import Browser, FilePayload

TEXTS = catalogue()["page"]
SHARED = ROOT.parent / "shared" / "dicom" / "series-breast"
SLICES, SIDE = 9, 256


def volume(slices: int = SLICES) -> bytes:
    """A chest phantom as NIfTI, whose slices differ in one bar of water above the patient, as long as their number."""
    units = np.repeat(draw_phantom(SIDE, SIDE)[None] * 2350 - 1075, slices, axis=0)
    for number in range(slices):
        units[number, 2:6, : 10 * (number + 1)] = 0
    image = nibabel.Nifti1Image(units.transpose(2, 1, 0).astype(np.int16), np.diag([-0.8, -0.8, 2.5, 1]))
    image.set_sform(image.affine, 1)
    data: bytes = image.to_bytes()
    return data


VOLUME = volume()


def send(app: App, path: str, data: bytes | None = None, scan: str = "", method: str = "POST") -> Any:
    headers = {"ctscan-scan": scan} if scan else {}
    request = urllib.request.Request(f"{app.address}/{path}", data, headers, method=method)
    with urllib.request.urlopen(request, timeout=120) as response:
        return response.read()


def refusal(app: App, path: str, data: bytes | None = None, scan: str = "", method: str = "POST") -> tuple[int, str]:
    with pytest.raises(urllib.error.HTTPError) as refused:
        send(app, path, data, scan, method)
    return refused.value.code, refused.value.read().decode()


@pytest.fixture
def scan(app: App) -> Iterator[dict[str, Any]]:
    """What the app says of the phantom, which it holds until the end of the test."""
    said = json.loads(send(app, "series", VOLUME))
    yield said
    send(app, "series", scan=said["scan"], method="DELETE")


# --- over the line


def test_a_scan_is_described_and_its_slices_travel_when_they_are_asked_for(app: App, scan: dict[str, Any]) -> None:
    expected = read_stack(VOLUME)
    assert expected is not None
    assert re.fullmatch("[0-9a-f]{32}", scan["scan"])
    assert (scan["slices"], scan["height"], scan["width"]) == expected.units.shape
    assert scan["positions"] == [2.5 * number for number in range(SLICES)]
    assert scan["spacing"] == pytest.approx([0.8, 0.8])
    for number in (0, 4):
        units = np.frombuffer(send(app, f"series/units?slice={number}", scan=scan["scan"], method="GET"), "<i2")
        assert (units == expected.units[number].ravel()).all()


def test_a_slice_of_a_scan_is_answered_as_that_of_the_file(
    app: App, scan: dict[str, Any], best_checkpoint: Any
) -> None:
    of_scan = json.loads(send(app, "answer?slice=3", b"", scan["scan"]))
    of_file = json.loads(send(app, "answer?slice=3", VOLUME))
    assert of_scan["answer"].pop("probabilities") == pytest.approx(of_file["answer"].pop("probabilities"), abs=1e-4)
    assert of_scan["answer"] == of_file["answer"]
    lines = send(app, "series/scores", b"", scan["scan"]).decode().splitlines()
    classifier = ctscan.load(best_checkpoint)
    assert len(lines) == SLICES
    reading = json.loads(lines[3])
    assert reading["verdict"] == of_file["answer"]["verdict"]
    assert len(reading["probabilities"] or classifier.card.classes) == len(classifier.card.classes)
    covered = json.loads(send(app, "cover?slice=3&at=128,128,20", b"", scan["scan"]))
    assert covered == json.loads(send(app, "cover?slice=3&at=128,128,20", VOLUME))
    assert send(app, "check?slice=3", b"", scan["scan"]) == send(app, "check?slice=3", VOLUME)


@pytest.mark.parametrize("path", ["answer?slice=0", "series/scores", "cover?slice=0&at=1,1,1", "check?slice=0"])
def test_nobody_has_a_scan_without_its_name_and_none_beyond_its_end(app: App, scan: dict[str, Any], path: str) -> None:
    assert refusal(app, path, b"", "0" * 32) == (404, TEXTS["reasons"]["gone"])
    if "slice" in path:
        assert refusal(app, path.replace("=0", f"={SLICES}", 1), b"", scan["scan"])[0] == 404
    assert refusal(app, "series/units?slice=9", None, scan["scan"], "GET")[0] == 404
    assert refusal(app, "series/units?slice=0", None, "", "GET")[0] == 404


def test_a_dropped_scan_is_gone(app: App) -> None:
    name = json.loads(send(app, "series", VOLUME))["scan"]
    send(app, "series", scan=name, method="DELETE")
    assert refusal(app, "answer?slice=0", b"", name) == (404, TEXTS["reasons"]["gone"])


def test_scans_beyond_the_places_are_refused_with_the_command_line(app: App) -> None:
    names = [json.loads(send(app, "series", VOLUME))["scan"] for _ in range(PLACES)]
    try:
        status, sentence = refusal(app, "series", VOLUME)
        assert (status, sentence) == (503, TEXTS["reasons"]["scans_full"])
        assert "ctscan predict FILE --series" in sentence
    finally:
        for name in names:
            send(app, "series", scan=name, method="DELETE")
    send(app, "series", scan=json.loads(send(app, "series", VOLUME))["scan"], method="DELETE")


def test_the_route_of_scans_alone_takes_more_than_a_picture_and_not_everything(app: App) -> None:
    assert b"unreadable" in send(app, "series", b"\x1f\x8b" + bytes(MAX_BYTES + 1))
    with pytest.raises((urllib.error.HTTPError, ConnectionError, urllib.error.URLError)) as refused:
        send(app, "series", bytes(MAX_SCAN + 1))
    if isinstance(refused.value, urllib.error.HTTPError):
        assert (refused.value.code, refused.value.read().decode()) == (413, TEXTS["reasons"]["large_series"])


def test_a_file_of_one_slice_and_what_is_no_scan_are_answered_at_once(app: App) -> None:
    for data in (SHUFFLED[0], zip_of([SHUFFLED[0]])):
        assert json.loads(send(app, "series", data))["answer"]["verdict"] != "unreadable"
    for data in (b"Jane Doe", zip_of([b"a report"]), b""):
        assert json.loads(send(app, "series", data))["state"] == "unreadable"


def test_a_slice_that_cannot_be_read_says_why_and_the_others_are_answered(app: App) -> None:
    files = [at(0), at(5)[:-5000], at(10)]
    said = json.loads(send(app, "series", zip_of(files)))
    name = said["scan"]
    assert (said["slices"], said["positions"]) == (3, [0, 5, 10])
    assert (np.frombuffer(send(app, "series/units?slice=1", scan=name, method="GET"), "<i2") == -(1 << 15)).all()
    gap = json.loads(send(app, "answer?slice=1", b"", name))
    assert (gap["state"], gap["answer"]["notice_codes"]) == ("unreadable", ["damaged"])
    assert "unread_slices" in json.loads(send(app, "answer?slice=2", b"", name))["answer"]["notice_codes"]
    rows = [json.loads(line) for line in send(app, "series/scores", b"", name).decode().splitlines()]
    assert [(row["verdict"] == "unreadable", row["reason"] == "damaged") for row in rows] == [
        (False, False), (True, True), (False, False),
    ]  # fmt: skip
    send(app, "series", scan=name, method="DELETE")


def test_nothing_of_a_scan_names_anybody(app: App) -> None:
    before = app.log.read_text()
    files = [write(make(ImagePositionPatient=[0, 0, n], SeriesInstanceUID="1.2.840.1970.7")) for n in range(3)]
    answers = [send(app, "series", zip_of({f"{CANARY}/{n}.dcm": data for n, data in enumerate(files)}))]
    name = json.loads(answers[0])["scan"]
    answers.append(send(app, "answer?slice=1", b"", name))
    answers.append(send(app, "series/scores", b"", name))
    answers.append(send(app, "series", zip_of({f"../{CANARY}": files[0]})))
    send(app, "series", scan=name, method="DELETE")
    said = b"".join(answers) + app.log.read_text().removeprefix(before).encode()
    assert not any(word in said for word in (CANARY.encode(), b"Canary", b"Cornelia", b"1.2.840.1970"))
    kept = [path for path in app.temporary.rglob("*") if path.is_file()]
    assert not kept


def test_a_scan_is_forgotten_after_its_time_and_only_then(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr("ctscan.page.shelf.time.monotonic", lambda: clock[0])
    stack, shelf = read_stack(VOLUME), Shelf()
    assert stack is not None
    name, seen = shelf.put(stack), weakref.ref(stack)
    for clock[0] in (590.0, 1180.0):  # each use counts
        assert shelf.get(name) is stack
    clock[0] = 1781.0
    shelf.forget()
    del stack
    gc.collect()
    assert seen() is None
    assert shelf.get(name) is None


def test_a_scan_that_is_coming_has_its_place() -> None:
    shelf = Shelf(places=1)
    with shelf.place() as first, shelf.place() as second:
        assert (first, second) == (True, False)
    with shelf.place() as again:
        assert again


# --- in a browser


class ScanVisit(Visit):
    """A visit that opens a scan."""

    def open(self, *files: bytes, name: str = "JANE DOE") -> None:
        kind = "application/octet-stream"
        chosen: list[FilePayload] = [{"name": name, "mimeType": kind, "buffer": data} for data in files]
        self.page.set_input_files("#file", chosen)
        self.page.locator("#series").wait_for(timeout=3 * LIMIT)
        self.rest()

    def rest(self) -> None:
        """Until the slice that is shown is answered."""
        self.page.locator("#answer:not([data-state=pending]):not([aria-busy])").wait_for(timeout=LIMIT)

    @property
    def number(self) -> int:
        return int(self.page.input_value("#series-slice"))

    def grey(self, x: float, y: float) -> int:
        """Of the picture as it is drawn, at a place of the slice in pixels; the maps above it do not count."""
        script = """([x, y]) => {
            const film = document.querySelector('canvas.seen'), picture = document.querySelector('svg.picture');
            const to = picture.getScreenCTM(), box = film.getBoundingClientRect();
            const [left, top] = [to.a * x + to.e - box.left, to.d * y + to.f - box.top];
            return film.getContext('2d').getImageData(left * devicePixelRatio, top * devicePixelRatio, 1, 1).data[0];
        }"""
        return int(self.page.evaluate(script, [x, y]))


@pytest.fixture(params=[DESKTOP, PHONE], ids=["desktop", "phone"])
def visit(request: pytest.FixtureRequest, browser: Browser, app: App) -> Iterator[ScanVisit]:
    """A visit that clears what it opened. No error may be logged."""
    context = browser.new_context(viewport=request.param, bypass_csp=True)  # axe is put into the page
    visit = ScanVisit(context.new_page(), app.address)
    yield visit
    visit.page.click("#clear")
    assert visit.page.locator("#series").is_hidden()
    context.close()
    assert not visit.errors


def test_a_scan_that_travels_long_says_how_far_it_is(visit: ScanVisit) -> None:
    """On the line of a hospital's guest: sent, then read, and nothing of it stays behind."""
    page = visit.page
    line = page.context.new_cdp_session(page)
    line.send("Network.enable")
    slow = {"offline": False, "latency": 0, "downloadThroughput": -1, "uploadThroughput": 400_000}
    line.send("Network.emulateNetworkConditions", slow)
    usual = page.locator("#answer").get_attribute("data-working")
    page.evaluate("""() => {
        window.said = [];
        new MutationObserver(() => window.said.push(document.querySelector('#answer').dataset.working))
            .observe(document.querySelector('#answer'), { attributeFilter: ['data-working'] });
    }""")
    visit.open(VOLUME)
    said = page.evaluate("window.said")
    shares = [int(number) for text in said for number in re.findall(r"^Sending, (\d+)\s%$", text)]
    assert len(set(shares)) > 2
    assert shares == sorted(shares)
    assert said[len(shares) :] == ["Reading the scan", usual]


def expected_grey(unit: float, window: str) -> float:
    centre, width = PRESETS[window]
    return float(255 * np.clip((unit - centre) / width + 0.5, 0, 1))


def travelled(visit: ScanVisit) -> list[str]:
    return [url for url in visit.asked if "series/units" in url]


def test_slider_wheel_and_keys_go_from_slice_to_slice_and_the_slice_is_answered(visit: ScanVisit) -> None:
    page = visit.page
    visit.open(VOLUME)
    middle = SLICES // 2 + 1
    assert visit.number == middle
    assert len(travelled(visit)) == 1
    assert page.locator("#answer .side:visible").count() == 2  # R and L as the file states them, whatever the verdict
    assert TEXTS["alone"] not in page.inner_text("#answer")
    assert f"Slice {middle} of {SLICES}" in page.inner_text("#series-where")
    assert page.inner_text("#series-where").endswith("position 10 mm")
    page.locator("svg.picture").hover()
    page.mouse.wheel(0, -50)
    page.wait_for_function(f"document.querySelector('#series-slice').value == {middle + 1}")
    assert page.get_attribute("#answer", "data-state") == "pending"
    visit.rest()
    page.keyboard.press("ArrowDown")
    assert visit.number == middle
    page.keyboard.press("PageUp")
    assert visit.number == SLICES
    page.locator("#series-slice").fill("2")
    assert "Slice 2 of" in (page.get_attribute("#series-slice", "aria-valuetext") or "")
    visit.rest()
    assert len([url for url in visit.asked if "/answer" in url]) >= 2
    assert visit.grey(15, 4) == pytest.approx(expected_grey(0, "training"), abs=2)  # the bar of slice 2 ends at 20
    assert visit.grey(40, 4) < expected_grey(0, "training") - 40
    page.mouse.wheel(0, 0)
    zoomed = page.get_attribute("svg.picture", "viewBox")
    page.keyboard.press("+")
    assert page.get_attribute("svg.picture", "viewBox") != zoomed
    kept = page.get_attribute("svg.picture", "viewBox")
    page.keyboard.press("ArrowUp")
    visit.rest()
    assert page.get_attribute("svg.picture", "viewBox") == kept
    on_full_screen = page.get_attribute("#answer", "data-where") or ""
    assert on_full_screen.startswith(f"Slice {visit.number} of")
    before = visit.number
    page.keyboard.press("c")
    page.keyboard.press("ArrowDown")  # the brush's on the picture alone
    assert visit.number == before - 1


def test_windows_are_applied_in_the_browser_and_it_says_what_the_network_sees(visit: ScanVisit) -> None:
    page = visit.page
    visit.open(VOLUME)
    asked = len(visit.asked)
    same = page.inner_text("#series-seen")
    place, units = (SIDE / 2, SIDE / 2), read_stack(VOLUME)
    assert units is not None
    unit = float(units.units[SLICES // 2][SIDE // 2, SIDE // 2])
    for name in ("lung", "mediastinal", "bone", "training"):
        page.check(f"[name=seen][value={name}]", force=True)
        assert visit.grey(*place) == pytest.approx(expected_grey(unit, name), abs=3)
        assert page.input_value("#level") == f"{PRESETS[name][0]:g}"
        assert (page.inner_text("#series-seen") == same) is (name == "training")
    page.keyboard.press("w")
    assert page.is_checked("[name=seen][value=lung]")
    page.fill("#level", "40")
    page.fill("#width", "350")
    page.keyboard.press("Tab")
    assert page.locator("[name=seen]:checked").count() == 0
    assert "level 100, width 2,350" in page.inner_text("#series-seen").replace("2350", "2,350")
    box = page.locator("svg.picture").bounding_box()
    assert box is not None
    for button in ("right", "left"):
        page.set_checked("#drag", button == "left")
        page.mouse.move(box["x"] + 100, box["y"] + 100)
        page.mouse.down(button=button)
        page.mouse.move(box["x"] + 130, box["y"] + 90)
        page.mouse.up(button=button)
    assert (page.input_value("#level"), page.input_value("#width")) == ("0", "470")
    assert len(visit.asked) == asked


def test_all_slices_are_scored_with_a_curve_and_axe_finds_nothing(visit: ScanVisit) -> None:
    page = visit.page
    visit.open(*SHUFFLED)  # its DICOM files, packed by the browser
    assert "Slice 5 of 8" in page.inner_text("#series-where")
    page.click("#series-score")
    page.locator("#series-score", has_text=TEXTS["series"]["script"]["again"]).wait_for(timeout=3 * LIMIT)
    assert page.inner_text("#series-state").startswith("8 slices:")
    assert page.locator("#series-chart .cursor").count() == 1
    assert "8 of 8 slices" in (page.get_attribute("#series-chart", "aria-label") or "")
    chart = page.locator("#series-chart").bounding_box()
    assert chart is not None
    page.locator("#series-chart").click(position={"x": 62, "y": 60})
    assert visit.number == 1
    visit.rest()
    width = page.viewport_size["width"] if page.viewport_size else 0
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert violations(page, "slice") == []
    assert "JANE" not in page.content()


def test_a_scan_without_units_is_scrolled_and_has_no_windows(visit: ScanVisit) -> None:
    page = visit.page
    grey = np.repeat(draw_phantom(SIDE, SIDE)[None] * 255, 3, axis=0)
    grey[:, 0, :2] = 0, 255
    grey[2, 2:6, :100] = 99
    visit.open(nrrd_of(dtype="u1", units=grey))
    assert "no window can be chosen" in page.inner_text("#answer")
    assert page.locator("[name=seen]:visible, #level:visible, #drag:visible").count() == 0
    assert page.inner_text("#series-seen") == TEXTS["series"]["script"]["seen_unitless"]
    page.keyboard.press("w")
    page.keyboard.press("ArrowUp")
    visit.rest()
    assert "Slice 3 of 3" in page.inner_text("#series-where")
    assert visit.grey(50, 4) == pytest.approx(99, abs=2)
    visit.open(VOLUME)
    assert page.locator("[name=seen]:visible, #level:visible").count() > 0


def test_a_gap_says_why_and_is_scrolled_over(visit: ScanVisit) -> None:
    page = visit.page
    visit.open(at(0), at(5)[:-5000], at(10))
    assert page.get_attribute("#answer", "data-state") == "unreadable"
    assert str(Notice("damaged")) in page.inner_text("#answer")
    assert page.inner_text("#series-where").endswith("position 5 mm")
    page.keyboard.press("ArrowUp")
    visit.rest()
    assert page.get_attribute("#answer", "data-state") != "unreadable"
    assert page.locator("canvas.seen").is_visible()
    page.click("#series-score")
    page.locator("#series-score", has_text=TEXTS["series"]["script"]["again"]).wait_for(timeout=3 * LIMIT)
    assert page.inner_text("#series-state").endswith(", 1 cannot be read")


def test_what_replaces_a_scan_drops_it(visit: ScanVisit, app: App) -> None:
    page = visit.page
    visit.open(VOLUME)
    with page.expect_request(lambda request: request.method == "DELETE") as dropped:
        visit.choose(1)
    name = dropped.value.headers["ctscan-scan"]
    assert page.locator("#series").is_hidden()
    assert page.locator("canvas.seen").count() == 0
    wait_until(lambda: refusal(app, "answer?slice=0", b"", name)[0] == 404)
    visit.open(VOLUME)
    with page.expect_request(lambda request: request.method == "DELETE"):
        page.click("#clear")
    assert visit.page.get_attribute("#answer", "data-state") == "empty"


def test_a_scan_that_is_gone_is_said(visit: ScanVisit, app: App) -> None:
    visit.open(VOLUME)
    with visit.page.expect_request(lambda request: "series/units" in request.url) as asked:
        visit.page.keyboard.press("ArrowUp")
    visit.rest()
    send(app, "series", scan=asked.value.headers["ctscan-scan"], method="DELETE")
    visit.page.keyboard.press("ArrowUp")
    visit.page.locator("#answer[data-state=failed]").wait_for()
    assert TEXTS["reasons"]["gone"] in visit.page.inner_text("#answer")
    visit.errors = [error for error in visit.errors if "404" not in error]


@pytest.mark.skipif(not SHARED.exists(), reason="real files are not here")
def test_a_real_series_is_scrolled(visit: ScanVisit) -> None:
    files = [path.read_bytes() for path in sorted(SHARED.glob("*.dcm"))]
    visit.open(*files)
    assert f"of {len(files)} from the feet" in visit.page.inner_text("#series-where")
    assert visit.page.locator("#answer .side:visible").count() == 2
    visit.page.keyboard.press("ArrowUp")
    visit.rest()
