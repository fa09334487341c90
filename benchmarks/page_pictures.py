"""README's pictures of a page: ``python benchmarks/page_pictures.py`` (needs chromium, and the extra ``test``).

Opens ``reports/fashion_mnist/report.html`` without a network, and keeps its first screen and a view of its explorer:
one patch in a matched pair of heads of SVDA and its baseline, and the difference.
"""

from __future__ import annotations

import io
import shutil
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

ROOT = Path(__file__).resolve().parents[1]
PAGE, OUT = ROOT / "reports" / "fashion_mnist" / "report.html", ROOT / "reports" / "pictures"
IMAGE, LAYER, HEAD, PATCH, GRID = 1, 2, 1, (2, 4), 7


def keep(picture: bytes, name: str) -> None:
    Image.open(io.BytesIO(picture)).convert("RGB").save(OUT / name, optimize=True)
    print(OUT / name)


def choose_view(page: Page) -> None:
    """The view of the explorer that is kept."""
    page.get_by_label(f"Image {IMAGE}").click()
    page.locator("#explorer label", has_text="Model").locator("select").select_option("svda")
    page.locator("#explorer label", has_text="Beside it").locator("select").select_option("vit")
    layer = page.locator("#explorer label", has_text="Layer").locator("input[type=range]")
    layer.evaluate("(x, to) => { x.value = to; x.dispatchEvent(new Event('input')) }", LAYER)
    page.locator(".strip").first.get_by_label(f"Head {HEAD}").click()
    page.get_by_label("matched heads").check()
    page.get_by_label("difference").check()
    box = page.locator(".stage").first.bounding_box()
    if box is None:
        raise SystemExit("the explorer is not on the screen")
    row, column = PATCH
    page.locator(".stage").first.click(
        position={"x": (column + 0.5) * box["width"] / GRID, "y": (row + 0.5) * box["height"] / GRID}
    )


def main() -> None:
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        raise SystemExit("chromium must be installed")
    with sync_playwright() as started:
        browser = started.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_context(offline=True, viewport={"width": 1280, "height": 900}).new_page()
        page.goto(PAGE.as_uri())
        page.wait_for_selector("#explorer[data-drawn]")
        keep(page.screenshot(), "page.png")
        choose_view(page)
        keep(page.locator("#explorer").screenshot(), "explorer.png")
        browser.close()


if __name__ == "__main__":
    main()
