"""Deletion and insertion against a loop written from the definition, the random control, and re-drawn weights."""

import copy

import numpy as np
import pytest
import torch
from scipy import ndimage, stats
from torch import nn

from svda_analysis.attribution import attribute
from svda_analysis.errors import InputError
from svda_analysis.faithful import faithfulness, randomisation_check
from svda_analysis.frames import TABLE_COLUMNS
from svda_analysis.model import ViT, ViTConfig
from svda_analysis.perturbation import deletion_insertion, infidelity, sensitivity_max
from svda_analysis.stats import mean_interval
from svda_analysis.vocabulary import quantity


def model_and_images(images=3, kind="dot"):
    torch.manual_seed(0)
    model = ViT(ViTConfig(attention=kind, image_size=12, in_channels=2, dim=24, depth=2, heads=2)).eval()
    nn.init.normal_(model.head.weight)  # a new head is zero, and gives every class the same probability
    for layer in model.attention_layers():
        nn.init.normal_(layer.qkv.weight, std=0.5)
    return model, torch.randn(images, 2, 12, 12)


class OnePatch(nn.Module):
    """The logit of class 0 is the sum over one 2 x 2 patch of a 4 x 6 image; that of class 1 is zero."""

    def __init__(self, patch):
        super().__init__()
        self.row, self.column = 2 * (patch // 3), 2 * (patch % 3)

    def forward(self, images):
        score = images[:, :, self.row : self.row + 2, self.column : self.column + 2].sum((1, 2, 3))
        return torch.stack([score, torch.zeros_like(score)], 1)


# --- the curves -----------------------------------------------------------------------------------------------------


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


@pytest.mark.parametrize("baseline", ["mean", "blur"])
@pytest.mark.parametrize("steps", [None, 1, 4, 9])
def test_areas_are_those_of_a_loop_over_images_and_steps(baseline, steps):
    model, images = model_and_images()
    model, images = model.double(), images.double()
    maps = torch.randn(3, 12, 12)
    targets = torch.tensor([4, 0, 7])
    found = deletion_insertion(model, images, maps, target=targets, baseline=baseline, steps=steps)
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


class Uneven(nn.Module):
    """Patches of 5 x 5 pixels of an image of 12 x 12: two pixels at the edge are in no token, but in the logit."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(2)
        self.embed = nn.Conv2d(1, 4, 5, stride=5)

    def forward(self, images):
        x = self.embed(images).flatten(2).mT[:, None]
        x = nn.functional.scaled_dot_product_attention(x, x, x).mean((1, 2))
        return x + images[:, :, 10:].mean((1, 2, 3))[:, None] * torch.arange(4.0)


def test_where_the_grid_does_not_divide_the_image_every_pixel_still_belongs_to_a_patch():
    model, images = Uneven(), torch.randn(2, 1, 12, 12)
    with torch.no_grad():
        ends = [model(x).softmax(-1)[:, 3].double() for x in (images, torch.zeros_like(images))]
    for area in deletion_insertion(model, images, torch.randn(2, 12, 12), target=3, steps=1):
        torch.testing.assert_close(area, sum(ends) / 2, rtol=0, atol=1e-6)
    faithful = faithfulness(model, images, methods=("cls_attention",))
    assert faithful[faithful["indicator"].str.endswith("_auc")]["mean"].between(0, 1).all()


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
        ({"baseline": "black"}, "baseline must be one of mean, blur, got 'black'"),
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
    assert set(table["source"]) == {"input_x_gradient", "random"}


# --- the table ------------------------------------------------------------------------------------------------------


def test_the_table_holds_the_mean_and_interval_of_each_method_and_the_control():
    model, images = model_and_images(images=5)
    seen = []
    table = faithfulness(
        model, images, methods=("rollout", "saliency"), batch_size=2, samples=4, progress=lambda *x: seen.append(x)
    )
    assert seen == [(2, 5), (4, 5), (5, 5)]
    assert dict(table.dtypes.astype(str)) == TABLE_COLUMNS
    of_all = {"deletion_auc", "insertion_auc", "infidelity"}
    of_methods = {*of_all, "deletion_gain", "insertion_gain", "sensitivity_max", "randomisation_correlation"}
    wanted_rows = {("random", x) for x in of_all} | {(name, x) for name in ("rollout", "saliency") for x in of_methods}
    assert set(zip(table["source"], table["indicator"], strict=True)) == wanted_rows
    assert len(table) == len(wanted_rows)
    assert table[["layer", "head"]].isna().all(axis=None)
    chance = table[table["source"] == "random"].set_index("indicator")["mean"]
    for name in ("rollout", "saliency"):
        maps = attribute(model, images, method=name)
        deletion, insertion = deletion_insertion(model, images, maps)
        values = {
            "deletion_auc": deletion,
            "insertion_auc": insertion,
            "infidelity": infidelity(model, images, maps, samples=4),
            "sensitivity_max": sensitivity_max(model, images, method=name, samples=4),
        }
        rows = table[table["source"] == name].set_index("indicator")
        for indicator, found in values.items():
            row = rows.loc[indicator]
            least, most = quantity(indicator).bounds()
            low, high = mean_interval(found.mean().item(), stats.sem(found.numpy()), 4, low=least, high=most)
            wanted = [found.mean().item(), found.numpy().std(ddof=1), low, high]
            assert row[["mean", "std", "ci_low", "ci_high"]].tolist() == pytest.approx(wanted, abs=1e-6)
            assert row["n"] == 5
        gains = rows.loc[["deletion_gain", "insertion_gain"], "mean"].tolist()
        wanted = [chance["deletion_auc"] - deletion.mean(), insertion.mean() - chance["insertion_auc"]]
        assert gains == pytest.approx([x.item() for x in wanted], abs=1e-6)
        check = randomisation_check(model, images, method=name).iloc[0]
        assert rows.loc["randomisation_correlation", "mean"] == pytest.approx(check["mean"], abs=1e-6)


def test_the_control_follows_its_seed_and_not_the_batches():
    model, images = model_and_images(images=5)
    runs = [faithfulness(model, images, methods=(), batch_size=size, seed=s) for size, s in ((2, 0), (5, 0), (5, 1))]
    assert all(run["source"].eq("random").all() and len(run) == 3 for run in runs)
    first, again, other = (run["mean"].to_numpy() for run in runs)
    np.testing.assert_allclose(first, again, atol=1e-6)
    assert np.abs(first - other).max() > 1e-4


def test_one_image_has_no_interval():
    model, images = model_and_images()
    table = faithfulness(model, images, methods=(), images=1)
    assert table[["std", "ci_low", "ci_high"]].isna().all(axis=None)
    assert (table["n"] == 1).all()


def test_a_checkpoint_brings_its_data_and_its_names(tiny, fashion):
    table = faithfulness(tiny["svda"], images=3, methods=("cls_attention",), steps=2, data_root=fashion)
    assert set(table["model"]) == {"svda_s0"}
    assert set(table["attention"]) == {"svda"}
    assert set(table["dataset"]) == {"fashion_mnist"}
    assert (table[["seed", "epoch", "n"]].to_numpy() == [0, 1, 3]).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"methods": ("rolout",)}, "methods must be names among rollout, .* got 'rolout'"),
        ({"methods": "rollout"}, "methods must be names"),
        ({"baseline": "black"}, "baseline must be one of"),
        ({"images": 0}, "images must be at least 1"),
        ({"batch_size": 0}, "batch_size must be a whole number"),
        ({"steps": 0}, "steps must be a whole number"),
        ({"samples": -1}, "samples must be a whole number"),
    ],
)
def test_bad_input_to_the_table_is_named(change, message):
    model, images = model_and_images()
    with pytest.raises(InputError, match=message):
        faithfulness(model, images, **change)


def test_the_draws_of_an_image_do_not_depend_on_the_batches():
    model, images = model_and_images(images=5)
    whole, parts = (
        faithfulness(model, images, batch_size=size, samples=3).set_index(["indicator", "source"])["mean"]
        for size in (5, 2)
    )
    np.testing.assert_allclose(whole, parts.loc[whole.index], atol=1e-5)


# --- infidelity and sensitivity -------------------------------------------------------------------------------------


class Sum(nn.Module):
    """Class 0 has probability 1/2 + the mean of the image / 8, a linear function."""

    def forward(self, images):
        p = 0.5 + images.mean((1, 2, 3)) / 8
        return torch.stack([p.log(), (1 - p).log()], 1)


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
        generator = torch.Generator().manual_seed(3 * 1_000_003 + 2 + i)
        taken = torch.rand(6, 3, 3, generator=generator) < 0.5
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
        generator = torch.Generator().manual_seed(3 * 1_000_003 + 2 + i)
        noise = (torch.rand(4, *image.shape, generator=generator) * 2 - 1) * 0.1
        still = attribute(model, image[None], method=method, target=target)
        moved = [attribute(model, (image + e)[None], method=method, target=target) for e in noise]
        wanted = max(((m - still).norm() / still.norm()).item() for m in moved)
        assert found[i].item() == pytest.approx(wanted, rel=1e-4)
        assert wanted > 1e-3


def test_what_is_random_elsewhere_stays_as_it_was():
    model, images = model_and_images()
    torch.manual_seed(5)
    wanted = torch.rand(3)
    torch.manual_seed(5)
    infidelity(model, images, torch.rand(3, 12, 12, generator=torch.Generator()))
    sensitivity_max(model, images, samples=2)
    assert torch.equal(torch.rand(3), wanted)


# --- other weights --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["dot", "svda"])
@pytest.mark.parametrize("method", ["rollout", "relevance"])
def test_re_drawn_weights_leave_the_model_as_it_was(kind, method):
    model, images = model_and_images(images=4, kind=kind)
    before = copy.deepcopy(model.state_dict())
    row = randomisation_check(model, images, method=method).iloc[0]
    after = model.state_dict()
    assert list(before) == list(after)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert (row["indicator"], row["source"], row["n"]) == ("randomisation_correlation", method, 4)
    assert -1 <= row["ci_low"] < row["mean"] < row["ci_high"]
    assert row["mean"] < 0.9


def test_the_correlation_is_spearmans_with_the_maps_of_the_permuted_weights():
    model, images = model_and_images(images=4)
    redrawn, generator = copy.deepcopy(model), torch.Generator().manual_seed(7)
    for parameter in redrawn.parameters():
        parameter.data = parameter.data.reshape(-1)[torch.randperm(parameter.numel(), generator=generator)].view(
            parameter.shape
        )
    maps = [attribute(each, images)[:, ::4, ::4].flatten(1) for each in (model, redrawn)]  # one pixel of each patch
    values = [stats.spearmanr(a, b).statistic for a, b in zip(*maps, strict=True)]
    row = randomisation_check(model, images, seed=7).iloc[0]
    assert row["mean"] == pytest.approx(np.mean(values), abs=1e-9)
    assert row["std"] == pytest.approx(np.std(values, ddof=1), abs=1e-9)


def test_constant_maps_have_no_correlation():
    model, images = model_and_images()
    nn.init.zeros_(model.head.weight)  # no logit depends on any map
    row = randomisation_check(model, images, method="relevance").iloc[0]
    assert row["n"] == 0
    assert np.isnan(row["mean"])


def test_an_unknown_method_is_named():
    model, images = model_and_images()
    with pytest.raises(InputError, match="got 'lime'"):
        randomisation_check(model, images, method="lime")
