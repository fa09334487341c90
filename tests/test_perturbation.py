"""Deletion, insertion, infidelity and sensitivity against loops written from the definitions."""

from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from known_models import OnePatch, Sum, Uneven, model_and_images
from scipy import ndimage
from torch import nn

from svda_analysis.attribution import attribute
from svda_analysis.data import Preprocessing
from svda_analysis.draws import draws_of_images
from svda_analysis.errors import InputError
from svda_analysis.faithful import faithfulness
from svda_analysis.perturbation import deletion_insertion, infidelity, sensitivity_max
from svda_analysis.specs import open_model


def areas_by_loops(model, images, maps, targets, baseline, steps, side):
    """One image, one step, one patch at a time."""
    found = []
    for image, pixels, target in zip(images, maps, targets, strict=True):
        columns = image.shape[-1] // side
        corners = [(r, c) for r in range(0, image.shape[-2], side) for c in range(0, image.shape[-1], side)]
        weights = [pixels[r : r + side, c : c + side].double().sum().item() for r, c in corners]
        order = sorted(range(len(corners)), key=lambda p: -weights[p])  # stable
        filler = torch.zeros_like(image)
        if baseline == "blur":
            blur = ndimage.gaussian_filter(image.numpy(), side, axes=(1, 2), mode="mirror", radius=2 * side)
            filler = torch.from_numpy(blur)
        if baseline == "black":
            filler = torch.tensor([-0.25 / 0.5, -0.5 / 2.0]).double()[:, None, None].expand_as(image)
        if baseline == "image_mean":
            filler = torch.stack([torch.full_like(channel, channel.mean()) for channel in image])
        areas = []
        for start, end in ((image, filler), (filler, image)):
            fractions, heights = [], []
            for step in range(steps + 1):
                count = int(step * len(corners) / steps + 0.5)
                mixed = start.clone()
                for patch in order[:count]:
                    r, c = side * (patch // columns), side * (patch % columns)
                    mixed[:, r : r + side, c : c + side] = end[:, r : r + side, c : c + side]
                with torch.no_grad():
                    heights.append(model(mixed[None]).softmax(-1)[0, target].item())
                fractions.append(count / len(corners))
            widths = np.diff(fractions)
            areas.append(sum(w * (a + b) / 2 for w, a, b in zip(widths, heights, heights[1:], strict=False)))
        found.append(areas)
    return torch.tensor(found, dtype=torch.float64).unbind(1)


@pytest.mark.parametrize("baseline", ["mean", "blur", "black", "image_mean"])
@pytest.mark.parametrize("steps", [None, 1, 4, 9])
def test_areas_are_those_of_a_loop_over_images_and_steps(baseline, steps):
    model, images = model_and_images()
    model, images = model.double(), 2 * images.double()
    maps = torch.randn(3, 12, 12)
    targets = torch.tensor([4, 0, 7])
    subject = open_model(model, preprocessing={"mean": (0.25, 0.5), "std": (0.5, 2.0)})
    found = deletion_insertion(subject, images, maps, target=targets, baseline=baseline, steps=steps)
    wanted = areas_by_loops(model, images, maps, targets, baseline, steps or 9, side=4)
    for ours, theirs in zip(found, wanted, strict=True):
        assert theirs.std() > 1e-3
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)


def test_without_a_target_the_prediction_is_explained():
    model, images = model_and_images()
    maps = torch.randn(3, 12, 12)
    found = deletion_insertion(model, images, maps)
    wanted = deletion_insertion(model, images, maps, target=model(images).argmax(-1))
    assert all(map(torch.equal, found, wanted))
    same = deletion_insertion(model, images, maps, target=3)
    assert all(map(torch.equal, same, deletion_insertion(model, images, maps, target=torch.full((3,), 3))))


@pytest.mark.parametrize("patch", range(6))
@pytest.mark.parametrize("place", [0, 2, 5])
def test_one_patch_that_counts_gives_the_known_curve(patch, place):
    images = torch.full((1, 1, 4, 6), 0.5)
    others = [p for p in range(6) if p != patch]
    order = [*others[:place], patch, *others[place:]]  # the patch that counts is the place-th to go
    weights = torch.empty(6)
    weights[order] = torch.arange(6.0, 0, -1)
    maps = weights.view(1, 2, 3).repeat_interleave(2, 1).repeat_interleave(2, 2)
    deletion, insertion = deletion_insertion(OnePatch(patch), images, maps, target=0, patch_size=2)
    seen = 1 / (1 + np.exp(-2.0))  # four pixels of 0.5; without the patch it is one half
    assert deletion.item() == pytest.approx(0.5 + (seen - 0.5) * (place + 0.5) / 6, abs=1e-6)
    assert insertion.item() == pytest.approx(0.5 + (seen - 0.5) * (5.5 - place) / 6, abs=1e-6)


@pytest.mark.parametrize("patch", range(6))
def test_patches_of_equal_weight_go_in_reading_order(patch):
    images, maps = torch.full((1, 1, 4, 6), 0.5), torch.full((1, 4, 6), 0.3)
    deletion, _insertion = deletion_insertion(OnePatch(patch), images, maps, target=0, patch_size=2)
    seen = 1 / (1 + np.exp(-2.0))
    assert deletion.item() == pytest.approx(0.5 + (seen - 0.5) * (patch + 0.5) / 6, abs=1e-6)


def test_the_batch_size_and_the_other_images_change_nothing():
    model, images = model_and_images(images=4)
    maps = torch.randn(4, 12, 12)
    whole = deletion_insertion(model, images, maps)
    for size in (1, 7, 1000):
        for ours, theirs in zip(deletion_insertion(model, images, maps, batch_size=size), whole, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)
    for ours, theirs in zip(deletion_insertion(model, images[2:3], maps[2:3]), whole, strict=True):
        torch.testing.assert_close(ours, theirs[2:3], rtol=0, atol=1e-6)


def test_areas_lie_between_0_and_1_even_where_the_model_is_sure():
    torch.manual_seed(1)
    images = torch.cat([torch.full((2, 1, 4, 6), 1e4), torch.randn(6, 1, 4, 6) * 100])
    for baseline in ("mean", "blur"):
        for area in deletion_insertion(
            OnePatch(1), images, torch.randn(8, 4, 6), target=0, baseline=baseline, patch_size=2
        ):
            assert area.dtype == torch.float64
            assert area.shape == (8,)
            assert ((area >= 0) & (area <= 1)).all()


def test_rounding_does_not_carry_an_area_past_1():
    class Sure(nn.Module):
        def forward(self, images):
            return torch.tensor([[1e4, 0.0]]).expand(len(images), -1)

    images = torch.zeros(1, 1, 2, 116)  # 58 patches: the sum of as many 58ths passes 1 in float64
    for area in deletion_insertion(Sure(), images, images[:, 0], patch_size=2):
        assert area.item() == 1


def test_the_grid_of_the_tokens_is_that_of_the_patch_size():
    model, images = model_and_images()
    maps = torch.randn(3, 12, 12)
    assert all(
        map(torch.equal, deletion_insertion(model, images, maps), deletion_insertion(model, images, maps, patch_size=4))
    )


def test_where_the_grid_does_not_divide_the_image_every_pixel_still_belongs_to_a_patch():
    model, images = Uneven(), torch.randn(2, 1, 12, 12)
    with torch.no_grad():
        ends = [model(x).softmax(-1)[:, 3].double() for x in (images, torch.zeros_like(images))]
    for area in deletion_insertion(model, images, torch.randn(2, 12, 12), target=3, steps=1):
        torch.testing.assert_close(area, sum(ends) / 2, rtol=0, atol=1e-6)
    faithful = faithfulness(model, images, methods=("cls_attention",))
    assert faithful[faithful["indicator"].str.endswith("_auc")]["mean"].between(0, 1).all()


def test_the_blur_is_as_wide_as_a_patch_where_the_grid_does_not_divide_the_image():
    model, image = Uneven(), torch.randn(1, 1, 12, 12)
    blurred = ndimage.gaussian_filter(image.numpy(), 5, axes=(2, 3), mode="mirror", radius=10)
    with torch.no_grad():
        ends = [model(x).softmax(-1)[0, 3].item() for x in (image, torch.from_numpy(blurred))]
    found, _ = deletion_insertion(model, image, torch.randn(1, 12, 12), target=3, baseline="blur", steps=1)
    assert found.item() == pytest.approx(sum(ends) / 2, abs=1e-6)


def test_a_patch_at_the_edge_has_no_weight_from_its_pixels():
    model, image = Uneven(), torch.randn(1, 1, 12, 12)
    maps = torch.tensor([[0.4, 0.5], [0.4, 0.3]]).repeat_interleave(torch.tensor([5, 7]), 0)
    maps = maps.repeat_interleave(torch.tensor([5, 7]), 1)[None]  # patches of 25, 35, 35 and 49 pixels
    left, heights = image.clone(), []
    for row, column in ((0, 1), (0, 0), (1, 0), (1, 1), (None, None)):
        with torch.no_grad():
            heights.append(model(left).softmax(-1)[0, 3].item())
        if row is not None:
            left[:, :, 5 * row : 5 + 7 * row, 5 * column : 5 + 7 * column] = 0
    wanted = sum(a + b for a, b in pairwise(heights)) / 8  # trapezoids of width 1/4
    found, _ = deletion_insertion(model, image, maps, target=3)
    assert found.item() == pytest.approx(wanted, abs=1e-6)


def test_the_model_is_as_before():
    model, images = model_and_images()
    model.train()
    kept = images.clone()
    deletion_insertion(model, images, torch.randn(3, 12, 12))
    assert all(module.training for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.equal(images, kept)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"baseline": "grey"}, "baseline must be one of mean, blur, black, image_mean, tokens, got 'grey'"),
        ({"target": 10}, "target must lie in 0..9"),
        ({"target": torch.tensor([0, -1, 2])}, "target must lie in 0..9"),
        ({"target": torch.tensor([0.0, 1.0, 2.0])}, "target must be a class number"),
        ({"target": torch.tensor([0, 1])}, "target must be a class number"),
        ({"target": "cat"}, "target must be a class number"),
        ({"steps": 0}, r"steps must be a whole number in 1\.\.9"),
        ({"steps": 10}, r"steps must be a whole number in 1\.\.9"),
        ({"patch_size": 5}, "patch_size must divide"),
        ({"patch_size": 0}, "patch_size must be a whole number"),
        ({"batch_size": 0}, "batch_size must be a whole number"),
        ({"maps": torch.zeros(3, 3, 3)}, "maps must be"),
        ({"maps": torch.full((3, 12, 12), float("nan"))}, "maps must be finite"),
        ({"images": torch.zeros(2, 12, 12)}, "images must be float"),
    ],
)
def test_bad_input_is_named(change, message):
    model, images = model_and_images()
    given = {"images": images, "maps": torch.zeros(3, 12, 12), **change}
    with pytest.raises(InputError, match=message):
        deletion_insertion(model, **given)


def test_a_model_without_attention_needs_a_patch_size():
    images = torch.ones(2, 1, 4, 6)
    with pytest.raises(InputError, match="attention"):
        deletion_insertion(OnePatch(0), images, torch.zeros(2, 4, 6))
    table = faithfulness(OnePatch(0), images, methods=("input_x_gradient",), patch_size=2)
    assert set(table["source"]) == {"input_x_gradient", "brightness", "centre", "random"}


def test_the_draws_of_an_image_do_not_depend_on_the_batches():
    model, images = model_and_images(images=5)
    whole, parts = (
        faithfulness(model, images, batch_size=size, samples=3).set_index(["indicator", "source"])["mean"]
        for size in (5, 2)
    )
    np.testing.assert_allclose(whole, parts.loc[whole.index], atol=1e-5)


def test_the_map_of_a_linear_model_has_no_infidelity_at_any_scale():
    torch.manual_seed(0)
    images = torch.rand(3, 2, 4, 6, dtype=torch.float64)
    for scale in (1.0, -30.0):
        found = infidelity(Sum(), images, scale * images.mean(1), target=0, patch_size=2)
        torch.testing.assert_close(found, torch.zeros(3, dtype=torch.float64), rtol=0, atol=1e-12)
    assert (infidelity(Sum(), images, torch.rand(3, 4, 6), target=0, patch_size=2) > 1e-8).all()


def test_infidelity_is_that_of_a_loop_over_images_and_draws():
    model, images = model_and_images()
    model, images = model.double(), images.double()
    maps, targets = torch.randn(3, 12, 12).double(), [4, 0, 7]
    found = infidelity(model, images, maps, target=torch.tensor(targets), samples=6, seed=3, first=2)
    for i, target in enumerate(targets):
        taken = draws_of_images("patches", range(2, 5), (6, 3, 3), seed=3)[i] < 0.5
        sums, falls = [], []
        for patches in taken:
            z = patches.repeat_interleave(4, 0).repeat_interleave(4, 1)
            with torch.no_grad():
                before, after = (model(x[None]).softmax(-1)[0, target] for x in (images[i], images[i] * ~z))
            sums.append((maps[i] * z).sum().item())
            falls.append((before - after).item())
        beta = np.dot(sums, falls) / np.dot(sums, sums)
        assert found[i].item() == pytest.approx(np.mean((beta * np.array(sums) - falls) ** 2), rel=1e-6)


@pytest.mark.parametrize("method", ["rollout", "saliency"])
def test_sensitivity_is_that_of_a_loop_over_images_and_draws(method):
    model, images = model_and_images()
    model, images = model.double(), images.double()
    found = sensitivity_max(model, images, method=method, samples=4, radius=0.1, seed=3, first=2)
    for i, image in enumerate(images):
        target = int(model(image[None]).argmax())
        noise = (draws_of_images("noise", range(2, 5), (4, *image.shape), seed=3)[i] * 2 - 1) * 0.1
        still = attribute(model, image[None], method=method, target=target)
        moved = [attribute(model, (image + e)[None], method=method, target=target) for e in noise]
        wanted = max(((m - still).norm() / still.norm()).item() for m in moved)
        assert found[i].item() == pytest.approx(wanted, rel=1e-4)
        assert wanted > 1e-3


def test_the_noise_of_sensitivity_leaves_no_picture_brighter_than_white():
    model, images = model_and_images()
    seen = []
    model.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    white = (1 - 0.25) / 0.5
    images = torch.full_like(images, white)
    images[0] = white + 0.5  # what was given brighter stays as bright
    subject = open_model(model, preprocessing=Preprocessing(mean=(0.25,), std=(0.5,)))
    assert bool((sensitivity_max(subject, images, samples=3, radius=0.2) > 0).all())
    assert max(x[-1].max().item() for x in seen) == pytest.approx(white)
    assert max(x.max().item() for x in seen) == pytest.approx(white + 0.5)
    assert min(x.min().item() for x in seen) < white - 0.1
    sensitivity_max(model, images, samples=3, radius=0.2)  # nothing is known of its pixels
    assert max(x.max().item() for x in seen) > white + 0.6


def test_features_are_no_probabilities():
    model, images = model_and_images()
    model.num_classes = 0  # as timm says that there is no classifier
    maps = torch.rand(3, 12, 12)
    for measure in (
        lambda: deletion_insertion(model, images, maps),
        lambda: infidelity(model, images, maps),
        lambda: sensitivity_max(model, images),
    ):
        with pytest.raises(InputError, match="features of ViT, which has no classifier"):
            measure()


class OneOutput(nn.Module):
    """The logit of a sigmoid, alone or beside a zero."""

    def __init__(self, pack, **config):
        super().__init__()
        self.pack, self.config = pack, SimpleNamespace(**config)

    def forward(self, images):
        return self.pack(images[:, 0].sum((1, 2))[:, None])


def test_one_output_is_a_sigmoid_where_the_model_says_so_and_refused_elsewhere():
    images, maps = torch.randn(3, 1, 4, 6), torch.rand(3, 4, 6)
    told = OneOutput(lambda z: z, problem_type="multi_label_classification")
    pair = OneOutput(lambda z: torch.cat([torch.zeros_like(z), z], 1))
    for found, wanted in zip(
        deletion_insertion(told, images, maps, target=0, patch_size=2),
        deletion_insertion(pair, images, maps, target=1, patch_size=2),
        strict=True,
    ):
        torch.testing.assert_close(found, wanted)
    for model in (OneOutput(lambda z: z), OneOutput(lambda z: z, problem_type="regression")):
        for measure in (deletion_insertion, infidelity):
            with pytest.raises(InputError, match="needs probabilities, and OneOutput has one output: of a sigmoid's"):
                measure(model, images, maps, patch_size=2)
