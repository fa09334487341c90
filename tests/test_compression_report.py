"""The report of compressions: files beside others, JSON, words, numbers."""

from __future__ import annotations

import dataclasses
import json
import math

import pytest
from compression_cases import a_run

from svda_analysis.compression.report import render_compression_again, write_compression
from svda_analysis.compression.run import compress_and_verify


def test_a_report_without_a_sweep_takes_the_figure_of_an_earlier_one_away(tmp_path):
    (tmp_path / "other.csv").write_text("mine")
    write_compression([a_run()], tmp_path)
    kinds = {f"compression.{kind}" for kind in ("csv", "html", "json", "md", "pdf", "png")}
    assert {path.name for path in tmp_path.iterdir()} == {*kinds, "other.csv"}
    write_compression([a_run(swept=False)], tmp_path)
    left = {f"compression.{kind}" for kind in ("html", "json", "md")}
    assert {path.name for path in tmp_path.iterdir()} == {*left, "other.csv"}


@pytest.mark.parametrize("swept", [True, False])
def test_a_report_is_written_again_byte_for_byte(swept, tmp_path):
    runs = [a_run(seed=seed, swept=swept, norm_logit=math.inf) for seed in (0, 1)] + [a_run("vit", None, swept=swept)]
    write_compression(runs, tmp_path, command="svda compress a b")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    for path in tmp_path.iterdir():
        if path.suffix not in (".json", ".csv"):
            path.unlink()
    written = render_compression_again(tmp_path)
    assert written[0] == tmp_path / "compression.md"
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_what_an_earlier_version_wrote_is_read_and_says_the_same(tmp_path):
    """It named no kind, no list of files and ten decimals; the sweep was there if its csv was."""
    runs = [a_run(seed=seed) for seed in (0, 1)]
    page = write_compression(runs, tmp_path)[0].read_text()
    content = json.loads((tmp_path / "compression.json").read_text())
    (tmp_path / "compression.json").write_text(json.dumps({key: content[key] for key in ("command", "runs")}))
    assert render_compression_again(tmp_path)[0].read_text() == page
    assert json.loads((tmp_path / "compression.json").read_text()) == content


def test_json_of_a_report_is_json(tiny, fashion, tmp_path):
    options = {"data_root": fashion, "test_images": 20, "sweep_images": 0}
    done = compress_and_verify(tiny["svda"], energy=0.5, norm_logit=math.inf, **options)
    write_compression([dataclasses.replace(done, meta={**done.meta, "nothing": [math.nan]})], tmp_path)

    def refuse(word):
        pytest.fail(f"{word} is not JSON")

    content = json.loads((tmp_path / "compression.json").read_text(), parse_constant=refuse)
    assert content["runs"][0]["norm_logit"] == "inf"
    assert content["runs"][0]["nothing"] == ["nan"]


def test_the_page_says_what_a_tolerance_led_to(tiny, fashion, tmp_path):
    options = {"data_root": fashion, "test_images": 20, "sweep_images": 0, "rank_images": 40, "held_out": 200}
    done = compress_and_verify(tiny["svda"], tolerance=0.1, **options)
    page = write_compression([done], tmp_path)[0].read_text()
    held = done.meta["held_out"]
    assert held["n"] == 200
    interval = f"[{100 * held['ci_low']:+.2f}, {100 * held['ci_high']:+.2f}]"
    assert "a tolerance of 10 points led to the threshold" in page
    assert f"on 200 held-out training images accuracy changes by {100 * held['change']:+.2f} points" in page
    assert interval in page
    assert "fine-tuning (criterion" not in page
