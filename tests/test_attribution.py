"""Attributions: each method against its formula or a direct call of captum; the model and the random state stay."""

import runpy
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from known_models import Uneven
from torch import nn

from svda_analysis.attribution import METHODS, RANKINGS, attribute, flows
from svda_analysis.errors import InputError
from svda_analysis.model import ViT, ViTConfig
from svda_analysis.specs import open_model
from svda_analysis.tap import records
from svda_analysis.tokens import Layout

KINDS = ("dot", "svda", "cosine")
TOKEN_METHODS = ("rollout", "relevance", "cls_attention")


def model_and_images(kind="dot", images=3, **changes):
    torch.manual_seed(0)
    config = ViTConfig(**{"attention": kind, "image_size": 12, "dim": 24, "depth": 3, "heads": 2, **changes})
    model = ViT(config).eval()
    nn.init.normal_(model.head.weight)  # a new head is zero, and passes no gradient on
    for layer in model.attention_layers():
        nn.init.normal_(layer.qkv.weight, std=0.5)  # maps far from uniform
    return model, torch.randn(images, config.in_channels, config.image_size, config.image_size)


def on_pixels(rows, size=12):
    """Values of patches ``(B, P)`` as blocks of pixels."""
    side = int(rows.shape[-1] ** 0.5)
    step = size // side
    grid = np.asarray(rows, dtype=np.float64).reshape(-1, side, side)
    return torch.from_numpy(np.kron(grid, np.ones((step, step))))


def close(found, wanted, tolerance=1e-5):
    assert found.dtype == torch.float32
    assert found.device.type == "cpu"
    scale = wanted.abs().max().item()
    assert scale > 0
    torch.testing.assert_close(found.double(), wanted.double(), rtol=tolerance, atol=tolerance * scale)


class Plain(nn.Module):
    """Two layers of one-head attention over 16 patches of 3 x 3, with ``prefix`` tokens before them."""

    def __init__(self, prefix=0, more=None):
        super().__init__()
        torch.manual_seed(1)
        self.num_prefix_tokens = prefix
        self.embed, self.head = nn.Linear(9, 8), nn.Linear(8, 5)
        self.before = nn.Parameter(torch.randn(1, prefix, 8))
        self.more = more

    def forward(self, images):
        x = self.embed(F.unfold(images, 3, stride=3).mT)
        x = torch.cat([self.before.expand(len(x), -1, -1), x], 1)[:, None]
        for turn in (1, 3):
            x = x + F.scaled_dot_product_attention(x.roll(turn, -1), 2 * x, x)
        if self.more:
            x = self.more(x)
        return self.head(x[:, 0].mean(1))


# --- methods of attention against their formulas --------------------------------------------------------------------


def rollout_by_loops(model, images):
    maps = [record.a.numpy().astype(np.float64) for record in records(model, images)]
    rows = []
    for image in range(len(images)):
        joint = np.eye(maps[0].shape[-1])
        for a in maps:
            mixed = 0.5 * a[image].mean(0) + 0.5 * np.eye(len(joint))
            joint = mixed / mixed.sum(1, keepdims=True) @ joint
        rows.append(joint)
    return np.stack(rows)


@pytest.mark.parametrize("kind", KINDS)
def test_rollout_is_the_product_of_the_mixed_maps(kind):
    model, images = model_and_images(kind)
    close(attribute(model, images), on_pixels(rollout_by_loops(model, images)[:, 0, 1:]))


def logits_and_maps(model, images):
    """Our ViT written out once more, with the maps as plain tensors of the graph."""
    x = model.patch_embed(images).flatten(2).mT
    x = torch.cat([model.cls_token.expand(len(x), -1, -1), x], 1) + model.pos_embed
    maps = []
    for block in model.blocks:
        layer, B, N = block.attention, *x.shape[:2]
        q, k, v = layer.qkv(block.norm1(x)).view(B, N, 3, layer.heads, -1).permute(2, 0, 3, 1, 4)
        if layer.kind != "dot":
            q, k = q / q.norm(dim=-1, keepdim=True), k / k.norm(dim=-1, keepdim=True)
        if layer.kind == "svda":
            q = q * layer.sigma[:, None]
        if layer.kind == "cosine":
            q = q * layer.log_temperature.exp()[:, None, None]
        scores = q @ k.mT / q.shape[-1] ** 0.5
        maps.append(torch.exp(scores - scores.logsumexp(-1, keepdim=True)))
        x = x + layer.proj((maps[-1] @ v).transpose(1, 2).reshape(B, N, -1))
        x = x + block.mlp(block.norm2(x))
    return model.head(model.norm(x)[:, 0]), maps


@pytest.mark.parametrize("kind", KINDS)
def test_flows_are_the_whole_matrices_whose_class_rows_the_maps_show(kind):
    model, images = model_and_images(kind)
    with torch.no_grad():  # as where a model is measured
        found = flows(open_model(model), images)
    assert set(found) == {"rollout", "relevance"}
    close(found["rollout"], torch.from_numpy(rollout_by_loops(model, images)))
    close(on_pixels(found["relevance"][:, 0, 1:]).float(), attribute(model, images, method="relevance"))
    assert not any(matrix.requires_grad for matrix in found.values())


def test_flows_that_a_model_does_not_allow_are_left_out():
    model, images = model_and_images()
    model.head = nn.Identity()  # no classes
    nn.init.zeros_(model.norm.weight)  # and nothing that depends on the maps
    assert set(flows(open_model(model), images)) == {"rollout"}


@pytest.mark.parametrize("kind", KINDS)
def test_relevance_is_the_update_rule_with_gradients_of_the_target(kind):
    model, images = model_and_images(kind)
    model, images = model.double(), images.double()
    logits, maps = logits_and_maps(model, images)
    torch.testing.assert_close(logits, model(images))
    for classes in (logits.argmax(-1), torch.tensor([4, 0, 7])):
        score = sum(logits[image, label] for image, label in enumerate(classes))
        gradients = torch.autograd.grad(score, maps, retain_graph=True)
        R = torch.eye(10, dtype=torch.float64).repeat(3, 1, 1)
        for a, gradient in zip(maps, gradients, strict=True):
            R = R + (gradient * a).clamp_min(0).mean(1) @ R
        given = None if torch.equal(classes, logits.argmax(-1)) else classes
        close(attribute(model, images, method="relevance", target=given), on_pixels(R[:, 0, 1:].detach()))


def test_attention_is_the_last_row_of_cls():
    model, images = model_and_images("svda")
    found = records(model, images)
    close(attribute(model, images, method="cls_attention"), on_pixels(found[-1].a[:, :, 0, 1:].mean(1)))


def test_without_prefix_tokens_the_mean_row_is_read():
    model, images = Plain(), torch.randn(2, 1, 12, 12)
    close(attribute(model, images), on_pixels(rollout_by_loops(model, images).mean(1)))
    last = records(model, images)[-1].a[:, 0].mean(1)
    close(attribute(model, images, method="cls_attention"), on_pixels(last))
    relevance = attribute(model, images, method="relevance", target=2)
    assert (relevance >= 1 / 16).all()  # R starts at the identity, whose mean row is uniform
    assert relevance.max() > 1 / 16


def test_of_several_prefix_tokens_the_first_is_read():
    model, images = Plain(prefix=2), torch.randn(2, 1, 12, 12)
    close(attribute(model, images), on_pixels(rollout_by_loops(model, images)[:, 0, 2:]))


def test_prefix_tokens_may_be_given():
    model, images = Plain(prefix=2), torch.randn(2, 1, 12, 12)
    wanted = attribute(model, images)
    del model.num_prefix_tokens
    assert torch.equal(attribute(open_model(model, prefix_tokens=2), images), wanted)
    assert torch.equal(attribute(model, images), wanted)  # the tokens show it
    with pytest.raises(InputError, match="4 x 4 patches, 2 before them, but given was prefix_tokens=1"):
        attribute(model, images, prefix_tokens=1)


def test_multi_head_attention_modules_of_another_library():
    from torchvision.models import VisionTransformer

    torch.manual_seed(0)
    model, images = VisionTransformer(16, 4, 2, 2, 24, 48, num_classes=5).eval(), torch.randn(2, 3, 16, 16)
    nn.init.normal_(model.heads.head.weight)
    close(attribute(model, images), on_pixels(rollout_by_loops(model, images)[:, 0, 1:], 16))
    assert attribute(model, images, method="relevance").std() > 0


def test_maps_that_are_no_self_attention_over_the_image_do_not_count():
    def pool(x):
        F.scaled_dot_product_attention(x[:, :, :1], x, x)  # one query
        queries = torch.ones(len(x), 1, 5, 8)
        F.scaled_dot_product_attention(queries, queries, queries)
        F.scaled_dot_product_attention(queries, x, x)
        return x

    images = torch.randn(2, 1, 12, 12)
    for method in (*TOKEN_METHODS, "occlusion"):
        assert torch.equal(
            attribute(Plain(more=pool), images, method=method), attribute(Plain(), images, method=method)
        )


def test_a_layer_that_the_logits_do_not_hear_has_no_relevance():
    def aside(x):
        F.scaled_dot_product_attention(x, x, x)
        return x

    images = torch.randn(2, 1, 12, 12)
    wanted = attribute(Plain(), images, method="relevance")
    assert torch.equal(attribute(Plain(more=aside), images, method="relevance"), wanted)


def test_layers_of_different_size():
    def shrink(x):
        x = x[:, :, ::4]
        return x + F.scaled_dot_product_attention(x, x, x)

    model, images = Plain(more=shrink), torch.randn(2, 1, 12, 12)
    for method in ("rollout", "relevance"):
        with pytest.raises(InputError, match="in every layer; of Plain: 1 call of 4 tokens that are no grid"):
            attribute(model, images, method=method)
    close(attribute(model, images, method="cls_attention"), attribute(Plain(), images, method="cls_attention"))


def test_images_that_the_grid_does_not_divide():
    class Cropping(Plain):
        def forward(self, images):
            return super().forward(images[..., :12, :12])

    found = attribute(Cropping(), torch.randn(1, 1, 14, 13), method="occlusion")
    assert found.shape == (1, 14, 13)
    rollout = attribute(Cropping(), torch.randn(1, 1, 14, 13))
    assert rollout.shape == (1, 14, 13)
    assert len(rollout.unique()) == 16


# --- methods of pixels against captum -------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_methods_of_pixels_are_those_of_captum(kind):
    from captum import attr

    model, images = model_and_images(kind, in_channels=2)
    classes = torch.tensor([3, 1, 9])
    given = {"inputs": images.clone().requires_grad_(), "target": classes}
    window = (2, 4, 4)
    wanted = {
        "integrated_gradients": attr.IntegratedGradients(model).attribute(**given).sum(1),
        "saliency": attr.Saliency(model).attribute(**given).amax(1),
        "input_x_gradient": attr.InputXGradient(model).attribute(**given).sum(1),
        "occlusion": attr.Occlusion(model).attribute(**given, sliding_window_shapes=window, strides=window)[:, 0],
    }
    for method, expected in wanted.items():
        close(attribute(model, images, method=method, target=classes), expected.detach(), 1e-4)
    assert torch.equal(attribute(model, images, method="occlusion", target=classes), wanted["occlusion"])


def test_gradient_shap_is_that_of_captum_image_by_image():
    from captum.attr import GradientShap

    model, images = model_and_images("svda", in_channels=2)
    expected = []
    for image in images.split(1):
        torch.manual_seed(0)
        np.random.seed(0)  # noqa: NPY002  (captum draws from the global generator)
        drawn = [
            GradientShap(model).attribute(image, 0 * image, n_samples=8, stdevs=0.1, target=5).detach()
            for _ in range(4)
        ]
        expected.append(sum(drawn).sum((0, 1)) / 4)
    close(attribute(model, images, method="gradient_shap", target=5), torch.stack(expected), 1e-4)


def test_saliency_and_occlusion_from_their_definitions():
    model, images = model_and_images("svda", in_channels=2, images=1)
    images.requires_grad_()
    (gradient,) = torch.autograd.grad(model(images)[0, 4], images)
    close(attribute(model, images, method="saliency", target=4), gradient.abs().amax(1))
    occluded = images.detach().clone()
    occluded[:, :, 4:8, 8:] = 0
    fall = (model(images) - model(occluded))[0, 4].detach()
    found = attribute(model, images, method="occlusion", target=4)
    close(found[0, 4:8, 8:], fall.expand(4, 4))


def test_occlusion_takes_whole_patches_where_the_grid_does_not_divide_the_image():
    model, images = Uneven(), torch.randn(2, 1, 12, 12)  # patches of 5 and of 7 pixels
    wanted = torch.zeros(2, 12, 12)
    with torch.no_grad():
        for rows in (slice(0, 5), slice(5, 12)):
            for columns in (slice(0, 5), slice(5, 12)):
                occluded = images.clone()
                occluded[:, :, rows, columns] = 0
                wanted[:, rows, columns] = (model(images) - model(occluded))[:, 3, None, None]
    close(attribute(model, images, method="occlusion", target=3), wanted)


@pytest.mark.parametrize("kind", KINDS)
def test_integrated_gradients_add_up_to_the_difference_of_logits(kind):
    model, images = model_and_images(kind, depth=1)
    found = attribute(model, images, method="integrated_gradients", target=2)
    with torch.no_grad():
        difference = model(images)[:, 2] - model(torch.zeros_like(images))[:, 2]
    torch.testing.assert_close(found.sum((1, 2)), difference, rtol=0.02, atol=0.02)


# --- every method ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_an_image_s_map_depends_on_no_other_image(method):
    model, images = model_and_images("svda")
    whole = attribute(model, images, method=method)
    assert whole.shape == (3, 12, 12)
    close(attribute(model, images, method=method, batch_size=2), whole, 1e-4)
    close(attribute(model, images[2:], method=method), whole[2:], 1e-4)
    assert METHODS[method].signed == bool((whole < 0).any())


@pytest.mark.parametrize("method", METHODS)
def test_the_target_is_the_prediction_or_what_is_given(method):
    model, images = model_and_images()
    predicted = model(images).argmax(-1)
    given = (predicted + torch.tensor([1, 5, 2])) % 10
    own, other = (attribute(model, images, method=method, target=target) for target in (None, given))
    assert torch.equal(attribute(model, images, method=method, target=predicted.int()), own)
    assert torch.equal(own, other) != METHODS[method].needs_target
    close(attribute(model, images[1:2], method=method, target=int(given[1])), other[1:2], 1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_the_model_and_the_random_state_stay(method):
    model, images = model_and_images("svda", dropout=0.5)
    model.train()
    model.blocks[1].eval()
    model.norm.requires_grad_(False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    training = [each.training for each in model.modules()]
    np.random.seed(5)  # noqa: NPY002  (the global generator is what must stay)
    state, numpy_state = torch.get_rng_state(), np.random.get_state()[1:]  # noqa: NPY002  (as above)
    first = attribute(model, images, method=method)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(np.array_equal(a, b) for a, b in zip(np.random.get_state()[1:], numpy_state, strict=True))  # noqa: NPY002  (as above)
    assert [each.training for each in model.modules()] == training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(p.grad is None and p.requires_grad != name.startswith("norm.") for name, p in model.named_parameters())
    assert not any(each._forward_hooks or each._forward_pre_hooks for each in model.modules())
    assert not images.requires_grad
    assert images.grad is None
    torch.manual_seed(9)
    assert torch.equal(attribute(model, images, method=method), first)


@pytest.mark.parametrize("method", METHODS)
def test_the_caller_s_gradient_mode_and_frozen_weights_do_not_matter(method):
    model, images = model_and_images()
    wanted = attribute(model, images, method=method)
    model.requires_grad_(False)
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            found = attribute(model, images * 1, method=method)
        assert not found.requires_grad
        close(found.clone(), wanted)
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_logits_may_come_by_name():
    class Named(Plain):
        def forward(self, images):
            return type("Output", (), {"logits": super().forward(images)})()

    images = torch.randn(2, 1, 12, 12)
    for method in METHODS:
        assert torch.equal(attribute(Named(), images, method=method), attribute(Plain(), images, method=method))


def test_a_model_without_attention_has_maps_of_pixels_only():
    torch.manual_seed(0)
    model, images = nn.Sequential(nn.Flatten(), nn.Linear(144, 5)), torch.randn(2, 1, 12, 12)
    found = attribute(model, images, method="input_x_gradient", target=3)
    close(found, (images * model[1].weight[3].view(1, 1, 12, 12))[:, 0].detach())
    for method in (*TOKEN_METHODS, "occlusion"):
        with pytest.raises(InputError, match="shows no attention"):
            attribute(model, images, method=method)


def test_the_registry_is_complete_and_imports_no_captum(monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "captum"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "captum", None)  # an import of captum would now fail
    assert list(runpy.run_path(sys.modules["svda_analysis.attribution"].__file__)["METHODS"]) == list(METHODS)
    assert all(method.name == name and method.label and method.reference for name, method in METHODS.items())


# --- bad input ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"method": "rolout"}, "method must be one of rollout, relevance, .*, got 'rolout'; did you mean rollout"),
        ({"method": "zzz"}, "got 'zzz'$"),
        ({"target": 10}, r"target must lie in 0\.\.9, the model's classes, got 10"),
        ({"target": -1}, r"target must lie in 0\.\.9"),
        ({"target": 10, "method": "saliency"}, r"target must lie in 0\.\.9"),
        ({"target": torch.tensor([0, 1, 11]), "batch_size": 2}, "got 11"),
        ({"target": True}, "target must be a class number or whole numbers of shape"),
        ({"target": 10**22}, "target must be a class number or whole numbers of shape"),
        ({"target": "3"}, "target must be a class number"),
        ({"target": torch.zeros(3)}, r"got torch.float32 \(3,\)"),
        ({"target": torch.tensor([1, 2])}, r"of shape \(3,\), got torch.int64 \(2,\)"),
        ({"images": torch.zeros(3, 1, 12, 12, dtype=torch.uint8)}, r"images must be float \(B, C, H, W\), got torch.u"),
        ({"images": torch.zeros(1, 12, 12)}, r"images must be float .* got torch.float32 \(1, 12, 12\)"),
        ({"images": torch.zeros(0, 1, 12, 12)}, "images must be float"),
        ({"images": np.zeros((1, 1, 12, 12))}, "images must be float .* got ndarray"),
        ({"batch_size": 0}, "batch_size must be a whole number of at least 1, got 0"),
        ({"batch_size": 1.5}, "batch_size must be"),
    ],
)
def test_bad_input(change, message):
    model, images = model_and_images()
    with pytest.raises(InputError, match=message):
        attribute(model, **{"images": images, **change})


@pytest.mark.parametrize(("answer", "came"), [(lambda x: x, r"\(2, 1, 12, 12\)"), (lambda x: {"y": x}, "dict")])
def test_a_model_that_does_not_classify(answer, came):
    class Other(nn.Module):
        def forward(self, images):
            return answer(images)

    with pytest.raises(InputError, match=rf"model must return class scores \(B, classes\), got {came}"):
        attribute(Other(), torch.randn(2, 1, 12, 12), method="saliency")


def test_a_model_with_windows_only():
    class Windows(Plain):
        def forward(self, images):
            x = self.embed(F.unfold(images, 3, stride=3).mT).view(-1, 1, 4, 8)
            return self.head(F.scaled_dot_product_attention(x, x, x).reshape(len(images), 16, 8).mean(1))

    model, images = Windows(), torch.randn(2, 1, 12, 12)
    (record,) = records(model, images)  # each window a row of patches
    by_image = torch.stack([torch.block_diag(*one) for one in record.a.view(2, 4, 4, 4)])  # (2, 16, 16)
    close(attribute(model, images), on_pixels(((by_image + torch.eye(16)) / 2).mean(1)))


def test_rankings_ask_no_model():
    images = torch.rand(2, 3, 8, 12)
    brightness = RANKINGS["brightness"](images, Layout((2, 3)))
    torch.testing.assert_close(brightness, (images[:, 0] + images[:, 1] + images[:, 2]) / 3)
    centre = RANKINGS["centre"](images, Layout((2, 3)))
    assert centre.shape == (2, 8, 12)
    for row in range(8):
        for column in range(12):
            away = [((r - 0.5) ** 2 + (c - 1) ** 2) ** 0.5 for r, c in ((row // 4, column // 4), (0, 0))]
            assert centre[0, row, column].item() == pytest.approx(away[1] - away[0], abs=1e-6)


@pytest.mark.parametrize("method", [name for name, one in METHODS.items() if one.needs_gradient])
def test_no_map_of_zeros_stands_for_a_gradient_that_is_none(method):
    model, images = model_and_images()
    nn.init.zeros_(model.head.weight)
    with pytest.raises(InputError, match="is 0 everywhere: its output does not depend on them"):
        attribute(model, images, method=method)
