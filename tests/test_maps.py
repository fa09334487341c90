"""Which maps count, how their tokens lie, and what a model answers."""

import numpy as np
import pytest
import torch
from torch import nn

from svda_analysis.analysis import analyze
from svda_analysis.attribution import attribute
from svda_analysis.errors import InputError
from svda_analysis.maps import to_pixels, whole_maps
from svda_analysis.model import ViT, ViTConfig
from svda_analysis.tap import records
from svda_analysis.tokens import Layout


def a_model(**changes):
    torch.manual_seed(0)
    return ViT(ViTConfig(**{"dim": 24, "depth": 3, "heads": 2, "patch_size": 7, **changes})).eval()


def test_whole_maps_are_those_of_the_records():
    model, images = a_model(), torch.randn(2, 1, 28, 28)
    with torch.no_grad():
        found = whole_maps(model, images)
        assert torch.equal(found.output, model(images))
    assert (found.layout, found.gaps, found.left_out) == (Layout((4, 4), 1), (), ())
    for layer, record in zip(found.layers, records(model, images), strict=True):
        assert torch.equal(layer, record.a)


def test_gradients_reach_whole_maps_when_they_are_asked_for():
    model, images = a_model(), torch.randn(2, 1, 28, 28)
    nn.init.normal_(model.head.weight)
    found = whole_maps(model, images, gradients=True)
    for gradient in torch.autograd.grad(found.output[:, 0].sum(), [one.raw for one in found.maps]):
        assert gradient.abs().max() > 0


class Patches(nn.Module):
    """A conv stem or patches cut by hand, ``steps`` of attention over what ``tokens`` makes of them."""

    def __init__(self, layers=1, *, by_hand=False):
        super().__init__()
        torch.manual_seed(0)
        self.by_hand = by_hand
        self.embed = nn.Linear(192, 24) if by_hand else nn.Conv2d(3, 24, 8, 8)
        self.qkv = nn.ModuleList(nn.Linear(24, 72) for _ in range(layers))
        self.head = nn.Linear(24, 5)
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=0.2)

    def patches(self, x):
        if self.by_hand:
            return self.embed(x.unfold(2, 8, 8).unfold(3, 8, 8).permute(0, 2, 3, 4, 5, 1).flatten(3).flatten(1, 2))
        return self.embed(x).flatten(2).transpose(1, 2)

    tokens = patches

    def attend(self, q, k, v):
        return nn.functional.scaled_dot_product_attention(q, k, v)

    def forward(self, x):
        t = self.tokens(x)
        for layer in self.qkv:
            q, k, v = layer(t).unflatten(-1, (3, 2, 12)).permute(2, 0, 3, 1, 4)
            t = t + self.attend(q, k, v).transpose(1, 2).flatten(2)
        return self.head(t.mean(1))


class Registers(Patches):
    """A class token before the patches, registers behind them."""

    def tokens(self, x):
        t = self.patches(x)
        cls, registers = torch.ones(1, 1, 24), torch.linspace(-1, 1, 96).view(1, 4, 24)
        return torch.cat([cls.expand(len(t), -1, -1), t, registers.expand(len(t), -1, -1)], 1)


def test_tokens_behind_the_patches_are_no_prefix():
    model, images = Registers().eval(), torch.randn(2, 3, 32, 32)
    assert whole_maps(model, images).layout == Layout((4, 4), prefix=1, suffix=4)
    (record,) = records(model, images)
    row = ((record.a.mean(1) + torch.eye(21)) / 2)[:, 0, 1:17].view(2, 4, 4)
    wanted = row.repeat_interleave(8, 1).repeat_interleave(8, 2)
    torch.testing.assert_close(attribute(model, images, method="rollout"), wanted)


@pytest.mark.parametrize("size", [(16, 64), (32, 64), (24, 40), (28, 47)])
@pytest.mark.parametrize("by_hand", [False, True])
def test_the_grid_is_the_patch_embeddings_for_any_image(size, by_hand):
    found = whole_maps(Patches(by_hand=by_hand).eval(), torch.randn(2, 3, *size))
    assert found.layout == Layout((size[0] // 8, size[1] // 8))
    down, across = found.layout.centres
    assert down[0] == across[0] == 3.5
    assert down[-1] == 8 * (size[0] // 8) - 4.5
    values = torch.arange(found.layout.patches).view(1, *found.layout.grid)
    drawn = to_pixels(values, found.layout, size)[0]
    assert all(
        int(drawn[y, x]) == (y // 8) * found.layout.grid[1] + x // 8 for y, x in ((0, 0), (7, 8), (15, 39 % size[1]))
    )


class Folded(Patches):
    def attend(self, q, k, v):
        out = nn.functional.scaled_dot_product_attention(*(x.flatten(0, 1) for x in (q, k, v)))
        return out.unflatten(0, q.shape[:2])


def test_heads_in_the_batch_are_heads():
    images = torch.randn(3, 3, 32, 32)
    plain, folded = (whole_maps(model.eval(), images).layers[0] for model in (Patches(), Folded()))
    torch.testing.assert_close(folded, plain)


@pytest.mark.parametrize("images", [1, 3])
def test_a_forward_of_one_image_has_all_that_one_of_more_has(images):
    model = a_model()
    assert whole_maps(model, torch.randn(images, 1, 28, 28), inputs=True).inputs[0].shape == (images, 17, 24)
    data = torch.utils.data.TensorDataset(torch.randn(4, 1, 28, 28), torch.arange(4))
    options = {"indicators": ["rank_one_residual", "ablation_loss"], "examples": 0}
    one, all_ = (analyze(model, data, batch_size=size, **options).table for size in (images, 4))
    assert list(one["indicator"]) == list(all_["indicator"])
    np.testing.assert_allclose(one["mean"], all_["mean"], rtol=1e-4, atol=1e-5)


class Dropped(Patches):
    """Other patches of each image are dropped, at random."""

    def tokens(self, x):
        t = self.patches(x)
        kept = torch.rand(t.shape[:2]).argsort(1)[:, :4, None].expand(-1, -1, 24)
        return t.gather(1, kept)


def test_patches_of_which_some_are_dropped_are_no_grid():
    for images in (torch.randn(2, 3, 32, 32), torch.randn(1, 3, 32, 32)):
        with pytest.raises(
            InputError, match=r"no self-attention over whole images: 1 call (of other patches|of 4 tokens)"
        ):
            whole_maps(Dropped().eval(), images)
        with pytest.raises(InputError, match="no self-attention over whole images"):
            attribute(Dropped().eval(), images, prefix_tokens=0)


class Twice(nn.Module):
    """The image and its mirror image go through one model."""

    def __init__(self, join):
        super().__init__()
        self.vit, self.join = Patches(layers=3), join

    def forward(self, x):
        if self.join:
            return self.vit(torch.cat([x, x.flip(-1)])).unflatten(0, (2, -1)).mean(0)
        return self.vit(x) + self.vit(x.flip(-1))


def test_two_passes_are_told_apart_and_no_stack():
    images = torch.randn(2, 3, 32, 32)
    model = Twice(join=False).eval()
    found = whole_maps(model, images)
    assert len(found.layers) == 6
    mirrored = whole_maps(model.vit, images.flip(-1)).layers[0].unflatten(-1, (4, 4)).unflatten(-3, (4, 4))
    torch.testing.assert_close(found.layers[3], mirrored.flip(-1, -3).flatten(-2).flatten(-3, -2))
    with pytest.raises(InputError, match="need the same tokens in every layer; of Twice: its layers do not follow one"):
        attribute(model, images)
    warnings = analyze(model, images, indicators=["attention_entropy"]).meta["warnings"]
    assert warnings == [
        "Twice: 2 of its 6 layers come of no other: two passes or towers in one forward, "
        "one behind the other in the table"
    ]


def test_two_passes_in_one_batch_are_measured_and_not_drawn():
    images = torch.randn(2, 3, 32, 32)
    model = Twice(join=True).eval()
    got = analyze(model, images, indicators=["attention_entropy"]).table
    want = [analyze(model.vit, x, indicators=["attention_entropy"]).table["mean"] for x in (images, images.flip(-1))]
    torch.testing.assert_close(torch.tensor(got["mean"]), torch.tensor((want[0] + want[1]) / 2), rtol=1e-5, atol=1e-6)
    with pytest.raises(InputError, match="no self-attention over whole images"):
        whole_maps(model, images)


class Stages(nn.Module):
    """Attention over 16 tokens twice, over every fourth of them and inside windows once, and of one query."""

    def forward(self, x):
        tokens = x.flatten(2).transpose(1, 2)[:, None]  # (B, 1, 16, C)
        attend = nn.functional.scaled_dot_product_attention
        tokens = attend(tokens, tokens, tokens)
        few = tokens[:, :, ::4]
        attend(few, few, few)
        windows = tokens.unflatten(2, (4, 4)).transpose(1, 2).flatten(0, 1)  # (4 B, 1, 4, C)
        attend(windows, windows, windows)
        tokens = attend(tokens, tokens, tokens)
        return attend(few[:, :, :1], tokens, tokens)[:, 0, 0]


def test_what_is_no_map_of_the_whole_image_is_left_out_and_windows_are_stitched():
    model, images = Stages(), torch.randn(2, 3, 4, 4)
    found = whole_maps(model, images)
    assert [tuple(a.shape) for a in found.layers] == [(2, 1, 16, 16)] * 3
    assert found.left_out == ("of 4 tokens that are no grid over the whole image", "of one query that pools")
    by_window = records(model, images)[2].a.view(2, 4, 4, 4)
    torch.testing.assert_close(found.layers[1][:, 0], torch.stack([torch.block_diag(*one) for one in by_window]))
    assert found.gaps == (
        "1 call of 4 tokens that are no grid over the whole image",
        "its layers do not follow one another: two passes or towers, or several maps in a layer",
    )
    said = analyze(model, images, indicators=["attention_entropy"]).meta["warnings"]
    assert said[-1] == (
        "Stages: 2 of 5 attention calls are no maps of the image and are left out: "
        "1 call of 4 tokens that are no grid over the whole image; 1 call of one query that pools"
    )


class Prompted(nn.Module):
    """An image against prompts: the tower of the text has as many tokens as the image."""

    def __init__(self, prompts):
        super().__init__()
        self.vision, self.text = Patches(layers=2), nn.TransformerEncoderLayer(24, 2, 48, batch_first=True)
        self.prompts = nn.Embedding(99, 24)
        self.ids = torch.arange(16 * prompts).view(prompts, 16) % 99

    def forward(self, images):
        return self.vision(images) @ self.text(self.prompts(self.ids)).mean(1)[:, :5].T


@pytest.mark.parametrize("prompts", [3, 5])
def test_a_text_tower_is_no_layer_of_the_image(prompts):
    model, images = Prompted(prompts).eval(), torch.randn(3, 3, 32, 32)
    found = whole_maps(model, images)
    assert (len(found.layers), found.gaps) == (2, ())
    assert found.left_out == ("over what is not the image (text, or queries that were learned)",)
    assert torch.equal(attribute(model, images), attribute(model.vision, images))


def test_a_given_layout_that_the_model_does_not_have_is_refused():
    model, images = Registers().eval(), torch.randn(2, 3, 32, 32)
    for given in ({"prefix_tokens": 5}, {"frames": 4}, {"grid": (5, 5)}, {"grid": (2, 8), "prefix_tokens": 1}):
        with pytest.raises(
            InputError, match="the model's 21 tokens are 4 x 4 patches, 1 before and 4 behind them, but"
        ):
            whole_maps(model, images, **given)
    told = whole_maps(model, images, grid=(4, 4), prefix_tokens=1, suffix_tokens=4)
    assert told.layout == whole_maps(model, images).layout


class Untold(nn.Module):
    """Tokens that come of no image: nothing says where they lie."""

    def forward(self, x):
        return nn.functional.scaled_dot_product_attention(x, x, x).mean((1, 2))


def test_tokens_that_cannot_be_followed_need_a_grid():
    class Wrapped(nn.Module):
        def forward(self, x):
            numbers = torch.from_numpy(x.numpy()).flatten(2).transpose(1, 2)[:, None]  # out of torch's sight
            return Untold()(numbers)

    class Sorted(nn.Module):
        def forward(self, x):
            return Untold()(x.flatten(2).transpose(1, 2).sort(dim=1).values[:, None])

    images = torch.randn(2, 3, 2, 8)
    with pytest.raises(
        InputError, match=r"16 tokens that cannot be followed back to pixels \(give grid and prefix_tokens"
    ):
        whole_maps(Sorted(), images)
    assert whole_maps(Sorted(), images, grid=(2, 8)).layout == Layout((2, 8))
    with pytest.raises(InputError, match="no self-attention over whole images"):
        whole_maps(Wrapped(), images)
