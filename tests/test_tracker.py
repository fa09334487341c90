"""Attention multiplied by hand, in the ways in which people write it, is a record like the kernel's."""

import math
import re
import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.attention.flex_attention import flex_attention

from svda_analysis.analysis import analyze
from svda_analysis.attribution import attribute
from svda_analysis.errors import InputError
from svda_analysis.maps import whole_maps
from svda_analysis.tap import capture, records
from svda_analysis.tokens import Layout

IMAGES = torch.randn(2, 3, 32, 32)


class ByHand(nn.Module):
    """The same attention in the ways in which people write it."""

    def __init__(self, way):
        super().__init__()
        torch.manual_seed(0)
        self.way, self.patches, self.qkv = way, nn.Conv2d(3, 24, 8, 8), nn.Linear(24, 72)

    def forward(self, x):
        t = self.patches(x).flatten(2).mT
        q, k, v = self.qkv(t).unflatten(-1, (3, 2, 12)).permute(2, 0, 3, 1, 4)  # (B, H, N, D) each
        out = self.way(q, k, v)
        return t + out.transpose(1, 2).flatten(2)


def behind(q, k, v):
    """Heads are the last dimension of the scores."""
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    scores = torch.einsum("nihd,njhd->nhij", q * 12**-0.5, k)
    return torch.einsum("nhij,njhd->nihd", scores.softmax(-1), v).transpose(1, 2)


WAYS = {
    "matmul": lambda q, k, v: (q @ k.mT * 12**-0.5).softmax(-1) @ v,
    "divided": lambda q, k, v: nn.functional.dropout((q @ k.mT / 12**0.5).softmax(-1), training=False) @ v,
    "bmm": lambda q, k, v: torch.bmm(
        torch.bmm(q.flatten(0, 1), k.flatten(0, 1).mT).mul(12**-0.5).softmax(-1), v.flatten(0, 1)
    ).unflatten(0, q.shape[:2]),
    "baddbmm": lambda q, k, v: torch.bmm(
        torch.baddbmm(torch.zeros(1), q.flatten(0, 1), k.flatten(0, 1).mT, alpha=12**-0.5).softmax(-1), v.flatten(0, 1)
    ).unflatten(0, q.shape[:2]),
    "einsum, heads behind": behind,
    "values first": lambda q, k, v: (v.mT @ (q @ k.mT * 12**-0.5).softmax(-1).mT).mT,
    "float32 softmax": lambda q, k, v: torch.softmax(q @ k.mT * 12**-0.5, dim=-1, dtype=torch.float32).to(v.dtype) @ v,
}


@pytest.mark.parametrize("way", WAYS)
def test_attention_by_hand_is_a_record_like_the_kernels(way):
    (kernel,) = records(ByHand(KERNEL), IMAGES)
    model = ByHand(WAYS[way])
    (record,) = records(model, IMAGES)
    torch.testing.assert_close(record.a.view(2, 2, 16, 16), kernel.a)
    assert torch.equal(record.places.queries.reshape(2, 2, 16), kernel.places.queries)
    assert torch.equal(record.places.queries, record.places.keys)
    torch.testing.assert_close((record.q @ record.k.mT * record.scale).softmax(-1), record.a)
    torch.testing.assert_close(record.v.reshape(2, 2, 16, 12), kernel.v)
    maps = []
    plain = model(IMAGES)
    with capture(model, maps.append, output="map"):
        output = model(IMAGES)
    torch.testing.assert_close(output, plain)
    (gradient,) = torch.autograd.grad(output[..., 0].sum(), [maps[0].a])
    assert gradient.abs().sum() > 0


SEEN = torch.tensor([1.0] * 9 + [0.0] * 7)  # the keys that a mask leaves
PADDED = torch.where(SEEN[:, None] * SEEN > 0, 0.0, -torch.inf)  # what is padding sees nothing


def scores_of(q, k):
    return q @ k.mT * 12**-0.5


SHARED_OUT = {
    "a mask behind the softmax": lambda q, k: scores_of(q, k).softmax(-1) * SEEN,
    "padding that sees nothing": lambda q, k: (scores_of(q, k) + PADDED).softmax(-1).nan_to_num(0),
    "heads with a gate": lambda q, k: scores_of(q, k).softmax(-1) * torch.tensor([0.25, 1.0]).view(2, 1, 1),
}


@pytest.mark.parametrize("way", SHARED_OUT)
def test_the_map_is_what_weighs_the_values_if_rows_sum_to_less_than_one(way):
    model = ByHand(lambda q, k, v: SHARED_OUT[way](q, k) @ v).eval()
    q, k, _ = model.qkv(model.patches(IMAGES).flatten(2).mT).unflatten(-1, (3, 2, 12)).permute(2, 0, 3, 1, 4)
    weights = SHARED_OUT[way](q, k).detach()
    (record,) = records(model, IMAGES)
    torch.testing.assert_close(record.a, weights)
    assert (record.mixed, record.no_map) == (False, "")
    table = analyze(model, IMAGES, indicators=["attention_entropy"]).table
    for head, told in enumerate(table.sort_values("head")["mean"]):
        rows = [row[row > 0].double() / row.sum() for row in weights[:, head].flatten(0, 1) if row.sum()]
        want = sum(float(-(p * p.log()).sum()) for p in rows) / len(rows) / math.log(16)
        assert told == pytest.approx(want, abs=1e-5)
    row = ((weights.mean(1) + torch.eye(16)) / 2).mean(1).view(2, 4, 4)
    got = attribute(model, IMAGES, method="rollout")
    torch.testing.assert_close(got[:, ::8, ::8], row, rtol=1e-4, atol=1e-6)


def difference(q, k, v):
    a = scores_of(q, k).softmax(-1)
    return (a - 0.8 * a.flip(1)) @ v


def louder(q, k, v):
    return (1.5 * scores_of(q, k).softmax(-1)) @ v


KERNEL = nn.functional.scaled_dot_product_attention


class Stack(ByHand):
    """Layers of attention in several ways, all with the same weights."""

    def __init__(self, ways):
        super().__init__(ways)
        self.out = nn.Linear(24, 24)

    def forward(self, x):
        t = self.patches(x).flatten(2).mT
        for way in self.way:
            q, k, v = self.qkv(t).unflatten(-1, (3, 2, 12)).permute(2, 0, 3, 1, 4)
            t = t + self.out(way(q, k, v).transpose(1, 2).flatten(2))
        return t


@pytest.mark.parametrize(
    ("way", "why"),
    [
        (difference, "whose weights are negative in part"),
        (louder, "whose weights add up to more than 1 for a query"),
    ],
)
def test_weights_that_are_no_map_are_left_out_with_the_reason(way, why):
    (record,) = records(ByHand(way), IMAGES)
    assert (record.mixed, record.no_map) == (False, why)
    with pytest.raises(InputError, match=f"no self-attention over whole images: 1 call {why}"):
        analyze(ByHand(way).eval(), IMAGES, indicators=["attention_entropy"])
    model = Stack([KERNEL, way]).eval()
    found = analyze(model, IMAGES, indicators=["attention_entropy"], examples=0)
    assert found.table["layer"].unique().tolist() == [0]
    said = f"Stack: 1 of 2 attention calls are no maps of the image and are left out: 1 call {why}"
    assert said in found.warnings
    with pytest.raises(InputError, match=f"need the same tokens in every layer; of Stack: 1 call {why}"):
        attribute(model, IMAGES)


MIX = torch.tensor([[1.5, -0.5], [-1.0, 0.5]])
MIXINGS = {
    "linear": lambda a: nn.functional.linear(a.permute(0, 2, 3, 1), MIX).permute(0, 3, 1, 2),
    "conv": lambda a: nn.functional.conv2d(a, MIX[:, :, None, None]),
    "einsum": lambda a: torch.einsum("bhij,gh->bgij", a, MIX),
    "matmul": lambda a: (MIX @ a.flatten(2)).view(a.shape),
}


@pytest.mark.parametrize("way", MIXINGS)
def test_of_heads_that_are_mixed_the_map_is_the_softmax(way):
    model = ByHand(lambda q, k, v: MIXINGS[way](scores_of(q, k).softmax(-1)) @ v)
    (record,) = records(model, IMAGES)
    torch.testing.assert_close(record.a, scores_of(record.q, record.k).softmax(-1))
    assert (record.mixed, record.no_map) == (True, "")
    assert whole_maps(model, IMAGES).gaps == ("heads are mixed after the softmax",)


@pytest.mark.parametrize("cast", [False, True])
def test_dropout_is_none_of_the_map_and_a_mask_before_it_is(cast):
    def way(q, k, v):
        a = nn.functional.dropout(scores_of(q, k).softmax(-1) * SEEN, 0.5)
        return (a.to(torch.float32) if cast else a) @ v

    model, found = ByHand(way), []
    with capture(model, found.append):
        model(IMAGES)
    (record,) = found
    torch.testing.assert_close(record.a, scores_of(record.q, record.k).softmax(-1) * SEEN)
    assert (record.mixed, record.no_map) == (False, "")


@torch.library.custom_op("svda_tests::some_attention", mutates_args=())
def some_attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    return WAYS["matmul"](q, k, v)


def linear(q, k, v):
    q, k = nn.functional.elu(q) + 1, nn.functional.elu(k) + 1
    return q @ (k.mT @ v) / (q @ k.sum(-2, keepdim=True).mT)


def linear_of_three(q, k, v):
    q, k = q.softmax(-1), k.exp()
    context, shares = torch.einsum("bhnd,bhne->bhde", k, v), 1 / torch.einsum("bhnd,bhd->bhn", q, k.sum(2))
    return torch.einsum("bhde,bhnd,bhn->bhne", context, q, shares)


class Scripted(nn.Module):
    def forward(self, q, k, v):
        return torch.softmax(q @ k.transpose(-2, -1), -1) @ v


def by_torch_jit():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecated, and in use
        return torch.jit.script(Scripted())


def by_numpy(q, k, v):
    with torch.no_grad():
        return torch.from_numpy(WAYS["matmul"](q, k, v).numpy().copy())


ANOTHER = "of attention in another form than softmax(scores) v (linear attention, a sigmoid)"
UNSEEN = "of what torch does not show (torch.jit, a kernel of its own), attention or not"
HIDDEN = {
    "flex_attention": (lambda: flex_attention, "of flex_attention, which shows no map"),
    "an operator": (lambda: some_attention, "of some_attention, which shows no map"),
    "linear attention": (lambda: linear, ANOTHER),
    "linear attention, three factors": (lambda: linear_of_three, ANOTHER),
    "its queries last": (lambda: lambda q, k, v: ((v.mT @ k) @ q.mT).mT, ANOTHER),
    "a sigmoid": (lambda: lambda q, k, v: scores_of(q, k).sigmoid() @ v, ANOTHER),
    "heads in one mean": (lambda: lambda q, k, v: scores_of(q, k).softmax(-1).mean(1, keepdim=True) @ v, ANOTHER),
    "torch.jit": (by_torch_jit, UNSEEN),
}


@pytest.mark.filterwarnings("ignore::UserWarning")  # of flex_attention, that it was not compiled
@pytest.mark.parametrize("name", HIDDEN)
def test_attention_that_shows_no_map_is_said_beside_what_is_measured(name):
    make, why = HIDDEN[name]
    hidden = make()
    model = Stack([KERNEL, hidden, hidden, KERNEL]).eval().requires_grad_(False)
    with capture(model, lambda record: None) as said:
        model(IMAGES)
        assert said == [why, why]
        model(IMAGES[:1])
    assert said == [why, why]
    analysis = analyze(model, IMAGES, indicators=["attention_entropy"])
    assert analysis.table["layer"].unique().tolist() == [0, 1]
    assert analysis.warnings == (f"Stack: not measured: 2 calls {why}",)
    with pytest.raises(InputError, match=f"need the same tokens in every layer; of Stack: 2 calls {re.escape(why)}"):
        attribute(model, IMAGES)


def test_what_comes_behind_linear_attention_is_followed():
    found = whole_maps(Stack([WAYS["matmul"], linear, WAYS["matmul"]]), IMAGES)
    assert (len(found.maps), found.layout, found.left_out) == (2, Layout((4, 4)), ())
    record = found.last.record
    torch.testing.assert_close(record.a, scores_of(record.q, record.k).softmax(-1))


class Embed(ByHand):
    def forward(self, x):
        return self.patches(x).flatten(2).mT


class Attends(nn.Module):
    def __init__(self, way):
        super().__init__()
        self.way = way

    def forward(self, t):
        return t + self.way(t[:, None], t[:, None], t[:, None])[:, 0]


@pytest.mark.parametrize("way", [torch.vmap(WAYS["matmul"]), by_numpy])
def test_attention_where_torch_shows_nothing_of_the_images_is_said(way):
    found = whole_maps(Stack([KERNEL, way, KERNEL]), IMAGES)
    assert f"1 call {UNSEEN}" in found.gaps


@pytest.mark.parametrize("after", [True, False])
def test_tokens_that_come_from_out_of_torchs_sight_are_said(after):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        unseen = torch.jit.script(nn.Linear(24, 24))
    model = nn.Sequential(Embed(None), Attends(KERNEL), unseen, *([Attends(KERNEL)] if after else []))
    found = whole_maps(model, IMAGES)
    assert len(found.maps) == 1
    assert found.gaps == (f"1 call {UNSEEN}",)


class Added(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, t):
        return t + self.inner(t)


@pytest.mark.parametrize("images", [1, 2])
def test_a_layer_that_torch_jit_made_is_said(images):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scripted = torch.jit.script(nn.Linear(24, 24))
    with capture(model := nn.Sequential(Embed(None), Attends(KERNEL), Added(scripted)), lambda record: None) as said:
        model(IMAGES[:images])
    assert said == [UNSEEN]


class NothingHidden(Stack):
    """Around attention: a table of places made anew, kept from the first forward, held or out of numpy; an MLP; a
    convolution; tokens that are pooled by weights of their own; noise."""

    def __init__(self):
        super().__init__([KERNEL, WAYS["matmul"]])
        self.held, self.tables, self.kept = torch.randn(1, 16, 24), [torch.randn(1, 16, 24)], None
        self.mlp = nn.Sequential(nn.Linear(24, 48), nn.GELU(), nn.Linear(48, 24))
        self.mix, self.across = nn.Conv1d(24, 24, 3, padding=1), nn.Linear(16, 16)

    def forward(self, x):
        made = torch.arange(16.0)[None, :, None] * torch.arange(24.0)
        self.kept = made.sin() if self.kept is None else self.kept
        t = self.patches(x).flatten(2).mT + self.held + self.tables[0] + made.cos() + self.kept
        t = t + torch.from_numpy(np.ones((1, 16, 24), np.float32))
        for way in self.way:
            q, k, v = self.qkv(t).unflatten(-1, (3, 2, 12)).permute(2, 0, 3, 1, 4)
            t = t + way(q, k, v).transpose(1, 2).flatten(2)
            t = t + self.mlp(t)
            t = t + self.mix(t.mT).mT + self.across(t.mT).mT + torch.randn_like(t) + torch.randn(t.shape)
        few = self.across(t.mT).sigmoid()[:, :4] @ self.mix(t.mT).mT  # (B, 4, 24), as TokenLearner has it
        q, k, v = self.qkv(few).chunk(3, -1)
        return (q @ k.mT).softmax(-1) @ v


@pytest.mark.parametrize("images", [1, 2])
def test_what_is_no_attention_is_not_taken_for_some(images):
    model = NothingHidden().eval()
    with capture(model, lambda record: None) as said:
        for _ in range(2):
            model(IMAGES[:images])
            assert not said


class ByNumpy(nn.Module):
    """Patches are made out of torch's sight; a text of as many tokens goes the same way beside them."""

    def __init__(self, attend):
        super().__init__()
        torch.manual_seed(0)
        self.attend, self.words = attend, nn.Embedding(50, 24)
        self.embed, self.cls, self.qkv = nn.Linear(192, 24), nn.Parameter(torch.randn(1, 1, 24)), nn.Linear(24, 72)

    def layers(self, t):
        for _ in range(2):
            q, k, v = self.qkv(t).unflatten(-1, (3, 2, 12)).permute(2, 0, 3, 1, 4)
            t = t + self.attend(q, k, v).transpose(1, 2).flatten(2)
        return t

    def forward(self, x):
        B = len(x)
        patches = x.detach().numpy().reshape(B, 3, 4, 8, 4, 8).transpose(0, 2, 4, 3, 5, 1).reshape(B, 16, 192)
        t = self.embed(torch.from_numpy(patches.copy()))
        text = self.layers(self.words(torch.arange(34).view(2, 17)))
        return self.layers(torch.cat([self.cls.expand(B, -1, -1), t], 1))[:, 0] + text.mean()


@pytest.mark.parametrize("way", ["matmul", "kernel"])
def test_patches_made_out_of_torchs_sight_need_a_grid_and_no_more(way):
    attend = WAYS.get(way, KERNEL)
    model = ByNumpy(attend).eval()
    with pytest.raises(InputError, match=r"17 tokens that cannot be followed back to pixels \(give grid and prefix_t"):
        attribute(model, IMAGES)
    with pytest.raises(InputError, match="17 tokens that are not those of grid="):
        attribute(model, IMAGES, grid=(4, 5))
    found = whole_maps(model, IMAGES, grid=(4, 4), prefix_tokens=1)
    assert (len(found.maps), found.layout, found.gaps) == (2, Layout((4, 4), 1), ())
    t = torch.cat([model.cls.expand(2, -1, -1), model.embed(_patches(IMAGES))], 1)
    q, k, _ = model.qkv(t).unflatten(-1, (3, 2, 12)).permute(2, 0, 3, 1, 4)
    torch.testing.assert_close(found.layers[0], (q @ k.mT / 12**0.5).softmax(-1))


class ByVmap(ByHand):
    """Patches, or attention too, for one image after another."""

    def __init__(self, *, whole):
        super().__init__(torch.vmap(WAYS["matmul"]) if whole else WAYS["matmul"])

    def forward(self, x):
        t = torch.vmap(lambda image: self.patches(image[None])[0].flatten(1).T)(x)
        q, k, v = self.qkv(t).unflatten(-1, (3, 2, 12)).permute(2, 0, 3, 1, 4)
        return t + self.way(q, k, v).transpose(1, 2).flatten(2)


def test_patches_made_under_vmap_need_a_grid_and_attention_under_it_is_out_of_sight():
    model = ByVmap(whole=False)
    with pytest.raises(InputError, match="16 tokens that cannot be followed back to pixels"):
        attribute(model, IMAGES)
    (seen,) = whole_maps(model, IMAGES, grid=(4, 4)).layers
    (record,) = records(ByHand(WAYS["matmul"]), IMAGES)
    torch.testing.assert_close(seen, record.a)
    with pytest.raises(InputError, match=r"shows no attention: .*torch\.vmap or flex_attention would hide it"):
        attribute(ByVmap(whole=True), IMAGES)


def _patches(images):
    """``(2, 3, 32, 32) -> (2, 16, 192)``, the channels last."""
    return images.unfold(2, 8, 8).unfold(3, 8, 8).permute(0, 2, 3, 4, 5, 1).reshape(2, 16, 192)
