"""Files with stable bytes."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pytest
from figure_frames import make_table
from PIL import Image

from svda_analysis import figures
from svda_analysis.errors import InputError


def test_save_writes_the_same_bytes_again(tmp_path):
    def draw():
        return figures.plot_indicator_heatmaps(make_table(), indicator="attention_entropy")

    fig = draw()
    written = figures.save(fig, tmp_path / "a" / "b", "map")
    assert [path.name for path in written] == ["map.pdf", "map.png"]
    first = [path.read_bytes() for path in written]
    assert [path.read_bytes() for path in figures.save(fig, tmp_path, "map")] == first
    assert [path.read_bytes() for path in figures.save(draw(), tmp_path, "map")] == first
    assert b"CreationDate" not in first[0]
    with Image.open(written[1]) as image:
        assert image.size == (1400, 380)  # 7 x 1.9 inches at 200 dpi
        assert image.mode == "P"
        assert "Software" not in image.info
        assert image.convert("RGB").getpixel((0, 0)) == (255, 255, 255)


def test_save_keeps_the_colours_of_photographs(tmp_path):
    fig = plt.figure(figsize=(2, 2))
    fig.figimage(np.random.default_rng(0).integers(0, 256, (400, 400, 3), dtype=np.uint8))
    _, png = figures.save(fig, tmp_path, "photo")
    with Image.open(png) as image:
        assert image.mode == "RGB"


@pytest.mark.parametrize("name", ["", "../up", "a/b"])
def test_save_refuses_a_path_for_a_name(tmp_path, name):
    with pytest.raises(InputError, match="name must be a file name"):
        figures.save(plt.figure(), tmp_path, name)


def test_save_keeps_a_thumbnail_with_few_colours_true(tmp_path):
    fig, ax = plt.subplots()
    thumbnail = np.random.default_rng(0).integers(0, 256, (20, 20, 3), dtype=np.uint8)
    ax.imshow(thumbnail, interpolation="none")
    _, png = figures.save(fig, tmp_path, "thumbnail")
    with Image.open(png) as image:
        colors = {color for _, color in image.convert("RGB").getcolors(100_000)}
    assert {tuple(int(x) for x in color) for color in thumbnail.reshape(-1, 3)} <= colors


def test_few_colours_stay_and_many_become_near_ones(tmp_path):
    values = np.linspace(0, 1, 400 * 400).reshape(400, 400)
    for count, off in ((200, 0), (1000, 12)):
        fig, colors = plt.figure(figsize=(2, 2)), plt.get_cmap("viridis").resampled(count)
        fig.figimage(values, cmap=colors)
        with Image.open(figures.save(fig, tmp_path, "colours")[1]) as image:
            assert image.mode == "P"
            shown = np.asarray(image.convert("RGB"), int)
        assert np.abs(shown - colors(values, bytes=True)[..., :3]).max() <= off


def test_a_label_that_comes_after_a_save_finds_its_place(tmp_path):
    def written(*, early):
        fig, ax = plt.subplots()
        ax.plot([1000, 200_000])
        if early:
            figures.save(fig, tmp_path, "early")
        ax.set(xlabel="x", ylabel="y")
        return figures.save(fig, tmp_path, "late")[1].read_bytes()

    assert written(early=True) == written(early=False)
