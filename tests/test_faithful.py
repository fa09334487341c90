"""The table of faithfulness: means and intervals of each method and of the random control."""

import copy

import numpy as np
import pandas as pd
import pytest
import torch
import torchvision
from known_models import model_and_images
from scipy import stats
from teams import in_team
from torch import nn

from svda_analysis.analysis import analyze_runs
from svda_analysis.attribution import attribute
from svda_analysis.draws import draws_of_images
from svda_analysis.errors import InputError
from svda_analysis.faithful import (
    USUAL_METHODS,
    cascading_randomisation,
    faithfulness,
    methods_for,
    randomisation_check,
)
from svda_analysis.frames import TABLE_COLUMNS
from svda_analysis.metrics import METRICS
from svda_analysis.perturbation import deletion_insertion, infidelity, sensitivity_max
from svda_analysis.sources import open_feed
from svda_analysis.specs import open_model
from svda_analysis.stats import mean_interval
from svda_analysis.team import ALONE
from svda_analysis.vocabulary import quantity

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
    gains = {"deletion_gain", "insertion_gain", "normalised_deletion_gain", "normalised_insertion_gain"}
    of_rankings = {"deletion_auc", "insertion_auc", *gains, "class_contrast"}
    of_methods = {*of_all, *of_rankings, "sensitivity_max", "randomisation_correlation"}
    wanted_rows = {("random", x) for x in of_all} | {(name, x) for name in ("rollout", "saliency") for x in of_methods}
    wanted_rows |= {(name, x) for name in ("brightness", "centre") for x in of_rankings}
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
    runs = [
        faithfulness(model, images, methods=(), rankings=(), batch_size=size, seed=s)
        for size, s in ((2, 0), (5, 0), (5, 1))
    ]
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
    of_every_image = table[~table["indicator"].str.startswith("normalised_")]  # of these, where the class falls at all
    assert (of_every_image[["seed", "epoch", "n"]].to_numpy() == [0, 1, 3]).all()


def test_the_control_is_the_mean_over_draws_and_its_interval_holds_their_spread():
    """Against areas of each image under each draw: the spread over images is that of the images' means over draws."""
    model, images = model_and_images(images=4)
    table = faithfulness(model, images, methods=(), rankings=("centre",), samples=0, draws=3, seed=5, steps=None)
    drawn = []
    for what in ("ranking", "ranking 1", "ranking 2"):
        maps = draws_of_images(what, range(4), (3, 3), 5).repeat_interleave(4, 1).repeat_interleave(4, 2)
        drawn.append(deletion_insertion(model, images, maps)[0].numpy())
    middle = torch.tensor([[0.0, 1, 0], [1, 2, 1], [0, 1, 0]]).repeat_interleave(4, 0).repeat_interleave(4, 1)
    own = deletion_insertion(model, images, middle.expand(4, -1, -1))[0].numpy()
    for indicator, source, values in (
        ("deletion_auc", "random", np.mean(drawn, 0)),
        ("deletion_gain", "centre", np.mean(drawn, 0) - own),
    ):
        row = table[(table["indicator"] == indicator) & (table["source"] == source)].iloc[0]
        assert row["mean"] == pytest.approx(values.mean(), abs=1e-6)
        assert row["std"] == pytest.approx(values.std(ddof=1), abs=1e-6)
        assert row["n"] == 4


def test_groups_are_measured_when_asked_for(tiny, fashion):
    options = {"methods": ("cls_attention",), "rankings": (), "images": 2, "steps": 2, "draws": 1, "data_root": fashion}
    table = faithfulness(tiny["svda"], metrics=["fillers", "tokens", "cascade", "source"], **options)
    wanted = {name for name, one in METRICS.items() if one.group}
    assert set(table["indicator"]) == wanted
    shares = table["indicator"].str.startswith("source_")
    assert set(table["source"][shares]) == {"cls_attention", "random"}
    assert set(table["source"][~shares]) == {"cls_attention"}
    alone = faithfulness(tiny["svda"], metrics=["deletion_gain"], baseline="black", **options)
    (black,) = table["mean"][table["indicator"] == "deletion_gain_black"]  # pixels of a data set are known by name
    assert alone["mean"].tolist() == pytest.approx([black], abs=1e-9)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"methods": ("rolout",)}, "methods must be names among rollout, .* got 'rolout'"),
        ({"methods": "rolout"}, "methods must be names among rollout, .* got 'rolout'"),
        ({"baseline": "grey"}, "baseline must be one of"),
        ({"baseline": "black"}, "black needs the mean and deviation"),
        ({"metrics": ["fillers"]}, "black needs the mean and deviation"),
        ({"metrics": ["all"]}, "metrics must be among default, cascade, fillers, tokens, source, .*, got 'all'"),
        ({"rankings": ("corner",)}, "rankings must be names among brightness, centre, got 'corner'"),
        ({"rankings": "corner"}, "rankings must be names among brightness, centre, got 'corner'"),
        ({"draws": 0}, "draws must be a whole number"),
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


# --- models that cannot have every method ----------------------------------------------------------------------------


def in_stages():
    torch.manual_seed(0)
    return torchvision.models.SwinTransformer([4, 4], 12, [2, 2], [1, 2], [4, 4], num_classes=5).eval()


def test_a_model_in_stages_is_measured_by_what_gives_each_patch_a_value():
    model, images = in_stages(), torch.randn(2, 3, 32, 32)
    with pytest.warns(UserWarning, match=r"no faithfulness of rollout and relevance: .*have another grid") as said:
        table = faithfulness(model, images, samples=0, steps=4)
    assert len(said) == 1
    assert str(said[0].message).endswith("; input_x_gradient is measured beside the others")
    assert set(table["source"]) == {"cls_attention", "input_x_gradient", "brightness", "centre", "random"}
    maps = attribute(model, images, method="cls_attention")  # (2, 32, 32), of the 4 x 4 patches of the last stage
    deletion, _ = deletion_insertion(model, images, maps, steps=4)
    row = table[(table["source"] == "cls_attention") & (table["indicator"] == "deletion_auc")].iloc[0]
    assert row["mean"] == pytest.approx(deletion.mean().item(), abs=1e-6)
    with pytest.raises(InputError, match="rollout and relevance need the same tokens in every layer"):
        faithfulness(model, images, methods=("rollout",))


def test_a_head_of_zeros_leaves_out_the_methods_that_explain_it_alone():
    model, images = model_and_images()
    nn.init.zeros_(model.head.weight)
    result = analyze_runs([model], images, indicators=["attention_entropy"], faithfulness=2)
    assert {"rollout", "cls_attention", "random"} <= set(result.table["source"])
    assert not {"relevance", "input_x_gradient"} & set(result.table["source"])
    assert [line.partition(" is 0 everywhere")[0] for line in result.warnings] == [
        "ViT: no faithfulness of relevance: the gradient of ViT by its attention maps",
        "ViT: no faithfulness of input_x_gradient: the gradient of ViT by its pixels",
    ]


def test_a_model_that_can_have_all_methods_is_measured_by_the_usual_ones_without_a_word():
    model, images = model_and_images()
    assert methods_for(open_model(model), open_feed(images, open_model(model))) == (USUAL_METHODS, [])


# --- infidelity and sensitivity -------------------------------------------------------------------------------------


def test_what_is_random_elsewhere_stays_as_it_was():
    model, images = model_and_images()
    torch.manual_seed(5)
    wanted = torch.rand(3)
    torch.manual_seed(5)
    infidelity(model, images, torch.rand(3, 12, 12, generator=torch.Generator()))
    sensitivity_max(model, images, samples=2)
    assert torch.equal(torch.rand(3), wanted)


# --- other weights --------------------------------------------------------------------------------------------------


def test_the_cascade_goes_from_the_head_to_the_embedding_and_ends_where_all_is_redrawn():
    model, images = model_and_images()
    table = cascading_randomisation(model, images, method="relevance", seed=3)
    assert table["part"].tolist() == ["head", "block 1", "block 0", "embedding"]
    assert (table["indicator"] == "randomisation_correlation").all()
    check = randomisation_check(model, images, method="relevance", seed=3).iloc[0]
    columns = ["source", "mean", "std", "ci_low", "ci_high", "n"]
    assert table.iloc[-1][columns].tolist() == check[columns].tolist()
    assert table["mean"].is_unique
    attention = cascading_randomisation(model, images, method="cls_attention")
    assert attention["mean"].iloc[0] == pytest.approx(1)  # the head comes after every map


def test_an_unknown_method_is_named():
    model, images = model_and_images()
    with pytest.raises(InputError, match="got 'lime'"):
        randomisation_check(model, images, method="lime")


def test_several_processes_find_what_one_finds():
    model, images = model_and_images(images=7)

    def work(team):
        methods = {"methods": ("rollout", "saliency"), "metrics": ["default"], "samples": 3, "batch_size": 2}
        return faithfulness(copy.deepcopy(model), images, team=team, **methods)

    wanted = work(ALONE)
    relative = wanted["indicator"].str.startswith("normalised")  # a share of nothing is no number
    assert set(wanted.loc[~relative, "n"]) == {7}
    assert set(wanted.loc[relative, "n"]) <= {*range(1, 8)}
    for found in in_team(3, work):
        pd.testing.assert_frame_equal(found, wanted, rtol=1e-12)
