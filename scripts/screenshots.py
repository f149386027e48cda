"""Take pictures of the explorer's page: every panel, both languages, light and dark, 1280 and 360 pixels wide.

    python scripts/screenshots.py TRACE.json FOLDER              all of them, as panel-language-theme-width.png
    python scripts/screenshots.py TRACE.json FOLDER en light     only pictures with these words in their names

The trace is one that `pellucid trace -o TRACE.json` wrote. Needs playwright (`pip install 'pellucid[dev]'`) and a
Chromium: `sudo apt install chromium`, or its path in PELLUCID_CHROMIUM. Fonts are those of this machine; for Chinese,
Debian has fonts-noto-cjk.
"""

from __future__ import annotations

import itertools
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from playwright.sync_api import sync_playwright

from pellucid.explorer.page import single_page

PANELS = ("top", "position", "encoder", "mask", "cross", "forcing", "cache", "gqa", "search", "questions")
LANGUAGES, THEMES, WIDTHS = ("en", "zh"), ("light", "dark"), (1280, 360)
NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")

# Only the panel is left, so that a picture is cheap and has nothing else in it.
ALONE = """name => {
  document.querySelector(".spine").style.position = "static";
  for (const one of document.querySelectorAll(".panel, .hero, .footer, .topbar, .rail ol")) {
    one.style.display = one.id === name ? "" : "none";
  }
  scrollTo(0, 0);
}"""


def take(browser: Any, address: str, folder: Path, language: str, theme: str, width: int, words: list[str]) -> None:
    """All panels in one language, theme and width."""
    names = {panel: f"{panel}-{language}-{theme}-{width}.png" for panel in PANELS}
    names = {panel: name for panel, name in names.items() if set(words) <= set(name.removesuffix(".png").split("-"))}
    if not names:
        return
    page = browser.new_page(viewport={"width": width, "height": 860}, reduced_motion="reduce", device_scale_factor=2)
    page.goto(f"{address}#t=2&lang={language}&theme={theme}&use=cross&cell=2.0")
    page.wait_for_selector("#position .panel-body > :not(.panel-wait)")
    for panel, name in names.items():
        if panel != "top":
            page.evaluate(ALONE, panel)
            page.wait_for_selector(f"#{panel} .panel-body > :not(.panel-wait)")
            page.set_viewport_size({"width": width, "height": 400})
            page.wait_for_timeout(200)  # sizes follow the window by observers
            page.set_viewport_size({"width": width, "height": page.evaluate("document.documentElement.scrollHeight")})
            page.wait_for_timeout(200)
        page.screenshot(path=str(folder / name))
        print(folder / name)
    page.close()


def main() -> None:
    """Read the arguments, start the browser, take the pictures."""
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    trace, folder, *words = sys.argv[1:]
    program = os.environ.get("PELLUCID_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        sys.exit("no Chromium: sudo apt install chromium, or set PELLUCID_CHROMIUM to a browser's path")
    Path(folder).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch, sync_playwright() as driver:
        saved = Path(scratch) / "page.html"
        saved.write_text(single_page(Path(trace).read_text(encoding="utf-8")), encoding="utf-8")
        browser = driver.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-gpu"])
        for language, theme, width in itertools.product(LANGUAGES, THEMES, WIDTHS):
            take(browser, saved.as_uri(), Path(folder), language, theme, width, words)
        browser.close()


if __name__ == "__main__":
    main()
