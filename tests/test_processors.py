"""Pictures brought to models as their own processors do it: said in our words, or run."""

import numpy as np
import pytest
import torch
from making import write_image
from PIL import Image

from svda_analysis.data import Preprocessing
from svda_analysis.errors import InputError
from svda_analysis.processors import Processor, processed, proved
from svda_analysis.sources import open_images
from svda_analysis.subject import Subject

HALF = {"image_mean": [0.5] * 3, "image_std": [0.25] * 3}
transformers = pytest.importorskip("transformers", reason="transformers is optional")


def picture(width, height):
    y, x = np.mgrid[0:height, 0:width]
    return Image.fromarray(np.stack([255 * x / width, 255 * y / height, 120 + 0 * x], -1).astype(np.uint8))


def open_with(way, path, channels=3):
    model = torch.nn.Conv2d(channels, 1, 4, 4)
    return open_images([path], Subject(model=model, name="x", preprocessing=way))


@pytest.mark.parametrize(
    "settings",
    [
        {"size": {"height": 32, "width": 32}},
        {"size": {"height": 32, "width": 64}},
        {"size": {"height": 32, "width": 32}, "do_normalize": False},
        {"size": {"height": 32, "width": 32}, "do_normalize": False, "do_rescale": False},
        {"size": {"height": 32, "width": 32}, "do_rescale": False},
        {"size": {"height": 32, "width": 32}, "rescale_factor": 1 / 127.5},
        {"size": {"height": 32, "width": 32}, "resample": 3, **HALF},
    ],
)
def test_what_a_processor_does_is_said_and_done(tmp_path, settings):
    processor = transformers.ViTImageProcessor(**settings)
    way = processed(processor, 3)
    assert way.processor is None
    for at, size in enumerate(((96, 48), (40, 90))):
        picture(*size).save(tmp_path / f"{at}.png")
        wanted = processor(Image.open(tmp_path / f"{at}.png"), return_tensors="pt")["pixel_values"].float()
        got = open_with(way, tmp_path / f"{at}.png")[0]
        assert float((got - wanted).abs().mean()) < 0.03 * float(wanted.std())


def test_shorter_sides_that_are_cut_are_said(tmp_path):
    size = {"size": {"shortest_edge": 40}, "crop_size": {"height": 32, "width": 32}}
    way = processed(transformers.CLIPImageProcessor(**size), 3)
    assert (way.image_size, way.resize, way.interpolation) == (32, 40, "bicubic")
    assert str(way).startswith("32 x 32 from a shorter side of 40 (bicubic), mean (0.48")
    squashed = processed(transformers.ViTImageProcessor(size={"height": 32, "width": 64}), 3)
    assert str(squashed) == "both sides brought to 32 x 64 (bilinear), mean (0.5, 0.5, 0.5), std (0.5, 0.5, 0.5)"


def test_a_way_to_resize_that_is_not_ours_is_run_itself():
    """A Lanczos window is near a bilinear one on smooth pictures, and yet it is another."""
    way = processed(transformers.ViTImageProcessor(size={"height": 32, "width": 32}, resample=1), 3)
    assert str(way) == "as ViTImageProcessor does it"


def test_a_processor_that_fails_says_what_takes_its_place(tmp_path):
    write_image(tmp_path / "a.png", (50, 40))
    way = processed(transformers.ViTImageProcessor(size={"height": 32, "width": 32}), 1)  # RGB for a grey model
    with pytest.raises(
        InputError, match=r"fails on a picture \(--preprocess image_size=, mean= and std= take its place"
    ):
        open_with(way, tmp_path / "a.png", channels=1)


class Flipped:
    """A processor that does what its settings do not say."""

    def to_dict(self):
        return {"size": {"height": 32, "width": 32}, **HALF}

    def __call__(self, image, return_tensors):
        small = np.asarray(image.resize((32, 32)), dtype=np.float32)[:, :, ::-1] / 255
        return {"pixel_values": [(small.transpose(2, 0, 1) - 0.5) / 0.25]}


def test_a_processor_that_does_more_is_run_itself(tmp_path):
    write_image(tmp_path / "a.png", (50, 40))
    way = processed(Flipped(), 3)
    assert str(way) == "as Flipped does it"
    images, pictures, _ = open_with(way, tmp_path / "a.png")
    wanted = Flipped()(Image.open(tmp_path / "a.png"), "pt")["pixel_values"][0]
    torch.testing.assert_close(images[0], torch.tensor(wanted))
    assert (pictures.shape, pictures.dtype) == ((1, 32, 32, 3), np.uint8)


def test_a_grey_processor_gets_grey(tmp_path):
    settings = {"size": {"height": 32, "width": 32}, "image_mean": [0.5], "image_std": [0.5]}
    way = processed(transformers.ViTImageProcessor(**settings), 1)
    picture(48, 40).save(tmp_path / "a.png")
    images, pictures, _ = open_with(way, tmp_path / "a.png", channels=1)
    assert (images.shape, pictures.shape) == ((1, 1, 32, 32), (1, 32, 32, 1))
    grey = np.asarray(Image.open(tmp_path / "a.png").convert("L").resize((32, 32), Image.Resampling.BILINEAR))
    assert float((images[0, 0] - (torch.tensor(grey) / 255 - 0.5) / 0.5).abs().mean()) < 0.02


def test_what_is_told_must_be_proved():
    told = Preprocessing(image_size=8, resize=8, mean=(0.0,) * 3, std=(1.0,) * 3)

    def zeros(_):
        return torch.zeros(3, 8, 8)

    assert proved(told, Processor("zeros", zeros), 3).processor is not None
