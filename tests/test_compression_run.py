"""Compressing and verifying a checkpoint."""

from __future__ import annotations

import pytest

from svda_analysis.compression.run import compress_and_verify
from svda_analysis.errors import InputError


def test_test_images_are_at_least_one(tiny, fashion):
    with pytest.raises(InputError, match="test_images must be at least 1, got 0"):
        compress_and_verify(tiny["svda"], data_root=fashion, test_images=0)


def test_the_means_for_the_norm_are_told_apart(tiny, fashion):
    done = compress_and_verify(tiny["svda"], energy=0.5, data_root=fashion, test_images=20, sweep_images=0)
    removed = done.norms.set_index("kept")["rows_removed"]
    assert list(removed.index) == ["all rows (masked)", "norm rows and constant", "norm rows", "constant", "neither"]
    assert removed["all rows (masked)"] == 0
    assert removed["neither"] == removed["constant"] == pytest.approx(done.meta["directions_removed"])
    assert removed["norm rows and constant"] == pytest.approx(done.meta["rows_removed"])


def test_no_model_is_run_twice_on_the_test_images(tiny, fashion):
    """The whole model and each smaller one once: what was verified stands in the table of means for the norm too."""
    said = []
    options = {"energy": 0.5, "data_root": fashion, "test_images": 20, "progress": lambda *step: said.append(step)}
    done = compress_and_verify(tiny["svda"], **options)
    others = done.norms["kept"].tolist()
    assert said.count(("the whole model", 20, 20)) == 1
    assert said.count(("smaller models", 20, 20)) == len(others)
    verified = done.verification.set_index("quantity").loc["accuracy", "change"]
    assert done.norms.set_index("kept").loc["norm rows and constant", "change"] == pytest.approx(verified, abs=1e-12)
    assert done.curve.empty
