"""The tap: records rebuild the kernel's output, logits stay, nothing is left behind."""

import copy
import subprocess
import sys
import textwrap
import threading

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from svda_analysis.errors import InputError
from svda_analysis.model import ViT, ViTConfig
from svda_analysis.tap import capture, evaluating, records

KINDS = ("dot", "svda", "cosine")


def model_and_images(kind="dot", **changes):
    torch.manual_seed(0)
    model = ViT(ViTConfig(attention=kind, dim=24, depth=3, heads=2, **changes)).eval()
    nn.init.normal_(model.head.weight)  # a new head is zero, and passes no gradient on
    return model, torch.randn(3, 1, 28, 28)


class Own(nn.Module):
    """A module of a user, with every option of the kernel."""

    def __init__(self, **options):
        super().__init__()
        self.options = options

    def forward(self, x):
        self.out = F.scaled_dot_product_attention(x, x.flip(-1), x + 1, **self.options)
        return self.out


@pytest.mark.parametrize("kind", KINDS)
def test_records_rebuild_each_layer(kind):
    model, images = model_and_images(kind)
    inputs = []
    hooks = [
        layer.proj.register_forward_pre_hook(lambda _, args: inputs.append(args[0]))
        for layer in model.attention_layers()
    ]
    found = records(model, images)
    for hook in hooks:
        hook.remove()
    assert [record.layer for record in found] == [0, 1, 2]
    for record, layer, merged in zip(found, model.attention_layers(), inputs, strict=True):
        assert record.a.shape == (3, 2, 50, 50)
        rebuilt = (record.a @ record.v).transpose(1, 2).reshape(3, 50, 24)
        torch.testing.assert_close(rebuilt, merged, rtol=1e-5, atol=1e-6)
        q = record.q if record.sigma is None else record.q * record.sigma[:, None]
        torch.testing.assert_close((q @ record.k.mT * record.scale).softmax(-1), record.a)
        assert (record.sigma is None) == (kind != "svda")
        if kind == "svda":
            torch.testing.assert_close(record.sigma, layer.sigma)
            torch.testing.assert_close(record.q.norm(dim=-1), torch.ones(3, 2, 50))


@pytest.mark.parametrize("kind", KINDS)
def test_kernel_output_leaves_the_logits_bit_identical(kind):
    model, images = model_and_images(kind)
    plain = model(images)
    with capture(model, lambda record: None):
        assert torch.equal(model(images), plain)
    assert torch.equal(model(images), plain)


@pytest.mark.parametrize("kind", KINDS)
def test_map_output_is_equal_and_carries_gradients_to_the_maps(kind):
    model, images = model_and_images(kind)
    found = []
    with capture(model, found.append, output="map"):
        logits = model(images)
    torch.testing.assert_close(logits, model(images), rtol=1e-5, atol=1e-5)
    maps = torch.autograd.grad(logits[:, 0].sum(), [record.a for record in found])
    assert all(gradient.shape == (3, 2, 50, 50) for gradient in maps)
    assert all(gradient.abs().sum() > 0 for gradient in maps)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"scale": 0.3},
        {"is_causal": True},
        {"attn_mask": torch.eye(5, dtype=torch.bool) | torch.ones(5, 5).tril().bool()},
        {"attn_mask": torch.linspace(-2, 2, 25).view(5, 5)},
    ],
)
def test_options_of_the_kernel_are_honoured(options):
    torch.manual_seed(0)
    model, x = Own(**options), torch.randn(2, 3, 5, 4)
    (record,) = records(model, x)
    torch.testing.assert_close(record.a @ record.v, model.out, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(record.a.sum(-1), torch.ones(2, 3, 5))


@pytest.mark.parametrize("additive", [False, True])
def test_a_query_that_may_see_no_key_attends_to_nothing(additive):
    torch.manual_seed(0)
    seen = torch.ones(2, 1, 5, 5, dtype=torch.bool)
    seen[0, :, 3:] = False
    mask = torch.zeros(seen.shape).masked_fill(~seen, -torch.inf) if additive else seen
    model, x = Own(attn_mask=mask), torch.randn(2, 3, 5, 4, requires_grad=True)
    (record,) = records(model, x.detach())
    assert not record.a[0, :, 3:].any()
    torch.testing.assert_close(record.a @ record.v, model.out.nan_to_num(), rtol=1e-5, atol=1e-6)
    maps = []
    with capture(model, maps.append, output="map"):
        model(x).sum().backward()
    assert x.grad.isfinite().all()


def test_scores_of_half_precision_add_up_in_float32():
    torch.manual_seed(0)
    q, k = ((3 * torch.randn(2, 3, 50, 64)).bfloat16() for _ in range(2))
    exact = (q.double() @ k.double().mT / 8).softmax(-1)

    class Half(nn.Module):
        def forward(self, x):
            return F.scaled_dot_product_attention(q, k, k)

    (record,) = records(Half(), torch.zeros(2))
    assert record.a.dtype == torch.float32
    torch.testing.assert_close(record.a.double(), exact, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("autocast", [False, True])
def test_scores_far_apart_in_half_precision_give_the_map_of_their_rows(autocast):
    """Logits of deviation 10: added up in bf16, the map would be off by 0.02 to 0.2."""
    torch.manual_seed(0)
    q, k = (10**0.5 * torch.randn(2, 3, 50, 64) for _ in range(2))
    low_q, low_k = q.bfloat16(), k.bfloat16()
    logits = low_q.double() @ low_k.double().mT / 8
    assert logits.std() == pytest.approx(10, rel=0.05)

    class Half(nn.Module):
        def forward(self, x):
            rows = (q, k, k) if autocast else (low_q, low_k, low_k)
            return F.scaled_dot_product_attention(*rows)

    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        (record,) = records(Half(), torch.zeros(2))
    assert record.a.dtype == torch.float32
    torch.testing.assert_close(record.a.double(), logits.softmax(-1), rtol=1e-4, atol=1e-6)


def test_layers_count_from_zero_in_each_forward():
    model, images = model_and_images()
    layers = []
    with capture(model, lambda record: layers.append(record.layer)):
        model(images)
        model(images)
    assert layers == [0, 1, 2, 0, 1, 2]


def test_another_model_inside_the_context_is_not_recorded():
    model, images = model_and_images()
    other, _ = model_and_images("svda")
    layers = []
    with capture(model, lambda record: layers.append(record.layer)):
        other(images)
        model(images)
        other(images)
    assert layers == [0, 1, 2]


def test_nothing_is_left_behind_after_an_exception():
    model, images = model_and_images()

    def fail(record):
        raise RuntimeError("stop here")

    with pytest.raises(RuntimeError, match="stop here"), capture(model, fail):
        model(images)
    assert not model._forward_hooks
    assert not model._forward_pre_hooks
    assert len(records(model, images)) == 3


def test_a_forward_that_fails_does_not_shift_the_layers_of_the_next():
    model, images = model_and_images()
    layers = []
    with capture(model, lambda record: layers.append(record.layer)):
        with pytest.raises(InputError):
            model(images[:, :, :20])
        model(images)
    assert layers == [0, 1, 2]


def test_two_threads_do_not_mix():
    results = {}

    def work(kind):
        model, images = model_and_images(kind, image_size=20 if kind == "dot" else 28)
        images = images[..., : model.config.image_size, : model.config.image_size]
        for _ in range(5):
            results.setdefault(kind, []).extend(records(model, images))

    threads = [threading.Thread(target=work, args=(kind,)) for kind in ("dot", "svda")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [record.layer for record in results["dot"]] == [0, 1, 2] * 5
    assert {record.a.shape[-1] for record in results["dot"]} == {26}
    assert {record.a.shape[-1] for record in results["svda"]} == {50}
    assert all(record.sigma is not None for record in results["svda"])


def test_half_precision_maps_are_float32_rows_that_sum_to_one():
    torch.manual_seed(0)
    (record,) = records(Own(), torch.randn(1, 2, 9, 4, dtype=torch.bfloat16))
    assert record.a.dtype == torch.float32
    torch.testing.assert_close(record.a.sum(-1), torch.ones(1, 2, 9))


def test_a_model_without_attention_is_an_error():
    with pytest.raises(
        InputError, match="Linear shows no attention: no softmax over tokens that weighs values was seen"
    ):
        records(nn.Linear(4, 4), torch.randn(2, 4))
    with (
        pytest.raises(InputError, match="output must be 'kernel', 'map' or 'rows'"),
        capture(nn.Linear(1, 1), print, output="x"),
    ):  # type: ignore[arg-type]
        pass


def test_evaluating_restores_each_module():
    model, _ = model_and_images()
    model.train()
    model.blocks[1].eval()
    before = [module.training for module in model.modules()]
    with evaluating(model):
        assert not any(module.training for module in model.modules())
    assert [module.training for module in model.modules()] == before


class Folding(nn.Linear):
    """A low-rank addition that eval mode folds into the weight, as several libraries do it, and ``train`` takes out."""

    def __init__(self, width):
        super().__init__(width, width)
        self.weight.requires_grad_(False)
        self.low, self.high = nn.Parameter(torch.eye(width)[:2]), nn.Parameter(torch.eye(width)[:, :2])
        self.folded = False

    def train(self, mode=True):
        super().train(mode)
        if mode == self.folded:
            self.weight.data += (self.high @ self.low).detach() * (-1 if mode else 1)
            self.folded = not mode
        return self

    def forward(self, x):
        return super().forward(x) if self.folded else super().forward(x) + x @ self.low.T @ self.high.T


def test_what_a_module_does_in_eval_mode_is_undone_by_it():
    model = nn.Sequential(Folding(6), nn.Sequential(Folding(6).eval(), Folding(6))).train()
    model[1][0].eval()
    before, weights = [module.training for module in model.modules()], copy.deepcopy(model.state_dict())
    with evaluating(model):
        assert all(module.folded for module in model.modules() if isinstance(module, Folding))
    assert [module.training for module in model.modules()] == before
    assert [module.folded for module in model.modules() if isinstance(module, Folding)] == [False, True, False]
    for name, weight in model.state_dict().items():
        torch.testing.assert_close(weight, weights[name])
    model(torch.randn(2, 6)).sum().backward()
    assert model[0].high.grad is not None


# --- other methods than forward ---------------------------------------------------------------------------------------


class Methods(nn.Module):
    """A model that is used by other methods than its forward."""

    def __init__(self):
        super().__init__()
        self.patch, self.layers = nn.Conv2d(3, 12, 8, 8), nn.ModuleList(nn.Linear(12, 36) for _ in range(2))
        self.words = nn.Embedding(9, 12)

    def attend(self, t):
        for layer in self.layers:
            q, k, v = layer(t).unflatten(-1, (3, 1, 12)).permute(2, 0, 3, 1, 4)
            t = t + F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return t

    def encode_image(self, x):
        return self.attend(self.patch(x).flatten(2).transpose(1, 2))

    def encode_text(self, x):
        return self.attend(self.words(x))

    def forward(self, x):
        return self.encode_image(x).mean(1)


def test_other_methods_than_forward_are_seen():
    torch.manual_seed(0)
    model, images = Methods(), torch.randn(2, 3, 16, 24)
    wanted = records(model, images)
    found = []
    with torch.no_grad(), capture(model, found.append):
        first = model.encode_image(images)
        model.encode_image(images)
        model(images)
    assert torch.equal(first, model.encode_image(images))
    assert [record.layer for record in found] == 3 * [0, 1]
    for record, same in zip(found, 3 * wanted, strict=True):
        assert torch.equal(record.a, same.a)
        assert torch.equal(record.places.queries, same.places.queries)


def test_attention_that_is_not_told_to_be_the_models_is_no_silence():
    model, other = Methods(), Methods()
    line = "capture saw 2 attention calls, but no forward of Methods: call the model itself"
    for call in (lambda: other(torch.randn(1, 3, 16, 16)), lambda: model.encode_text(torch.ones(1, 5).long())):
        with pytest.raises(InputError, match=line), capture(model, lambda record: None):
            call()
    with capture(model, lambda record: None):  # nothing was asked of any model
        torch.ones(2) + 1


def test_what_a_forward_compiles_by_itself_is_seen():
    """In a process that has not loaded torch's compiler."""
    code = """
        import sys, torch, svda_analysis as sa

        class Lazy(torch.nn.Module):
            vit, made = sa.ViT(sa.ViTConfig(depth=2, dim=8, heads=2)), []

            def forward(self, images):
                if not self.made:
                    self.made.append(torch.compile(self.vit, backend="eager"))
                return self.made[0](images)

        compiled = torch.compile
        assert "torch._dynamo" not in sys.modules
        assert len(sa.records(Lazy(), torch.rand(2, 1, 28, 28))) == 2
        assert "torch._dynamo" in sys.modules
        assert torch.compile is compiled
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True)


def test_captures_that_overlap_leave_the_compiler_as_it_was():
    """As those of two threads do."""
    code = """
        import torch
        from svda_analysis.tap import _uncompiled

        compiled, (first, second) = torch.compile, (_uncompiled(), _uncompiled())
        first.__enter__()
        second.__enter__()
        assert torch.compile is not compiled
        first.__exit__(None, None, None)
        torch.compile(torch.nn.Identity(), backend="eager")
        assert torch._dynamo.eval_frame._stance.stance == "force_eager"
        second.__exit__(None, None, None)
        assert torch.compile is compiled
        assert torch._dynamo.eval_frame._stance.stance == "default"
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True)
