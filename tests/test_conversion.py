"""Attention replaced in pretrained models: exact where it must be, trained, saved, compiled, read off the weights."""

import copy
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from converted_cases import FAMILIES, answer, images, made, ours

from svda_analysis.analysis import analyze
from svda_analysis.checkpoint import load_model
from svda_analysis.conversion import (
    _layer_rows,
    _output_rows,
    _turned,
    convert,
    distill,
    distill_output,
    layer_of,
    sigma_parameters,
)
from svda_analysis.converted import replaced
from svda_analysis.data import load_dataset
from svda_analysis.errors import InputError
from svda_analysis.forward import call_model
from svda_analysis.hosts import choose_hosts
from svda_analysis.penalties import forget_row_energy, penalty, track_row_energy
from svda_analysis.tap import records


@pytest.mark.parametrize("family", FAMILIES)
def test_dot_to_dot_gives_the_same(family):
    model, given = made(family), images()
    with torch.no_grad():
        expected = answer(model, given)
        found = answer(convert(model, to="dot"), given)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_converted_models_run_train_and_save(family):
    model, given = made(family), images()
    before = copy.deepcopy(model.state_dict())
    changed = convert(model, blocks="last:2")
    assert all(torch.equal(x, before[name]) for name, x in model.state_dict().items())  # a copy was changed
    sigmas = [record.sigma is not None for record in records(changed, given) if record.a.shape[-2] > 1]
    assert sigmas == [False, True, True]
    optimizer = torch.optim.SGD(changed.parameters(), 1e-3)
    track_row_energy(changed.train())
    loss = answer(changed, given).square().mean() + penalty(changed, shape_penalty=0.1, norm_penalty=0.3)
    loss.backward()
    learned = sigma_parameters(changed)
    assert len(learned) == 2
    assert all(p.grad.abs().sum() > 0 for p in learned)
    optimizer.step()
    forget_row_energy(changed.eval())
    other = convert(model, blocks="last:2")
    other.load_state_dict(changed.state_dict())
    assert torch.equal(answer(other, given), answer(changed, given))


@pytest.mark.parametrize("family", ["ours", "timm vit", "torchvision vit", "hf vit"])
@pytest.mark.parametrize("to", ["svda", "cosine"])
def test_the_whole_of_it_compiles_without_a_break(family, to):
    model, given = convert(made(family), to=to), images(2)
    with torch.no_grad():
        expected = answer(model, given)
        found = answer(torch.compile(model, backend="eager", fullgraph=family != "hf vit"), given)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("family", ["ours", "timm dinov2", "torchvision vit", "hf dinov2"])
def test_converted_models_are_analysed_as_any_other(family):
    model = convert(made(family), blocks=[0], to="svda")
    table = analyze(model, images(), indicators=["attention_entropy", "effective_rank"]).table
    assert set(table["layer"].dropna()) == {0, 1, 2}
    assert set(table[table["source"] == "sigma"]["layer"]) == {0}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("learns", [True, False])
def test_what_learned_before_learns_after(family, learns):
    model = made(family).requires_grad_(learns)
    for layer in replaced(convert(model, blocks="last:1")).values():
        assert {p.requires_grad for name, p in layer.named_parameters() if "sigma" not in name} == {learns}


def test_in_place_is_in_place_and_again_is_possible():
    model = made("timm vit")
    assert convert(model, blocks="last:1", inplace=True) is model
    again = convert(model, to="cosine", blocks="last:2", inplace=True)
    kinds = [layer.kind for layer in replaced(again).values()]
    assert kinds == ["cosine", "cosine"]
    assert answer(model, images()).isfinite().all()


def test_a_vit_of_ours_says_what_it_is():
    assert convert(ours(), to="svda").config.attention == "svda"
    assert convert(ours(), to="svda", blocks="last:1").config.attention == "dot"
    assert convert(ours("svda"), to="cosine").config.attention == "cosine"


# --- sigma read off the weights ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("t", [0.0, 0.3, 1.0])
def test_the_turned_rows_have_the_scores_of_the_model(t):
    """Up to what all keys share, q' diag(S) k' are the scores; at t = 1 the rows are white."""
    model = made("timm vit")
    (rows,) = _layer_rows(model, choose_hosts(model, "last:1"), images(8))
    turned = _turned(rows, t)
    q, k = rows.q @ turned.left.mT, (rows.k - rows.mean_key[:, None]) @ turned.right.mT
    lengths = q.norm(dim=-1).mean((0, 2)) * k.norm(dim=-1).mean((0, 2))
    size = turned.sigma / lengths[:, None]
    wanted = rows.q @ (rows.k - rows.mean_key[:, None]).mT
    torch.testing.assert_close((q * size[:, None]) @ k.mT, wanted, rtol=1e-4, atol=1e-6)
    if t == 1.0:
        moments = turned.left @ rows.moments[0] @ turned.left.mT
        torch.testing.assert_close(moments, torch.eye(24).double().expand(2, 24, 24), rtol=1e-6, atol=1e-6)
        values = torch.linalg.svdvals(
            torch.linalg.cholesky(rows.moments[0]).mT @ torch.linalg.cholesky(rows.moments[1])
        )
        torch.testing.assert_close(size, values, rtol=1e-6, atol=1e-9)  # the operator's, whatever roots are taken
    if t == 0.0:
        torch.testing.assert_close(size, torch.ones(2, 24).double())


@pytest.mark.parametrize("t", [0.0, 1.0])
def test_with_a_long_norm_row_svda_is_dot_product_attention_less_a_direction(t):
    """The longer the row, the nearer the maps are to those of the scores without each head's weakest direction."""
    model, given = made("timm vit"), images(8)
    (rows,) = _layer_rows(model, choose_hosts(model, "last:1"), given)
    whole, turned = _turned(rows, t), _turned(rows, t, norm_row=1.0)
    ratio = turned.sigma[:, :-1] / whole.sigma[:, :-1]
    torch.testing.assert_close(ratio, ratio[:, :1].expand_as(ratio))  # the spectrum keeps its shape
    assert (turned.sigma[:, -1] == 0).all()
    (record,) = [x for x in records(model, given) if x.layer == 2]
    q, k = record.q.double() @ whole.left.mT, (record.k.double() - rows.mean_key[:, None]) @ whole.right.mT
    lengths = [
        x.norm(dim=-1).mean((0, 2))
        for x in (rows.q @ whole.left.mT, (rows.k - rows.mean_key[:, None]) @ whole.right.mT)
    ]
    size = whole.sigma / (lengths[0] * lengths[1])[:, None]
    scores = (q * size[:, None])[..., :-1] @ k[..., :-1].mT
    wanted = (scores * record.scale).softmax(-1)
    off = []
    for r in (1.0, 10.0, 100.0):
        changed = convert(model, blocks="last:1", start="weights", images=given, basis=t, norm_row=r)
        (own,) = [x for x in records(changed, given) if x.layer == 2]
        off.append(float((own.a - wanted).abs().max()))
        assert float(own.q.square()[..., -1].mean()) == pytest.approx(r**2 / (1 + r**2), abs=0.05)
    assert off[1] < 0.1 * off[0]
    assert off[2] < 1e-5


@pytest.mark.parametrize("options", [{"norm_row": -1.0}, {"norm_row": float("nan")}, {"norm_row": 1.0}])
def test_a_norm_row_that_cannot_be_is_refused(options):
    with pytest.raises(InputError, match="norm_row"):
        convert(made("timm vit"), **options)


def distance_of_maps(maps, changed, given):
    pairs = zip(maps, (record.a for record in records(changed, given)), strict=True)
    return sum(float((a - b).abs().sum(-1).mean()) for a, b in pairs)


@pytest.mark.parametrize("family", ["ours", "timm vit", "torchvision vit", "hf dinov2"])
@pytest.mark.parametrize("form", ["linear", "shape"])
def test_a_start_from_the_weights_is_nearer_than_a_fresh_one(family, form):
    given, fresh, read = images(16), [], {0: [], 1: [], "best": []}
    for seed in range(3):
        model = made(family, seed)
        for layer in (host.module for host in choose_hosts(model, "all")):
            for name, parameter in layer.named_parameters():
                if parameter.ndim == 2:
                    parameter.data.mul_(2 if "q" in name or "in_proj" in name else 1)  # so that maps are not uniform
        maps = [record.a for record in records(model, given)]
        fresh.append(distance_of_maps(maps, convert(model, to="svda", sigma_form=form), given))
        for t in read:
            begun = convert(model, start="weights", images=given, basis=t, sigma_form=form)
            read[t].append(distance_of_maps(maps, begun, given))
    for nearer in (read[1], read["best"]):
        assert all(own < 0.9 * start for own, start in zip(nearer, fresh, strict=True))
    assert all(best <= 1.05 * min(others) for best, *others in zip(read["best"], *read.values(), strict=True))
    assert sum(read[0]) <= sum(fresh)  # the axes of the model alone are no nearer than chance for some single ones


def test_of_a_trained_model_most_is_there_before_any_training():
    model = load_model(Path(__file__).parents[1] / "checkpoints" / "fashion_mnist" / "vit_s0.pt")
    data = load_dataset("sample")
    given = next(data.batches(64))[0]
    maps = [record.a for record in records(model, given[32:])]

    def divergence(changed):
        pairs = zip(maps, (record.a for record in records(changed, given[32:])), strict=True)
        return sum(float((a * (a.log() - b.log())).sum(-1).mean()) for a, b in pairs)

    fresh = divergence(convert(model))
    read = convert(model, start="weights", images=given[:32])
    assert divergence(read) < 0.5 * fresh
    with torch.no_grad():
        same = model(given[32:]).argmax(-1) == read(given[32:]).argmax(-1)
    assert same.float().mean() > 0.8


def test_to_dot_the_start_is_the_model_itself():
    model, given = made("timm vit"), images()
    found = convert(model, to="dot", start="weights", images=given)
    torch.testing.assert_close(answer(found, given), answer(model, given), rtol=1e-5, atol=1e-5)


def test_cosine_starts_at_the_mean_lengths():
    model, given = made("timm vit"), images()
    changed = convert(model, to="cosine", blocks="last:1", start="weights", images=given)
    record = records(model, given)[-1]
    keys = record.k - record.k.mean((0, 2))[:, None]
    expected = record.q.norm(dim=-1).mean((0, 2)) * keys.norm(dim=-1).mean((0, 2))
    (layer,) = replaced(changed).values()
    torch.testing.assert_close(layer.log_temperature.exp(), expected, rtol=1e-4, atol=1e-5)


def test_distillation_brings_the_maps_back_and_leaves_the_rest():
    model, given = made("timm vit"), images(12)
    changed = convert(model, start="weights", images=given)
    before = copy.deepcopy(changed.state_dict())
    steps = []
    lost = distill(changed, model, given, steps=40, sigma_lr_factor=1.0, progress=lambda done, all: steps.append(done))
    assert sum(lost[-5:]) < 0.6 * sum(lost[:5])
    assert steps == list(range(1, 41))
    moved = {name for name, x in changed.state_dict().items() if not torch.equal(x, before[name])}
    assert {name.rpartition(".attention.")[2] for name in moved} == {"qkv.weight", "qkv.bias", "sigma_linear"}
    for layer in replaced(changed).values():
        name = next(n for n, m in changed.named_modules() if m is layer)
        assert torch.equal(layer.qkv.weight[-48:], before[f"{name}.qkv.weight"][-48:])
    assert all(p.grad is None for p in changed.parameters())
    assert not any(module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"to": "softmax"}, "attention must be one of dot, svda, cosine"),
        ({"start": "random"}, "start must be one of fresh, weights"),
        ({"start": "weights"}, "images must be given with start='weights'"),
        ({"basis": 2}, r"basis must lie in \[0, 1\] or be 'best', got 2"),
        ({"basis": "worst"}, "basis must lie"),
        ({"blocks": "last:9"}, "blocks must be all"),
        ({"sigma_start": -1}, "sigma_start must be"),
        ({"start": "weights", "images": torch.zeros(2, 3, 16, 16)}, "images"),
    ],
)
def test_bad_input_is_told_and_nothing_is_changed(options, words):
    model = made("ours")
    before = set(model.state_dict())
    with pytest.raises(InputError, match=words):
        convert(model, inplace=True, **options)
    assert set(model.state_dict()) == before


def test_what_is_no_conversion_is_not_distilled():
    model = made("ours")
    with pytest.raises(InputError, match="one that convert made"):
        distill(model, model, images())
    with pytest.raises(InputError, match=r"it has no blocks\.0\.attention"):
        distill(convert(model), made("torchvision vit"), images())
    with pytest.raises(InputError, match="start='weights' reads dot-product attention"):
        convert(ours("svda"), to="svda", start="weights", images=images())


def test_a_loop_of_ones_own_needs_no_change():
    model, given = convert(made("timm vit"), blocks="last:2"), images()
    groups = [
        {"params": sigma_parameters(model), "lr": 0.1, "weight_decay": 0.0},
        {"params": [p for p in model.parameters() if not any(p is s for s in sigma_parameters(model))]},
    ]
    optimizer = torch.optim.AdamW(groups, lr=1e-3)
    losses = []
    for _ in range(8):
        loss = F.cross_entropy(model(given), torch.arange(4))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.8 * losses[0]
    assert layer_of(model.blocks[-1].attn).sigma is not None


@pytest.mark.parametrize("family", ["ours", "torchvision vit"])
def test_outputs_are_brought_back_together(family):
    """Values and all that is no attention stay."""
    model, given = made(family), images(8)
    for layer in (host.module for host in choose_hosts(model, "all")):
        for name, parameter in layer.named_parameters():
            if parameter.ndim == 2:
                parameter.data.mul_(2 if "q" in name or "in_proj" in name else 1)
    student = convert(model, start="weights", images=given, basis=1.0)
    before = {name: value.clone() for name, value in student.state_dict().items()}

    def off():
        with torch.no_grad():
            pair = (_output_rows(call_model(one, given)) for one in (student, model))
            return float(1 - torch.cosine_similarity(*pair, dim=-1).mean())

    start = off()
    lost = distill_output(student, model, given, steps=30, lr=1e-3)
    assert len(lost) == 30
    assert off() < 0.8 * start
    changed = {name for name, value in student.state_dict().items() if not torch.equal(value, before[name])}
    assert changed
    assert all("qkv" in name or "sigma" in name for name in changed)
    C = next(iter(replaced(student).values())).qkv.in_features
    assert all(
        torch.equal(student.state_dict()[name][2 * C :], before[name][2 * C :]) for name in changed if "qkv" in name
    )
    assert all(p.grad is None for p in student.parameters())


@pytest.mark.parametrize("options", [{"steps": 0}, {"images": torch.zeros(0, 3, 32, 32)}])
def test_outputs_are_not_brought_back_by_nothing(options):
    model = made("ours")
    with pytest.raises(InputError, match=next(iter(options))):
        distill_output(convert(model), model, **{"images": images(), **options})
