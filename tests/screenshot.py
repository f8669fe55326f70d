"""The picture of the page in README: `python -m tests.screenshot` writes docs/page.png."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from playwright.sync_api import sync_playwright

from tests.conftest import COMMITTED, ROOT, running_app


def main() -> None:
    """The first screen of a desktop, whose example the model has just answered."""
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as driver:
        temporary = Path(folder, "tmp")
        temporary.mkdir()
        with running_app(COMMITTED, temporary) as app:
            browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
            page = browser.new_page(viewport={"width": 1440, "height": 1000}, color_scheme="light")
            page.goto(app.address)
            page.screenshot(path=ROOT / "docs" / "page.png")
            browser.close()


if __name__ == "__main__":
    main()
