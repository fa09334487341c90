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
