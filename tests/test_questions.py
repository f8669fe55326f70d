"""The picture that can be questioned: other maps, covered places, guesses, lists and what may be kept."""

from __future__ import annotations

import csv
import html
import io
import json
import re
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest

import ctscan
from ctscan.imaging.anatomy import Pixels
from ctscan.inference.answer import Prediction
from ctscan.inference.checks import CHANGES, check
from ctscan.inference.classifier import Patch
from ctscan.inference.gate import share_outside
from tests.conftest import App, turn_to
from tests.test_browser import DESKTOP, DROP, EXAMPLES, MASS, NODULE, PHONE, TEXTS, WIDE, Visit, encoded

if TYPE_CHECKING:
    from playwright.sync_api import Browser, FilePayload, Page

NO_MASS = 3  # number of an example without one
SAMPLE = "async ([map, u, v]) => (await import('./static/evidence.js')).sample(map, u, v)"
INSIDE = """async ([map, x, y, r]) =>
  (await import('./static/evidence.js')).inside(map, (u, v) => Math.hypot(u - x, v - y) <= r, 64)"""
LINE = """async ([map, level]) => {
  const { field, line } = await import('./static/evidence.js');
  return line(field(map, 112), 112, level); }"""


@pytest.fixture
def visit(browser: Browser, app: App) -> Iterator[Visit]:
    """A fresh visit on a desktop, to the first example. No error may be logged."""
    page = browser.new_page(viewport=DESKTOP)  # type: ignore[arg-type]
    visit = Visit(page, app.address)
    yield visit
    page.close()
    assert not visit.errors


@pytest.fixture(scope="module")
def first() -> Prediction:
    """What the network says of the example on the first screen."""
    given = ctscan.load()(EXAMPLES / "01-lower-lobe-mass-wide-window.png").prediction
    assert given is not None
    return given


def place(page: Page, across: float, down: float) -> tuple[float, float]:
    """A place of the slice, in shares of its sides, on the screen."""
    x, y = page.evaluate(
        """([across, down]) => { const svg = document.querySelector('svg.picture');
        const [w, h] = svg.dataset.size.split(' ').map(Number);
        const p = new DOMPoint(w * across, h * down).matrixTransform(svg.getScreenCTM()); return [p.x, p.y]; }""",
        [across, down],
    )
    return x, y


# --- maps


def test_the_browser_interpolates_as_the_library_does(visit: Visit, first: Prediction) -> None:
    height, width = first.placement.slice_shape
    over_slice = first.placement.invert(first.maps[first.top])
    box, target, size = first.placement.box, first.placement.target, first.placement.size
    for row, column in ((height // 3, width // 4), (height // 2, width // 2), (height // 2, 2 * width // 3)):
        u = (target.left + (column + 0.5 - box.left) * target.width / box.width) / size
        v = (target.top + (row + 0.5 - box.top) * target.height / box.height) / size
        seen = visit.page.evaluate(SAMPLE, [first.maps[first.top].tolist(), u, v])
        assert seen == pytest.approx(float(over_slice[row, column]), abs=1e-5)


def test_a_line_follows_its_level_and_a_disc_holds_its_share(visit: Visit) -> None:
    ramp = [[float(column) for column in range(7)] for _ in range(7)]
    path = visit.page.evaluate(LINE, [ramp, 3.0])
    xs = [float(x) for x in re.findall(r"[ML]([\d.]+) ", path)]
    assert xs == pytest.approx([56] * len(xs), abs=0.1)  # the middle of 112
    assert len(xs) >= 2 * 110
    ones = [[1.0] * 7] * 7
    assert visit.page.evaluate(INSIDE, [ones, 0.5, 0.5, 0.2]) == pytest.approx(49 * np.pi * 0.04, rel=0.01)


def test_for_and_against_and_instead_of_another_say_what_they_sum_to(visit: Visit, first: Prediction) -> None:
    page = visit.page
    washes = [page.get_attribute(".wash", "href")]
    assert page.inner_text("#sum") == ""
    for mode in ("signed", "instead"):
        page.check(f"[name=mode][value={mode}]")
        washes.append(page.get_attribute(".wash", "href"))
        total = float(re.findall(r"[+−]\d+\.\d\d", page.inner_text("#sum"))[-1].replace("−", "-"))
        other = int(page.input_value("#other"))
        assert other != first.top
        right = first.logits[first.top] - (first.logits[other] if mode == "instead" else 0)
        assert total == pytest.approx(float(right), abs=0.011)
    page.check("#cells")
    washes.append(page.get_attribute(".wash", "href"))
    assert page.locator("#maps .lines").count() == 0
    assert len(set(washes)) == 4


def test_the_value_under_the_pointer_is_read(visit: Visit, first: Prediction) -> None:
    height, width = first.placement.slice_shape
    row, column = int(0.6 * height), int(0.66 * width)
    visit.page.mouse.move(*place(visit.page, (column + 0.5) / width, (row + 0.5) / height))
    text = visit.page.inner_text("#reading")
    value = float(re.findall(r"[+−]\d+\.\d\d", text)[0].replace("−", "-"))
    assert value == pytest.approx(float(first.placement.invert(first.maps[first.top])[row, column]), abs=0.011)


def test_shares_of_the_evidence_are_a_hundred(visit: Visit) -> None:
    told = visit.page.inner_text(".of:visible").split("scale.")[1].split("The outline")[0]
    shares = re.findall(r"(\d+)\u00a0%", told)
    assert sum(map(int, shares)) == pytest.approx(100, abs=1)


# --- the picture


def test_the_picture_is_enlarged_moved_and_fitted(visit: Visit) -> None:
    page = visit.page

    def box() -> list[float]:
        return [float(v) for v in (page.get_attribute("svg.picture", "viewBox") or "").split()]

    whole = box()
    page.mouse.move(*place(page, 0.5, 0.5))
    page.mouse.wheel(0, -400)
    page.wait_for_function(f"document.querySelector('svg.picture').viewBox.baseVal.width < {whole[2] * 0.6}")
    enlarged = box()
    page.mouse.down()
    x, y = place(page, 0.5, 0.5)
    page.mouse.move(x - 60, y - 30, steps=3)
    page.mouse.up()
    assert box()[0] > enlarged[0]
    assert box()[1] > enlarged[1]
    page.keyboard.press("0")
    assert box() == whole
    page.keyboard.press("+")
    assert box()[2] < whole[2]
    page.mouse.dblclick(*place(page, 0.5, 0.5))
    assert box() == whole
    assert page.evaluate("getSelection().toString()") == ""
    page.keyboard.press("+")
    frame = page.locator("svg.picture").bounding_box()
    assert frame is not None
    for _ in range(3):  # dragged out of sight, as far as that goes
        page.mouse.move(frame["x"] + 10, frame["y"] + 10)
        page.mouse.down()
        page.mouse.move(frame["x"] + frame["width"] - 10, frame["y"] + frame["height"] - 10)
        page.mouse.up()
    left, top, width, height = box()
    assert (left + width / 2, top + height / 2) == pytest.approx((0, 0), abs=1)  # a corner of the slice


def test_letters_are_shortcuts_that_can_be_switched_off(visit: Visit) -> None:
    page = visit.page
    page.keyboard.press("4")
    assert page.is_checked('.row input[value="3"]')
    page.keyboard.down("m")
    assert not page.is_checked("#shown")
    page.wait_for_timeout(500)
    page.keyboard.up("m")
    assert page.is_checked("#shown")  # it was held
    page.keyboard.press("f")
    page.wait_for_function("document.fullscreenElement?.id === 'answer'")
    said = page.evaluate("getComputedStyle(document.querySelector('#answer'), '::after').content")
    assert TEXTS["disclaimer"] in said
    page.keyboard.press("f")
    page.wait_for_function("!document.fullscreenElement")
    page.uncheck("#keys")
    page.keyboard.press("1")
    page.keyboard.press("m")
    assert page.is_checked('.row input[value="3"]')
    assert page.is_checked("#shown")


# --- covered places


def test_a_covered_place_is_asked_again_and_compared_with_the_promise(visit: Visit, first: Prediction) -> None:
    page = visit.page
    before = visit.shares()
    page.check("#cover")
    page.mouse.move(*place(page, 0.66, 0.6))
    page.mouse.down()
    page.mouse.up()
    page.locator("#covered", has_text=TEXTS["script"]["covered"]).wait_for()
    radius = float(page.locator(".patch").get_attribute("r") or 0)
    height, width = first.placement.slice_shape
    patch = Patch(0.66 * width, 0.6 * height, radius)
    again = ctscan.load().cover(EXAMPLES / "01-lower-lobe-mass-wide-window.png", [patch])
    assert again is not None
    told = [line.replace("−", "-") for line in page.locator(".change").all_inner_texts()]
    changes = [float(re.findall(r"[+-]\d+\.\d\d", line)[0]) for line in told]
    assert changes == pytest.approx((again.logits - first.logits).tolist(), abs=0.03)  # pixels of the screen are whole
    shares = page.locator(".row .number").all_inner_texts()
    page.uncheck("#cover")
    page.click("[data-do=uncover]")
    assert page.evaluate("document.activeElement.id") == "cover"  # the button is gone
    assert visit.shares() == before
    assert page.locator(".patch").count() == 0
    assert shares != page.locator(".row .number").all_inner_texts()


def test_places_are_covered_by_keyboard_and_on_a_slice_of_ones_own(visit: Visit) -> None:
    visit.upload(WIDE.read_bytes())
    page = visit.page
    page.keyboard.press("c")
    page.focus("svg.picture")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    page.locator("#covered", has_text=TEXTS["script"]["covered"]).wait_for()
    assert page.locator(".patch").count() == 1
    assert [url for url in visit.asked if "/cover?" in url and "at=" in url]
    visit.choose(NODULE)
    assert page.locator(".patch").count() == 0


def test_covering_changes_nothing_but_the_covered_places() -> None:
    classifier = ctscan.load()
    whole = classifier(WIDE).prediction
    aside = classifier.cover(WIDE, [Patch(-50, -50, 3)])  # beside the slice
    assert whole is not None
    assert aside is not None
    assert np.array_equal(whole.logits, aside.logits)
    assert classifier.cover(b"no picture", [Patch(1, 1, 1)]) is None


@pytest.mark.parametrize(
    "query", ["", "at=1,2", "at=a,b,c", "at=nan,1,1", "at=1,1,inf", "example=99&at=1,1,1", "example=x&at=1,1,1"]
)
def test_a_question_about_no_place_is_refused(visit: Visit, app: App, query: str) -> None:
    response = visit.page.request.post(f"{app.address}/cover?{query}", data=WIDE.read_bytes())
    assert response.status == 404


def test_sides_are_swapped_for_a_slice_saved_the_other_way_round(visit: Visit) -> None:
    page = visit.page
    before = page.inner_text(".of:visible")
    assert page.locator(".side:visible").all_text_contents()[0].endswith("R")
    page.check("#flip")
    assert page.locator(".side:visible").all_text_contents()[0].endswith("L")
    after = page.inner_text(".of:visible")
    side, other = ("on the left", "on the right") if "on the left" in before else ("on the right", "on the left")
    assert side in before
    assert after == before.replace(side, other)


# --- small changes


def test_an_answer_is_checked_under_small_changes(visit: Visit) -> None:
    page = visit.page
    page.click("[data-do=check]")
    page.locator("#checks [role=status]", has_text=" of 13 ").wait_for()
    classifier, source = ctscan.load(), ctscan.read(EXAMPLES / "01-lower-lobe-mass-wide-window.png")
    before, given = classifier(source), dict(check(classifier, source))
    same = [(a.verdict, a.top_class) == (before.verdict, before.top_class) for a in given.values()]
    assert f" {sum(same)} of 13 " in page.inner_text("#checks")
    assert page.locator("#checks .same").count() == sum(same)
    visit.upload(WIDE.read_bytes())
    assert page.locator("#checks li").count() == 0
    page.click("[data-do=check]")
    page.locator("#checks [role=status]", has_text=" of 13 ").wait_for()


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_is_small(name: str) -> None:
    pixels = ctscan.read(WIDE).pixels
    changed = CHANGES[name](pixels)
    assert changed.dtype == np.float32
    assert 0 <= changed.min() <= changed.max() <= 1
    undo: dict[str, Callable[[Pixels], Any]] = {
        "left": CHANGES["right"], "right": CHANGES["left"], "up": CHANGES["down"], "down": CHANGES["up"],
        "turned_left": CHANGES["turned_right"], "turned_right": CHANGES["turned_left"],
        "mirrored": CHANGES["mirrored"], "halved": lambda p: cv2.resize(p, pixels.shape[::-1]),
    }  # fmt: skip
    back = undo.get(name, np.asarray)(changed)
    inner = (slice(40, -40), slice(40, -40))
    assert np.corrcoef(back[inner].ravel(), pixels[inner].ravel())[0, 1] > 0.97
    assert not np.array_equal(changed, pixels)


# --- what is known


def test_the_outline_of_a_mass_is_a_switch_with_its_share(visit: Visit, first: Prediction) -> None:
    page = visit.page
    assert not page.is_visible("#outline polygon")
    page.keyboard.press("o")
    assert page.is_visible("#outline polygon")
    shares = re.findall(r"(\d+)\u00a0% ", page.inner_text(".of:visible").split("The outline")[1])
    listing = json.loads((EXAMPLES / "examples.json").read_text())[0]
    mask = np.zeros(first.placement.slice_shape, np.uint8)
    cv2.fillPoly(mask, [np.array(line).astype(np.int32) for line in listing["outline"]], 1)
    positive = np.maximum(first.maps[first.top], 0)
    assert int(shares[-1]) == pytest.approx(100 * (1 - share_outside(positive, first.placement, mask > 0)), abs=1)


def test_a_failure_is_named_as_one(visit: Visit) -> None:
    visit.choose(NO_MASS)
    failed = visit.page.locator(".row.likeliest input").get_attribute("data-key") != "normal"
    assert (TEXTS["truth"]["alarm"] in visit.page.inner_text(".origin")) is failed
    assert visit.page.locator("#outline").count() == 0
    visit.upload(WIDE.read_bytes())  # the same kind of slice as a visitor's: nothing is known of it
    assert visit.page.locator(".origin").count() == 0


# --- guesses, lists, things to keep


def test_the_answer_comes_after_the_guess(visit: Visit) -> None:
    page = visit.page
    page.check("#guess")
    assert page.locator(".guesses .button").count() == 4
    assert not page.is_visible(".said h2")
    assert not page.is_visible(".rows")
    assert not page.is_visible("#maps")
    caption = page.inner_text("#reading")
    page.mouse.move(*place(page, 0.66, 0.6))
    for letter in "moc":  # would give away where the map is, or the mass
        page.keyboard.press(letter)
    assert page.inner_text("#reading") == caption
    assert not page.is_visible("#outline polygon")
    likeliest = int(page.locator(".row.likeliest input").get_attribute("value") or 0)
    page.keyboard.press(str((likeliest + 1) % 4 + 1))
    assert page.is_visible(".rows")
    assert not page.is_checked("#shown")  # the map waits until it is asked for
    assert page.evaluate("document.activeElement.name") == "class"  # the button that was pressed is gone
    assert "This visit: 0 of 1" in page.inner_text(".guessed")
    assert "truth is known" not in page.inner_text(".guessed")  # a mass has no class here
    page.locator(".example").nth(NO_MASS).click()
    page.locator(".guesses").wait_for()
    network = page.locator(".row.likeliest input").get_attribute("data-key") == "normal"
    page.locator(".guesses .button").nth(3).click()
    assert f"you right in 1 of 1, the network in {int(network)}." in page.inner_text(".guessed")
    page.locator(".example").nth(NODULE).click()
    page.locator(".guesses").wait_for()
    page.uncheck("#guess")
    assert page.is_visible(".said h2")


def test_several_slices_become_a_table_and_csv(visit: Visit) -> None:
    page = visit.page
    files: list[FilePayload] = [
        {"name": f"a name {n}.png", "mimeType": "image/png", "buffer": data}
        for n, data in enumerate((MASS.read_bytes(), b"no picture", WIDE.read_bytes()))
    ]
    visit.age()
    page.set_input_files("#file", files)
    assert visit.wait() != "empty"
    assert page.locator(".origin").count() == 0  # what stood there was about no slice of the list
    page.locator("#several button.button:visible").wait_for()
    assert page.locator("#several [role=status]").inner_text() == "3 of 3 slices done"
    assert page.locator("#several tbody tr").count() == 3
    assert TEXTS["unreadable"] in page.locator("#several tbody tr").nth(1).inner_text()
    with page.expect_download() as download:
        page.click("#several button.button")
    text = download.value.path().read_text()
    rows = list(csv.DictReader(io.StringIO(text)))
    assert "a name" not in text
    assert [row["verdict"] for row in rows] == ["ok", "unreadable", "ok"]
    answer = ctscan.load()(WIDE)
    assert answer.probabilities is not None
    assert {key: float(rows[2][key]) for key in answer.probabilities} == pytest.approx(answer.probabilities, abs=1e-5)
    visit.choose(NODULE)
    assert page.locator("#several table").count() == 0


def test_two_slices_may_be_dropped(visit: Visit) -> None:
    visit.page.evaluate(DROP, ["body", encoded(MASS), 2])
    visit.page.locator("#several button.button:visible").wait_for()
    assert visit.page.locator("#several tbody tr").count() == 2


def keep(page: Page, kind: str) -> bytes:
    page.locator(".more").evaluate("e => { e.open = true }")
    with page.expect_download() as download:
        page.click(f"[data-keep={kind}]")
    assert download.value.suggested_filename == f"ctscan.{kind}"
    return download.value.path().read_bytes()


def test_picture_report_and_numbers_may_be_kept_without_a_name(visit: Visit) -> None:
    visit.upload(WIDE.read_bytes(), "Jane Doe.png")
    page = visit.page
    answer = ctscan.load()(WIDE)
    assert answer.prediction is not None
    plain = keep(page, "png")
    page.check("#cover")
    page.mouse.click(*place(page, 0.3, 0.5))
    page.locator("#covered", has_text=TEXTS["script"]["covered"]).wait_for()
    numbers: dict[str, Any] = json.loads(keep(page, "json"))
    assert numbers["disclaimer"] == TEXTS["disclaimer"]
    assert numbers["model_id"] == answer.model_id
    assert numbers["ctscan"] == ctscan.__version__
    assert np.allclose(numbers["maps"], answer.prediction.maps, atol=1e-4)
    png = keep(page, "png")
    picture = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR)
    assert picture is not None
    assert picture.shape[1] == 1024
    assert picture[-105:, 20:276].max() > 200  # scale and words are burned in
    assert b"tEXt" not in png
    before = cv2.imdecode(np.frombuffer(plain, np.uint8), cv2.IMREAD_COLOR)
    assert before is not None
    height = picture.shape[0] - 110
    assert picture[height // 2, 307].tolist() == [128, 128, 128]  # the covered place
    assert before[height // 2, 307].tolist() != [128, 128, 128]
    for side in (slice(10, 60), slice(-60, -10)):  # R and L
        assert before[height // 2 - 40 : height // 2 + 10, side].min(axis=2).max() > 240
    report = html.unescape(keep(page, "html").decode())
    assert TEXTS["disclaimer"] in report
    assert page.locator(".of:visible").inner_text() in report
    assert page.locator(".change").first.inner_text() in report
    assert not re.search(r"(?:src|href)=\"(?!data:)", report)
    assert "Jane" not in re.sub('data:[^"]*', "", report) + json.dumps(numbers)  # base64 holds any four letters


def test_examples_and_classes_have_addresses(visit: Visit, app: App) -> None:
    page = visit.page
    page.goto(f"{app.address}/#example=3&class=normal")
    page.reload()
    page.locator('.example[data-example="2"][aria-current]').wait_for()
    page.locator('.row input[data-key="normal"]:checked').wait_for()
    visit.choose(4)
    assert page.url.endswith("#example=5")
    page.check('.row input[data-key="adenocarcinoma"]')
    assert page.url.endswith("#example=5&class=adenocarcinoma")


def test_back_goes_to_the_example_before(visit: Visit) -> None:
    page = visit.page
    start = page.url
    visit.choose(4)
    page.check('.row input[data-key="adenocarcinoma"]')
    visit.choose(NODULE)
    for address, number in (("#example=5&class=adenocarcinoma", "4"), ("", "0")):
        visit.age()
        page.go_back()
        visit.wait()
        assert page.url == start + address
        assert page.get_attribute(".example[aria-current]", "data-example") == number
    visit.upload(WIDE.read_bytes())
    turn_to(page, "about")
    page.go_back()
    page.locator("#answer").wait_for()
    assert page.locator(".origin, .example[aria-current]").count() == 0  # one's own slice is still there


# --- weight


def test_the_page_is_light(browser: Browser, app: App) -> None:
    context = browser.new_context(viewport=DESKTOP)  # type: ignore[arg-type]
    page = context.new_page()
    sizes: dict[str, float] = {}
    session = context.new_cdp_session(page)
    session.send("Network.enable")
    urls: dict[str, str] = {}
    session.on("Network.responseReceived", lambda e: urls.__setitem__(e["requestId"], e["response"]["url"]))
    session.on(
        "Network.loadingFinished", lambda e: sizes.__setitem__(urls.get(e["requestId"], "?"), e["encodedDataLength"])
    )
    page.goto(app.address, wait_until="networkidle")
    assert sizes[f"{app.address}/"] < 40_000
    assert sum(sizes.values()) < 400_000
    sizes.clear()
    page.goto("about:blank")
    page.goto(app.address, wait_until="networkidle")
    assert sum(sizes.values()) < 60_000
    context.close()


@pytest.mark.parametrize("size", [DESKTOP, PHONE])
def test_nothing_jumps_while_an_answer_arrives(browser: Browser, app: App, size: Any) -> None:
    page = browser.new_page(viewport=size)
    visit = Visit(page, app.address)
    page.evaluate(
        """() => { window.shift = 0; new PerformanceObserver((list) => {
        for (const e of list.getEntries()) if (!e.hadRecentInput) window.shift += e.value;
        }).observe({ type: 'layout-shift', buffered: false }); }"""
    )
    visit.choose(NODULE)
    page.wait_for_timeout(300)
    assert page.evaluate("window.shift") <= 0.02
    page.close()
