"""A headless Chromium for the tests of the page; without one they are skipped, and the reason says how to get it."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pellucid.explorer.page import single_page

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")


def browser_program() -> str | None:
    """The browser to drive: $PELLUCID_CHROMIUM, or the first that is on the path."""
    return os.environ.get("PELLUCID_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    api = pytest.importorskip("playwright.sync_api", reason="playwright is missing: pip install 'pellucid[dev]'")
    program = browser_program()
    if program is None:
        pytest.skip("no Chromium: sudo apt install chromium, or set PELLUCID_CHROMIUM to a browser's path")
    with api.sync_playwright() as driver:
        started = driver.chromium.launch(
            executable_path=program, args=["--no-sandbox", "--disable-gpu"], timeout=180_000
        )
        yield started
        started.close()


class Pages:
    """Opens documents in the browser and keeps a record of what the page asked for and complained of."""

    def __init__(self, browser: Any, folder: Path) -> None:
        self.browser, self.folder = browser, folder
        self.requests: list[str] = []
        self.complaints: list[str] = []

    def open(self, document: dict[str, Any], state: str = "", width: int = 1280) -> Any:
        """A saved page with this document, fully drawn."""
        (self.folder / "t.html").write_text(single_page(json.dumps(document)), encoding="utf-8")
        context = self.browser.new_context(viewport={"width": width, "height": 900}, reduced_motion="reduce")
        context.set_default_timeout(120_000)
        page = context.new_page()
        page.on("request", lambda request: self.requests.append(request.url))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("console", lambda message: message.type == "error" and self.complaints.append(message.text))
        page.goto(f"file://{self.folder / 't.html'}#lang=en&{state}")
        page.wait_for_selector(".panel, .failure")
        return page

    def visit(self, address: str, state: str = "", ready: str = ".panel") -> Any:
        """The page of a server, in a browser window of its own."""
        context = self.browser.new_context(viewport={"width": 1280, "height": 900}, reduced_motion="reduce")
        context.set_default_timeout(60_000)
        page = context.new_page()
        page.on("request", lambda request: self.requests.append(request.url))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.goto(f"{address}#lang=en&{state}")
        page.wait_for_selector(ready)
        return page

    def draw(self, page: Any) -> Any:
        """Scroll past every panel, so that each is drawn."""
        for name in page.eval_on_selector_all(".panel", "panels => panels.map(panel => panel.id)"):
            page.evaluate("id => document.getElementById(id).scrollIntoView()", name)
            page.wait_for_selector(f"#{name} .panel-body > :not(.panel-wait)")
        return page

    def settle(self, page: Any) -> Any:
        """Wait until panels out of sight, which are drawn again one by one at leisure, are up to date."""
        page.evaluate(
            """() => new Promise(done => {
              let calls = 0;
              const next = () => (calls += 1) > 12 ? setTimeout(done, 50) : requestIdleCallback(next, { timeout: 250 });
              next();
            })"""
        )
        return page


@pytest.fixture
def pages(browser: Any, tmp_path: Path) -> Iterator[Pages]:
    opened = Pages(browser, tmp_path)
    yield opened
    for context in browser.contexts:
        context.close()
