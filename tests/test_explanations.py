"""Explanations a few images at a time, ``svda explain``, and reading images for a model."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from torch import nn

from svda_analysis.attribution import METHODS
from svda_analysis.cli import main
from svda_analysis.data import Preprocessing
from svda_analysis.errors import InputError
from svda_analysis.explanations import class_of, explain, explain_models
from svda_analysis.sources import open_images
from svda_analysis.specs import open_model


@pytest.mark.filterwarnings("ignore:'mode' parameter is deprecated:DeprecationWarning")  # of Pillow, in the fixture
def test_images_come_as_the_checkpoint_was_trained(tiny, pictures):
    subject = open_model(tiny["svda"])
    images, shown, files = open_images([pictures], subject)
    assert images.shape == (3, 1, 28, 28)
    assert shown.shape == (3, 28, 28, 1)
    assert [file[-5:] for file in files] == ["a.png", "b.png", "c.png"]
    pixels = np.asarray(Image.open(pictures / "a.png"), dtype=np.float64) / 255
    expected = (pixels - subject.data["mean"][0]) / subject.data["std"][0]
    np.testing.assert_allclose(images[0, 0], expected, atol=1e-5)
    with pytest.raises(InputError, match="no such file"):
        open_images([pictures / "none.png"], subject)


def test_images_go_through_the_model_a_few_at_a_time_and_without_gradients(pictures, tmp_path):
    class Watched(nn.Module):
        num_prefix_tokens = 0

        def __init__(self):
            super().__init__()
            self.weight, self.seen = nn.Parameter(torch.ones(3)), []

        def forward(self, x):
            self.seen.append((len(x), torch.is_grad_enabled()))
            q = (x * self.weight[:, None, None])[:, :, ::8, ::8].flatten(2).transpose(1, 2)[:, None]
            return nn.functional.scaled_dot_product_attention(q, q, q).mean((1, 2))

    many = tmp_path / "many"
    many.mkdir()
    for at in range(20):
        Image.new("RGB", (32, 32), (at, 2 * at, 3 * at)).save(many / f"{at:02d}.png")
    subject = open_model(Watched(), preprocessing=Preprocessing(image_size=32, resize=32))
    pages = list(explain(subject, [many], methods=["rollout"], batch_size=8))
    assert [len(page.files) for page in pages] == [8, 8, 4]
    assert max(size for size, _ in subject.model.seen) <= 8
    assert not any(graph for _, graph in subject.model.seen)
    alone = next(explain(subject, [many / "19.png"], methods=["rollout"]))
    np.testing.assert_allclose(pages[-1].maps["rollout"][-1], alone.maps["rollout"][0], atol=1e-6)
    with pytest.raises(InputError, match="method must be one of"):
        explain(subject, [many], methods=["rolout"])


class Headless(nn.Module):
    """Attends to the patches of a picture and returns features, as timm's models with ``num_classes=0`` do."""

    num_prefix_tokens = num_classes = 0

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))

    def forward(self, x):
        q = (x * self.weight[:, None, None])[:, :, ::8, ::8].flatten(2).transpose(1, 2)[:, None]
        return nn.functional.scaled_dot_product_attention(q, q, q).mean((1, 2))


def test_a_model_without_a_classifier_is_explained_by_what_needs_no_class(pictures):
    subject = open_model(Headless(), preprocessing=Preprocessing(image_size=32, resize=32))
    (page,) = explain(subject, [pictures])
    assert list(page.maps) == [name for name, method in METHODS.items() if not method.needs_target]
    of_classes = [name for name, method in METHODS.items() if method.needs_target]
    assert page.left_out == dict.fromkeys(of_classes, "has no classifier")
    assert (page.predictions == -1).all()
    assert page.captions[0] == "Headless"
    assert np.isnan(page.probabilities).all()
    for options in ({"methods": ["relevance"]}, {"target": 1}):
        with pytest.raises(InputError, match="features of Headless, which has no classifier"):
            next(explain(subject, [pictures], **options))


def test_the_command_says_what_it_leaves_out(pictures, tmp_path, capsys):
    spec = "timm:vit_tiny_patch16_224?num_classes=0&depth=1&img_size=32"
    pytest.importorskip("timm")
    with pytest.raises(SystemExit) as stopped:
        main(["explain", spec, str(pictures / "b.png"), "--out", str(tmp_path / "out")])
    assert stopped.value.code == 0
    assert "has no classifier: left out relevance, integrated_gradients, " in capsys.readouterr().err


def test_what_is_left_out_is_said_once(pictures, tmp_path, capsys, monkeypatch):
    pytest.importorskip("timm")
    monkeypatch.setattr("svda_analysis.cli.explain._ROWS", 1)
    spec = "timm:vit_tiny_patch16_224?num_classes=0&depth=1&img_size=32"
    with pytest.raises(SystemExit) as stopped:
        main(["explain", spec, str(pictures), "--out", str(tmp_path / "out")])
    assert stopped.value.code == 0
    assert capsys.readouterr().err.count("has no classifier") == 1


def small_swin():
    return torchvision.models.SwinTransformer([4, 4], 12, [2, 2], [1, 2], [4, 4], num_classes=5).eval()


def test_of_layers_that_are_no_stack_the_rest_is_drawn_and_what_is_not_is_said(pictures, tmp_path, capsys):
    spec, own = f"module:{__name__}:small_swin", {"image_size": 32}
    (page,) = explain(open_model(spec, preprocessing=own), [pictures])
    assert list(page.left_out) == ["rollout", "relevance"]
    assert list(page.maps) == [name for name in METHODS if name not in page.left_out]
    words = ["--preprocess", "image_size=32", "--out", str(tmp_path / "out")]
    with pytest.raises(SystemExit) as stop:
        main(["explain", spec, str(pictures), *words])
    assert not stop.value.code
    said = capsys.readouterr().err
    assert "is no unbroken stack of layers (2 layers have another grid" in said
    assert "): left out rollout, relevance" in said
    with pytest.raises(InputError, match="rollout and relevance need the same tokens in every layer"):
        next(explain(open_model(spec, preprocessing=own), [pictures], methods=["rollout"]))


MEASURE = """
import resource, sys
import torch
import svda_analysis as sa
from svda_analysis.explanations import class_of, explain, explain_models

class Attends(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.patch, self.qkv = torch.nn.Conv2d(3, 32, 8, 8), torch.nn.Linear(32, 96)
    def forward(self, x):
        t = self.patch(x).flatten(2).mT
        for _ in range(4):
            q, k, v = self.qkv(t).unflatten(-1, (3, 2, 16)).permute(2, 0, 3, 1, 4)
            t = t + torch.nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return t.mean(1)

subject = sa.open_model(Attends(), preprocessing={"image_size": 192})
for page in explain(subject, [sys.argv[1]], methods=["rollout", "relevance"], batch_size=4):
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


def test_memory_does_not_grow_with_the_number_of_images(tmp_path):
    """Of 576 tokens and 4 layers the maps of a page, with their gradients, take hundreds of megabytes."""
    for at in range(16):
        Image.new("RGB", (32, 32), (at, 2 * at, 3 * at)).save(tmp_path / f"{at:02d}.png")
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(tmp_path)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    peaks = [int(line) for line in done.stdout.split()]
    assert (done.returncode, len(peaks)) == (0, 4), done.stderr
    assert peaks[-1] - peaks[1] < 60  # megabytes, for 8 images more


@pytest.mark.filterwarnings("ignore:'mode' parameter is deprecated:DeprecationWarning")  # of Pillow, in the fixture
def test_one_image_and_one_method_need_no_list(tiny, pictures):
    one = str(min(pictures.iterdir()))
    (alone,) = explain(tiny["svda"], one, methods="rollout")
    (listed,) = explain(tiny["svda"], [one], methods=["rollout"])
    assert alone.files == listed.files == (one,)
    np.testing.assert_array_equal(alone.maps["rollout"], listed.maps["rollout"])
    (page,) = explain_models(str(tiny["svda"]), one, methods="rollout")
    np.testing.assert_array_equal(page.parts[0].maps["rollout"], listed.maps["rollout"])


def test_models_stand_side_by_side_with_their_predictions(tiny, pictures):
    models = [tiny["svda"], tiny["dot"], tiny["svda"]]
    (page,) = explain_models(models, [pictures], methods=["rollout", "saliency"])
    assert len(set(page.names)) == 3
    assert page.labels == ["Rollout", "Saliency"]
    alone = next(explain(tiny["dot"], [pictures], methods=["rollout"]))
    np.testing.assert_allclose(page.map_of(page.names[1], "Rollout"), alone.maps["rollout"])
    subject = open_model(tiny["dot"])
    with torch.no_grad():
        logits = subject.model(open_images([pictures], subject)[0]).double()
    np.testing.assert_allclose(alone.probabilities, logits.softmax(-1).max(-1).values, rtol=1e-5)
    arrays = page.arrays()
    np.testing.assert_array_equal(arrays[f"{page.names[1]}/rollout"], alone.maps["rollout"])
    assert list(arrays["files"]) == list(alone.files)


def test_a_class_has_a_number_or_a_name(tiny):
    subject = open_model(tiny["svda"])
    assert class_of(subject, "3") == class_of(subject, 3) == 3
    assert class_of(subject, subject.classes[2].upper()) == 2
    with pytest.raises(InputError, match=r"target must be a class of .*, like .*, got 'Shose'"):
        class_of(subject, "Shose")
    for text in ("--5", "9" * 23, "9" * 5000, "²"):
        with pytest.raises(InputError, match="target must be a class of"):
            class_of(subject, text)
    with pytest.raises(InputError, match="the number of a class, as Headless names none"):
        class_of(open_model(Headless(), preprocessing=Preprocessing(image_size=32, resize=32)), "shoe")


class Blind(nn.Module):
    """Attends, and answers the same whatever it sees."""

    num_prefix_tokens = 0

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2))

    def forward(self, x):
        q = x[:, :, ::8, ::8].flatten(2).transpose(1, 2)[:, None]
        nn.functional.scaled_dot_product_attention(q, q, q)
        return self.weight.expand(len(x), 2) + 0 * x.mean((1, 2, 3))[:, None]


def test_a_map_that_does_not_depend_on_the_image_is_said(pictures):
    subject = open_model(Blind(), preprocessing=Preprocessing(image_size=32, resize=32))
    with pytest.raises(InputError, match="gradient of Blind by its pixels is 0 everywhere: its output does not depend"):
        list(explain(subject, [pictures], methods=["rollout", "saliency"]))


def test_random_weights_are_said(pictures):
    (page,) = explain("svda:vit_tiny", [pictures], methods=["rollout"])
    assert page.warnings[0].endswith("has random weights: its maps say nothing of what a trained model looks at")
