"""The group ``field`` against explicit formulas in float64, with its properties and edge cases."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.spatial.distance import jensenshannon

from svda_analysis import indicators as ind
from svda_analysis.analysis import analyze
from svda_analysis.errors import InputError
from svda_analysis.indicators import INDICATORS, choose_indicators
from svda_analysis.indicators.weights import ov_eigenvalues_of, ov_spectrum, qk_eigenvalues_of, qk_spectrum
from svda_analysis.model import ViT, ViTConfig
from svda_analysis.streaming import Stream
from svda_analysis.tap import records

B, H, N, D = 2, 3, 7, 4


def layer(seed=0):
    """Queries, keys, sigma and maps of one layer in float64, from nearly uniform (head 0) to peaked (head 2)."""
    rng = np.random.default_rng(seed)
    q, k = rng.normal(size=(2, B, H, N, D)) + 1
    sigma = rng.normal(size=(H, D)) * np.array([0.1, 1, 5])[:, None]
    scores = np.einsum("bhid,hd,bhjd->bhij", q, sigma, k)
    e = np.exp(scores - scores.max(-1, keepdims=True))
    return q, k, sigma, scores, e / e.sum(-1, keepdims=True)


def by_head(function, *arrays):
    """``function`` of one image and head at a time."""
    return [[function(*(x[b, h] for x in arrays)) for h in range(H)] for b in range(B)]


def tensors(*arrays):
    return [torch.as_tensor(x) for x in arrays]


def a_model(kind="dot", classes=3):
    torch.manual_seed(0)
    model = ViT(ViTConfig(image_size=16, dim=24, depth=2, heads=2, attention=kind, num_classes=classes)).double().eval()
    torch.nn.init.normal_(model.head.weight)
    return model


@pytest.fixture
def images():
    return torch.randn(6, 1, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def of(table, name, source):
    """Means ``(layers, heads)``."""
    found = table[(table["indicator"] == name) & (table["source"] == source)]
    return found.pivot(index="layer", columns="head", values="mean").to_numpy()


# --- logits -----------------------------------------------------------------------------------------------------------


def test_spread_and_largest_logit_are_those_of_the_scores_about_their_row_means():
    *_, scores, a = layer()
    centred = scores - scores.mean(-1, keepdims=True)
    spread = by_head(lambda s: np.mean([s[i].std() for i in range(N)]), centred)
    np.testing.assert_allclose(ind.logit_spread(torch.as_tensor(a)), spread, rtol=1e-9)
    np.testing.assert_allclose(ind.largest_logit(torch.as_tensor(a)), by_head(np.max, centred), rtol=1e-9)


def test_uniform_attention_has_no_spread_and_masked_keys_are_left_out():
    uniform = torch.full((1, 1, 4, 4), 0.25)
    assert ind.logit_spread(uniform).item() == ind.largest_logit(uniform).item() == 0
    masked = torch.tensor([[[[0.8, 0.2, 0.0], [0.8, 0.2, 0.0], [0.0, 0.0, 0.0]]]])
    half = math.log(4) / 2  # log 0.8 and log 0.2 about their mean
    assert ind.logit_spread(masked).item() == pytest.approx(2 * half / 3)
    assert ind.largest_logit(masked).item() == pytest.approx(half)


def test_invisible_energy_is_the_part_of_the_scores_that_rows_share():
    q, k, sigma, scores, _ = layer()
    want = by_head(lambda s: sum(N * row.mean() ** 2 for row in s) / (s**2).sum(), scores)
    np.testing.assert_allclose(ind.invisible_energy(*tensors(q, k, sigma)), want, rtol=1e-9)
    same = np.broadcast_to(k[:, :, :1], k.shape).copy()
    assert np.allclose(ind.invisible_energy(*tensors(q, same, sigma)), 1)
    assert np.allclose(ind.invisible_energy(*tensors(q, k - k.mean(2, keepdims=True), sigma)), 0, atol=1e-12)
    assert np.all(ind.invisible_energy(*tensors(q, 0 * k, sigma)).numpy() == 0)


@pytest.mark.parametrize("scale", [1e-25, 1e25])
def test_invisible_energy_has_no_scale(scale):
    q, k, sigma = (x.float() for x in tensors(*layer()[:3]))
    torch.testing.assert_close(ind.invisible_energy(q * scale, k * scale, sigma), ind.invisible_energy(q, k, sigma))


@pytest.mark.parametrize("name", ["logit_spread", "largest_logit"])
def test_nan_stays(name):
    a = torch.full((1, 2, 4, 4), 0.25)
    a[0, 1, 2, 3] = math.nan
    assert INDICATORS[name].function(a).isnan().tolist() == [[False, True]]


# --- tokens -----------------------------------------------------------------------------------------------------------


def test_token_indicators_follow_their_formulas():
    x = np.random.default_rng(0).normal(size=(B, N, 5)) + 2
    x[1, 3] *= 9
    unit = x / np.linalg.norm(x, axis=-1, keepdims=True)
    similarity = [np.mean([u[i] @ u[j] for i in range(N) for j in range(N) if i != j]) for u in unit]
    residual = [np.linalg.norm(y - y.mean(0)) / np.linalg.norm(y) for y in x]
    tokens = torch.as_tensor(x)
    np.testing.assert_allclose(ind.token_similarity(tokens), similarity, rtol=1e-9)
    np.testing.assert_allclose(ind.rank_one_residual(tokens), residual, rtol=1e-9)
    assert ind.high_norm_tokens(tokens, 1).tolist() == [0, 1 / 6]
    assert ind.high_norm_tokens(tokens, 4).tolist() == [0, 0]  # it is before the patches


def test_tokens_that_are_one_and_the_same():
    tokens = torch.ones(2, 4, 3) * torch.tensor([1.0, 0.0])[:, None, None]
    assert ind.token_similarity(tokens).tolist() == [pytest.approx(1), 0]
    assert ind.rank_one_residual(tokens).tolist() == [0, 0]
    assert ind.rank_one_residual(torch.eye(4)[None] * 1e30).item() == pytest.approx(math.sqrt(3 / 4))
    assert ind.token_similarity(tokens[:, :1]) is None


@pytest.mark.parametrize("kind", ["dot", "svda"])
def test_tokens_are_the_stream_that_the_blocks_add_to(kind, images):
    model, seen = a_model(kind), []
    for block in model.blocks:
        block.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    table = analyze(model, images, indicators=["field"], examples=0, batch_size=4).table
    seen.clear()
    with torch.no_grad():
        model(images)
    for name in ("token_similarity", "rank_one_residual"):
        want = [INDICATORS[name].function(tokens).mean().item() for tokens in seen]
        np.testing.assert_allclose(of(table, name, "tokens"), np.transpose([want, want]), rtol=1e-9)


# --- places -----------------------------------------------------------------------------------------------------------


def test_masses_are_means_over_queries():
    *_, a = layer()
    t = torch.as_tensor(a)
    np.testing.assert_allclose(ind.class_mass(t, 2), by_head(lambda m: m[2:, 0].mean(), a), rtol=1e-9)
    np.testing.assert_allclose(ind.register_mass(t, 3), by_head(lambda m: m[3:, 1:3].sum(-1).mean(), a), rtol=1e-9)
    np.testing.assert_allclose(ind.sink_mass(t, 2), by_head(lambda m: m.mean(0)[2:].max(), a), rtol=1e-9)
    assert ind.class_mass(t, 0) is None
    assert ind.register_mass(t, 1) is None


def test_position_share_is_the_squared_cosine_of_deviations_from_uniform():
    *_, a = layer()
    other = layer(1)[-1]
    got = ind.position_share(*tensors(a, other))
    want = by_head(lambda x, y: np.corrcoef(x.ravel(), y.ravel())[0, 1] ** 2, a, other)  # both have the mean 1 / N
    np.testing.assert_allclose(got, want, rtol=1e-9)
    assert np.allclose(ind.position_share(*tensors(a, a)), 1)
    uniform = torch.full((B, H, N, N), 1 / N)
    assert torch.equal(ind.position_share(torch.as_tensor(a).float(), uniform), torch.zeros(B, H))
    with pytest.raises(InputError, match="position_map must suit a"):
        ind.position_share(uniform, uniform[:, :1])


def test_the_position_map_is_that_of_the_other_images_of_the_first_batch(images):
    model = a_model()
    table = analyze(model, images, indicators=["position_share"], examples=0, batch_size=4).table
    for record in records(model, images):
        first = record.a[:4]
        mean = torch.stack([*((first.sum(0) - a) / 3 for a in first), first.mean(0), first.mean(0)])
        want = ind.position_share(record.a, mean).mean(0)
        np.testing.assert_allclose(of(table, "position_share", "attention")[record.layer], want, rtol=1e-9)


# --- heads ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("heads", [2, 3, 4, 5])
def test_head_distance_is_the_mean_jensen_shannon_distance_to_the_others(heads):
    a = torch.randn(2, heads, 5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).softmax(-1)
    got = ind.head_distance(a)
    for b in range(2):
        for h in range(heads):
            others = [a[b, g] for g in range(heads) if g != h]
            want = np.mean([jensenshannon(a[b, h], other, axis=-1, base=2).mean() for other in others])
            assert got[b, h].item() == pytest.approx(want, rel=1e-7)
    assert ind.head_distance(a[:, :1]) is None


@pytest.mark.parametrize("kind", ["dot", "svda"])
def test_ablation_is_the_loss_of_a_model_without_the_heads_weights(kind, images):
    labels, model = torch.tensor([0, 1, 2, 0, 1, 2]), a_model(kind)
    data = torch.utils.data.TensorDataset(images, labels)
    found = of(analyze(model, data, indicators=["ablation"], examples=0, batch_size=4).table, "ablation_loss", "test")
    with torch.no_grad():
        whole = F.cross_entropy(model(images), labels).item()
        for layer in range(2):
            for head in range(2):
                other = a_model(kind)
                other.blocks[layer].attention.proj.weight[:, 12 * head : 12 * (head + 1)] = 0
                assert found[layer, head] == pytest.approx(F.cross_entropy(other(images), labels).item() - whole)


# --- weights ----------------------------------------------------------------------------------------------------------


def random_weights():
    rng = np.random.default_rng(0)
    return (*rng.normal(size=(3, H, D, 9)), rng.normal(size=(H, 9, D)), rng.normal(size=(H, D)))


def test_spectra_and_eigenvalues_are_those_of_the_whole_circuits():
    w_q, w_k, w_v, w_o, sigma = random_weights()
    t_q, t_k, t_v, t_o, t_sigma = tensors(w_q, w_k, w_v, w_o, sigma)
    for h in range(H):
        qk, ov = w_q[h].T @ np.diag(sigma[h]) @ w_k[h], w_o[h] @ w_v[h]
        cases = (
            (qk, qk_spectrum(t_q, t_k, t_sigma), qk_eigenvalues_of(t_q, t_k, t_sigma)),
            (ov, ov_spectrum(t_o, t_v), ov_eigenvalues_of(t_o, t_v)),
        )
        for circuit, spectrum, eigenvalues in cases:
            s = np.linalg.svd(circuit, compute_uv=False)[:D]
            values = np.linalg.eigvals(circuit)
            largest = values[np.argsort(-abs(values))[:D]]
            np.testing.assert_allclose(spectrum[0, h], s, rtol=1e-9)
            np.testing.assert_allclose(np.sort_complex(eigenvalues[0, h].numpy()), np.sort_complex(largest), rtol=1e-7)
            p = s / s.sum()
            assert ind.mode_rank(spectrum)[0, h].item() == pytest.approx(math.exp(-(p * np.log(p)).sum()))
            assert ind.leading_mode(spectrum)[0, h].item() == pytest.approx(s[0] ** 2 / (s**2).sum())
            variance = np.mean(abs(largest - largest.mean()) ** 2) / np.mean(abs(largest) ** 2)
            assert ind.qk_eigenvalue_variance(eigenvalues)[0, h].item() == pytest.approx(variance)
            copying = largest.sum().real / abs(largest).sum()
            assert ind.ov_copying(eigenvalues)[0, h].item() == pytest.approx(copying)


def test_weights_at_their_ends():
    same, zero = torch.full((1, 1, 4), 2 + 0j), torch.zeros(1, 1, 4, dtype=torch.complex64)
    assert [ind.qk_eigenvalue_variance(x).item() for x in (same, zero)] == [0, 1]
    assert [ind.ov_copying(x).item() for x in (same, -same, zero)] == [1, -1, 0]
    assert ind.leading_mode(torch.zeros(1, 1, 4)).item() == 1


@pytest.mark.parametrize("kind", ["dot", "svda", "cosine"])
def test_weights_are_read_behind_the_norm_and_a_gain_moved_into_them_changes_nothing(kind, images):
    names = ["mode_rank", "leading_mode", "qk_eigenvalue_variance", "ov_copying"]
    model = a_model(kind)
    before = analyze(model, images, indicators=names, examples=0)
    assert not before.warnings
    assert set(before.table["n"]) == {1}
    assert set(before.spectra["source"]) == {"qk", "ov"}
    block = model.blocks[1]
    weight = block.attention.qkv.weight.detach().double().view(3, 2, 12, 24)
    centred = weight - weight.mean(-1, keepdim=True)  # the norm's gain is one
    sigma = torch.ones(2, 12) if block.attention.sigma is None else block.attention.sigma.detach()
    want = ind.mode_rank(qk_spectrum(centred[0], centred[1], sigma))[0]
    np.testing.assert_allclose(of(before.table, "mode_rank", "qk")[1], want, rtol=1e-9)
    gain = torch.rand(24, dtype=torch.float64) + 0.5
    norm = next(module for module in block.modules() if isinstance(module, torch.nn.LayerNorm))
    with torch.no_grad():
        norm.weight *= gain
        norm.bias *= gain
        block.attention.qkv.weight /= gain
    after = analyze(model, images, indicators=names, examples=0)
    np.testing.assert_allclose(after.table["mean"], before.table["mean"], rtol=1e-9)


# --- what the stream needs --------------------------------------------------------------------------------------------


def test_the_default_run_measures_none_of_them():
    assert not {one.name for one in choose_indicators(["field", "ablation"])} & {
        one.name for one in choose_indicators()
    }


def test_what_cannot_be_measured_is_said(images):
    found = analyze(a_model(), images, indicators=["ablation_loss", "token_similarity"], examples=0)
    assert found.warnings == ("ablation_loss of ViT: not measured, it takes labelled images and a classifier of them",)
    assert set(found.table["indicator"]) == {"token_similarity"}


def test_a_ragged_last_batch_is_exact(images):
    names = [one.name for one in choose_indicators(["field"]) if "position_map" not in one.needs]
    whole, parts = (
        analyze(a_model(), images, indicators=names, examples=0, batch_size=size).table["mean"] for size in (6, 4)
    )
    np.testing.assert_allclose(parts, whole, rtol=1e-9)


def test_forwards_are_run_for_ablation_alone(images):
    calls = []

    class Watched(ViT):
        def forward(self, batch):
            calls.append(len(batch))
            return super().forward(batch)

    model = Watched(ViTConfig(image_size=16, dim=24, depth=2, heads=2, num_classes=3)).double().eval()
    for names, forwards in ((["field"], 1), (["ablation"], 1 + 2 * 2)):
        calls.clear()
        with torch.no_grad():
            Stream(model, choose_indicators(names)).update(images, torch.zeros(6, dtype=torch.long))
        assert calls == [6] * forwards
