"""The streamed analysis against one pass over everything in float64, and what it accepts."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from scipy import stats
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from svda_analysis import sources
from svda_analysis.analysis import analyze, analyze_runs
from svda_analysis.checkpoint import load, save
from svda_analysis.compression import compress_and_verify
from svda_analysis.data import Preprocessing, load_dataset
from svda_analysis.errors import InputError
from svda_analysis.explanations import explain
from svda_analysis.frames import SPECTRA_COLUMNS, TABLE_COLUMNS
from svda_analysis.indicators import INDICATORS, attention_entropy, choose_indicators, effective_rank, score_spectrum
from svda_analysis.model import ViT, ViTConfig
from svda_analysis.results import Analysis
from svda_analysis.sections import write_report
from svda_analysis.specs import open_model
from svda_analysis.stats import mean_interval
from svda_analysis.tap import records


def a_model(kind="svda", **changes):
    torch.manual_seed(1)
    model = ViT(ViTConfig(attention=kind, **{"dim": 24, "depth": 2, "heads": 2, **changes})).eval()
    nn.init.normal_(model.head.weight)
    return model


@pytest.fixture(scope="module")
def images():
    return torch.randn(37, 1, 28, 28, generator=torch.Generator().manual_seed(0))


def cell(table, indicator, source, layer, head):
    rows = table.query("indicator == @indicator and source == @source and layer == @layer and head == @head")
    assert len(rows) == 1
    return rows.iloc[0]


@pytest.mark.parametrize("kind", ["dot", "svda", "cosine"])
@pytest.mark.parametrize("batch_size", [8, 37])
def test_streamed_moments_equal_one_pass_over_all_images(kind, batch_size, images):
    model = a_model(kind)
    table = analyze(model, images, batch_size=batch_size, examples=0).table
    for record in records(model, images):
        entropy = attention_entropy(record.a).double().numpy()
        rank = effective_rank(score_spectrum(record.q, record.k, record.scale, record.sigma)).double().numpy()
        for head in range(2):
            for values, name, source in (
                (entropy, "attention_entropy", "attention"),
                (rank, "effective_rank", "scores"),
            ):
                row, sample = cell(table, name, source, record.layer, head), values[:, head]
                high = 1 if name == "attention_entropy" else 12
                low, high = mean_interval(sample.mean(), stats.sem(sample), 36, low=0 if high == 1 else 1, high=high)
                assert row["n"] == 37
                assert row["mean"] == pytest.approx(sample.mean(), rel=1e-5)
                assert row["std"] == pytest.approx(sample.std(ddof=1), rel=1e-3)
                assert row["ci_low"] == pytest.approx(low, rel=1e-4)
                assert row["ci_high"] == pytest.approx(high, rel=1e-4)


def test_every_indicator_and_source_is_there_within_its_bounds(images):
    result = analyze(a_model(), images)
    assert dict(result.table.dtypes.astype(str)) == TABLE_COLUMNS
    assert dict(result.spectra.dtypes.astype(str)) == SPECTRA_COLUMNS
    found = set(zip(result.table["indicator"], result.table["source"], strict=True))
    assert found == {(one.name, source) for one in choose_indicators() for source in one.sources}
    for row in result.table.itertuples():
        low, high = INDICATORS[row.indicator].bounds(row.source, D=12, N=50, grid=(7, 7))
        assert low - 1e-6 <= row.mean <= high + 1e-6
    weights = result.table[result.table["source"] == "sigma"]
    assert (weights["n"] == 1).all()
    assert weights["std"].isna().all()


def test_sigma_is_measured_for_svda_alone(images):
    for kind in ("dot", "cosine"):
        assert "sigma" not in set(analyze(a_model(kind), images).table["source"])


def test_spectra_are_the_mean_singular_values(images):
    model = a_model()
    spectra = analyze(model, images, batch_size=10, examples=0).spectra
    record = records(model, images)[1]
    scores = (record.q * record.sigma[:, None] @ record.k.mT * record.scale).double()
    scores = scores - scores.mean(-1, keepdim=True)  # what all keys share is dropped by the softmax
    expected = torch.linalg.svdvals(scores)[..., :12].mean(0)
    for head in range(2):
        got = spectra.query("source == 'scores' and layer == 1 and head == @head").sort_values("rank")["value"]
        np.testing.assert_allclose(got, expected[head], rtol=1e-4, atol=1e-6)


def test_noise_changes_the_robustness_alone(images):
    quiet, loud = (analyze(a_model(), images, noise=noise, examples=0).table for noise in (0.0, 1.0))
    robust = quiet["indicator"] == "perturbation_robustness"
    np.testing.assert_allclose(quiet.loc[~robust, "mean"], loud.loc[~robust, "mean"], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(quiet.loc[robust, "mean"], 1.0, atol=1e-6)
    assert (loud.loc[robust, "mean"] < 0.999).all()


def test_precision_stops_when_every_interval_is_narrow_enough():
    images = torch.randn(400, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    model = a_model()
    wide = analyze(model, images, precision=0.05, examples=0, batch_size=16)
    fine = analyze(model, images, precision=0.004, examples=0, batch_size=16)
    assert 64 <= wide.runs[0].images < fine.runs[0].images <= 400
    for row in wide.table[wide.table["std"].notna()].itertuples():
        low, high = INDICATORS[row.indicator].bounds(row.source, D=12, N=50, grid=(7, 7))
        assert (row.ci_high - row.ci_low) / 2 < 0.05 * (high - low)


def test_all_kinds_of_data_give_the_same_numbers(images):
    model, labels = a_model(), torch.arange(37) % 10
    dataset = TensorDataset(images, labels)
    tables = [
        analyze(model, data, indicators=["attention_entropy"]).table
        for data in (images, dataset, DataLoader(dataset, batch_size=5))
    ]
    for table in tables[1:]:
        layers = table[table["layer"].notna()]
        np.testing.assert_allclose(layers["mean"], tables[0]["mean"], rtol=1e-6)
        assert {"accuracy", "loss"} < set(table["indicator"])
    accuracy = tables[1].query("indicator == 'accuracy'")["mean"].item()
    with torch.no_grad():
        assert accuracy == pytest.approx((model(images).argmax(-1) == labels).float().mean().item())


def test_images_takes_so_many_and_draws_them_at_random():
    images = torch.zeros(50, 1, 28, 28)
    images[25:] = 5  # sorted as a folder of classes would be
    drawn = []

    class Watched(TensorDataset):
        def __getitem__(self, index):
            drawn.append(index)
            return super().__getitem__(index)

    result = analyze(a_model(), Watched(images, torch.zeros(50).long()), images=20, examples=0)
    assert result.runs[0].images == 20
    assert len(set(drawn)) == 20
    assert min(drawn) < 25 <= max(drawn)
    loader = DataLoader(TensorDataset(images, torch.zeros(50).long()), batch_size=8)
    assert analyze(a_model(), loader, images=20, examples=0).runs[0].images == 20


def test_the_model_keeps_its_mode_and_no_gradients_are_made(images):
    model = a_model().train()
    analyze(model, images[:4])
    assert model.training
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": 0}, "images must be at least 1, got 0"),
        ({"precision": 0}, "precision must lie between 0 and 1, got 0"),
        ({"precision": 1.5}, "precision must lie between 0 and 1"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"noise": -1}, "noise must be a finite number of at least 0"),
        ({"indicators": ["entropy"]}, "indicators must be among default, .* got 'entropy'"),
        ({"indicators": []}, "indicators must name at least one"),
        (
            {"data": torch.zeros(2, 28, 28)},
            r"data must be float images \(B, C, H, W\), got torch.float32 \(2, 28, 28\)",
        ),
        ({"data": torch.zeros(2, 1, 28, 28, dtype=torch.uint8)}, "data must be float images"),
        ({"data": torch.zeros(2, 3, 28, 28)}, r"images must be \(B, 1, 28, 28\), got"),
        ({"data": 7}, "data must be a data set's name"),
        ({"data": None}, "data must be given"),
        ({"data": "cifar11"}, "cifar10"),
    ],
)
def test_bad_arguments_are_named(change, message):
    arguments = {"data": torch.zeros(2, 1, 28, 28), **change}
    with pytest.raises(InputError, match=message):
        analyze(a_model(), **arguments)


def test_a_model_without_attention_is_an_error(images):
    with pytest.raises(InputError, match="shows no attention: no softmax over tokens that weighs values was seen"):
        analyze(nn.Sequential(nn.Flatten(), nn.Linear(784, 10)), images)


# --- several models -------------------------------------------------------------------------------------------------


class Watched(nn.Module):
    """Patches of 8 behind one token that has no name; remembers what it was given, and where."""

    def __init__(self, outputs=2):
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.head, self.seen = nn.Linear(192, 24), nn.Linear(24, outputs), []

    def forward(self, x):
        self.seen.append((len(x), float(x.detach().min()), float(x.detach().max())))
        patches = x.unfold(2, 8, 8).unfold(3, 8, 8).permute(0, 2, 3, 4, 5, 1).flatten(3).flatten(1, 2)  # (B, P, 192)
        tokens = torch.cat([torch.ones(len(x), 1, 24), self.embed(patches)], dim=1)
        q = tokens.unflatten(-1, (2, 12)).transpose(1, 2)
        return self.head(nn.functional.scaled_dot_product_attention(q, q, q).mean((1, 2)).repeat(1, 2))


@pytest.fixture
def pictures(tmp_path):
    """Two classes of four colour pictures each."""
    rng = np.random.default_rng(0)
    for at in range(8):
        place = tmp_path / "pictures" / f"class{at % 2}"
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (40, 40, 3), np.uint8)).save(place / f"{at}.png")
    return f"imagefolder:{tmp_path / 'pictures'}"


def test_everything_measures_the_model_as_it_was_opened(pictures):
    """Preprocessing, prefix and batch size reach the comparison of maps and faithfulness, each model with its own."""
    ranges, subjects = {"plain": (0.0, 1.0), "wide": (-4.0, 4.0)}, []
    for name, (low, high) in ranges.items():
        std = 1 / (high - low)
        own = Preprocessing(image_size=32, resize=32, mean=(-low * std,) * 3, std=(std,) * 3)
        subjects.append(open_model(Watched(), name=name, preprocessing=own, prefix_tokens=1))
    options = {"indicators": ["attention_distance"], "batch_size": 4, "examples": 1}
    analysis = analyze_runs(subjects, pictures, names=list(ranges), maps=8, faithfulness=2, **options)
    for subject, (low, high) in zip(subjects, ranges.values(), strict=True):
        sizes, lows, highs = zip(*subject.model.seen, strict=True)
        assert max(sizes) <= 4 * 4  # four times as many where no gradients are needed
        slack = 1e-4  # of rounding
        assert low - slack <= min(lows) < low + 0.1 * (high - low)
        assert high - 0.1 * (high - low) < max(highs) <= high + slack
    assert {example.prefix for example in analysis.examples.values()} == {1}
    assert {run.settings["prefix_tokens"] for run in analysis.runs} == {1}
    assert len({run.preprocessing for run in analysis.runs}) == 2
    assert {"layers", "heads", "matching", "similarity"} == set(analysis.maps)
    assert {"deletion_gain"} <= set(analysis.table["indicator"])


def test_a_data_set_is_opened_once_for_all_models(monkeypatch):
    opened = []
    monkeypatch.setattr(sources, "load_dataset", lambda *a, **k: opened.append(a) or load_dataset(*a, **k))
    analyze_runs([a_model("dot"), a_model("svda")], "sample", names=["a", "b"], images=4, maps=8, examples=1)
    assert opened == [("sample",)]


def test_features_are_no_class_scores(pictures):
    """Accuracy is there only where there are as many outputs as the data have classes, and the model calls them so."""
    own = Preprocessing(image_size=32, resize=32)
    options = {"preprocessing": own, "prefix_tokens": 1, "indicators": ["attention_entropy"], "examples": 2}
    for outputs, told, known in ((2, None, True), (24, None, False), (2, 0, False), (2, 2, True)):
        model = Watched(outputs)
        if told is not None:
            model.num_classes = told  # as timm has it: 0 says that there is no classifier
        result = analyze(model, pictures, **options)
        assert ("accuracy" in set(result.table["indicator"])) == known
        assert (result.examples["Watched"].predictions >= 0).all() == known


def test_bad_arguments_of_several_models_are_named(images):
    with pytest.raises(InputError, match="models must name at least one model"):
        analyze_runs([], images)
    with pytest.raises(InputError, match="baseline must be one of a, got 'b'"):
        analyze_runs([a_model()], images, names=["a"], baseline="b")
    with pytest.raises(InputError, match="maps must be at least 8 to match heads"):
        analyze_runs([a_model(), a_model("dot")], images, names=["a", "b"], images=4, maps=2)
    with pytest.raises(InputError, match="names must hold a name for each of 2 models"):
        analyze_runs([a_model(), a_model("dot")], images, names=["a"])


@pytest.mark.parametrize(
    ("options", "message"),
    [({"faithfulness": 0}, "faithfulness must be at least 1, got 0"), ({"maps": 8}, "at least two models or two runs")],
)
def test_what_cannot_be_measured_is_told_before_the_rest_is(images, options, message):
    def progress(*_):
        raise AssertionError("measured")

    with pytest.raises(InputError, match=message):
        analyze_runs([a_model()], images, progress=progress, **options)


def test_batches_without_labels_are_images():
    pictures = torch.rand(9, 1, 28, 28)
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(pictures), batch_size=4)
    found, plain = (analyze(a_model(), data, indicators=["mass_90"]).table for data in (loader, pictures))
    assert found["mean"].tolist() == pytest.approx(plain["mean"].tolist())


def test_a_mean_that_does_not_fit_the_channels_is_refused():
    subject = open_model(a_model(), preprocessing={"mean": (0.5,) * 3, "std": (0.5,) * 3})
    with pytest.raises(InputError, match=r"for each channel of the data \(1\), got 3"):
        analyze(subject, "sample", images=4)


def test_one_model_needs_no_list(images):
    alone, listed = (analyze_runs(given, images, indicators=["mass_90"]).table for given in (a_model(), [a_model()]))
    pd.testing.assert_frame_equal(alone, listed)


def test_runs_that_nothing_tells_apart_are_named_before_the_measuring(images, tiny):
    def progress(*_):
        raise AssertionError("measured")

    for models, which in (
        ([a_model(), a_model("dot")], "without a seed"),
        ([tiny["svda"], tiny["dot"]], "with seed 0"),
    ):
        with pytest.raises(InputError, match=f"got two runs {which} named a"):
            analyze_runs(models, images, names=["a", "a"], progress=progress)


def test_models_of_several_data_sets_are_named_before_the_measuring(tiny, fashion, tmp_path):
    other = load(tiny["dot"])
    other = dataclasses.replace(other, data={**other.data, "name": "sample"})
    save(other, tmp_path / "other.pt")
    with pytest.raises(InputError, match="models must be measured on one data set, got fashion_mnist, "):
        analyze_runs([tiny["svda"], tmp_path / "other.pt"], data_root=fashion)


def test_faithfulness_of_a_model_without_a_classifier_is_refused_before_the_measuring(pictures):
    def progress(*_):
        raise AssertionError("measured")

    model = Watched(24)
    model.num_classes = 0
    subject = open_model(model, preprocessing=Preprocessing(image_size=32, resize=32), prefix_tokens=1)
    with pytest.raises(InputError, match="features of Watched, which has no classifier"):
        analyze_runs(subject, pictures, faithfulness=2, progress=progress)


def test_all_of_a_report_is_against_one_baseline(images):
    """A model of another library counts as one of dot-product attention in the table, and so in the maps."""
    foreign = a_model("dot")
    subject = dataclasses.replace(open_model(foreign), attention=None)
    analysis = analyze_runs([a_model(), subject], images, names=["svda", "foreign"], maps=8, indicators=["mass_90"])
    assert set(analysis.comparison["baseline"]) == set(analysis.maps["layers"]["baseline"]) == {"foreign"}


def test_what_was_asked_for_and_cannot_be_measured_is_said(images):
    found = analyze(a_model(), images, indicators=["ablation_loss", "token_similarity"], examples=0)
    assert found.warnings == ("ablation_loss of ViT: not measured, it takes labelled images and a classifier of them",)
    assert set(found.table["indicator"]) == {"token_similarity"}


# --- numbers that are not finite --------------------------------------------------------------------------------------


def runs_of(tiny, tmp_path, *seeds, broken=None, spoil=lambda state: None):
    """Copies of one checkpoint under other seeds, the one of seed ``broken`` spoilt; their paths."""
    paths = []
    for seed in seeds:
        run = load(tiny["svda"])
        state = {name: value.clone() for name, value in run.model.items()}
        if seed == broken:
            spoil(state)
        paths.append(tmp_path / f"svda_s{seed}.pt")
        recipe, history = {**run.recipe, "seed": seed}, run.history.assign(seed=seed).astype(TABLE_COLUMNS)
        save(dataclasses.replace(run, recipe=recipe, history=history, model=state), paths[-1])
    return paths


def one_nan(state):
    state["blocks.1.mlp.0.weight"][2, 1] = float("nan")


def overflow(state):
    state["blocks.0.mlp.3.bias"].fill_(3e38)
    state["blocks.0.mlp.3.weight"].fill_(3e38)


@pytest.mark.parametrize(
    ("spoil", "where"),
    [(one_nan, "the weight blocks.1.mlp.0.weight"), (overflow, "the output of blocks.0.mlp.3")],
)
def test_a_run_of_no_finite_numbers_is_named_and_left_out(spoil, where, tiny, tmp_path, fashion, few_figures):
    paths = runs_of(tiny, tmp_path, 0, 1, 2, broken=1, spoil=spoil)
    options = {"data_root": fashion, "maps": 8, "faithfulness": 1, "metrics": ["deletion_gain"], "images": 40}
    found = analyze_runs([*paths, tiny["dot"]], "fashion_mnist", **options)
    without = analyze_runs([paths[0], paths[2], tiny["dot"]], "fashion_mnist", **options)
    line = f"svda seed 1 has numbers that are not finite (NaN or inf): the first are in {where}"
    assert f"{line}; it is left out of every mean and comparison" in found.warnings
    assert [(run.seed, run.broken) for run in found.runs] == [(0, ""), (1, where), (2, ""), (0, "")]
    pd.testing.assert_frame_equal(found.table, without.table)
    pd.testing.assert_frame_equal(found.history, without.history)
    pd.testing.assert_frame_equal(found.comparison, without.comparison)
    pd.testing.assert_frame_equal(found.maps["matching"], without.maps["matching"])
    page = write_report(found, tmp_path / "out")[0].read_text()
    assert f"**Warning: {line.partition('(')[0]}" in page
    assert f"left out, not finite: {where}" in page
    assert Analysis.load(tmp_path / "out").runs == found.runs


def test_a_sole_run_of_no_finite_numbers_is_one_line(tiny, tmp_path, fashion):
    (path,) = runs_of(tiny, tmp_path, 3, broken=3, spoil=one_nan)
    said = r"^svda(_s3)? seed 3 has numbers that are not finite .*the weight blocks\.1\.mlp\.0\.weight$"
    for measure in (lambda: analyze(path, data_root=fashion), lambda: analyze_runs([path], data_root=fashion)):
        with pytest.raises(InputError, match=said):
            measure()
    shoe = tmp_path / "shoe.png"
    Image.new("L", (28, 28)).save(shoe)
    for measure in (lambda: compress_and_verify(path, energy=0.9, data_root=fashion), lambda: explain(path, [shoe])):
        with pytest.raises(InputError, match=said):
            measure()


def test_a_baseline_of_no_finite_numbers_is_replaced(tiny, tmp_path, fashion):
    (broken,) = runs_of(tiny, tmp_path, 3, broken=3, spoil=one_nan)
    found = analyze_runs([broken, tiny["dot"]], data_root=fashion, baseline="svda", images=20)
    assert (found.models, found.baseline, found.comparison) == (["dot"], None, None)


def test_images_of_no_finite_numbers_are_not_the_models_fault(images):
    images = images.clone()
    images[1, 0, 0, 0] = float("nan")
    with pytest.raises(InputError, match="images must be finite numbers, got NaN or inf"):
        analyze(ViT(ViTConfig(depth=1, dim=24, heads=2)), images)
