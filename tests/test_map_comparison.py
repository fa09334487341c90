"""Comparing the attention maps of two models on the same images, from Python and from the command line."""

import copy
import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch
from teams import in_team
from torch import nn

from svda_analysis import plots
from svda_analysis.checkpoint import Checkpoint
from svda_analysis.cli import analyze_main
from svda_analysis.errors import InputError
from svda_analysis.map_comparison import compare_maps, compare_run_maps
from svda_analysis.matching import MapBatch, MapComparison
from svda_analysis.model import ViT, ViTConfig
from svda_analysis.sources import open_feed
from svda_analysis.subject import Subject
from svda_analysis.tap import records
from svda_analysis.team import ALONE


def a_model(seed, **changes):
    torch.manual_seed(seed)
    model = ViT(ViTConfig(**{"dim": 24, "depth": 2, "heads": 3, **changes})).eval()
    for attention in model.attention_layers():
        nn.init.normal_(attention.qkv.weight, std=0.5)  # heads that differ
    return model


def permuted(model, order):
    """The same function with its heads in another order."""
    other = a_model(0)
    other.load_state_dict(model.state_dict())
    for attention in other.attention_layers():
        with torch.no_grad():
            for weight in (attention.qkv.weight, attention.qkv.bias):
                weight.copy_(weight.unflatten(0, (3, 3, 8))[:, order].flatten(0, 2))
            attention.proj.weight.copy_(attention.proj.weight.unflatten(1, (3, 8))[:, order].flatten(1))
    return other


@pytest.fixture(scope="module")
def images():
    return torch.randn(24, 1, 28, 28, generator=torch.Generator().manual_seed(0))


def test_a_copy_with_its_heads_in_another_order_is_recognised(images):
    model = a_model(1)
    found = compare_maps(permuted(model, [2, 0, 1]), model, images, images=24, batch_size=10)
    heads = found["heads"].query("measure == 'js' and images == 'same'")
    assert dict(zip(heads["head_a"], heads["head_b"], strict=True)) == {0: 2, 1: 0, 2: 1}
    matching = found["matching"].query("measure == 'js' and images == 'same'")
    np.testing.assert_allclose(matching["matched"], 1, atol=1e-3)
    assert (matching["gain_over_chance_low"] > 0).all()
    assert (matching["identity"] < 0.95).all()
    control = found["matching"].query("measure == 'js' and images == 'other'")
    assert (control["matched"].to_numpy() < matching["matched"].to_numpy()).all()


def test_streamed_maps_are_those_of_the_records(images):
    one, other = a_model(1), a_model(2)
    found = compare_maps(one, other, images, images=20, batch_size=20)
    reference = MapComparison()
    batches = [MapBatch([r.a.numpy() for r in records(model, images[:20])], (7, 7), 1) for model in (one, other)]
    reference.update(*batches)
    same = found["layers"].query("images == 'same'").drop(columns="images").reset_index(drop=True)
    pd.testing.assert_frame_equal(same, reference.layers(), rtol=1e-5)


def test_the_figure_shows_the_mean_over_seeds():
    rows = [
        {
            "layer_a": a,
            "layer_b": b,
            "similarity": 0.1 * a + 0.2 * b + seed,
            "seed": seed,
            "baseline_seed": seed,
            "images": kind,
        }
        for a in range(2)
        for b in range(3)
        for seed in (0, 1)
        for kind in ("same", "other")
    ]
    frame = pd.DataFrame(rows).assign(model="svda", baseline="vit", measure="js")
    figure = plots.plot_map_similarity(frame)
    expected = [[0.1 * a + 0.2 * b + 0.5 for b in range(3)] for a in range(2)]
    np.testing.assert_allclose(figure.axes[0].collections[0].get_array(), expected)
    with pytest.raises(InputError, match="similarity lacks the columns model"):
        plots.plot_map_similarity(frame.drop(columns="model"))


def test_the_command_line_adds_the_comparison_to_the_report(tiny, fashion, tmp_path, capsys):
    arguments = [str(tiny["dot"]), str(tiny["svda"]), "--data-root", str(fashion), "--out", str(tmp_path / "out")]
    arguments += ["--indicators", "attention_entropy", "--images", "16", "--maps", "32"]
    with pytest.raises(SystemExit) as stopped:
        analyze_main(arguments)
    assert stopped.value.code == 0
    layers = pd.read_csv(tmp_path / "out" / "maps_layers.csv")
    assert set(layers["images"]) == {"same", "other"}
    assert (layers["n"] == 16).all()  # the second half of 32
    assert (tmp_path / "out" / "figures" / "map_similarity.pdf").stat().st_size > 0
    assert "Do the heads attend to the same places?" in (tmp_path / "out" / "summary.md").read_text()
    for extra, complaint in ((["--maps", "4"], "maps must be at least 8"),):
        with pytest.raises(SystemExit) as stopped:
            analyze_main([*arguments, *extra])
        assert stopped.value.code == 2
        assert complaint in capsys.readouterr().err
    assert (tmp_path / "out" / "figures" / "matched_heads_svda_dot.png").stat().st_size > 0
    with pytest.raises(SystemExit) as stopped:
        analyze_main([arguments[0], *arguments[2:]])
    assert stopped.value.code == 2
    assert "comparing maps needs at least two models" in capsys.readouterr().err


def opened(name, seed, attention="dot"):
    torch.manual_seed(seed)
    model = ViT(ViTConfig(attention=attention, image_size=12, dim=24, depth=2, heads=2)).eval()
    known = Checkpoint(config=model.config, model={}, epoch=1, recipe={"seed": seed})
    return Subject(model=model, name=name, attention=attention, checkpoint=known)


def compared(subjects):
    """The maps of all on the same eight images."""
    images = torch.randn(8, 1, 12, 12)
    return compare_run_maps(subjects, [open_feed(images, one) for one in subjects], baseline="vit", images=8)


def test_runs_are_compared_by_seed_with_the_baseline_and_with_their_own_neighbours():
    kinds = {"vit": "dot", "svda": "svda"}
    runs = [opened(name, seed, kind) for name, kind in kinds.items() for seed in (0, 1, 2)]
    found = compared([*runs, opened("cosine", 7, "cosine")])
    columns = ["model", "baseline", "seed", "baseline_seed"]
    pairs = found["layers"][columns].drop_duplicates().itertuples(index=False, name=None)
    assert set(pairs) == {
        *(("svda", "vit", a, b) for a, b in ((0, 0), (1, 1), (2, 2), (0, 1), (1, 2), (2, 0))),
        ("cosine", "vit", 7, 0),
        *((name, name, a, b) for name in ("vit", "svda") for a, b in ((0, 1), (1, 2), (2, 0))),
    }


def test_two_runs_of_one_model_are_compared_with_each_other():
    found = compared([opened("vit", 0), opened("vit", 1)])
    assert set(found["heads"]["baseline_seed"]) == {1}


def test_the_figure_draws_pairs_of_different_seeds_where_there_are_such():
    def rows(baseline, *seeds):
        return [
            {"seed": a, "baseline_seed": b, "similarity": value, "baseline": baseline, "layer_a": 0, "layer_b": 0}
            for a, b, value in seeds
        ]

    frame = pd.DataFrame([*rows("vit", (0, 0, 0.9), (0, 1, 0.4), (1, 0, 0.2)), *rows("cosine", (0, 0, 0.7))])
    figure = plots.plot_map_similarity(frame.assign(model="svda", measure="js", images="same"))
    np.testing.assert_allclose([ax.collections[0].get_array()[0, 0] for ax in figure.axes[:2]], [0.3, 0.7])


def test_the_pairs_of_runs_are_dealt_among_several_processes():
    runs = [opened(name, seed) for name in ("vit", "svda") for seed in (0, 1)]
    images = torch.randn(8, 1, 12, 12)

    def work(team):
        subjects, seen = [dataclasses.replace(one, model=copy.deepcopy(one.model)) for one in runs], []
        how = {"baseline": "vit", "images": 8, "team": team, "progress": lambda *at: seen.append(at)}
        return compare_run_maps(subjects, [open_feed(images, one) for one in subjects], **how), len(seen)

    wanted, pairs = work(ALONE)
    found = in_team(2, work)
    assert sum(compared for _, compared in found) == pairs == 6
    assert all(compared for _, compared in found)
    for frames, _ in found:
        for key, frame in wanted.items():
            pd.testing.assert_frame_equal(frames[key], frame, rtol=1e-12)
