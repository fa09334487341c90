"""The table of faithfulness: means and intervals of each method and of the random control."""

import numpy as np
import pytest
import torch
from known_models import model_and_images
from scipy import stats

from svda_analysis.attribution import attribute
from svda_analysis.errors import InputError
from svda_analysis.faithful import faithfulness, randomisation_check
from svda_analysis.frames import TABLE_COLUMNS
from svda_analysis.perturbation import deletion_insertion, infidelity, sensitivity_max
from svda_analysis.stats import mean_interval
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


def test_an_unknown_method_is_named():
    model, images = model_and_images()
    with pytest.raises(InputError, match="got 'lime'"):
        randomisation_check(model, images, method="lime")
