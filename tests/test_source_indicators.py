"""The source's six indicators against float64 loops written from its formulas, and when they are measured."""

import math

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import nn

from svda_analysis import source_indicators as src
from svda_analysis.analysis import analyze, analyze_runs
from svda_analysis.data import Preprocessing
from svda_analysis.draws import draws_of_images
from svda_analysis.errors import InputError
from svda_analysis.frames import TABLE_COLUMNS
from svda_analysis.indicators import INDICATORS, choose_indicators, effective_rank
from svda_analysis.model import ViT, ViTConfig
from svda_analysis.results import Analysis
from svda_analysis.streaming import Stream
from svda_analysis.tap import records
from svda_analysis.vocabulary import groups_of, quantity

EPS = 1e-8
D, H, N, LAYERS = 8, 3, 17, 2
OF_SIGMA = {"source_spectral_entropy", "source_effective_rank", "source_spectral_sparsity"}
OF_ANY = {"source_angular_alignment", "source_selectivity", "source_perturbation_robustness"}
MEAN, STD = (0.3,), (0.25,)
few = settings(max_examples=60, deadline=None)


# --- references: a layer's number as the source computes it, explicit loops, float64 ----------------------------------


def spectral_entropy(sigma):
    total = math.fsum(s * s for s in sigma) + EPS
    return -math.fsum(s * s / total * math.log(s * s / total + EPS) for s in sigma)


def mean_over_heads(of_head, sigma):
    return np.mean([of_head(row) for row in sigma])


def sparsity(sigma):
    return sum(abs(s) < 1e-3 for s in sigma) / len(sigma)


def cosine(x, y):
    return math.fsum(x * y) / math.sqrt(math.fsum(x * x) * math.fsum(y * y))


def alignment(q, k):
    """Of ``q, k (B, H, N, D)``."""
    return np.mean([cosine(q[place], k[place]) for place in np.ndindex(q.shape[:-1])])


def selectivity(a):
    """Of ``a (B, H, N, N)``."""
    return np.mean(
        [1 - math.fsum(w * w for w in row) / (math.fsum(row) ** 2 + EPS) for row in a.reshape(-1, a.shape[-1])]
    )


def robustness(a, a_noisy):
    """Of one image, ``(H, N, N)`` each: the norm over all heads together."""
    return math.sqrt(math.fsum(((a - a_noisy) ** 2).ravel())) / a.size


def maps(q, k, sigma):
    """``softmax((q_hat * sigma) k_hat^T / sqrt(D))`` of ``q, k (B, H, N, D)`` and ``sigma (H, D)``."""
    a = np.empty((*q.shape[:3], q.shape[2]))
    for b, h, i in np.ndindex(q.shape[:3]):
        unit = q[b, h, i] / math.sqrt(math.fsum(q[b, h, i] ** 2))
        scores = [math.fsum(unit * sigma[h] * y) / math.sqrt(math.fsum(y**2) * q.shape[3]) for y in k[b, h]]
        weights = np.exp(np.array(scores) - max(scores))
        a[b, h, i] = weights / weights.sum()
    return a


# --- a model as the source has it -------------------------------------------------------------------------------------


def a_model(kind="svda"):
    """sigma itself is learned, each entry drawn from N(1, 0.1^2); in the first head some are near 0, one below."""
    torch.manual_seed(1)
    config = ViTConfig(attention=kind, image_size=16, dim=D * H, heads=H, depth=LAYERS, sigma_form="linear")
    model = ViT(config).double().eval()
    if kind == "svda":
        for layer in model.attention_layers():
            nn.init.normal_(layer.sigma_linear, 1, 0.1)
        with torch.no_grad():
            model.attention_layers()[0].sigma_linear[0, :3] = torch.tensor([5e-4, -2e-4, -0.7])
    return model


@pytest.fixture(scope="module")
def images():
    """Pixels in [0, 1], many of them at the ends, brought to another mean and deviation."""
    pixels = torch.rand(5, 1, 16, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return ((1.4 * pixels - 0.2).clamp(0, 1) - MEAN[0]) / STD[0]


def measured(model, images, **options):
    normalised = Preprocessing(image_size=16, mean=MEAN, std=STD)
    return analyze(model, images, examples=0, **{"indicators": ["source"], "preprocessing": normalised, **options})


def of_layer(table, name, layer):
    """The mean over heads (and images), which is what the source speaks of."""
    rows = table.query("indicator == @name and layer == @layer")
    assert len(rows) == H
    return rows["mean"].mean()


def as_numpy(record):
    return [x.numpy() for x in (record.q, record.k)]


def drawn_for(images):
    """The noise as the stream draws it, for each image by its number."""
    return draws_of_images("input noise", range(len(images)), tuple(images.shape[1:]), 0, torch.randn).double()


def noisy(images):
    """Noise of 0.01 on the pixels, clamped."""
    return ((images * STD[0] + MEAN[0] + 0.01 * drawn_for(images)).clamp(0, 1) - MEAN[0]) / STD[0]


def test_every_number_is_the_sources(images):
    model = a_model()
    table = measured(model, images).table
    pairs = zip(records(model, images), records(model, noisy(images)), strict=True)
    for layer, (record, shaken) in enumerate(pairs):
        sigma = model.attention_layers()[layer].sigma.detach().numpy()
        a, a_noisy = (maps(*as_numpy(one), sigma) for one in (record, shaken))
        want = {
            "source_spectral_entropy": mean_over_heads(spectral_entropy, sigma),
            "source_effective_rank": mean_over_heads(lambda row: math.exp(spectral_entropy(row)), sigma),
            "source_spectral_sparsity": mean_over_heads(sparsity, sigma),
            "source_angular_alignment": alignment(*as_numpy(record)),
            "source_selectivity": selectivity(a),
            "source_perturbation_robustness": np.mean([robustness(*both) for both in zip(a, a_noisy, strict=True)]),
        }
        got = {name: of_layer(table, name, layer) for name in want}
        assert got == pytest.approx(want, rel=1e-7)  # the softmax of the record is one of float64 as well
        assert want["source_spectral_sparsity"] == (pytest.approx(2 / (D * H)) if layer == 0 else 0)


def test_dot_product_attention_is_normalised_by_token(images):
    model = a_model("dot")
    table = measured(model, images).table
    for record, shaken in zip(records(model, images), records(model, noisy(images)), strict=True):
        a, a_noisy = record.a.numpy(), shaken.a.numpy()
        assert of_layer(table, "source_angular_alignment", record.layer) == pytest.approx(
            alignment(*as_numpy(record)), rel=1e-9
        )
        assert of_layer(table, "source_selectivity", record.layer) == pytest.approx(selectivity(a), rel=1e-9)
        assert of_layer(table, "source_perturbation_robustness", record.layer) == pytest.approx(
            np.mean([robustness(*both) for both in zip(a, a_noisy, strict=True)]), rel=1e-9
        )


def test_every_head_has_its_layers_robustness(images):
    rows = measured(a_model(), images).table.query("indicator == 'source_perturbation_robustness'")
    assert (rows.groupby("layer")["mean"].nunique() == 1).all()
    assert (rows["n"] == len(images)).all()


# --- when they are measured -------------------------------------------------------------------------------------------


def pairs_of(table):
    return set(zip(table["indicator"], table["source"], strict=True))


@pytest.mark.parametrize("kind", ["dot", "svda", "cosine"])
def test_the_group_is_all_that_the_kind_of_attention_has(kind, images):
    found = measured(a_model(kind), images).table
    assert dict(found.dtypes.astype(str)) == TABLE_COLUMNS
    assert set(found["indicator"]) == (OF_ANY | OF_SIGMA if kind == "svda" else OF_ANY)
    assert {source for name, source in pairs_of(found) if name in OF_SIGMA} == ({"sigma"} if kind == "svda" else set())
    for row in found.itertuples():
        assert (row.low, row.high) == INDICATORS[row.indicator].bounds(row.source, D=D, N=N)
        assert row.low - 1e-6 <= row.mean <= row.high + 1e-6


def test_the_default_measures_none_of_them(images):
    table = measured(a_model(), images, indicators=None).table
    assert not set(table["indicator"]) & (OF_ANY | OF_SIGMA)
    assert not any(one.group for one in choose_indicators())
    assert {one.name for one in choose_indicators(["source"])} == OF_ANY | OF_SIGMA
    assert set(groups_of(INDICATORS)) == {"source", "field", "ablation"}


def test_default_stands_for_what_is_in_no_group():
    assert choose_indicators(["default"]) == choose_indicators()
    both = [one.name for one in choose_indicators(["default", "source"])]
    assert both == [one.name for names in (None, ["source"]) for one in choose_indicators(names)]
    assert all(one.beside in both for one in choose_indicators(["source"]))


def test_names_and_groups_mix_and_count_once(images):
    mixed = choose_indicators(["source_selectivity", "mass_90", "source", "mass_90"])
    assert [one.name for one in mixed[:2]] == ["source_selectivity", "mass_90"]
    assert len(mixed) == 7
    both = measured(a_model(), images, indicators=["mass_90", "source_selectivity"])
    assert pairs_of(both.table) == {("mass_90", "attention"), ("source_selectivity", "attention")}
    assert not both.warnings
    for wrong in ("sauce", "", "Source"):
        with pytest.raises(
            InputError, match=f"indicators must be among default, field, ablation, source, .*, got '{wrong}'"
        ):
            choose_indicators(["mass_90", wrong])


def test_two_kinds_of_noise_leave_each_other_alone(images):
    ours, theirs = "perturbation_robustness", "source_perturbation_robustness"
    model = a_model()
    tables = [measured(model, images, indicators=names).table for names in ([ours], [theirs], [theirs, ours])]
    together = tables[2].set_index(["indicator", "layer", "head"])["mean"]
    for name, table in ((ours, tables[0]), (theirs, tables[1])):
        alone = table.set_index(["indicator", "layer", "head"])["mean"]
        np.testing.assert_allclose(together[name], alone[name], rtol=1e-9)
    louder = measured(model, images, indicators=[theirs], noise=1.0).table  # `noise` is that of our own alone
    np.testing.assert_array_equal(louder["mean"], tables[1]["mean"])


def test_models_are_compared_and_what_is_saved_comes_back(images, tmp_path):
    both = analyze_runs([a_model("dot"), a_model("svda")], images, names=["dot", "svda"], indicators=["source"])
    compared = both.comparison
    assert set(compared["indicator"]) == OF_ANY - {"source_angular_alignment"}  # axes of q and k, of one kind alone
    both.save(tmp_path)
    loaded = Analysis.load(tmp_path)
    assert loaded.table.equals(both.table)
    assert (quantity("source_selectivity").high, quantity("source_spectral_entropy").high) == ("1 - 1/N", "ln D")


# --- the noise on pixels ----------------------------------------------------------------------------------------------


def test_the_noise_is_on_pixels_and_stays_among_them(images):
    drawn = torch.randn(images.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    got = src.source_noise(images, drawn, (MEAN, STD)) * STD[0] + MEAN[0]
    pixels = images * STD[0] + MEAN[0]
    torch.testing.assert_close(got, (pixels + 0.01 * drawn).clamp(0, 1), rtol=0, atol=1e-12)
    inside = (pixels > 0.1) & (pixels < 0.9)
    assert (got - pixels)[inside].std().item() == pytest.approx(0.01, rel=0.1)
    assert got.min() >= -1e-12
    assert got.max() <= 1 + 1e-12


def test_channels_have_their_own_mean_and_deviation():
    mean, std = (0.1, 0.5, 0.9), (0.1, 0.2, 0.4)
    pixels = torch.full((2, 3, 4, 4), 0.5)
    shape = torch.tensor(mean)[:, None, None], torch.tensor(std)[:, None, None]
    got = src.source_noise((pixels - shape[0]) / shape[1], torch.ones(2, 3, 4, 4), (mean, std))
    torch.testing.assert_close(got * shape[1] + shape[0], torch.full((2, 3, 4, 4), 0.51))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_the_noise_keeps_the_precision_of_the_images(dtype):
    images = torch.zeros(1, 1, 2, 2, dtype=dtype)
    assert src.source_noise(images, torch.ones_like(images), (MEAN, STD)).dtype == dtype
    assert src.source_noise(images, torch.ones_like(images), None).dtype == dtype


@pytest.mark.parametrize("known", [Preprocessing(), Preprocessing(mean=MEAN * 3, std=STD * 3)])
def test_without_the_normalisation_the_noise_lies_on_the_input_and_a_line_says_so(known, images):
    model = a_model()
    found = measured(model, images, preprocessing=known)
    (line,) = found.warnings
    assert "source_perturbation_robustness of ViT: the mean and deviation" in line
    assert "\n" not in line
    pairs = zip(records(model, images), records(model, images + 0.01 * drawn_for(images)), strict=True)
    for record, shaken in pairs:
        want = np.mean([robustness(*both) for both in zip(record.a.numpy(), shaken.a.numpy(), strict=True)])
        assert of_layer(found.table, "source_perturbation_robustness", record.layer) == pytest.approx(want, rel=1e-9)
    assert not measured(model, images, preprocessing=known, indicators=["source_selectivity"]).warnings


def test_a_data_set_brings_its_mean_and_deviation(tiny, fashion):
    found = analyze(str(tiny["svda"]), data_root=fashion, images=4, indicators=["source"], examples=0)
    assert not [line for line in found.warnings if "source_perturbation" in line]
    assert set(found.table["indicator"]) >= OF_ANY | OF_SIGMA


def test_memory_does_not_grow_and_an_unneeded_copy_does_not_run(images):
    sizes = []

    class Watched(ViT):
        def forward(self, batch):
            sizes.append(len(batch))
            return super().forward(batch)

    torch.manual_seed(0)
    model = Watched(ViTConfig(image_size=16, dim=24, depth=1, heads=2)).double().eval()
    for names in (["mass_90"], ["source_selectivity"], ["source"], ["source", "perturbation_robustness"]):
        Stream(model, choose_indicators(names)).update(images)
    assert sizes == [5, 5, 10, 15]


# --- properties -------------------------------------------------------------------------------------------------------


@st.composite
def attention_maps(draw):
    n = draw(st.integers(1, 6))
    weights = draw(hnp.arrays(np.float64, (1, 1, n, n), elements=st.floats(0.001, 1)))
    return torch.as_tensor(weights / weights.sum(-1, keepdims=True))


@few
@given(attention_maps(), st.randoms(use_true_random=False), st.integers(0, 99))
def test_the_order_of_tokens_does_not_matter(a, random, seed):
    order = list(range(a.shape[-1]))
    random.shuffle(order)
    q, k = torch.randn(2, 1, 1, a.shape[-1], 3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    moved = a[..., order, :][..., order]
    assert src.source_selectivity(moved).item() == pytest.approx(src.source_selectivity(a).item(), abs=1e-12)
    for keys in (k, -k, 7 * q):
        got = src.source_angular_alignment(q[:, :, order], keys[:, :, order]).item()
        assert got == pytest.approx(src.source_angular_alignment(q, keys).item(), abs=1e-12)
        assert -1 - 1e-9 <= got <= 1 + 1e-9
    assert src.source_angular_alignment(q, 7 * q).item() == pytest.approx(1)


@few
@given(attention_maps())
def test_selectivity_and_robustness_stay_in_bounds(a):
    high = INDICATORS["source_selectivity"].bounds("attention", N=a.shape[-1])[1]
    assert -1e-7 <= src.source_selectivity(a).item() <= high + 1e-7
    assert src.source_perturbation_robustness(a, a).item() == 0
    assert src.source_perturbation_robustness(a, a.flip(-1)).item() >= 0


@few
@given(hnp.arrays(np.float64, st.integers(3, 9), elements=st.floats(0, 1e3)), st.randoms(use_true_random=False))
def test_the_entropy_of_squares_is_below_that_of_values(values, random):
    s = torch.as_tensor(np.where(values < 1, 0, values))  # so that eps is nothing beside the squares
    got = src.source_spectral_entropy(s).item()
    assert -1e-7 <= got <= math.log(len(values)) + 1e-7
    assert src.source_effective_rank(s).item() == pytest.approx(math.exp(got), rel=1e-12)
    assert src.source_effective_rank(s).item() <= effective_rank(s).item() + 1e-6
    shuffled = list(values)
    random.shuffle(shuffled)
    for name in OF_SIGMA:
        function = INDICATORS[name].function
        assert function(torch.tensor(shuffled)).item() == pytest.approx(function(torch.tensor(values)).item(), abs=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("n", [2, 50, 785])
def test_selectivity_runs_backwards(n, dtype):
    uniform, one_hot = torch.full((1, 1, n, n), 1 / n, dtype=dtype), torch.eye(n, dtype=dtype).expand(1, 1, n, n)
    high = INDICATORS["source_selectivity"].bounds("attention", N=n)[1]
    assert high == 1 - 1 / n
    assert src.source_selectivity(uniform).item() == pytest.approx(high, abs=1e-7)
    assert src.source_selectivity(one_hot).item() == pytest.approx(0, abs=1e-7)


def test_the_flat_and_the_single_spectrum():
    flat, single = torch.ones(2, 64), torch.eye(64)[:2]
    assert src.source_spectral_entropy(flat).tolist() == pytest.approx([math.log(64)] * 2, rel=1e-6)
    assert src.source_effective_rank(flat).tolist() == pytest.approx([64] * 2, rel=1e-5)
    assert src.source_effective_rank(single).tolist() == pytest.approx([1] * 2, abs=1e-6)
    assert src.source_spectral_sparsity(single).tolist() == pytest.approx([63 / 64] * 2)
    assert src.source_spectral_sparsity(torch.tensor([0.0, 9e-4, 1.1e-3, 1.0])).item() == 0.5


def test_robustness_is_a_number_of_a_layer():
    a = torch.zeros(2, 3, 4, 4)
    shaken = a.clone()
    shaken[1, 2, 0, 0] = 0.5
    got = src.source_perturbation_robustness(a, shaken)
    assert got.tolist() == [[0, 0, 0], pytest.approx([0.5 / 48] * 3)]
    with pytest.raises(InputError, match="a_pixel_noisy must have the shape of a"):
        src.source_perturbation_robustness(a, shaken[:1])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", sorted(OF_ANY | OF_SIGMA))
def test_half_precision_is_computed_in_float32_and_nan_stays(name, dtype):
    entry, generator = INDICATORS[name], torch.Generator().manual_seed(0)
    q, k = torch.randn(2, 2, 3, 5, 4, generator=generator)
    a = (q @ k.mT).softmax(-1)
    half = {"q": q, "k": k, "a": a, "a_pixel_noisy": a.flip(-1), "spectrum": q.abs()[:, :, 0]}
    half = {key: x.to(dtype) for key, x in half.items()}
    wide = {key: x.float() for key, x in half.items()}
    got, want = (entry.function(**{need: given[need] for need in entry.needs}) for given in (half, wide))
    assert got.dtype == torch.float32
    assert torch.equal(got, want)
    wide[entry.needs[0]].view(2, -1)[0, 0] = math.nan
    nan = entry.function(**{need: wide[need] for need in entry.needs}).isnan()
    assert nan[0, 0]
    assert not nan[1].any()


# --- words ------------------------------------------------------------------------------------------------------------


def test_each_says_whose_it_is_and_has_words_of_its_own():
    found = choose_indicators(["source"])
    assert len({one.label for one in INDICATORS.values()}) == len(INDICATORS)
    for one in found:
        assert one.reference == "as in the source's public code"
        assert "as in the source's public code" in " ".join(one.function.__doc__.split())
        assert "Read with care" in " ".join(one.function.__doc__.split())
        assert (one.group, one.family, dict(one.direction)) == ("source", "indicators", {})
    assert "runs backwards" in quantity("source_selectivity").higher_means
    assert "lower is steadier" in quantity("source_perturbation_robustness").higher_means


def test_the_command_lists_them_under_a_heading_of_their_own():
    from svda_analysis.cli.indicators import indicators_command

    def listed(*names):
        done = CliRunner().invoke(indicators_command, names)
        assert done.exit_code == 0, done.exception
        return done.output

    ours, rest = listed().split("\nMeasured only when asked for by name, or with --indicators source:\n")
    theirs = rest.partition("\nMetrics of faithfulness")[0]
    assert "source_" not in ours
    assert all(f"{name}  (" in theirs for name in OF_ANY | OF_SIGMA)
    assert "source_selectivity  (attention; 0 to 1 - 1/N, N the tokens)" in theirs
    assert "source_spectral_entropy  (sigma; 0 to ln D, D the head dimension)" in theirs
    assert "source_perturbation_robustness  (attention; 0 to infinity)" in theirs
    assert theirs.lstrip("\n").startswith(listed(*[name for name, one in INDICATORS.items() if one.group == "source"]))
    assert "Asks: How selective is attention?" in ours
    ours = " ".join(ours.split())
    assert "Varies with: basis, row constants; compared within one kind of attention only." in ours
    assert "Varies with: token order." in ours
    assert "A uniform map reaches the same end" in ours
    assert listed("mass_90", "source_selectivity").count("Higher:") == 2
    unknown = CliRunner().invoke(indicators_command, ["sauce"])
    assert isinstance(unknown.exception, InputError)
    assert "NAME must be one that 'svda indicators' lists" in str(unknown.exception)
