"""The page in a browser, opened from its file with the network off: what it shows are the analysis's own numbers."""

from __future__ import annotations

import dataclasses
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from test_sections_analysis import an_analysis

from svda_analysis.frames import MAP_COLUMNS, make_frame
from svda_analysis.render.html import to_html
from svda_analysis.render.packing import MOST_LOST, pack_rows, unpack_rows
from svda_analysis.results import Examples, Trace
from svda_analysis.sections.analysis import analysis_document

playwright = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")

EVIL = "<script>alert(1)</script>"
GRID, PREFIX, LAYERS, HEADS, IMAGES = (4, 5), 1, 3, 2, 2
N = PREFIX + GRID[0] * GRID[1]
EPOCHS = 3


def some_examples(seed):
    rng = np.random.default_rng(seed)
    scores = np.exp(2 * rng.standard_normal((IMAGES, LAYERS, HEADS, N, N)))
    maps = (scores / scores.sum(-1, keepdims=True)).astype(np.float16)
    rollout = maps.astype(np.float32).mean((1, 2))
    images = np.random.default_rng(5).integers(0, 256, (IMAGES, 40, 50, 3), dtype=np.uint8)
    known = {"grid": GRID, "prefix": PREFIX, "classes": ("boot", "coat"), "rollout": rollout, "relevance": rollout / 7}
    return Examples(images, np.array([0, 1]), np.array([0, 0]), maps, **known)


def whole_analysis():
    """Of two models, one of them named as a script, with maps, a trace and matched heads."""
    models = ("vit", EVIL)
    traces = {EVIL: Trace(np.arange(EPOCHS), None, np.random.default_rng(3).random((EPOCHS, 2, LAYERS, N - 1)) / N)}
    who = {"model": EVIL, "baseline": "vit", "images": "same", "measure": "js", "seed": 0, "baseline_seed": 0}
    heads = [
        {**who, "layer_a": layer, "layer_b": layer, "head_a": head, "head_b": 1 - head}
        for layer in range(LAYERS)
        for head in range(HEADS)
    ]
    alike = {"identity": 0.2, "matched": 0.4, "chance": 0.3, "gain_over_chance": 0.1, "n": 8}
    known = {"heads": heads, "matching": [{**who, **alike, "layer_a": 0, "layer_b": 0}]}
    frames = {name: make_frame(known.get(name, []), columns) for name, columns in MAP_COLUMNS.items()}
    made = an_analysis(models, layers=LAYERS, examples={m: some_examples(i) for i, m in enumerate(models)})
    runs = tuple(dataclasses.replace(run, recipe={"dataset": run.dataset}) for run in made.runs)
    return dataclasses.replace(made, runs=runs, traces=traces, maps=frames, warnings=(f"one of {EVIL}",))


@pytest.fixture(scope="module")
def analysis():
    return whole_analysis()


@pytest.fixture(scope="module")
def address(analysis, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("svda_analysis.sections.analysis._pictures", lambda _: [])
        text = to_html(analysis_document(analysis, title=f"Of {EVIL}", command=f"svda-analyze {EVIL}"))
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(text, encoding="utf-8")
    return path.as_uri()


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def visit(browser, address):
    """Opens the page, offline; at the end nothing was complained about, and no dialog was opened."""
    complaints, opened = [], []

    def go(fragment="", **options):
        context = browser.new_context(offline=True, **options)
        page = context.new_page()
        page.set_default_timeout(60_000)
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("dialog", lambda dialog: (complaints.append(dialog.message), dialog.dismiss()))
        page.on("request", lambda request: complaints.append(request.url) if request.url[:4] == "http" else None)
        page.goto(address + fragment)
        page.wait_for_selector("#explorer[data-drawn]")
        opened.append(context)
        return page

    yield go
    for context in opened:
        context.close()
    assert complaints == []


def drawn(page, action):
    """What a click or a key changes is there when this returns."""
    before = page.get_attribute("#explorer", "data-drawn")
    action()
    page.wait_for_function("was => document.querySelector('#explorer').dataset.drawn !== was", arg=before)


def numbers(page, at=0):
    """The weights of the patches that a pane shows, as it writes them."""
    pane = page.locator(".pane").nth(at)
    pane.evaluate("pane => { pane.querySelector('details').open = true }")
    pane.locator("details td").first.wait_for()
    cells = pane.locator("details td").all_text_contents()
    return np.array([float(cell) for cell in cells]).reshape(GRID)


def patches(row):
    return np.asarray(row, dtype=np.float32)[PREFIX:].reshape(GRID)


def close(shown, rows):
    """The numbers are those of the rows (of several heads their mean) as they are written, to the three digits that are
    shown; writing moved no more than 1 % of a row's mass."""
    rows = np.asarray(rows, dtype=np.float32)
    written = unpack_rows(pack_rows(rows.reshape(-1, rows.shape[-1])))
    exact = rows.reshape(-1, rows.shape[-1])
    assert (np.abs(written - exact).sum(-1) / (2 * exact.sum(-1))).max() <= MOST_LOST
    expected = written.mean(0)[-GRID[0] * GRID[1] :].reshape(GRID)
    np.testing.assert_allclose(shown, expected, rtol=5.1e-3, atol=1e-5)


def slide(page, label, value):
    slider = page.locator("label", has_text=label).locator("input[type=range]")
    drawn(page, lambda: slider.evaluate("(x, to) => { x.value = to; x.dispatchEvent(new Event('input')) }", value))


def hover(page, row, column, at=0):
    stage = page.locator(".stage").nth(at)
    stage.scroll_into_view_if_needed()
    box = stage.bounding_box()
    page.mouse.move(box["x"] + (column + 0.5) * box["width"] / 5, box["y"] + (row + 0.5) * box["height"] / 4)
    page.evaluate("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")


def test_hovering_a_patch_shows_its_row_of_both_models(visit, analysis):
    page = visit()
    drawn(page, lambda: page.locator(".strip").first.get_by_label("Head 1").click())
    slide(page, "Layer", 1)
    hover(page, 2, 3)
    query = PREFIX + 2 * GRID[1] + 3
    for at, model in enumerate(("vit", EVIL)):
        row = analysis.examples[model].maps[0, 1, 1, query].astype(np.float32)
        close(numbers(page, at), row)
        said = page.locator(".readout").nth(at).text_content()
        assert said.startswith("patch at row 2, column 3 looks most at the patch at row ")
        entropy = -(row * np.log(row, where=row > 0, out=np.zeros_like(row))).sum()
        assert abs(float(re.search(r"Entropy ([\d.]+) nats", said)[1]) - entropy) < 0.02
    assert float(page.get_attribute("#explorer", "data-took")) < 16


def test_mean_heads_matched_heads_and_the_difference(visit, analysis):
    page = visit()
    vit, svda = (analysis.examples[name].maps.astype(np.float32) for name in ("vit", EVIL))
    close(numbers(page), vit[0, 2, :, 0])
    drawn(page, lambda: page.locator(".strip").first.get_by_label("Head 0").click())
    drawn(page, lambda: page.get_by_label("matched heads").click())
    close(numbers(page, 1), svda[0, 2, 1, 0])
    drawn(page, lambda: page.get_by_label("difference").click())
    expected = patches(vit[0, 2, 0, 0] - svda[0, 2, 1, 0])
    np.testing.assert_allclose(numbers(page, 2), expected, atol=0.02 * np.abs(expected).max())
    drawn(page, lambda: page.get_by_label("Show").select_option("rollout"))
    close(numbers(page), analysis.examples["vit"].rollout[0, 0])


def test_epochs_show_what_the_class_token_paid_then(visit, analysis):
    page = visit()
    slide(page, "Epoch", 1)
    trace = analysis.traces[EVIL]
    close(numbers(page, 1), trace.maps[1, 0, 2])
    assert page.locator(".readout").first.text_content() == "Nothing to show here."  # vit has no trace
    slide(page, "epoch", EPOCHS)
    close(numbers(page), analysis.examples["vit"].maps[0, 2, :, 0])


def test_the_address_holds_the_view_and_keys_move_it(visit, analysis):
    page = visit()
    stage = page.locator(".stage").first
    stage.focus()
    for key in ("ArrowDown", "ArrowRight", "-"):  # CLS to the first patch, the one beside it, a layer back
        drawn(page, lambda pressed=key: stage.press(pressed))
    drawn(page, lambda: page.get_by_label("Image 1").click())
    row = analysis.examples["vit"].maps[1, 1, :, PREFIX + 1]
    close(numbers(page), row)
    assert "patch at row 0, column 1 looks" in page.locator("#explorer > [aria-live]").text_content()
    again = visit(page.evaluate("location.hash"))
    close(numbers(again), row)


def test_a_cell_of_the_heat_map_opens_its_head(visit, analysis):
    page = visit()
    cell = page.locator("#heads .grid").nth(1).get_by_role("button", name="layer 0, head 1")
    drawn(page, cell.click)
    close(numbers(page), analysis.examples["vit"].maps[0, 0, 1, 0])


def test_tables_sort_and_filter(visit):
    page = visit()
    table = page.locator("table", has_text="Spectral entropy").first
    effect = table.locator("th").filter(has_text="Difference")
    effect.get_by_role("button").click()
    assert effect.get_attribute("aria-sort") == "ascending"
    at = table.locator("th").all_text_contents().index(effect.text_content())
    shown = table.locator(f"tbody td:nth-child({at + 1})").all_text_contents()
    values = [float(text.split()[0]) for text in shown if text != "-"]
    assert values == sorted(values)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_it_fits_telephone_and_screen_in_both_schemes(visit, scheme, width):
    page = visit(viewport={"width": width, "height": 800}, color_scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", colour))) < 200) == (scheme == "dark")
    axe = next((path for path in map(Path, _AXE) if path.exists()), None)
    if axe is None:
        pytest.skip("axe-core is not installed (axe-playwright-python)")
    page.evaluate(axe.read_text(encoding="utf-8"))
    found = page.evaluate("axe.run().then(found => found.violations)")
    serious = [(one["id"], one["nodes"][0]["html"][:120]) for one in found if one["impact"] in ("serious", "critical")]
    assert serious == []


_AXE = [f"{place}/axe_playwright_python/axe.min.js" for place in sys.path]


def test_the_view_is_saved_as_a_picture(visit, tmp_path):
    page = visit()
    for kind, start in (("PNG", b"\x89PNG"), ("SVG", b"<svg")):
        with page.expect_download() as download:
            page.get_by_role("button", name=f"Save {kind}").click()
        download.value.save_as(tmp_path / kind)
        assert (tmp_path / kind).read_bytes().startswith(start)
    assert EVIL not in (tmp_path / "SVG").read_text(encoding="utf-8")


def test_the_first_paint_is_soon(visit):
    page = visit()
    paint = page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime")
    assert paint < 1000
