"""The streamed analysis against one pass over everything in float64, and what it accepts."""

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from svda_analysis.analysis import analyze
from svda_analysis.errors import InputError
from svda_analysis.frames import SPECTRA_COLUMNS, TABLE_COLUMNS
from svda_analysis.indicators import INDICATORS, attention_entropy, choose_indicators, effective_rank, score_spectrum
from svda_analysis.model import ViT, ViTConfig
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


def test_examples_hold_the_maps_of_their_images(images):
    model = a_model()
    shown = analyze(model, images, examples=3).examples["ViT"]
    assert shown.images.shape == (3, 28, 28, 1)
    assert shown.images.dtype == np.uint8
    assert (shown.grid, shown.prefix) == ((7, 7), 1)
    expected = torch.stack([record.a for record in records(model, images[:3])], dim=1)
    np.testing.assert_allclose(shown.maps, expected, atol=1e-3)


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
        ({"noise": -1}, "noise must be at least 0"),
        ({"indicators": ["entropy"]}, "indicators must be among spectral_entropy, .* got 'entropy'"),
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
    with pytest.raises(InputError, match="made no call of torch's attention function"):
        analyze(nn.Sequential(nn.Flatten(), nn.Linear(784, 10)), images)
