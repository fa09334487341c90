"""Sweeps, and the smallest model within a tolerance."""

from __future__ import annotations

import math

import numpy as np
import pytest
from torch.utils.data import Subset

from svda_analysis import plots
from svda_analysis.compression import search
from svda_analysis.compression.keep import Keep
from svda_analysis.compression.ranking import rank
from svda_analysis.compression.removal import build_smaller, kept_share, removed_shares, to_budget
from svda_analysis.compression.search import smallest, sweep
from svda_analysis.compression.tables import compression_table
from svda_analysis.compression.verification import (
    predictions,
)
from svda_analysis.data import load_dataset
from svda_analysis.errors import InputError
from svda_analysis.sources import open_feed
from svda_analysis.specs import open_model
from svda_analysis.stats import adjusted_wald


@pytest.fixture(scope="module")
def opened(tiny, fashion):
    subject = open_model(tiny["svda"])
    images = next(load_dataset("fashion_mnist", root=fashion, train=True).batches(24))[0]
    return subject, images, open_feed(None, subject, fashion)


def test_sweep_rows(opened):
    subject, images, source = opened
    options = {"energies": (0.5, 1.0), "criteria": ("operator", "random"), "keep": Keep(norm_logit=math.inf)}
    curve = sweep(subject, images, source, test_images=40, budgets=(0.01, 0.5), **options)
    assert list(curve["criterion"]) == ["operator"] * 3 + ["random"] * 2
    assert list(curve["budget"].dropna()) == [0.5]  # 1 % is less than one direction a head
    assert curve["rows_removed"][0] >= 0.5
    one = to_budget(subject.model, rank(subject, images), 0.5, norm_logit=math.inf)[1]
    assert curve["rows_removed"][0] == pytest.approx(removed_shares(one)["rows_removed"])
    assert list(compression_table(curve[:1]).columns[:2]) == ["Budget", "Directions removed"]
    curve = curve[1:].reset_index(drop=True)
    kept = curve[curve["energy"] == 1.0]
    assert (kept["masked_change"].abs() < 1e-9).all()
    assert (kept["directions_removed"] == 0).all()
    half = curve[curve["energy"] == 0.5]
    assert (half["directions_removed"] > 0.1).all()
    assert half["directions_removed"].iloc[0] == half["directions_removed"].iloc[1]  # the control keeps as many
    assert (half["parameters_change"] < 0).all()
    assert (half["macs_change"] < 0).all()
    known = curve["masked_low"].notna()
    assert (curve["masked_low"] <= curve["masked_change"])[known].all()
    assert (curve["masked_change"] == 0)[~known].all()  # no image flipped: no spread, no interval
    figure = plots.plot_compression({"svda": curve})
    lines = figure.axes[1].get_lines()
    np.testing.assert_allclose(sorted(lines[0].get_xdata()), sorted(100 * curve["rows_removed"][:2]))
    assert list(compression_table(curve)["Energy"]) == ["0.5", "1"] * 2
    control = curve["criterion"] == "random"
    figure = plots.plot_compression({"svda": curve.assign(removed_change=curve["removed_change"].mask(control, -0.5))})
    assert [text.get_text() for text in figure.axes[1].texts] == ["at random: below, \N{MINUS SIGN}50 at best"]
    with pytest.raises(InputError, match="budgets must lie in"):
        sweep(subject, images, source, budgets=(2.0,), energies=())
    with pytest.raises(InputError, match="no rows"):
        plots.plot_compression({"svda": curve[:0]})


def test_the_smallest_model_within_a_tolerance(opened, monkeypatch):
    """Of the models that the search tries it returns the one of fewest rows that passes; looser is smaller."""
    subject, images, source = opened
    found, kept = rank(subject, images), []
    guesses, labels = predictions(subject, source)
    right = guesses == labels
    for tolerance in (0.04, 0.12):
        tried = []

        def remember(*given, tried=tried, **options):
            tried.append(build_smaller(*given, **options))
            return tried[-1]

        with monkeypatch.context() as patch:
            patch.setattr(search, "build_smaller", remember)
            least, model, change = smallest(subject, found, source, tolerance=tolerance)
        assert len(tried) == 9  # steps + 1
        lows = []
        for one in tried:
            still = predictions(subject.like(one), source)[0] == labels
            lows.append(adjusted_wald(int((right & ~still).sum()), int((~right & still).sum()), len(labels))[0])
        passing = [one for one, low in zip(tried, lows, strict=True) if low >= -tolerance]
        assert min(lows) < -tolerance  # some were too small
        assert kept_share(model) == min(map(kept_share, passing))
        assert change.ci_low == pytest.approx(lows[tried.index(model)])
        assert least > 0
        kept.append(kept_share(model))
    assert kept[0] > kept[1]
    with pytest.raises(InputError, match="tolerance must lie"):
        smallest(subject, found, source, tolerance=0.0)
    with pytest.raises(InputError, match="tolerance must be given"):
        smallest(subject, found, source, energy=0.5)


def test_few_images_prove_no_tolerance(opened, fashion):
    """No image of 50 flips, and a point is still not excluded; with enough images the same model passes."""
    subject, images, _ = opened
    found = rank(subject, images)
    few, many = (open_feed(Subset(load_dataset("fashion_mnist", root=fashion, train=True), range(n)), subject)
                 for n in (50, 300))  # fmt: skip
    with pytest.raises(InputError, match=r"tolerance 0.01 cannot be met.* on 50 images is in \[-0.05"):
        smallest(subject, found, few, tolerance=0.01, norm_logit=0)
    assert smallest(subject, found, many, tolerance=0.01, norm_logit=0)[2].n == 300
