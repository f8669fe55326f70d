"""The page as a visitor has it: a real browser, real files."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

from ctscan.page import words
from tests.caller import Caller, fill, large_slice
from tests.conftest import ANSWERED, ROOT, App

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

WIDE = ROOT / "examples" / "05-no-mass-wide-window.png"
MASS = ROOT / "examples" / "02-lower-lobe-mass-lung-window.png"


@pytest.fixture
def opened(browser: Browser, app: App) -> Iterator[tuple[Page, list[str], list[str]]]:
    """A fresh page, the addresses it asked for, the errors it logged."""
    page = browser.new_page(viewport={"width": 1440, "height": 900})
    asked: list[str] = []
    errors: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(app.address)
    page.wait_for_selector(".scores")
    yield page, asked, errors
    page.close()


def shares(page: Page) -> list[float]:
    return [float(re.sub(r"[^\d.]", "", t)) for t in page.locator(".scores .number").all_inner_texts()]


def upload(page: Page, name: str, data: bytes) -> None:
    page.set_input_files("#upload input[type=file]", {"name": name, "mimeType": "image/png", "buffer": data})


def wait_for(page: Page, selector: str, text: str | re.Pattern[str]) -> None:
    page.locator(selector, has_text=text).first.wait_for(timeout=20_000)


def test_the_first_screen_is_a_worked_example(opened: tuple[Page, list[str], list[str]], app: App) -> None:
    page, asked, errors = opened
    assert "Bundled example" in page.inner_text("#sentence")
    assert sum(shares(page)) == pytest.approx(100, abs=0.3)
    assert page.locator(".thumbnails button").count() == 6
    assert not [u for u in asked if not u.startswith((app.address, "data:", "blob:"))]
    assert not errors


@pytest.mark.slow
def test_a_page_on_a_space_asks_nobody_else_either(browser: Browser, app_on_space: App) -> None:
    page = browser.new_page(viewport={"width": 1280, "height": 800})
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(app_on_space.address)
    page.wait_for_selector(".scores")
    upload(page, "slice.png", MASS.read_bytes())
    page.locator("#sentence", has_text="Bundled example").wait_for(state="detached", timeout=20_000)
    assert sum(shares(page)) == pytest.approx(100, abs=0.3)
    assert not [u for u in asked if not u.startswith((app_on_space.address, "data:", "blob:"))]
    page.close()


def test_upload_rubbish_then_a_good_slice_then_clear(opened: tuple[Page, list[str], list[str]]) -> None:
    page, _, errors = opened
    upload(page, "slice.png", b"this is no picture")
    wait_for(page, "#sentence", "PNG, JPEG, WebP, BMP or TIFF")
    assert page.locator(".scores").count() == 0
    upload(page, "JANE DOE.png", MASS.read_bytes())
    wait_for(page, "#sentence", ANSWERED)
    assert page.locator(".scores li").count() == 4
    assert "JANE" not in page.content()
    page.click("#clear")
    wait_for(page, "#sentence", "No slice yet")
    assert page.locator(".explanation img").count() == 0
    assert page.locator(".scores").count() == 0
    upload(page, "again.png", MASS.read_bytes())
    wait_for(page, "#sentence", ANSWERED)
    assert not errors


def test_class_and_opacity_change_without_the_server(opened: tuple[Page, list[str], list[str]]) -> None:
    page, asked, _ = opened
    before = len(asked)
    for index in (3, 0, 2, 1):
        page.check(f'.classes input[value="{index}"]')
        seen = page.locator(".layer").evaluate_all("all => all.map(e => getComputedStyle(e).display !== 'none')")
        assert seen == [i == index for i in range(4)]
        assert page.locator(f'.foot .of[data-class="{index}"]').is_visible()
    page.locator(".opacity input").fill("25")
    assert page.locator(".layer").nth(1).evaluate("e => getComputedStyle(e).opacity") == "0.25"
    assert len(asked) == before


def test_a_new_answer_starts_at_its_own_class_and_opacity(opened: tuple[Page, list[str], list[str]]) -> None:
    page, _, _ = opened
    for index in (4, 0, 2):
        page.check('.classes input[value="3"]')
        page.locator(".opacity input").fill("95")
        before = page.get_attribute(".explanation", "data-answer")
        page.locator(".thumbnails button").nth(index).click()
        page.locator(f'.explanation:not([data-answer="{before}"])').wait_for()
        page.wait_for_function("document.querySelector('.opacity input').value === '60'")
        chosen = page.locator(".classes input:checked").get_attribute("value")
        (drawn,) = page.locator(".layer").evaluate_all(
            "all => all.filter(e => e.checkVisibility()).map(e => e.dataset.class + ' ' + getComputedStyle(e).opacity)"
        )
        assert drawn == f"{chosen} 0.6"
        likeliest = page.locator(".scores .top .name").inner_text()
        assert page.locator(".classes input:checked + span").inner_text() in likeliest


def test_an_answer_under_way_does_not_come_back_over_a_cleared_page(
    opened: tuple[Page, list[str], list[str]],
) -> None:
    page, _, _ = opened
    before = [page.locator(s).bounding_box() for s in (".explanation", "#rows")]
    page.locator(".thumbnails button").nth(3).click()
    page.locator("#sentence [data-testid=status-tracker].translucent").wait_for()
    assert page.locator("#sentence .sentence").is_hidden()  # the last answer is not taken for the new one
    assert [page.locator(s).bounding_box() for s in (".explanation", "#rows")] == before
    page.click("#clear")
    page.wait_for_timeout(4000)
    assert "No slice yet" in page.inner_text("#sentence")
    assert page.locator(".explanation img").count() == 0
    upload(page, "slice.png", MASS.read_bytes())
    wait_for(page, "#sentence", ANSWERED)


def test_slice_and_layers_fill_the_same_box(opened: tuple[Page, list[str], list[str]]) -> None:
    page, _, _ = opened
    upload(page, "wide.png", WIDE.read_bytes())
    page.locator('.explanation img[alt*="513 by 367"]').wait_for(timeout=20_000)
    boxes = page.locator(".covered .stack img").evaluate_all(
        """all => all.map(e => { e.style.setProperty('display', 'block', 'important');
        const b = e.getBoundingClientRect(); return [b.x, b.y, b.width, b.height]; })"""
    )
    assert len(boxes) == 5
    assert all(box == boxes[0] for box in boxes)
    assert boxes[0][2] / boxes[0][3] == pytest.approx(513 / 367, rel=0.01)


def test_a_pasted_picture_is_answered(opened: tuple[Page, list[str], list[str]]) -> None:
    page, _, _ = opened
    page.click("#clear")
    wait_for(page, "#sentence", "No slice yet")
    paste = """(data) => {
        const bytes = Uint8Array.from(atob(data), (c) => c.charCodeAt(0));
        const transfer = new DataTransfer();
        transfer.items.add(new File([bytes], 'image.png', { type: 'image/png' }));
        document.dispatchEvent(new ClipboardEvent('paste', { clipboardData: transfer, bubbles: true }));
    }"""
    page.evaluate(paste, base64.b64encode(MASS.read_bytes()).decode())
    wait_for(page, "#sentence", ANSWERED)


def test_an_example_is_answered_and_named_as_one(opened: tuple[Page, list[str], list[str]]) -> None:
    page, _, _ = opened
    page.locator(".thumbnails button").nth(2).click()
    wait_for(page, "#sentence", "nodule in the right upper lobe")
    assert sum(shares(page)) == pytest.approx(100, abs=0.3)


def test_a_file_too_large_is_said_before_it_is_sent(opened: tuple[Page, list[str], list[str]]) -> None:
    page, asked, _ = opened
    before = len(asked)
    upload(page, "large.png", b"\x89PNG" + b"0" * (16 << 20))
    wait_for(page, "#input .note", "larger than 16 MB")
    assert not [u for u in asked[before:] if "upload" in u]
    upload(page, "small.png", MASS.read_bytes())
    wait_for(page, "#sentence", ANSWERED)
    page.wait_for_function("document.querySelector('#input .note').textContent === ''")


@pytest.mark.slow
def test_a_busy_app_is_said_in_the_page_and_the_next_try_is_answered(browser: Browser, app: App) -> None:
    caller = Caller(app.address)
    path = caller.upload(large_slice())
    pages = [browser.new_page(viewport={"width": width, "height": 844}) for width in (390, 1440)]
    for page, theme in zip(pages, ("dark", "light"), strict=True):
        page.goto(f"{app.address}/?__theme={theme}")
        page.wait_for_selector(".scores")
    events = fill(caller, path)
    for page in pages:
        page.locator(".thumbnails button").nth(3).click()
        page.locator("#sentence .notice", has_text=words.BUSY).wait_for(timeout=20_000)
        assert page.locator("#sentence [data-testid=status-tracker], .toast-wrap").evaluate_all(
            "all => all.every(e => !e.checkVisibility())"
        )
        assert page.locator(".scores").count() == 0  # the last answer is not taken for one to this slice
        assert min(pair[0] for pair in page.evaluate(CONTRASTS)) >= 4.5
    for event in events:
        caller.fetch(event)
    for page in pages:
        page.locator(".thumbnails button").nth(2).click()
        wait_for(page, "#sentence", "nodule in the right upper lobe")
        assert page.locator("#sentence .sentence").is_visible()
        page.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 390, 768, 1440])
def test_nothing_overflows_and_the_strip_stays(browser: Browser, app: App, width: int, scheme: Any) -> None:
    page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
    page.goto(app.address)
    page.wait_for_selector(".scores")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.evaluate("window.scrollTo(0, document.documentElement.scrollHeight)")
    page.wait_for_timeout(200)
    top = page.locator("#strip").bounding_box()
    assert top is not None
    assert -1 <= top["y"] <= 1
    assert page.locator("#strip", has_text="Not for diagnosis").is_visible()
    if width < 720:
        tops = [page.locator(s).bounding_box() for s in ("#sentence", ".covered", "#rows", "#upload")]
        heights = [box["y"] for box in tops if box]
        assert heights == sorted(heights)
    page.close()


def test_every_control_is_reached_by_tab_and_pictures_are_described(
    opened: tuple[Page, list[str], list[str]],
) -> None:
    page, _, _ = opened
    reached = set()
    for _ in range(40):
        page.keyboard.press("Tab")
        reached.add(
            page.evaluate(
                """() => { const e = document.activeElement;
                return e.closest('#upload') ? 'upload' : e.id === 'clear' || e.closest('#clear') ? 'clear'
                  : e.matches('.thumbnails button') ? 'example' : e.name === 'ctscan-class' ? 'class'
                  : e.matches('.opacity input') ? 'opacity' : e.role === 'tab' ? 'tab' : ''; }"""
            )
        )
    assert reached >= {"upload", "clear", "example", "class", "opacity", "tab"}
    alts = page.locator(".explanation img").evaluate_all("all => all.map(e => e.alt)")
    assert sum(bool(alt) for alt in alts) == 6  # all but the slice that lies under the layers


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
  const walker = document.createTreeWalker(document.querySelector('.gradio-container'), NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const e = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || !e.checkVisibility() || e.closest('script, style')) continue;
    const [a, b] = [luminance(parse(getComputedStyle(e).color)), luminance(ground(e))];
    found.push([(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), walker.currentNode.data.trim()]);
  }
  return found;
}"""


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_every_text_is_legible_in_both_themes(browser: Browser, app: App, theme: str) -> None:
    page = browser.new_page(viewport={"width": 1440, "height": 900})
    page.goto(f"{app.address}/?__theme={theme}")
    page.wait_for_selector(".scores")
    seen = 0
    for tab in ("Slice", "How to read it", "About"):
        page.get_by_role("tab", name=tab).click()
        page.wait_for_timeout(300)
        contrasts = page.evaluate(CONTRASTS)
        seen += len(contrasts)
        assert not [pair for pair in contrasts if pair[0] < 4.5]
    assert seen > 60
    page.close()


def test_controls_are_large_enough_for_a_thumb(browser: Browser, app: App) -> None:
    page = browser.new_page(viewport={"width": 390, "height": 844})
    page.goto(app.address)
    page.wait_for_selector(".scores")
    selectors = ".classes label", ".opacity input", ".thumbnails button", "#clear", "#upload button", "[role=tab]"
    for selector in selectors:
        boxes = [control.bounding_box() for control in page.locator(selector).all() if control.is_visible()]
        assert boxes, selector
        assert all(box and box["height"] >= 44 and box["width"] >= 44 for box in boxes), (selector, boxes)
    page.close()
