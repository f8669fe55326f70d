"""The page as a visitor has it: a real browser, the real app and checkpoint, real files."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import ctscan
from ctscan.notices import LANGUAGES, catalogue
from tests.conftest import ROOT, App, turn_to

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page, Route

TEXTS = catalogue()["page"]
EXAMPLES = ROOT / "examples"
WIDE = EXAMPLES / "05-no-mass-wide-window.png"
MASS = EXAMPLES / "02-lower-lobe-mass-lung-window.png"
NODULE = 2  # number of the example with one
SCORED = re.compile("single|uncertain|raw|unusual")
DESKTOP, PHONE = {"width": 1440, "height": 1000}, {"width": 390, "height": 844}
PROJECTOR, LECTURE_HALL = {"width": 1280, "height": 720}, {"width": 3840, "height": 2160}
LIMIT = 20_000  # ms


class Visit:
    """A page, the addresses that it asked for and the errors that it logged."""

    def __init__(self, page: Page, address: str) -> None:
        self.page = page
        self.asked: list[str] = []
        self.errors: list[str] = []
        page.on("request", lambda request: self.asked.append(request.url))
        page.on("console", lambda message: self.errors.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.goto(address)
        page.wait_for_selector("section[data-section=about][hidden]", state="attached")  # its script has run

    @property
    def state(self) -> str:
        return self.page.get_attribute("#answer", "data-state") or ""

    @property
    def headline(self) -> str:
        return self.page.inner_text(".said h2")

    def shares(self) -> list[float]:
        return [float(re.sub(r"[^\d.]", "", text)) for text in self.page.locator(".row .number").all_inner_texts()]

    def age(self) -> None:
        """Mark the answer that is shown, so that the next one can be waited for."""
        self.page.evaluate("document.querySelector('.said').dataset.old = ''")

    def wait(self) -> str:
        """The state of the next answer."""
        self.page.locator(".said:not([data-old])").wait_for(timeout=LIMIT)
        return self.state

    def upload(self, data: bytes, name: str = "slice.png") -> str:
        self.age()
        self.page.set_input_files("#file", {"name": name, "mimeType": "image/png", "buffer": data})
        return self.wait()

    def choose(self, number: int) -> str:
        self.age()
        self.page.locator(".example").nth(number).click()
        return self.wait()


@pytest.fixture
def visit(browser: Browser, app: App) -> Iterator[Visit]:
    """A fresh visit on a desktop. No error may be logged and nobody else asked."""
    page = browser.new_page(viewport=DESKTOP)  # type: ignore[arg-type]
    visit = Visit(page, app.address)
    yield visit
    page.close()
    assert not visit.errors
    assert not [url for url in visit.asked if not url.startswith((app.address, "data:", "blob:"))]


def stranger(shared: str, kind: str) -> bytes:
    """A picture of somebody else's that lies beside the checkout; skips where it does not."""
    found = sorted((ROOT.parent / "shared" / "pictures" / shared).glob(kind))
    if not found:
        pytest.skip("the shared pictures are not here")
    return found[0].read_bytes()


# --- answers


def test_the_first_screen_is_a_worked_example_even_without_a_script(browser: Browser, app: App) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(app.address)
    shares = [float(re.sub(r"[^\d.]", "", text)) for text in page.locator(".row .number").all_inner_texts()]
    assert sum(shares) == pytest.approx(100, abs=2)  # whole numbers
    assert page.locator(".example").count() == 6
    assert page.locator(".example[aria-current]").count() == 1
    assert page.locator("[data-section=slice] noscript").count() == 1
    assert page.locator(".limits li").count() == 5
    assert page.locator(".limits .chart").count() == 1
    page.set_viewport_size(PHONE)  # type: ignore[arg-type]
    assert page.locator(".lead").is_visible()
    context.close()


def test_rubbish_then_a_good_slice_then_clear_then_another(visit: Visit) -> None:
    page = visit.page
    assert visit.upload(b"this is no picture") == "unreadable"
    assert "PNG, JPEG, WebP, BMP or TIFF" in page.inner_text(".said")
    assert page.locator(".row, svg.picture").count() == 0
    assert page.locator(".example[aria-current]").count() == 0
    assert SCORED.fullmatch(visit.upload(MASS.read_bytes(), "JANE DOE.png"))
    assert page.locator(".row").count() == 4
    assert "JANE" not in page.content()
    visit.age()
    page.click("#clear")
    assert visit.wait() == "empty"
    assert page.locator(".row, svg.picture").count() == 0
    assert SCORED.fullmatch(visit.upload(MASS.read_bytes()))


def test_an_example_is_answered_named_and_marked(visit: Visit) -> None:
    assert SCORED.fullmatch(visit.choose(NODULE))
    assert "nodule in the right upper lobe" in visit.page.inner_text(".origin")
    assert visit.page.get_attribute(".example[aria-current]", "data-example") == str(NODULE)
    assert sum(visit.shares()) == pytest.approx(100, abs=2)


def test_a_refused_picture_has_a_reason_and_neither_scores_nor_maps(visit: Visit) -> None:
    assert visit.upload(stranger("notct", "chestxray*")) == "refused"
    assert visit.headline == TEXTS["refused"]
    assert visit.page.locator("svg.picture image").count() == 1
    assert visit.page.locator("#answer .row, #answer .side").count() == 0


def test_an_unusual_slice_gets_no_answer(visit: Visit) -> None:
    assert visit.upload(stranger("ct_chest", "lungseg3d*__9e0d*")) == "unusual"
    assert visit.headline == TEXTS["unusual"]
    assert "calibrated" not in visit.page.inner_text("#answer").lower()
    titles = [names["title"] for names in catalogue()["classes"].values()]
    assert not [title for title in titles if title in visit.page.inner_text(".said")]
    assert visit.page.locator(".of").count() == 0  # nor where it looked
    assert visit.page.locator(".row").count() == 4


# --- choosing a map


def layers(page: Page) -> list[str]:
    """The number of the class whose map is drawn, if one is."""
    shown: list[str] = page.locator("#maps:has(.wash)").evaluate_all(
        "all => all.filter((e) => getComputedStyle(e).display !== 'none').map((e) => e.dataset.class)"
    )
    return shown


def test_class_and_opacity_and_map_change_without_the_server(visit: Visit) -> None:
    page, before = visit.page, len(visit.asked)
    for index in ("3", "0", "2", "1"):
        page.check(f'.row input[value="{index}"]')
        assert layers(page) == [index]
        assert page.locator(".of:visible").get_attribute("data-class") == index
    page.locator("#opacity").fill("25")
    assert page.get_attribute("#maps", "opacity") == "0.25"
    assert page.inner_text("output") == "25 %"
    assert page.locator("#legend g").get_attribute("opacity") == "0.25"
    page.keyboard.press("m")
    assert layers(page) == []
    assert not page.is_checked("#shown")
    page.check("#shown")
    assert layers(page) == ["1"]
    assert len(visit.asked) == before


def test_a_new_answer_starts_at_its_own_class_and_opacity(visit: Visit) -> None:
    page = visit.page
    for number in (4, 0, NODULE):
        page.check('.row input[value="3"]')
        page.locator("#opacity").fill("95")
        page.uncheck("#shown")
        visit.choose(number)
        chosen = page.locator(".row input:checked").get_attribute("value")
        assert layers(page) == [chosen]
        assert page.get_attribute("#maps", "opacity") == "0.6"
        assert page.input_value("#opacity") == "60"
        assert page.locator(".row:has(:checked)").get_attribute("class") == "row likeliest"


def test_slice_and_map_lie_where_the_network_saw_them(visit: Visit) -> None:
    visit.upload(WIDE.read_bytes())
    svg = visit.page.locator("svg.picture")
    given = ctscan.load()(WIDE).prediction
    assert given is not None
    box, target, size = given.placement.box, given.placement.target, given.placement.size
    scale = box.width / target.width
    boxes = svg.locator("#untouched, .wash").evaluate_all(
        "all => all.map(e => [e.x, e.y, e.width, e.height].map((side) => side.baseVal.value))"
    )
    assert boxes[0] == [0, 0, 513, 367]
    square = [box.left - target.left * scale, box.top - target.top * scale, size * scale, size * scale]
    assert boxes[1] == pytest.approx(square, rel=0.01)
    left, top, width, height = map(float, (svg.get_attribute("viewBox") or "").split())
    assert left <= min(0, boxes[1][0]) + 0.1
    assert top <= min(0, boxes[1][1]) + 0.1
    assert top + height >= boxes[1][1] + boxes[1][3] - 0.1
    assert left + width >= boxes[1][0] + boxes[1][2] - 0.1


# --- ways in


PASTE = """(data) => {
  const bytes = Uint8Array.from(atob(data), (c) => c.charCodeAt(0));
  const transfer = new DataTransfer();
  transfer.items.add(new File([bytes], 'image.png', { type: 'image/png' }));
  document.dispatchEvent(new ClipboardEvent('paste', { clipboardData: transfer, bubbles: true }));
}"""
DROP = """([target, data, count]) => {
  const bytes = Uint8Array.from(atob(data), (c) => c.charCodeAt(0));
  const transfer = new DataTransfer();
  for (let i = 0; i < count; i++) transfer.items.add(new File([bytes], `a ${i}.png`, { type: 'image/png' }));
  const event = new DragEvent('drop', { dataTransfer: transfer, bubbles: true, cancelable: true });
  return document.querySelector(target).dispatchEvent(event);
}"""


def encoded(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()


def test_a_pasted_picture_is_answered_and_shown_wherever_the_visitor_is(visit: Visit) -> None:
    turn_to(visit.page, "about")
    visit.age()
    visit.page.evaluate(PASTE, encoded(MASS))
    assert SCORED.fullmatch(visit.wait())
    assert visit.page.is_visible("svg.picture")


@pytest.mark.parametrize("target", ["svg.picture", "nav", ".said", "body"])
def test_a_file_may_be_dropped_anywhere(visit: Visit, target: str) -> None:
    visit.age()
    # False: the browser will not do what it would do with a file, which is to leave the page for it
    assert visit.page.evaluate(DROP, [target, encoded(MASS), 1]) is False
    assert SCORED.fullmatch(visit.wait())
    assert visit.page.inner_text("#note") == ""


def test_a_file_too_large_is_said_before_it_is_sent(visit: Visit) -> None:
    assert visit.upload(b"\x89PNG" + b"0" * (16 << 20)) == "failed"
    assert visit.page.inner_text(".said .notice") == TEXTS["reasons"]["large"]
    assert visit.page.locator(".row, svg.picture").count() == 0
    assert not [url for url in visit.asked if "/answer?" in url]
    assert SCORED.fullmatch(visit.upload(MASS.read_bytes()))


# --- what goes wrong on the way


HTML = "<html><body><h1>nginx</h1></body></html>"
FAILURES = {
    "a proxy's 413": ({"status": 413, "body": HTML}, "large"),
    "500": ({"status": 500, "body": "Internal Server Error"}, "failed"),
    "502": ({"status": 502, "body": HTML}, "failed"),
    "504": ({"status": 504, "body": HTML}, "failed"),
    "a login page": ({"status": 200, "body": HTML}, "failed"),
    "a full queue": ({"status": 503, "headers": {"ctscan-reason": "busy"}, "body": "x"}, "busy"),
    "a stop": ({"status": 503, "headers": {"ctscan-reason": "stopping"}, "body": "x"}, "stopping"),
    "a lost line": (None, "offline"),
}


@pytest.mark.parametrize("name", FAILURES)
@pytest.mark.parametrize("way", ["upload", "example"])
def test_a_question_that_fails_leaves_no_old_answer_standing(visit: Visit, name: str, way: str) -> None:
    reply, reason = FAILURES[name]
    pattern = "**/answer?*" if way == "upload" else "**/example/*"
    visit.page.route(pattern, lambda route: route.fulfill(**reply) if reply else route.abort())
    assert (visit.upload(MASS.read_bytes()) if way == "upload" else visit.choose(NODULE)) == "failed"
    assert visit.headline == TEXTS["not_answered"]
    assert visit.page.inner_text(".said .notice") == TEXTS["reasons"][reason]
    assert visit.page.locator(".row, svg.picture").count() == 0
    assert "%" not in visit.page.inner_text("#answer")
    assert visit.page.locator(".example[aria-current]").count() == 0
    visit.page.unroute(pattern)
    visit.errors.clear()  # the browser logs what failed
    assert SCORED.fullmatch(visit.choose(NODULE))


def hold(page: Page, pattern: str) -> list[Route]:
    """The requests to some address, which wait until the test lets them go on."""
    held: list[Route] = []
    page.route(pattern, lambda route: held.append(route))
    return held


def test_an_answer_under_way_does_not_come_back_over_a_cleared_page(visit: Visit) -> None:
    page = visit.page
    held = hold(page, "**/example/3?*")
    before = page.locator(".room").bounding_box()
    page.locator(".example").nth(3).click()
    page.locator("#answer[aria-busy]").wait_for()
    assert page.locator(".room").bounding_box() == before  # nothing jumps
    visit.age()
    page.click("#clear")
    assert visit.wait() == "empty"
    assert page.get_attribute("#answer", "aria-busy") is None
    held.pop().continue_()
    visit.choose(NODULE)  # had the other come back, then before this
    assert "nodule" in page.inner_text(".origin")


def test_of_two_questions_the_last_wins(visit: Visit) -> None:
    held = hold(visit.page, "**/example/3?*")
    visit.page.locator(".example").nth(3).click()
    visit.choose(NODULE)
    held.pop().continue_()
    visit.choose(4)
    visit.choose(NODULE)
    assert "nodule" in visit.page.inner_text(".origin")
    assert visit.page.get_attribute(".example[aria-current]", "data-example") == str(NODULE)


# --- sections


def test_sections_have_addresses_and_back_works(visit: Visit, app: App) -> None:
    page = visit.page
    for name in ("how-to-read", "how-good", "about"):
        turn_to(page, name)
        assert page.locator("[data-section]:visible").count() == 1
        assert page.get_attribute("nav a[aria-current]", "href") == f"#{name}"
    page.go_back()
    page.locator("[data-section='how-good']").wait_for()
    page.goto(f"{app.address}/#about")
    page.locator("[data-section='about']").wait_for()
    assert not page.is_visible("#answer")


# --- one visit


def test_slices_of_this_visit_are_shown_again_without_the_server_until_they_are_cleared(visit: Visit) -> None:
    page = visit.page
    assert not page.is_visible("#visit")
    visit.upload(MASS.read_bytes())
    first = visit.shares()
    visit.upload(WIDE.read_bytes())
    thumbs = page.locator("#visit button")
    assert [thumb.get_attribute("aria-current") for thumb in thumbs.all()] == [None, "true"]
    visit.choose(NODULE)
    assert page.locator("#visit [aria-current]").count() == 0
    before = len(visit.asked)
    visit.age()
    thumbs.first.focus()
    page.keyboard.press("Enter")
    visit.wait()
    assert visit.shares() == first
    assert thumbs.first.get_attribute("aria-current") == "true"
    assert page.evaluate("document.activeElement === document.querySelector('#visit button')")
    assert not [url for url in visit.asked[before:] if "/answer?" in url or "/example/" in url]
    assert page.evaluate("[localStorage.length, sessionStorage.length]") == [0, 0]
    visit.upload(b"no picture")
    assert thumbs.count() == 2
    page.click("#clear")
    assert thumbs.count() == 0


def test_a_full_screen_steps_from_slice_to_slice_by_key_and_by_button(visit: Visit) -> None:
    page = visit.page
    assert not page.is_visible("[data-do=next]")
    visit.upload(WIDE.read_bytes())
    visit.choose(5)
    page.click("[data-do=full]")
    page.locator("#answer:fullscreen").wait_for()
    for key, shown in (("ArrowRight", None), ("ArrowRight", "0"), ("ArrowRight", "1"), ("ArrowLeft", "0")):
        visit.age()
        page.keyboard.press(key)
        visit.wait()
        current = page.locator(":is(.example, .seen-before)[aria-current]")
        assert current.count() == 1
        assert current.get_attribute("data-example") == shown
    for shown in ("1", "2"):
        visit.age()
        page.click("[data-do=next]")
        visit.wait()
        assert page.get_attribute(".example[aria-current]", "data-example") == shown
        assert page.evaluate("document.activeElement.dataset.do") == "next"
    assert page.evaluate("document.fullscreenElement?.id") == "answer"
    page.keyboard.press("f")
    page.locator("#answer:not(:fullscreen)").wait_for()


def test_another_language_keeps_ones_own_slice_and_back_returns(visit: Visit, app: App) -> None:
    page = visit.page
    visit.upload(MASS.read_bytes())
    shares = visit.shares()
    page.locator("#guess").focus()

    def speak(language: str) -> None:
        visit.age()
        page.click(".languages summary")
        page.click(f".languages a[hreflang={language}]")
        visit.wait()
        assert page.get_attribute("html", "lang") == language
        assert page.inner_text("label[for=file]") == catalogue(language)["page"]["choose"]
        assert page.evaluate("document.activeElement.localName") == "summary"

    for language in ("de", "fr"):
        speak(language)
        assert page.url == f"{app.address}/?lang={language}"
        assert page.inner_text(".rows legend") in catalogue(language)["page"]["rows"].values()
        assert visit.shares() == shares
        assert page.locator(".example[aria-current]").count() == 0
        assert page.locator("#visit [aria-current]").count() == 1
    page.route("**/?lang=es", lambda route: route.abort())
    page.click(".languages summary")
    page.click(".languages a[hreflang=es]")
    page.locator("#note", has_text=catalogue("fr")["page"]["reasons"]["offline"]).wait_for()
    assert page.url == f"{app.address}/?lang=fr"
    assert visit.shares() == shares
    page.unroute("**/?lang=es")
    visit.errors.clear()  # the browser logs what failed
    visit.age()
    page.go_back()  # to the address of what failed, which said fr
    page.go_back()
    visit.wait()
    assert page.get_attribute("html", "lang") == "de"
    assert visit.shares() == shares
    visit.choose(NODULE)
    page.check(".row input[data-key=normal]")
    speak("es")
    assert page.url == f"{app.address}/?lang=es#example={NODULE + 1}&class=normal"
    assert page.is_checked(".row input[data-key=normal]")


# --- for everybody


def test_focus_stays_where_it_was_and_an_answer_is_announced_once(visit: Visit) -> None:
    page = visit.page
    page.evaluate("""() => { window.said = [];
      new MutationObserver(() => window.said.push(document.querySelector('#live').textContent))
        .observe(document.querySelector('#live'), { childList: true, characterData: true, subtree: true }); }""")
    page.focus("#file")
    visit.upload(MASS.read_bytes())
    assert page.evaluate("document.activeElement.id") == "file"
    page.locator(".example").nth(NODULE).focus()
    visit.age()
    page.keyboard.press("Enter")
    visit.wait()
    assert page.evaluate("document.activeElement.dataset.example") == str(NODULE)
    announced = page.evaluate("window.said")
    assert len(announced) == 2
    assert visit.headline in announced[1]


def test_every_control_is_reached_by_tab_in_the_order_of_the_page(visit: Visit) -> None:
    reached: list[str] = []
    for _ in range(36):
        visit.page.keyboard.press("Tab")
        reached.append(
            visit.page.evaluate(
                "(({ id, name, className, localName }) => id || name || className.baseVal || className || localName)"
                "(document.activeElement)"
            )
        )
    order = [name for index, name in enumerate(reached) if name not in reached[:index]]
    assert [n for n in order if n != "body"] == [
        *("a", "summary", "skip", "file", "clear", "guess", "keys", "example", "picture", "button", "flip", "class"),
        *("mode", "shown", "outlined", "cells", "opacity", "cover"),
    ]
    assert visit.page.locator("svg.picture[role=img][aria-label]").count() == 1
    assert not visit.page.locator("img:not([alt])").count()
    visit.page.focus("#skip")
    visit.page.keyboard.press("Enter")
    visit.page.wait_for_function("document.activeElement.id === 'answer'")
    assert visit.page.is_visible("svg.picture")


def test_the_arrow_keys_choose_a_class(visit: Visit) -> None:
    visit.page.focus(".row input:checked")
    before = layers(visit.page)
    visit.page.keyboard.press("ArrowDown")
    assert layers(visit.page) != before
    assert len(layers(visit.page)) == 1


@pytest.mark.parametrize("size", [DESKTOP, PHONE])
def test_letters_of_twice_the_size_fit(browser: Browser, app: App, size: Any) -> None:
    page = browser.new_page(viewport=size)
    visit = Visit(page, app.address)
    page.evaluate("document.documentElement.style.fontSize = '200%'")
    for name in ("slice", "scan", "how-good", "about"):
        turn_to(page, name)
        assert page.evaluate("document.documentElement.scrollWidth") <= size["width"], name
    turn_to(page, "slice")
    own, first = page.locator(".own").bounding_box(), page.locator(".example").first.bounding_box()
    assert own is not None
    assert first is not None
    assert first["y"] >= own["y"] + own["height"]  # beside it there is no place
    inside = page.locator(".own .switch:visible, .lenses > *:visible").evaluate_all(
        "all => all.every((e) => { const [a, b] = [e, e.parentElement].map((x) => x.getBoundingClientRect()); "
        "return a.left >= b.left - 1 && a.right <= b.right + 1; })"
    )
    assert inside
    assert not visit.errors
    page.close()


def test_what_is_chosen_is_seen_in_forced_colours(browser: Browser, app: App) -> None:
    page = browser.new_page(viewport=DESKTOP, forced_colors="active")  # type: ignore[arg-type]
    Visit(page, app.address)
    style = "(e, name) => getComputedStyle(e)[name]"
    for chosen, other, name in (
        (".example[aria-current]", ".example:not([aria-current])", "outlineStyle"),
        ("nav a[aria-current]", "nav a:not([aria-current])", "borderBottomStyle"),
        (".row:has(:checked)", ".row:not(:has(:checked))", "borderTopWidth"),
        (".row .value", ".row .track", "fill"),
    ):
        seen = [page.locator(selector).first.evaluate(style, name) for selector in (chosen, other)]
        assert seen[0] != seen[1], chosen
    page.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 390, 768, 1024, 1440, 3840])
def test_nothing_overflows_and_the_strip_stays(browser: Browser, app: App, width: int, scheme: Any) -> None:
    page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
    visit = Visit(page, app.address)
    for name in ("slice", "how-to-read", "how-good", "about"):
        turn_to(page, name)
        assert page.evaluate("document.documentElement.scrollWidth") <= width, name
        page.evaluate("window.scrollTo(0, document.documentElement.scrollHeight)")
        strip = page.locator(".strip").bounding_box()
        assert strip is not None
        assert -1 <= strip["y"] <= 40
        assert page.locator(".strip", has_text="Not for diagnosis").is_visible()
    assert not visit.errors
    page.close()


def test_on_a_phone_the_order_is_ask_answer_picture_rows_and_the_answer_is_seen(browser: Browser, app: App) -> None:
    page = browser.new_page(viewport=PHONE)  # type: ignore[arg-type]
    visit = Visit(page, app.address)
    visit.choose(NODULE)
    boxes = [page.locator(s).bounding_box() for s in (".button.main", ".examples", ".said h2", "svg.picture", ".rows")]
    tops = [box["y"] for box in boxes if box]
    assert len(tops) == 5
    assert tops == sorted(tops)
    assert tops[2] < PHONE["height"] / 2
    page.evaluate("window.scrollTo(0, document.documentElement.scrollHeight)")
    visit.upload(MASS.read_bytes())
    for selector in (".said h2", "svg.picture"):
        box = page.locator(selector).bounding_box()
        assert box is not None
        assert 0 < box["y"] < PHONE["height"] - 200
    page.close()


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_first_screen_shows_a_large_picture_beside_answer_limits_and_chart(
    browser: Browser, app: App, language: str
) -> None:
    page = browser.new_page(viewport=DESKTOP)  # type: ignore[arg-type]
    Visit(page, f"{app.address}/?lang={language}")
    for selector in (".lead", ".said h2", ".rows", ".limits li:last-child", ".limits .chart"):
        box = page.locator(selector).bounding_box()
        assert box is not None
        assert box["y"] + box["height"] <= DESKTOP["height"], selector
    foot = page.locator("main").bounding_box()
    assert foot is not None
    assert foot["y"] + foot["height"] <= DESKTOP["height"]
    for size, share in ((DESKTOP, 0.45), (PROJECTOR, 0.25), (LECTURE_HALL, 0.35)):
        page.set_viewport_size(size)  # type: ignore[arg-type]
        page.evaluate(  # the script that measures has run
            "new Promise((run) => requestAnimationFrame(() => requestAnimationFrame(run)))"
        )
        box = page.locator("svg.picture").bounding_box()
        assert box is not None
        assert box["y"] + box["height"] <= size["height"]
        side = min(box["width"], box["height"])  # the example is square
        assert side**2 >= share * size["width"] * size["height"], size
        assert page.locator(".rows").bounding_box()["y"] < size["height"] - 200  # type: ignore[index]
    page.close()


CONTRASTS = """() => {
  const parse = (c) => { const n = c.match(/[\\d.]+/g).map(Number); return n.length < 4 ? [...n, 1] : n; };
  const linear = (v) => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  const luminance = (c) => 0.2126 * linear(c[0]) + 0.7152 * linear(c[1]) + 0.0722 * linear(c[2]);
  const ground = (e) => {
    while (e) {
      const c = parse(getComputedStyle(e).backgroundColor);
      if (c[3] === 1) return c;
      e = e.parentElement;
    }
    return [255, 255, 255, 1];
  };
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const e = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || !e.checkVisibility() || e.closest('script, style, svg')) continue;
    const [a, b] = [luminance(parse(getComputedStyle(e).color)), luminance(ground(e))];
    found.push([(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), walker.currentNode.data.trim()]);
  }
  return found;
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_is_legible_in_both_themes(browser: Browser, app: App, scheme: Any) -> None:
    page = browser.new_page(viewport=DESKTOP, color_scheme=scheme)  # type: ignore[arg-type]
    visit = Visit(page, app.address)
    seen = 0
    for name in ("slice", "how-to-read", "how-good", "about"):
        turn_to(page, name)
        page.locator("details").evaluate_all("all => all.forEach(e => { e.open = true })")
        contrasts = page.evaluate(CONTRASTS)
        seen += len(contrasts)
        assert not [pair for pair in contrasts if pair[0] < 4.5], name
    visit.upload(b"no picture")
    assert not [pair for pair in page.evaluate(CONTRASTS) if pair[0] < 4.5]
    assert seen > 60
    page.close()


def test_controls_are_large_enough_for_a_thumb(browser: Browser, app: App) -> None:
    page = browser.new_page(viewport=PHONE)  # type: ignore[arg-type]
    Visit(page, app.address)
    for selector in (".row", "#opacity", ".switch", ".example", ".button", "nav a"):
        boxes = [control.bounding_box() for control in page.locator(selector).all() if control.is_visible()]
        assert boxes, selector
        assert all(box and box["height"] >= 44 and box["width"] >= 44 for box in boxes), (selector, boxes)
    page.close()


@pytest.mark.slow
def test_a_page_on_a_space_asks_nobody_else_either(browser: Browser, app_on_space: App) -> None:
    page = browser.new_page(viewport=DESKTOP)  # type: ignore[arg-type]
    visit = Visit(page, app_on_space.address)
    assert SCORED.fullmatch(visit.upload(MASS.read_bytes()))
    assert not [url for url in visit.asked if not url.startswith((app_on_space.address, "data:", "blob:"))]
    page.close()
