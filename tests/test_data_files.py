"""Image files, and the folders that they lie in."""

from __future__ import annotations

import os

import numpy as np
import pytest
from making import pixels, write_folder, write_image
from PIL import Image

from svda_analysis.data.files import class_folders, list_images, open_image
from svda_analysis.errors import InputError


@pytest.mark.parametrize("mode", ["L", "1", "P", "RGBA", "CMYK", "LA", "YCbCr"])
def test_images_of_every_8_bit_mode_become_rgb(tmp_path, mode):
    suffix = {"CMYK": "tif", "YCbCr": "tif"}.get(mode, "png")
    write_image(tmp_path / f"x.{suffix}", mode=mode)
    image = open_image(tmp_path / f"x.{suffix}")
    assert (image.mode, image.size) == ("RGB", (40, 30))
    with Image.open(tmp_path / f"x.{suffix}") as original:
        assert original.mode == mode
        np.testing.assert_array_equal(image, original.convert("RGB"))


def test_palette_with_transparency_becomes_rgb_without_a_warning(tmp_path):
    image = Image.fromarray(pixels(8, 8)).convert("P")
    image.save(tmp_path / "x.png", transparency=bytes(range(256)))
    assert open_image(tmp_path / "x.png").mode == "RGB"


def test_an_image_is_upright_as_its_exif_says(tmp_path):
    upright = Image.fromarray(np.arange(6 * 4 * 3, dtype=np.uint8).reshape(6, 4, 3))
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned a quarter
    upright.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "x.png", exif=exif)
    assert np.array_equal(np.asarray(open_image(tmp_path / "x.png")), np.asarray(upright))


@pytest.mark.parametrize(("dtype", "mode"), [(np.uint16, "I;16"), (np.int32, "I"), (np.float32, "F")])
def test_deep_images_are_refused(tmp_path, dtype, mode):
    path = tmp_path / "deep" / "a" / "x.tif"
    path.parent.mkdir(parents=True)
    Image.fromarray(np.arange(64, dtype=dtype).reshape(8, 8) * 100).save(path)
    with pytest.raises(InputError, match=f"x.tif must have 8 bits a channel, got mode {mode}"):
        open_image(path)


def test_a_very_narrow_image_is_refused(tmp_path):
    write_image(tmp_path / "x.png", (5000, 2))
    with pytest.raises(InputError, match=r"x.png is too narrow: 5000 x 2"):
        open_image(tmp_path / "x.png")


def test_class_folders_are_sorted_as_numbers_where_all_are(tmp_path):
    for name in ("10", "2", "1", ".hidden"):
        (tmp_path / name).mkdir()
    (tmp_path / "file").touch()
    assert class_folders(tmp_path) == ["1", "2", "10"]
    (tmp_path / "b").mkdir()
    assert class_folders(tmp_path) == ["1", "10", "2", "b"]
    assert class_folders(tmp_path / "none") == []


def test_images_of_each_class_are_listed_in_order_and_links_to_folders_left_out(tmp_path):
    write_folder(tmp_path, classes=("ant", "cow"), each=2)
    (tmp_path / "ant" / "loop").symlink_to(tmp_path)
    (tmp_path / "cow" / "also.png").symlink_to(tmp_path / "ant" / "0.jpg")
    paths, labels = list_images(tmp_path, ["ant", "bee", "cow"])  # there is no bee
    assert [os.path.relpath(path, tmp_path) for path in paths] == [
        "ant/0.jpg", "ant/1.jpg", "cow/0.jpg", "cow/1.jpg", "cow/also.png",
    ]  # fmt: skip
    assert labels.tolist() == [0, 0, 2, 2, 2]
    with pytest.raises(InputError, match=f"no images in {tmp_path} "):
        list_images(tmp_path, ["bee"])
