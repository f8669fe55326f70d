"""The section with a whole scan: real pictures and readings, in a real browser."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest

from ctscan.bundle import bundled
from ctscan.errors import DataError
from ctscan.evaluation.scan import SHOWN, VOLUME, summarise
from ctscan.inference.classifier import Classifier
from ctscan.io.images import Slice
from ctscan.io.volumes import read_volumes
from ctscan.notices import catalogue
from ctscan.page.views import Views
from ctscan.results.scan import PICTURE, RECORD, BundledScan, read_scan
from ctscan.results.summary import Facts
from tests.conftest import ROOT, App, turn_to
from tests.test_browser import DESKTOP, Visit

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

TEXTS = catalogue()["page"]["scan"]
FOLDER = bundled("examples") / "scan"


@pytest.fixture(scope="module")
def scan() -> BundledScan:
    """The bundled one."""
    found = read_scan(FOLDER)
    assert found is not None
    return found


@pytest.fixture
def visit(browser: Browser, app: App) -> Iterator[Visit]:
    """A visit on a desktop that has opened the section. No error may be logged."""
    page = browser.new_page(viewport=DESKTOP)  # type: ignore[arg-type]
    visit = Visit(page, app.address)
    assert not [url for url in visit.asked if "/scan/" in url]  # nothing is fetched before it is asked for
    turn_to(page, "scan")
    page.locator("#scan-view").wait_for()
    yield visit
    page.close()
    assert not visit.errors


def number(page: Page) -> int:
    return int(page.input_value("#scan-slice"))


def pixels(page: Page, panel: int) -> bytes:
    address: str = page.locator(".film canvas").nth(panel).evaluate("e => e.toDataURL()")
    return address.encode()


def test_slider_wheel_and_arrows_go_from_slice_to_slice(visit: Visit) -> None:
    page = visit.page
    assert len([url for url in visit.asked if "/scan/" in url]) == 2
    start, before = number(page), pixels(page, 0)
    page.locator("#scan-panels").hover()
    page.mouse.wheel(0, -50)
    page.wait_for_function(f"document.querySelector('#scan-slice').value == {start + 1}")
    assert pixels(page, 0) != before
    page.focus("#scan-panels")
    page.keyboard.press("ArrowDown")
    assert number(page) == start
    page.locator("#scan-slice").fill("7")
    assert page.inner_text("#scan-where").startswith(TEXTS["live"]["slice"].split("{number}")[0] + "7 ")


def test_three_windows_of_one_slice_show_what_was_said_of_each(visit: Visit, scan: BundledScan) -> None:
    page = visit.page
    assert len({pixels(page, panel) for panel in range(3)}) == 3
    readings = scan.record.slices[number(page) - 1].readings
    for panel, window in enumerate(scan.record.windows):
        reading, shown = readings[window], page.locator(".panel").nth(panel)
        assert shown.get_attribute("data-verdict") == reading.verdict
        shares = [re.sub(r"\D", "", text) for text in shown.locator("dd").all_inner_texts()]
        assert reading.probabilities is not None
        assert [int(share) for share in shares] == pytest.approx([100 * p for p in reading.probabilities], abs=1)
        said = shown.locator(".verdict").inner_text()
        assert said in (shown.locator("canvas").get_attribute("aria-label") or "")


def test_a_window_is_applied_as_the_library_applies_it(visit: Visit, scan: BundledScan) -> None:
    sheet = cv2.imdecode(np.frombuffer(scan.files[PICTURE], np.uint8), cv2.IMREAD_GRAYSCALE)
    assert sheet is not None
    width, height = scan.record.tile
    down, across = divmod(number(visit.page) - 1, scan.record.columns)
    tile = sheet[down * height : (down + 1) * height, across * width : (across + 1) * width].astype(float)
    centre, wide = scan.record.windows["lung"]
    right = np.clip(((8 * tile - 1024) - centre) / wide + 0.5, 0, 1).mean()
    panel = list(scan.record.windows).index("lung")
    shown = (
        visit.page.locator(".film canvas")
        .nth(panel)
        .evaluate(
            """e => { const d = e.getContext('2d').getImageData(0, 0, e.width, e.height).data;
        let sum = 0; for (let i = 0; i < d.length; i += 4) sum += d[i]; return sum / d.length * 4 / 255; }"""
        )
    )
    assert shown == pytest.approx(right, abs=0.01)


def test_the_outline_is_a_switch_and_the_chart_follows_the_window(visit: Visit, scan: BundledScan) -> None:
    page = visit.page
    assert number(page) in scan.record.outlined
    assert not page.locator(".edge").first.is_visible()
    page.keyboard.press("o")
    assert page.locator(".edge polygon").first.is_visible()
    before, label = page.locator("#scan-chart").inner_html(), page.get_attribute("#scan-chart", "aria-label")
    page.check("[name=scan-window][value=lung]")
    assert page.locator("#scan-chart").inner_html() != before
    assert page.get_attribute("#scan-chart", "aria-label") != label
    assert TEXTS["windows"]["lung"] in (page.get_attribute("#scan-chart", "aria-label") or "")


def test_the_scores_of_another_model_are_not_shown(scan: BundledScan, committed: Classifier) -> None:
    other = BundledScan(scan.record.model_copy(update={"model_id": "resnet18-000000000000"}), scan.files)
    html = Views(committed, (), Facts(committed.card), scan=other).home()
    assert TEXTS["of_another_model"].format(model_id="resnet18-000000000000") in html
    assert 'id="scan-chart"' not in html
    assert TEXTS["counts"]["title"] not in html


def test_a_damaged_scan_is_said_and_none_is_none(tmp_path: Path) -> None:
    assert read_scan(tmp_path) is None
    (tmp_path / RECORD).write_text("{}")
    with pytest.raises(DataError, match="cannot be read"):
        read_scan(tmp_path)
    (tmp_path / PICTURE).write_bytes(b"")
    with pytest.raises(DataError, match="no record"):
        read_scan(tmp_path)


def test_the_scan_is_small_and_says_what_it_holds(scan: BundledScan) -> None:
    assert sum(map(len, scan.files.values())) < 900_000
    record = json.loads(scan.files[RECORD])
    assert len(record["slices"]) == len(scan.record.slices) == 61
    assert len(scan.record.outlined) == 11


@pytest.mark.slow
def test_the_readings_are_those_of_the_bundled_model(scan: BundledScan, committed: Classifier) -> None:
    folder = ROOT.parent / "shared" / "volumes"
    if not folder.is_dir():
        pytest.skip("the volumes are not here")
    volume = next(volume for volume in read_volumes(folder) if volume.name == VOLUME)
    places = [4, scan.record.outlined[0], 50]
    for window in SHOWN:
        answers = committed.many(Slice(volume.slice(place, window)[0]) for place in places)
        for place, reading in zip(places, map(summarise, answers), strict=True):
            stored = scan.record.slices[place].readings[window]
            assert (stored.verdict, stored.possible) == (reading.verdict, reading.possible)
            assert (stored.probabilities or ()) == pytest.approx(reading.probabilities or (), abs=2e-3)
