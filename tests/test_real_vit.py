"""What ``benchmarks/real_vit.py`` measures by: agreement of maps, and a model beside the one that it was made of."""

import importlib.util
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from converted_cases import made
from scipy.spatial.distance import jensenshannon
from scipy.stats import spearmanr

from svda_analysis.conversion import convert
from svda_analysis.converted import replaced
from svda_analysis.document import Picture
from svda_analysis.specs import open_model

PATH = Path(__file__).resolve().parents[1] / "benchmarks" / "real_vit.py"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("real_vit", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def photos():
    return torch.randn(12, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def test_agreement_is_spearmans(script):
    draws = np.random.default_rng(0)
    a, b = draws.random((3, 4, 4)), draws.integers(0, 3, (3, 4, 4))  # with ties
    wanted = [spearmanr(x.ravel(), y.ravel()).statistic for x, y in zip(a, b, strict=True)]
    np.testing.assert_allclose(script.agreement(a, b), wanted)


def test_a_pixel_map_is_the_mean_over_its_patches(script):
    maps = np.zeros((1, 224, 224), np.float16)
    maps[0, 14:28, 28:35] = 1
    found = script.on_patches(maps)
    assert found.shape == (1, 16, 16)
    assert found[0, 1, 2] == 0.5
    assert found.sum() == 0.5


def test_a_model_is_all_that_it_was_made_of_or_less(script, photos):
    model = made("hf dinov2")
    judge = script.Judge(model, photos)
    same, changed = judge(convert(model, to="dot")), judge(convert(model))
    assert same["mean"] == pytest.approx(1, abs=1e-5)
    assert same["map_distance"] < 1e-3 < changed["map_distance"]
    assert changed["lowest"] <= changed["mean"]


def test_distance_of_maps_is_that_of_scipy(script):
    draws = np.random.default_rng(0)
    p, q = (draws.dirichlet(np.full(9, 0.3), (2, 3)) for _ in range(2))
    assert script.map_distance(p, q) == pytest.approx(jensenshannon(p, q, axis=-1, base=2).mean())
    assert script.map_distance(p, p) == 0
    close = p.astype(np.float32)
    assert 0 <= script.map_distance(close, close * (1 + 1e-7)) < 1e-3


def test_a_part_has_the_last_layers_of_the_whole(script, photos):
    subject = open_model(made("hf dinov2"))
    whole = convert(subject, start="weights", images=photos, basis=1.0)
    part = script.in_part(subject, whole, photos, "last:2", {"basis": 1.0})
    own, all_of_it = replaced(part), replaced(whole)
    assert list(own) == list(all_of_it)[-2:]
    for name, layer in own.items():
        for key, value in layer.state_dict().items():
            assert torch.equal(value, all_of_it[name].state_dict()[key])


def test_directions_are_the_effective_rank(script):
    model = convert(made("ours"), blocks="last:1")
    (layer,) = replaced(model).values()
    D = layer.head_dim
    assert script.directions(model) == pytest.approx(D)
    with torch.no_grad():
        layer.sigma_linear[:, 2:] = 0
        layer.sigma_linear[:, :2] = torch.tensor([1.0, -3.0])
    entropy = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75))
    assert script.directions(model) == pytest.approx(math.exp(entropy))


def test_every_row_is_measured_kept_and_told(script, photos, monkeypatch, tmp_path):
    monkeypatch.setattr(script, "CALIBRATED", 8)
    monkeypatch.setattr(script, "STARTS", {name: script.STARTS[name] for name in ("white", "white, norm row 4")})
    monkeypatch.setattr(script, "DISTILLED", ("white",))
    monkeypatch.setattr(script, "DEPTHS", {"last 2": "last:2", "all 12": "all"})
    monkeypatch.setattr(script, "BUDGETS", (0.6, 0.4))
    subject = open_model(made("hf dinov2"))
    given = script.Photos(photos, np.zeros((12, 32, 32, 3), np.uint8), [f"{at}.jpg" for at in range(12)])
    conversion = script.conversion_rows(subject, given, 1, tmp_path / "conversion.csv")
    assert list(conversion["state"]) == ["start"] * 4 + ["distilled"] * 2
    assert len(pd.read_csv(tmp_path / "conversion.csv")) == len(conversion)
    retention = script.retention_rows(subject, given, 1, 1, tmp_path / "retention.csv")
    assert list(retention["state"]) == ["cut", "cut", "layer by layer", "and by its output"] * 2
    assert (retention["rows_removed"] > 0.35).all()
    both = retention[retention["state"] == "cut"].groupby("budget")["rows_removed"]
    assert (both.max() - both.min() < 0.1).all()  # at equal rows
    picture = Picture(name="looks", draw=None)
    document = script.document_of({"conversion": conversion, "retention": retention}, picture, "make", 12)
    assert [len(table.text) for table in document.tables] == [6, 8]
    assert len(document.answer) == 4
