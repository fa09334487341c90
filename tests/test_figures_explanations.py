"""Attributions over their images."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from svda_analysis import figures
from svda_analysis.errors import InputError
from svda_analysis.figures.explanations import relative_map


@dataclasses.dataclass
class Shown:
    """Two models and a map of each method, of images of noise."""

    maps: dict
    names: tuple = ("a", "b$_{$")
    signed: tuple = ("Saliency",)
    images: int = 2

    @property
    def labels(self):
        return list(self.maps)

    def pictures_of(self, name):
        return np.full((self.images, 8, 8, 1), 10 * self.names.index(name), np.uint8)

    def map_of(self, name, label):
        return None if (name, label) == ("a", "Saliency") else self.maps[label] * (1 + self.names.index(name))

    def captions_of(self, name):
        return [f"{name}\nshoe 90%"] * self.images

    def picture_names(self):
        return [f"image {at}" for at in range(self.images)]


def maps(*labels):
    rng = np.random.default_rng(0)
    return {label: rng.normal(size=(2, 8, 8)) for label in labels}


def test_rows_are_models_under_each_image_and_columns_methods():
    shown = Shown(maps("Rollout", "Saliency"))
    fig = figures.plot_explanations(shown)
    fig.draw_without_rendering()
    cells = [ax for ax in fig.axes if len(ax.images) == 2]
    assert len(cells) == 2 * 2 * 2 - 2  # a has no saliency
    assert [text.get_text() for ax in fig.axes for text in ax.texts] == ["not of\nthis model"] * 2
    first = cells[0].images[1]
    np.testing.assert_allclose(first.get_array(), relative_map(shown.maps["Rollout"][0]))
    assert first.get_clim() == (0, 1)
    assert [ax.images[1].get_clim() for ax in cells].count((-1, 1)) == 2
    assert cells[0].get_ylabel() == "a\nshoe 90%"
    assert cells[1].get_ylabel() == r"b\$_{\$" + "\nshoe 90%"
    bars = [ax for ax in fig.axes if ax.get_xlabel().startswith("relative to")]
    assert [[text.get_text() for text in ax.get_xticklabels()] for ax in bars] == [
        ["none", "much"],
        ["against", "for the class"],
    ]


def test_a_map_is_as_opaque_as_it_is_strong_and_its_outliers_hide_nothing():
    values = np.full((10, 10), 0.1)
    values[0, 0], values[0, 1] = 50.0, -1.0
    relative = relative_map(values)
    assert relative[0, 0] == 1
    assert 0.05 < relative[5, 5] < 0.15  # of the largest it would be 0.002
    assert (relative_map(np.zeros((4, 4))) == 0).all()
    fig = figures.plot_explanations(Shown({"Rollout": np.stack([values, values])}))
    drawn = next(ax for ax in fig.axes if len(ax.images) == 2).images[1]
    np.testing.assert_allclose(drawn.get_alpha(), 0.1 + 0.75 * np.abs(relative))


def test_more_than_four_methods_go_on_below():
    fig = figures.plot_explanations(Shown(maps(*(f"m{at}" for at in range(6)))))
    columns = {ax.get_subplotspec().colspan.start for ax in fig.axes if len(ax.images) == 2}
    assert columns == {1, 2, 3, 4}
    with pytest.raises(InputError, match="at least one method"):
        figures.plot_explanations(Shown({}))
