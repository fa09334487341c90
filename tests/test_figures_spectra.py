"""Spectra."""

from __future__ import annotations

import numpy as np
from figure_frames import DIM, LAYERS, line, make_spectra

from svda_analysis import figures


def test_spectra_are_shares_of_the_largest():
    spectra = make_spectra()
    fig = figures.plot_spectra(spectra, source="scores")
    assert [ax.get_title() for ax in fig.axes if ax.get_visible()] == [f"Layer {i}" for i in range(LAYERS)]
    rows = spectra[(spectra.model == "svda") & (spectra.layer == 1) & (spectra.source == "scores")]
    heads = rows.pivot_table(index="rank", columns=["seed", "head"], values="value").to_numpy(float)
    shares = heads / heads.max(0)
    drawn = line(fig.axes[1], "svda")
    np.testing.assert_array_equal(drawn.get_xdata(), range(1, DIM + 1))
    np.testing.assert_allclose(drawn.get_ydata(), np.median(shares, 1), rtol=1e-12)
    faint = [segment[:, 1] for segment in fig.axes[1].collections[1].get_segments()]
    np.testing.assert_allclose(faint, shares.T, rtol=1e-12)


def test_spectra_scale_follows_their_range():
    spectra = make_spectra(("svda",), 1)
    flat = spectra.assign(value=10.0 - 0.1 * spectra["rank"].astype(float))
    assert figures.plot_spectra(flat).axes[0].get_yscale() == "linear"
    steep = spectra.assign(value=10.0 ** -spectra["rank"].astype(float))
    ax = figures.plot_spectra(steep).axes[0]
    assert (ax.get_yscale(), ax.get_ylim()[0]) == ("log", 1e-3)
