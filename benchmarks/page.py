"""The page in a browser: bytes of a visit, and the time from a slice to its scores. `python -m benchmarks.page`

- a slice dropped on the page until its scores stand there / the bare forward pass
- scores of the slice with a place covered / the bare forward pass
- the same slice under thirteen small changes / the bare forward pass
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import torch

from benchmarks.timing import example, parser, print_ratio
from ctscan.bundle import MODEL, bundled
from ctscan.io.images import read_slice
from ctscan.model.checkpoint import read_checkpoint
from ctscan.model.runtime import build_net
from tests.conftest import running_app

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

DESKTOP = {"width": 1440, "height": 1000}
SHIFT = """() => { window.shift = 0; new PerformanceObserver((list) => {
  for (const entry of list.getEntries()) if (!entry.hadRecentInput) window.shift += entry.value;
}).observe({ type: 'layout-shift', buffered: true }); }"""


def weigh(browser: Browser, address: str) -> None:
    """Print the bytes of a first and of a second visit as they go over the line."""
    page = browser.new_context(viewport=DESKTOP).new_page()  # type: ignore[arg-type]
    session = page.context.new_cdp_session(page)
    session.send("Network.enable")
    kinds: dict[str, str] = {}
    sizes: dict[str, float] = {}
    session.on("Network.responseReceived", lambda event: kinds.update({event["requestId"]: event["type"]}))
    session.on("Network.loadingFinished", lambda event: sizes.update({event["requestId"]: event["encodedDataLength"]}))
    for name in ("first", "second"):
        sizes.clear()
        page.goto("about:blank")
        page.goto(address, wait_until="networkidle")
        document = sum(size for request, size in sizes.items() if kinds.get(request) == "Document")
        print(f"{name} visit: {sum(sizes.values()) / 1000:.0f} kB, of it the document {document / 1000:.0f} kB")
    page.context.close()


def ask(page: Page, do: Callable[[], object], ready: str) -> None:
    """A question to the page, until an element is there."""
    page.evaluate("document.querySelector('.said').dataset.old = ''")
    do()
    page.locator(ready).first.wait_for(state="attached")


def main() -> None:
    """Print ratios and sizes."""
    from playwright.sync_api import FilePayload, sync_playwright

    rounds = parser(__doc__, 20).parse_args().rounds
    checkpoint = read_checkpoint(bundled(MODEL))
    net = build_net(checkpoint).eval()
    square = torch.from_numpy(checkpoint.card.preprocess.square(read_slice(example()).pixels))[None]
    file: FilePayload = {"name": "slice.png", "mimeType": "image/png", "buffer": example()}

    def bare() -> None:
        with torch.inference_mode():
            net(square)

    with (
        TemporaryDirectory() as folder,
        sync_playwright() as driver,
        running_app(bundled(MODEL), Path(folder) / "app") as app,
    ):
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        weigh(browser, app.address)
        page = browser.new_page(viewport=DESKTOP)  # type: ignore[arg-type]
        page.goto(app.address, wait_until="networkidle")
        page.evaluate(SHIFT)

        def drop() -> None:
            ask(page, lambda: page.set_input_files("#file", file), ".said:not([data-old])")

        def cover() -> None:
            page.evaluate("document.querySelector('[data-do=uncover]').click()")
            page.focus("svg.picture")
            ask(page, lambda: page.keyboard.press("Enter"), ".change:not(:empty)")

        def check() -> None:
            page.evaluate("document.querySelector('#checks').replaceChildren()")
            ask(page, lambda: page.click("[data-do=check]"), "#checks progress[hidden]")

        print_ratio("dropped slice until its scores / bare forward pass", drop, bare, rounds)
        print(f"layout shift: {page.evaluate('window.shift'):.3f}")
        page.check("#cover")
        print_ratio("scores with a place covered / bare forward pass", cover, bare, rounds)
        print_ratio("thirteen small changes / bare forward pass", check, bare, -(-rounds // 4))
        browser.close()


if __name__ == "__main__":
    main()
