"""The words of the page in all of its languages: nothing is missing, nothing is left in English, everything fits."""

from __future__ import annotations

import gzip
import re
import string
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ctscan.bundle import MODEL, bundled
from ctscan.model.card import INTENDED_USE
from ctscan.model.checkpoint import read_checkpoint
from ctscan.notices import LANGUAGES, LOCALES, Notice, catalogue
from ctscan.page.examples import read_examples
from ctscan.page.languages import choose
from ctscan.results.records import Estimate
from ctscan.results.report import decimal, percent, points
from tests.conftest import ROOT, App, turn_to
from tests.test_browser import DESKTOP, PHONE, WIDE, Visit
from tests.test_prose import SECTIONS, opened, violations

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

TEMPLATES = sorted((ROOT / "ctscan" / "page" / "templates").glob("*.j2"))
OTHERS = [language for language in LANGUAGES if language != "en"]
ENGLISH = {"the", "of", "slice", "window", "network", "answer", "which", "picture", "with", "from", "not", "highest"}


def leaves(texts: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Every sentence with its place in the catalogue."""
    if isinstance(texts, str):
        yield path, texts
        return
    for key, part in texts.items() if isinstance(texts, dict) else enumerate(texts):
        yield from leaves(part, f"{path}.{key}")


def placeholders(text: str) -> list[tuple[str, str]]:
    return sorted((name, spec or "") for _, name, spec, _ in string.Formatter().parse(text) if name is not None)


# --- the catalogues


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.name.split(".")[0])
def test_no_sentence_stands_in_a_template(path: Path) -> None:
    source = re.sub(r"{#.*?#}|{%.*?%}|{{.*?}}", "", path.read_text(encoding="utf-8"), flags=re.S)
    words = re.findall(r"[^\W\d_]+", re.sub(r"<[^>]*>", " ", source))
    assert set(words) <= {"M", "G", "O", "C", "i"}  # keys of the keyboard, and the sign for units
    named = re.findall(r'(?:alt|title|aria-label|placeholder)="([^"]*)"', source)
    assert not re.search(r"[^\W\d_]", " ".join(named))


def test_every_catalogue_is_a_language_of_the_page() -> None:
    assert {path.stem for path in LOCALES.iterdir()} == set(LANGUAGES)
    assert len({catalogue(language)["name"] for language in LANGUAGES}) == len(LANGUAGES)


@pytest.mark.parametrize("language", OTHERS)
def test_a_translation_has_the_same_sentences_with_the_same_values(language: str) -> None:
    english, texts = dict(leaves(catalogue())), dict(leaves(catalogue(language)))
    assert list(texts) == list(english)
    for path, text in texts.items():
        assert placeholders(text) == placeholders(english[path]), path
        assert bool(text) == bool(english[path]) or path == ".page.translated", path
        assert text.strip(" ") == text or english[path].strip(" ") != english[path], path
        assert not re.search(r"[\d}] %", text), path  # a number and its sign stay on one line


@pytest.mark.parametrize("language", OTHERS)
def test_bundled_examples_are_named_in_every_language(language: str) -> None:
    for example in read_examples(bundled("examples")):
        assert example.entry.words(language) == example.entry.translated[language]


def test_examples_without_a_listing_are_numbered_in_every_language(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(WIDE.read_bytes())
    (example,) = read_examples(tmp_path)
    assert example.entry.words("en").title == "Example 1"
    assert example.entry.words("de").description == "Beispiel 1 von 1."


def test_the_intended_use_is_that_of_the_card() -> None:
    assert catalogue()["page"]["about"]["use"]["text"] == INTENDED_USE
    assert read_checkpoint(bundled(MODEL)).card.intended_use == INTENDED_USE


def test_numbers_are_written_as_the_language_does() -> None:
    assert percent(0.973, 1, language="de") == "97,3\u00a0%"
    assert decimal(0.5, language="fr") == "0,50"
    assert points(Estimate(value=0.15, low=-0.09, high=0.22, se=0.1), language="es") == "15 puntos (-9 a 22)"
    notice = Notice("evidence_outside", {"share": 0.314})
    assert notice.text("de").startswith("31\u00a0% der Evidenz")
    assert notice.text() == str(notice)
    assert str(notice).startswith("31 % of the evidence")
    assert Notice("stretched", {"low": 0.5, "high": 2}).text("de").count("0,5 … 2") == 1


# --- which language


@pytest.mark.parametrize(
    ("asked", "accepted", "chosen"),
    [
        ("", "", "en"),
        ("de", "fr", "de"),
        ("xx", "fr", "fr"),
        ("../en", "", "en"),
        ("", "de-AT, en;q=0.5", "de"),
        ("", "en;q=0.5,DE;q=0.8", "de"),
        ("", "nl, es;q=0.1", "es"),
        ("", "nl", "en"),
        ("", "fr;q=0, es;q=0.001", "es"),
        ("", "de;q=0.3, *;q=0.5", "en"),
        ("", "fr ; q=0.7 , es;q=0.7", "fr"),
        ("", "de;q=2, fr;q=nan, es;q=-1, ;;, de;q=1.0001", "en"),
        ("", "zh-Hant-TW, fr-CA;q=0.9", "fr"),
        ("", "de" * 20_000, "en"),
    ],
)
def test_the_address_then_the_browser_chooses(asked: str, accepted: str, chosen: str) -> None:
    assert choose(asked, accepted) == chosen


def fetch(address: str, **headers: str) -> tuple[bytes, Any]:
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    with urllib.request.urlopen(urllib.request.Request(address, headers=sent)) as response:
        return response.read(), response.headers


def test_the_home_page_comes_in_the_language_that_is_wished(app: App) -> None:
    for language in LANGUAGES:
        plain, headers = fetch(f"{app.address}/", Accept_Language=f"{language};q=0.9, nl")
        assert headers["content-language"] == language
        assert set(headers["vary"].split(", ")) == {"Accept-Language", "Accept-Encoding"}
        assert f'<html lang="{language}">'.encode() in plain
        packed, headers = fetch(f"{app.address}/?lang={language}", Accept_Language="nl", Accept_Encoding="gzip")
        assert headers["content-encoding"] == "gzip"
        assert gzip.decompress(packed) == plain


def test_programs_are_answered_in_english(app: App) -> None:
    request = urllib.request.Request(f"{app.address}/answer", WIDE.read_bytes(), {"Content-Type": "image/png"})
    with urllib.request.urlopen(request) as response:
        assert b"calibrated" in response.read().lower() or b"No answer" in response.read()


# --- each language in a browser


@pytest.fixture(params=OTHERS)
def visit(request: pytest.FixtureRequest, browser: Browser, app: App) -> Iterator[Visit]:
    """A visit of somebody whose browser prefers the language. No error may be logged."""
    context = browser.new_context(viewport=DESKTOP, locale=request.param)  # type: ignore[arg-type]
    visit = Visit(context.new_page(), app.address)
    yield visit
    context.close()
    assert not visit.errors


def language_of(page: Page) -> str:
    return page.get_attribute("html", "lang") or ""


def english_left(page: Page) -> set[str]:
    """Marker words in all that can be read or heard, hidden sections too, besides what is marked as English."""
    text: str = page.evaluate("""() => {
        const copy = document.body.cloneNode(true);
        copy.querySelectorAll("[lang=en], code, .origin small").forEach((e) => e.remove());
        const named = [...copy.querySelectorAll("*")].flatMap((e) =>
            ["alt", "title", "aria-label", "aria-valuetext"].map((name) => e.getAttribute(name) ?? ""));
        copy.querySelectorAll("script").forEach((e) => e.remove());
        const folded = [...copy.querySelectorAll("template")].map((e) => e.content.textContent);
        return [copy.textContent, ...named, ...folded].join(" ");
    }""")
    return set(re.findall(r"[^\W\d_]+", text)) & ENGLISH


def test_a_visit_is_in_one_language_throughout(visit: Visit) -> None:
    page, language = visit.page, language_of(visit.page)
    assert language in OTHERS
    texts = catalogue(language)["page"]
    assert page.inner_text("footer") == texts["translated"]
    assert english_left(page) == set()
    visit.choose(1)
    assert english_left(page) == set()
    assert visit.upload(b"no picture") == "unreadable"
    assert catalogue(language)["notices"]["unknown_format"] in page.inner_text(".said")
    visit.upload(WIDE.read_bytes())
    assert english_left(page) == set()
    page.check("[name=mode][value=signed]")
    assert re.search(r"[+−]\d+,\d\d", page.inner_text("#sum"))
    page.click("[data-do=check]")
    page.locator("#checks progress[hidden]").wait_for(state="attached", timeout=60_000)
    items = page.locator("#checks li").all_inner_texts()
    assert len(items) == len(texts["changes"])
    assert items[0].startswith(texts["changes"]["left"])
    assert english_left(page) == set()
    turn_to(page, "scan")
    page.locator("#scan-view").wait_for()
    assert english_left(page) == set()


def test_another_language_is_chosen_by_its_own_name_and_opens_at_the_same_section(visit: Visit) -> None:
    page, language = visit.page, language_of(visit.page)
    turn_to(page, "how-good")
    for other in [code for code in LANGUAGES if code != language]:
        page.click(".languages summary")
        link = page.locator(f".languages a[hreflang={other}]")
        assert link.inner_text() == catalogue(other)["name"]
        assert link.get_attribute("lang") == other
        link.click()
        page.wait_for_selector(f"html[lang={other}] section[data-section=about][hidden]", state="attached")
        assert page.url.endswith(f"/?lang={other}#how-good")
        assert page.locator("[data-section=how-good]").is_visible()


def test_a_change_of_language_leaves_no_word_of_the_last_one_anywhere(browser: Browser, app: App) -> None:
    visit = Visit(browser.new_page(viewport=DESKTOP), f"{app.address}/?lang=en#scan")  # type: ignore[arg-type]
    page = visit.page
    page.locator("#scan-view").wait_for()
    page.click(".languages summary")
    page.click(".languages a[hreflang=de]")
    page.wait_for_selector("html[lang=de]")
    assert page.locator("#scan-view").is_visible()
    turn_to(page, "slice")
    page.locator(".said", has_text=re.compile("Unsicher|Ähnelt")).wait_for()
    assert english_left(page) == set()
    assert page.inner_text("footer") == catalogue("de")["page"]["translated"]
    visit.upload(WIDE.read_bytes())
    assert english_left(page) == set()
    page.close()
    assert not visit.errors


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
@pytest.mark.parametrize("language", OTHERS)
def test_every_section_fits_and_axe_finds_nothing(browser: Browser, app: App, language: str, size: Any) -> None:
    context = browser.new_context(viewport=size, bypass_csp=True)  # axe is put into the page
    page = opened(context.new_page(), f"{app.address}/?lang={language}")
    found, wide, cut, met = [], [], [], []
    for section in SECTIONS:
        found += [(section, rule) for rule in violations(page, section)]
        if section == "scan":
            page.locator("#scan-view").wait_for()
        if page.evaluate("document.documentElement.scrollWidth") > size["width"]:
            wide.append(section)
        cut += page.locator(
            "button:visible, label:visible, summary:visible, nav a:visible, .scan-slider span:visible"
        ).evaluate_all(
            "all => all.filter(e => e.scrollWidth > e.clientWidth + 1 && !e.closest('.hidden')).map(e => e.innerText)"
        )
    turn_to(page, "how-to-read")
    for drawing in page.locator(".drawing").all():
        frame = drawing.bounding_box()
        for text in drawing.locator("text").all():
            box = text.bounding_box()
            assert frame is not None
            assert box is not None
            if box["x"] < frame["x"] or box["x"] + box["width"] > frame["x"] + frame["width"]:
                met.append(text.text_content())
    turn_to(page, "how-good")
    for row in page.locator("svg.chart > svg:visible").all():
        title, said = (text.bounding_box() for text in row.locator("text").all())
        assert title is not None
        assert said is not None
        if title["x"] + title["width"] >= said["x"]:
            met.append(row.text_content())
    context.close()
    assert (found, wide, cut, met) == ([], [], [], [])
