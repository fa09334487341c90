"""Image files, and the folders that they lie in."""

from __future__ import annotations

import os
import subprocess

import numpy as np
import PIL
import pytest
from making import pixels, write_folder, write_image
from PIL import Image

from svda_analysis.data import load_dataset
from svda_analysis.data.files import class_folders, list_images, open_image
from svda_analysis.errors import InputError


@pytest.mark.parametrize("mode", ["L", "1", "P", "RGBA", "CMYK", "LA", "YCbCr"])
def test_images_of_every_8_bit_mode_become_rgb(tmp_path, mode):
    if mode == "YCbCr" and int(PIL.__version__.split(".")[0]) < 13:
        pytest.skip("Pillow did not read such a TIFF of its own")
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


# --- files that are no images, whatever they are called ---------------------------------------------------------------


def test_a_file_of_postscript_called_png_starts_no_program(tmp_path, monkeypatch):
    page = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n0 0 8 8 rectfill\nshowpage\n%%EOF\n"
    (tmp_path / "page.png").write_bytes(page)
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: pytest.fail("a program was started"))
    with pytest.raises(InputError, match=r"page.png is not a readable image: cannot identify"):
        open_image(tmp_path / "page.png")


def test_a_pipe_among_images_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.png")
    with pytest.raises(InputError, match="is a pipe, a socket or a device"):
        open_image(tmp_path / "a.png")
    write_folder(tmp_path / "in", classes=("ant",), each=1)
    (tmp_path / "in" / "ant" / "link.png").symlink_to(tmp_path / "a.png")
    data = load_dataset(f"imagefolder:{tmp_path / 'in'}", image_size=16)
    with pytest.raises(InputError, match="is a pipe"):
        list(data.batches(4, workers=0))


def test_an_image_that_grows_is_refused_before_its_pixels_are_read(tmp_path):
    Image.new("1", (2**13, 8200)).save(tmp_path / "large.png")
    assert (tmp_path / "large.png").stat().st_size < 10**5
    with pytest.raises(InputError, match="must have at most 67,108,864 pixels, got 8192 x 8200"):
        open_image(tmp_path / "large.png")


def test_a_class_whose_name_cannot_be_shown_is_refused(tmp_path):
    write_folder(tmp_path, classes=("ant",), each=1)
    os.rename(tmp_path / "ant", os.fsencode(tmp_path) + b"/a\xffnt")
    with pytest.raises(InputError, match=r"the name of a class in .* must be valid UTF-8, got 'a\\\\xffnt': rename it"):
        load_dataset(f"imagefolder:{tmp_path}")
