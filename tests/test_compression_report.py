"""The report of compressions: files beside others, JSON, words, numbers."""

from __future__ import annotations

import dataclasses
import json
import math

import pytest

from svda_analysis.compression.report import write_compression
from svda_analysis.compression.run import compress_and_verify
from svda_analysis.compression.tables import verification_table


def test_a_report_without_a_sweep_takes_the_figure_of_an_earlier_one_away(tiny, fashion, tmp_path):
    done = compress_and_verify(tiny["dot"], energy=0.5, data_root=fashion, test_images=20, sweep_images=0)
    for name in ("compression.csv", "compression.pdf", "compression.png", "other.csv"):
        (tmp_path / name).write_text("of an earlier run")
    write_compression([done], tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        "compression.md",
        "compression.html",
        "compression.json",
        "other.csv",
    }


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


def test_numbers_of_the_table_read_well(tiny, fashion):
    done = compress_and_verify(tiny["dot"], energy=0.5, data_root=fashion, test_images=20, sweep_images=0)
    shown = verification_table([done]).set_index("Quantity")
    assert shown.loc["parameters", "Change"].startswith("x 0.")
    assert shown.loc["accuracy", "Before"].endswith("%")
    assert done.curve.empty
