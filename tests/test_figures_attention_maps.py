"""Maps beside their images."""

from __future__ import annotations

import numpy as np
import pytest
from figure_frames import LAYERS, make_examples

from svda_analysis import figures
from svda_analysis.errors import InputError
from svda_analysis.results import Examples


def test_attention_maps_rows_are_models_and_columns_layers():
    examples = {"vit": make_examples(), "svda": make_examples(layers=2)}
    fig = figures.plot_attention_maps(examples, images=[1])
    first = [ax for ax in fig.axes if ax.get_title().startswith(("Layer", "mean"))]
    assert [ax.get_title() for ax in first] == ["Layer 0", "Layer 1", "Layer 2", "mean"]
    maps = examples["vit"].maps[1].astype(np.float64)
    paid = maps.mean(1)[:, 0, 1:].reshape(LAYERS, 2, 3)
    other = examples["svda"].maps[1].astype(np.float64).mean(1)[:, 0, 1:].reshape(2, 2, 3)
    beside = [*other, None, other.mean(0)]  # svda has no layer 2
    for ax, values, theirs in zip(first, [*paid, paid.mean(0)], beside, strict=True):
        largest = max(values.max(), 0 if theirs is None else theirs.max())  # one scale for each image and layer
        np.testing.assert_allclose(ax.images[0].get_array(), values / largest, rtol=1e-5)
        assert ax.images[0].get_clim() == (0, 1)
    labels = [ax.get_ylabel() for ax in fig.axes if "\n" in ax.get_ylabel()]
    assert labels == ["vit\ncat ✗", "svda\ncat ✗"]
    assert "of the largest in its image and layer" in fig.axes[-1].get_xlabel()
    assert "class token" in fig.axes[-1].get_xlabel()


def test_attention_maps_show_the_image_once_with_its_label():
    shown = make_examples(channels=3)
    fig = figures.plot_attention_maps({"vit": shown, "svda": shown})
    titles = [ax.get_title() for ax in fig.axes]
    assert titles.count("cat") == 1
    np.testing.assert_array_equal(fig.axes[titles.index("cat")].images[0].get_array(), shown.images[0])
    (long,) = [title for title in titles if title.startswith("a very")]
    assert long.endswith("…")


def test_attention_maps_without_class_token_average_the_queries():
    shown = make_examples(prefix=0)
    fig = figures.plot_attention_maps({"swin": shown}, images=[0])
    (ax,) = [ax for ax in fig.axes if ax.get_title() == "Layer 0"]
    values = shown.maps[0, 0].astype(np.float64).mean(0).mean(0).reshape(2, 3)
    np.testing.assert_allclose(ax.images[0].get_array(), values / values.max(), rtol=1e-5)
    assert "average token" in fig.axes[-1].get_xlabel()


def test_of_registers_without_a_class_token_the_average_is_drawn():
    shown = Examples(**{**vars(make_examples(prefix=2)), "class_token": 0})
    fig = figures.plot_attention_maps({"registers": shown}, images=[0])
    (ax,) = [ax for ax in fig.axes if ax.get_title() == "Layer 0"]
    values = shown.maps[0, 0].astype(np.float64).mean(0).mean(0)[2:].reshape(2, 3)
    np.testing.assert_allclose(ax.images[0].get_array(), values / values.max(), rtol=1e-5)
    assert "average token" in fig.axes[-1].get_xlabel()


def test_attention_maps_name_what_is_wrong():
    shown = make_examples()
    other = Examples(**{**vars(shown), "labels": np.array([1, 1])})
    with pytest.raises(InputError, match="at least one model"):
        figures.plot_attention_maps({})
    with pytest.raises(InputError, match=r"images must be indices in \[0, 2\), got \[2\]"):
        figures.plot_attention_maps({"vit": shown}, images=[2])
    with pytest.raises(InputError, match=r"same images.*svda"):
        figures.plot_attention_maps({"vit": shown, "svda": other})


def test_over_large_images_maps_are_transparent_where_there_is_little():
    shown = make_examples(channels=3)
    large = Examples(**{**vars(shown), "images": np.repeat(np.repeat(shown.images, 16, 1), 16, 2)})
    fig = figures.plot_attention_maps({"vit": large}, images=[0])
    (ax,) = [ax for ax in fig.axes if ax.get_title() == "Layer 0"]
    photograph, drawn = ax.images
    assert photograph.get_array().shape == large.images.shape[1:3]
    alpha, values = drawn.get_alpha(), np.asarray(drawn.get_array())
    assert alpha.max() == alpha[np.unravel_index(values.argmax(), values.shape)] == np.float32(0.85)


def test_of_many_layers_five_are_drawn_with_the_first_and_the_last():
    fig = figures.plot_attention_maps({"vit": make_examples(layers=12)}, images=[0])
    titles = [ax.get_title() for ax in fig.axes if ax.get_title().startswith("Layer")]
    assert (titles[0], titles[-1], len(titles)) == ("Layer 0", "Layer 11", 5)
