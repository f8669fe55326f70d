"""The sections to read, as a visitor has them: what they hold, and that everybody can read them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from ctscan.model.checkpoint import read_checkpoint
from ctscan.page.views import Views
from ctscan.results.ledger import read_ledger
from ctscan.results.report import share
from ctscan.results.summary import Facts, facts_of
from tests.conftest import COMMITTED, ROOT, App, turn_to

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser, Page

    from ctscan.inference.classifier import Classifier

SECTIONS = ("slice", "scan", "how-to-read", "how-good", "about")
DESKTOP, PHONE = {"width": 1440, "height": 1000}, {"width": 390, "height": 844}
WORDS = 350  # of "How to read it"


def opened(page: Page, address: str) -> Page:
    """The page when its script has run."""
    page.goto(address)
    page.wait_for_selector("section[data-section=about][hidden]", state="attached")
    return page


@pytest.fixture
def page(browser: Browser, app: App) -> Iterator[Page]:
    context = browser.new_context(viewport=DESKTOP)  # type: ignore[arg-type]
    yield opened(context.new_page(), app.address)
    context.close()


@pytest.fixture(scope="module")
def facts() -> Facts:
    return facts_of(read_ledger(COMMITTED.parent / "metrics.json"), read_checkpoint(COMMITTED).card)


def test_what_was_not_measured_is_left_out(facts: Facts, classifier: Classifier) -> None:
    bare = replace(facts, deduplicated=None, stricter=None, volumes=None, maps=None, gate=None, confidence=None)
    html = Views(classifier, (), bare).home()
    assert html.count('class="chart"') == 2  # the same on the first screen and in its section
    assert "no scans from other hospitals" in html
    assert "without copies</text>" not in html


def axe_finds(page: Page) -> list[tuple[str, list[str]]]:
    """Rule and places."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is not installed")
    found = axe.Axe().run(page).response["violations"]
    return [(rule["id"], [node["html"][:200] for node in rule["nodes"]]) for rule in found]


def violations(page: Page, section: str) -> list[tuple[str, list[str]]]:
    """What axe finds in a section and around it, folded details open."""
    turn_to(page, section)
    page.locator("details").evaluate_all("all => all.forEach(e => { e.open = true })")
    found = axe_finds(page)
    page.locator("details.languages").evaluate("e => { e.open = false }")  # or it would lie over what comes next
    return found


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_axe_finds_nothing_in_any_section(browser: Browser, app: App, size: Any, scheme: Any) -> None:
    # axe is put into the page, which its Content-Security-Policy forbids
    context = browser.new_context(viewport=size, color_scheme=scheme, bypass_csp=True)
    page = opened(context.new_page(), app.address)
    found = [(section, found) for section in SECTIONS for found in violations(page, section)]
    turn_to(page, "slice")
    page.set_input_files("#file", next(ROOT.glob("examples/05-*.png")))
    page.locator("#visit button").wait_for()  # with a slice of one's own, and on a full screen
    found += [("visit", found) for found in violations(page, "slice")]
    page.click("[data-do=full]")
    page.locator("[data-do=next]").wait_for()
    found += [("full", found) for found in axe_finds(page)]
    context.close()
    assert found == []


def test_the_chart_says_in_figures_and_in_words_what_was_measured(page: Page, facts: Facts) -> None:
    turn_to(page, "how-good")
    measured = (facts.published, facts.deduplicated, facts.grouped, facts.stricter)
    records = [record for record in measured if record is not None]
    said = [f"{share(r.result.measures['balanced_accuracy'])}, n = {r.result.n}" for r in records]
    assert len(said) >= 3
    chart = page.locator("[data-section=how-good] svg.chart[role=img]").first
    assert [text for text in said if text not in (chart.get_attribute("aria-label") or "")] == []
    assert chart.locator("svg text.end").all_text_contents() == said
    # the points lie where they say: at their share of the axis
    frame = chart.bounding_box()
    points = [point.bounding_box() for point in chart.locator(".point").all()]
    assert frame is not None
    for record, point in zip(records, points, strict=True):
        assert point is not None
        place = (point["x"] + point["width"] / 2 - frame["x"]) / frame["width"]
        assert place == pytest.approx(record.result.measures["balanced_accuracy"].value, abs=0.005)


def test_how_good_it_is_fits_one_screen(page: Page) -> None:
    turn_to(page, "how-good")
    assert page.locator("[data-section=how-good] .matrix:visible").count() == 1
    for selector in (".chart", ".matrix", ".by-class", ".cannot li"):
        for shown in page.locator(f"[data-section=how-good] {selector}:visible").all():
            box = shown.bounding_box()
            assert box is not None
            assert box["y"] + box["height"] <= DESKTOP["height"]
    assert page.locator(".cannot li").count() == 5


@pytest.mark.parametrize("width", [360, 390, 768, 1440, 3840])
def test_no_words_of_a_chart_run_into_each_other(page: Page, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 844})
    for section in ("slice", "how-good"):
        turn_to(page, section)
        rows = page.locator("svg.chart > svg:visible").all()
        assert len(rows) >= 4
        for row in rows:
            title, said = (text.bounding_box() for text in row.locator("text").all())
            assert title is not None
            assert said is not None
            assert title["x"] + title["width"] < said["x"]


def test_how_to_read_is_short_and_drawn(page: Page) -> None:
    turn_to(page, "how-to-read")
    assert page.locator(".cards .drawing:visible").count() == page.locator(".cards h3").count() == 8
    assert len(page.inner_text("[data-section=how-to-read]").split()) <= WORDS
    for drawing in page.locator(".drawing").all():  # nothing is cut off at an edge
        frame = drawing.bounding_box()
        for text in drawing.locator("text").all():
            box = text.bounding_box()
            assert frame is not None
            assert box is not None
            assert frame["x"] <= box["x"]
            assert box["x"] + box["width"] <= frame["x"] + frame["width"]


def test_every_link_leads_somewhere(page: Page, app: App) -> None:
    links = page.locator("section a").evaluate_all("all => all.map(a => [a.getAttribute('href'), a.rel])")
    assert any("kaggle.com" in address for address, _ in links)
    for address, rel in links:
        if address.startswith("https://"):
            assert rel == "noopener noreferrer"
        elif address.startswith("#"):
            assert address[1:] in (*SECTIONS, "answer")
        else:
            assert page.request.get(f"{app.address}/{address}").ok, address
