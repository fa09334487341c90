"""Compression: what is removed, what stays exact, and that the numbers about it are right."""

from __future__ import annotations

import copy
import math

import pandas as pd
import pytest
import torch
from compression_models import D, H, N, foreign, logits, made, truncated
from torch import nn

from svda_analysis import checkpoint as ck
from svda_analysis.analysis import analyze
from svda_analysis.attention import unit_rows
from svda_analysis.checkpoint import build_model
from svda_analysis.compression.keep import CRITERIA, Keep
from svda_analysis.compression.ranking import keep_energy, keep_logit, rank
from svda_analysis.compression.removal import (
    Planner,
    as_checkpoint,
    build_smaller,
    compress,
    compress_model,
    kept_share,
    plan_removal,
    remove,
    removed_shares,
    to_budget,
)
from svda_analysis.errors import InputError
from svda_analysis.tap import records


@pytest.fixture(scope="module")
def images():
    return torch.randn(6, 1, 28, 28, generator=torch.Generator().manual_seed(1))


class Reference(nn.Module):
    """Attention in float64 from its definition: any Sigma ``(H, D, D)``, norms of q and k by a function."""

    def __init__(self, attention, sigma, norm):
        super().__init__()
        self.weight, self.bias = attention.qkv.weight.double(), attention.qkv.bias.double()
        self.proj, self.sigma, self.norm = copy.deepcopy(attention.proj).double(), sigma, norm

    def forward(self, x):
        B, n, C = x.shape
        q, k, v = (x.double() @ self.weight.T + self.bias).view(B, n, 3, H, D).permute(2, 0, 3, 1, 4)
        q_hat, k_hat = q / self.norm(q, 0), k / self.norm(k, 1)
        scores = q_hat @ self.sigma @ k_hat.mT / math.sqrt(D)
        return self.proj((scores.softmax(-1) @ v).transpose(1, 2).reshape(B, n, C)).to(x.dtype)


def with_reference(checkpoint, sigmas, norms):
    model = build_model(checkpoint)
    for block, sigma, norm in zip(model.blocks, sigmas, norms, strict=True):
        block.attention = Reference(block.attention, sigma, norm)
    return model


def whole_norm(x, which):
    return x.norm(dim=-1, keepdim=True)


def plain_norm(x, which):
    return torch.ones_like(x[..., :1])


# --- what compression computes --------------------------------------------------------------------------------------


@pytest.mark.parametrize("criterion", CRITERIA)
@pytest.mark.parametrize("attention", ["svda", "dot"])
def test_with_everything_kept_the_logits_stay(attention, criterion, images):
    given = made(attention)
    after = compress(given, images, energy=1.0, criterion=criterion, norm_logit=0)
    others = torch.randn(6, 1, 28, 28, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(logits(after, others), logits(given, others), atol=2e-5, rtol=0)


@pytest.mark.parametrize("criterion", ["sigma", "data", "operator"])
def test_svda_with_the_norm_kept_is_the_mask(criterion, images):
    """The norm kept whole: the logits are those of the whole unit rows with Sigma truncated."""
    given = made()
    found = rank(build_model(given), images, criterion=criterion)
    counts = [[3, 5], [1, 8]]
    after = remove(build_model(given), found, counts, norm_logit=0)
    reference = with_reference(given, truncated(found, counts), [whole_norm] * 2)
    torch.testing.assert_close(logits(after, images), logits(reference, images), atol=1e-5, rtol=0)


def test_sigma_masked_by_hand_is_the_same(images):
    given = made(sigma_form="linear")
    model = copy.deepcopy(build_model(given))
    kept = keep_energy(rank(model, criterion="sigma"), 0.8)
    for layer, row in zip(model.attention_layers(), kept, strict=True):
        with torch.no_grad():
            for sigma, count in zip(layer.sigma_linear, row, strict=True):
                sigma[sigma.abs().argsort(descending=True)[count:]] = 0
    after = compress(given, images, energy=0.8, criterion="sigma", norm_logit=0)
    torch.testing.assert_close(logits(after, images), logits(model, images), atol=1e-5, rtol=0)
    assert after.config.score_dims == tuple(map(tuple, kept))


def test_rows_removed_by_sigma_are_the_norm_over_the_kept(images):
    """No norm rows, no constant: q and k are divided by their length along the kept axes alone."""
    given = made()
    model = build_model(given)
    counts = keep_energy(rank(model, criterion="sigma"), 0.7)
    keep = [
        torch.stack(
            [torch.zeros(D).index_fill(0, s.abs().topk(c).indices, 1.0) for s, c in zip(a.sigma, row, strict=True)]
        )
        for a, row in zip(model.attention_layers(), counts, strict=True)
    ]  # each (H, D)
    sigmas = [
        torch.diag_embed(a.sigma.detach() * m).double() for a, m in zip(model.attention_layers(), keep, strict=True)
    ]
    norms = [lambda x, which, m=m: (x * m[:, None]).norm(dim=-1, keepdim=True) for m in keep]
    after = compress(given, energy=0.7, criterion="sigma", norm_logit=math.inf, constant=False)
    reference = with_reference(given, sigmas, norms)
    torch.testing.assert_close(logits(after, images), logits(reference, images), atol=1e-5, rtol=0)


def logits_of_head(layer, head, matrix):
    """Root mean square of q^T matrix k / sqrt(D) over random pairs' moments, k about its image's mean: by loops."""
    rows, norms = layer.rows(head)
    q, k = rows / norms
    k = k - k.mean(1, keepdim=True)
    q, k = q.flatten(0, 1), k.flatten(0, 1)
    return ((q @ matrix @ k.T).square().mean() / D).sqrt()


@pytest.mark.parametrize(("norm_logit", "constant"), [(math.inf, True), (0.002, True), (0.01, False)])
def test_the_norm_is_that_of_norm_rows_and_constant(norm_logit, constant, images):
    """The norm written with projections: kept directions, principal directions of the rest, a mean squared length."""
    given, counts = made(), [[3, 5], [1, 8]]
    model = build_model(given)
    found = rank(model, images)
    after = remove(model, found, counts, norm_logit=norm_logit, constant=constant)
    norms, whole = [], truncated(found, counts)
    for at, layer in enumerate(found.layers):
        projectors, lengths = torch.zeros(2, H, D, D, dtype=torch.float64), torch.zeros(2, H, dtype=torch.float64)
        for h, kept in enumerate(counts[at]):
            rows, norm = (x.flatten(1, 2) for x in layer.rows(h))
            parts = []
            for which, side in enumerate((found.left, found.right)):
                basis = torch.linalg.qr(side[at][h][:, :kept]).Q
                inside = basis @ basis.T
                outside = rows[which] @ (torch.eye(D, dtype=torch.float64) - inside)
                _, _, axes = torch.linalg.svd(outside / norm[which], full_matrices=False)
                share = (outside @ axes[: D - kept].T / norm[which]) ** 2
                parts.append((inside, outside, axes, share.std(0) if constant else share.pow(2).mean(0).sqrt()))
            spread = torch.maximum(parts[0][3], parts[1][3])
            extra = int((spread / 2 * logits_of_head(layer, h, whole[at][h]) >= norm_logit).sum())
            assert model.config.norm_dims is None
            assert after.config.norm_dims[at][h] == extra
            for which, (inside, outside, axes, _) in enumerate(parts):
                principal = axes[:extra].T @ axes[:extra]
                projectors[which, h] = inside + principal
                rest = outside - outside @ principal
                lengths[which, h] = rest.square().sum(-1).mean().sqrt() if constant else 0

        def norm_of(x, which, p=projectors, c=lengths):
            return ((x @ p[which]).square().sum(-1, keepdim=True) + c[which][:, None, None].square()).sqrt()

        norms.append(norm_of)
    sizes = [n for row in after.config.norm_dims for n in row]
    assert (sum(sizes) > 0) == (norm_logit < math.inf)
    reference = with_reference(given, whole, norms)
    torch.testing.assert_close(logits(after, images), logits(reference, images), atol=1e-5, rtol=0)


@pytest.mark.parametrize("attention", ["svda", "dot"])
@pytest.mark.parametrize("budget", [0.3, 0.7, 1.0])
def test_a_budget_of_rows_is_kept_and_used(attention, budget, images):
    model = build_model(made(attention))
    found = rank(model, images)
    least, smaller = to_budget(model, found, budget)
    share = sum(sum(r) + sum(n) for r, n in zip(smaller.config.score_dims, smaller.config.norm_dims, strict=True))
    share /= 2 * H * D
    assert budget - 0.1 <= share <= budget
    assert smaller.config.score_dims == tuple(map(tuple, keep_logit(found, least)))


@pytest.mark.parametrize("criterion", ["sigma", "operator"])
def test_dot_product_is_the_truncated_product(criterion, images):
    given = made("dot")
    found = rank(build_model(given), images, criterion=criterion)
    counts = [[2, 7], [1, 12]]
    after = remove(build_model(given), found, counts)
    reference = with_reference(given, truncated(found, counts), [plain_norm] * 2)
    torch.testing.assert_close(logits(after, images), logits(reference, images), atol=1e-5, rtol=0)


# --- the smaller checkpoint -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("attention", ["svda", "dot"])
def test_a_compressed_checkpoint_is_smaller_on_disk_and_loads(attention, images, tmp_path):
    given = made(attention)
    after = compress(given, images, energy=0.5)
    for name, checkpoint in (("before", given), ("after", after)):
        ck.save(checkpoint, tmp_path / f"{name}.pt")
    kept = ck.load(tmp_path / "after.pt")
    assert kept.config == after.config
    torch.testing.assert_close(logits(kept, images), logits(after, images), atol=0, rtol=0)
    gone = 2 * H * D * 2 - sum(2 * (s + n) for a, b in zip(kept.config.score_dims, kept.config.norm_dims, strict=True)
                               for s, n in zip(a, b, strict=True))  # fmt: skip
    extra = -2 * H * D - 2 * H if attention == "svda" else 0  # sigma_shape and temperature made room for sigma, length
    extra += sum(map(sum, kept.config.score_dims)) + 2 * 2 * H if attention == "svda" else 0
    sizes = [sum(x.numel() for x in c.model.values()) for c in (given, kept)]
    assert gone > 0
    assert sizes[0] - sizes[1] == gone * (H * D + 1) - extra
    assert (tmp_path / "after.pt").stat().st_size < (tmp_path / "before.pt").stat().st_size


@pytest.mark.parametrize("attention", ["svda", "dot"])
def test_compressing_again_composes(attention, images):
    """What the second pass removes it removes from what the first one left, and all of it is nothing."""
    given = made(attention)
    for norm_logit, criterion in ((0, "sigma"), (0, "operator"), (0.002, "operator")):
        once = compress(given, images, energy=0.95, norm_logit=norm_logit, criterion=criterion)
        again = compress(once, images, energy=1.0, norm_logit=0, criterion=criterion)
        torch.testing.assert_close(logits(again, images), logits(once, images), atol=1e-5, rtol=0)
        assert again.config == once.config
    smaller = compress(compress(given, images, energy=0.9), images, energy=0.7)
    assert sum(map(sum, smaller.config.score_dims)) < sum(
        map(sum, compress(given, images, energy=0.9).config.score_dims)
    )
    assert logits(smaller, images).isfinite().all()


@pytest.mark.parametrize("attention", ["svda", "dot"])
@pytest.mark.parametrize("budget", [0.3, 0.6])
def test_a_budget_twice_is_the_budget_once(attention, budget, images):
    once = compress(made(attention), images, budget=budget)
    again = compress(once, images, budget=budget)
    assert again.config == once.config
    torch.testing.assert_close(logits(again, images), logits(once, images), atol=1e-5, rtol=0)


@pytest.mark.parametrize("constant", [True, False])
@pytest.mark.parametrize("norm_logit", [0, 0.002, math.inf])
def test_a_second_compression_keeps_the_constant_of_the_first(norm_logit, constant, images):
    once = compress(made(), images, energy=0.8, norm_logit=math.inf)
    lengths = [layer.norm_length.detach() for layer in build_model(once).attention_layers()]
    assert min(float(length.min()) for length in lengths) > 0.01
    again = compress(once, images, energy=1.0, norm_logit=norm_logit, constant=constant)
    torch.testing.assert_close(logits(again, images), logits(once, images), atol=1e-5, rtol=0)


def test_without_the_constant_the_second_pass_adds_none(images):
    once = compress(made(), images, energy=0.8, norm_logit=math.inf)
    twice = compress(once, images, energy=0.5, norm_logit=math.inf, constant=False)
    added = compress(once, images, energy=0.5, norm_logit=math.inf, constant=True)
    lengths = [[a.norm_length for a in build_model(one).attention_layers()] for one in (once, twice, added)]
    for before, without, with_rest in zip(*lengths, strict=True):
        torch.testing.assert_close(without, before)
        assert (with_rest > before).all()


@pytest.mark.parametrize("attention", ["svda", "dot"])
@pytest.mark.parametrize("criterion", CRITERIA)
def test_a_threshold_of_zero_brings_no_rows_back(attention, criterion, images):
    once = compress(made(attention), images, energy=0.8)
    again = compress(once, images, min_logit=0, criterion=criterion)
    assert again.config.score_dims == once.config.score_dims
    assert kept_share(build_model(again)) <= kept_share(build_model(once))
    torch.testing.assert_close(logits(again, images), logits(once, images), atol=1e-5, rtol=0)


def test_heads_without_energy_keep_one_direction(images):
    model = build_model(made(sigma_form="linear"))
    with torch.no_grad():
        for layer in model.attention_layers():
            layer.sigma_linear.zero_()
    found = rank(model, images)
    assert keep_logit(found, 0) == [[1] * H] * 2
    smaller = to_budget(model, found, 0.5, norm_logit=math.inf)[1]
    assert smaller.config.score_dims == ((1,) * H,) * 2
    torch.testing.assert_close(logits(smaller, images), logits(model, images), atol=1e-5, rtol=0)


def test_shares_of_a_model_that_was_not_compressed(images):
    for model in (build_model(made()), build_model(made("dot")), foreign("torchvision")):
        assert kept_share(model) == 1
        assert removed_shares(model) == {"directions_removed": 0, "rows_removed": 0}
    smaller = compress_model(build_model(made("dot")), images, energy=0.5)
    rows = sum(map(sum, smaller.config.score_dims))
    assert kept_share(smaller) == pytest.approx(rows / (2 * H * D))


def test_analysis_sees_a_spectrum_of_d_values(images):
    after = build_model(compress(made(), images, energy=0.6))
    found = records(after, images)
    assert all(record.sigma.shape == (H, D) and record.q.shape == (6, H, N, D) for record in found)
    table = analyze(after, images, examples=0).table
    ranks = table[(table["indicator"] == "effective_rank") & (table["source"] == "sigma")]["mean"]
    kept = [count for row in after.config.score_dims for count in row]
    assert (ranks.to_numpy() <= torch.tensor(kept).numpy() + 1e-6).all()
    assert isinstance(table, pd.DataFrame)


def test_a_compressed_model_learns(images):
    model = build_model(compress(made(), images, energy=0.6)).train()
    for attention in model.attention_layers():
        attention.track_row_energy = True
    model(images).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0 or name.endswith("cls_token"), name
    assert model.attention_layers()[0].row_energy.shape == (H, D)


def test_zero_rows_stay_finite():
    after = compress(made(), energy=0.3, criterion="sigma", norm_logit=math.inf, constant=False)
    model = build_model(after)
    with torch.no_grad():
        for attention in model.attention_layers():
            attention.qkv.weight.zero_()
            attention.qkv.bias.zero_()
    model(torch.randn(2, 1, 28, 28)).sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


# --- models of others -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["timm", "torchvision"])
def test_models_of_others_shrink_and_stay_exact(name):
    model, images = foreign(name), torch.randn(4, 3, 32, 32)
    before = logits(model, images)
    whole = compress_model(model, images, energy=1.0)
    torch.testing.assert_close(logits(whole, images), before, atol=1e-4, rtol=1e-4)
    smaller = compress_model(model, images, energy=0.5)
    sizes = [sum(p.numel() for p in m.parameters()) for m in (model, smaller)]
    assert sizes[1] < sizes[0]
    assert len(records(smaller, images)) == 2
    torch.testing.assert_close(logits(model, images), before, atol=0, rtol=0)  # the model given is left as it was
    again = compress_model(smaller, images, energy=1.0)
    torch.testing.assert_close(logits(again, images), logits(smaller, images), atol=1e-4, rtol=1e-4)


# --- bad input ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ({"energy": 0.0}, "energy must lie in"),
        ({"energy": 1.01}, "energy must lie in"),
        ({"energy": math.nan}, "energy must lie in"),
        ({"norm_logit": -1.0}, "norm_logit must be at least 0"),
        ({"norm_logit": math.nan}, "norm_logit must be at least 0"),
        ({"budget": 0.0}, "budget must lie in"),
        ({"budget": 0.01}, "budget must be at least"),
        ({"budget": 0.5, "energy": 0.5}, "exclude each other"),
        ({"criterion": "best"}, "criterion must be one of operator, data, sigma, random"),
        ({"min_logit": -1.0}, "min_logit must be"),
    ],
)
def test_bad_arguments(given, complaint, images):
    with pytest.raises(InputError, match=complaint):
        compress(made(), images, **given)


def test_images_are_needed_where_the_data_speak():
    with pytest.raises(InputError, match="images must be given for criterion operator"):
        compress(made())
    with pytest.raises(InputError, match="images must be given to keep the norm"):
        compress(made(), criterion="sigma", energy=0.9)


def test_unit_rows_of_a_whole_model_are_as_before(images):
    """The uncompressed path: unit rows, not the compressed path's norm."""
    record = records(build_model(made()), images)[0]
    torch.testing.assert_close(record.q, unit_rows(record.q))


def test_a_plan_is_data_that_the_smaller_model_is_built_of(images):
    model = build_model(made())
    found = rank(model, images)
    counts = [[3, 5], [1, 8]]
    plan = plan_removal(found, counts, norm_logit=0.002, constant=True)
    assert plan.score_dims == ((3, 5), (1, 8))
    smaller = build_smaller(model, plan)
    assert (smaller.config.score_dims, smaller.config.norm_dims) == (plan.score_dims, plan.norm_dims)
    assert plan.rows / (2 * H * D) == pytest.approx(kept_share(smaller))
    whole = remove(model, found, counts, norm_logit=0.002)
    assert all(map(torch.equal, smaller.state_dict().values(), whole.state_dict().values()))


@pytest.mark.parametrize("constant", [True, False])
def test_plans_of_one_planner_are_those_that_each_asks_alone(constant, images):
    found = rank(build_model(made()), images)
    planner = Planner(found, constant=constant)
    few, more = [[3, 5], [1, 8]], [[3, D], [1, 8]]
    for counts, norm_logit in [(few, 0.002), (few, 0.0), (more, math.inf), (few, 0.002)]:
        ours = planner.plan(counts, norm_logit)
        alone = plan_removal(found, counts, norm_logit=norm_logit, constant=constant)
        for mine, theirs in zip(sum(ours.heads, ()), sum(alone.heads, ()), strict=True):
            assert all(map(torch.equal, mine, theirs))


def test_a_keep_is_its_fields(images):
    given = made()
    one, other = (
        compress(given, images, keep=Keep(energy=0.7, norm_logit=0)),
        compress(given, images, energy=0.7, norm_logit=0),
    )
    assert one.config == other.config
    assert all(map(torch.equal, one.model.values(), other.model.values()))
    with pytest.raises(InputError, match="give it or energy"):
        compress(given, images, keep=Keep(), energy=0.7)
    with pytest.raises(InputError, match="tolerance needs held-out images"):
        compress(given, images, tolerance=0.01)


def test_a_model_of_others_is_no_checkpoint():
    with pytest.raises(InputError, match="must be a ViT of this package to become a checkpoint, got VisionTransformer"):
        as_checkpoint(foreign("torchvision"), made())
