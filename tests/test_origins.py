"""What tensors came of, against models whose streams and branches are written out."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

from svda_analysis.origins import Origins, first_reader, way_back

B, N, C = 2, 6, 8


class Followed(TorchFunctionMode):
    def __init__(self):
        super().__init__()
        self.origins = Origins()

    def __torch_function__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        self.origins.follow(func, args, kwargs or {}, result)
        return result


@pytest.fixture
def x():
    torch.manual_seed(0)
    return torch.randn(B, N, C)


def by_hand(x):
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)


def centred_by_hand(x):
    away = x - x.mean(-1, keepdim=True)
    return away / (away.pow(2).mean(-1, keepdim=True) + 1e-6).sqrt()


NORMS = {
    "layer norm": lambda x: F.layer_norm(x, (C,)),
    "rms norm": lambda x: F.rms_norm(x, (C,)),
    "unit rows": lambda x: F.normalize(x, dim=-1),
    "by hand": by_hand,
    "centred by hand": centred_by_hand,
}
MOVES = {
    "nothing": lambda x: x,
    "transposed": lambda x: x.transpose(0, 1),
    "rolled": lambda x: torch.roll(x, 1, 1),
    "windows": lambda x: x.view(B, 2, 3, C).permute(2, 0, 1, 3).contiguous().view(3 * B, 2, C),
    "padded": lambda x: F.pad(x, (0, 0, 0, 1)),
    "one part": lambda x: x.chunk(2, dim=1)[1],
    "joined": lambda x: torch.cat([x, x[:, :1]], dim=1),
    "cast": lambda x: x.to(torch.bfloat16).float(),
    "by name": lambda x: torch.transpose(input=x, dim0=0, dim1=1),
}


@pytest.mark.parametrize("move", MOVES)
@pytest.mark.parametrize("norm", NORMS)
def test_what_a_norm_was_given_moves_along_with_its_result(norm, move, x):
    with Followed() as followed:
        result = MOVES[move](NORMS[norm](x))
    of = followed.origins.of(result)
    assert of.norm is not None
    assert torch.equal(of.given, x if move == "cast" else MOVES[move](x))


def test_a_gain_by_hand_is_the_norms(x):
    gain = torch.rand(C) + 0.5
    with Followed() as followed:
        scaled, moved, by_token = by_hand(x) * gain, by_hand(x) + gain, by_hand(x) * torch.rand(B, 1, C)
        half = by_hand(x).mul(0.5)
    assert torch.equal(followed.origins.of(scaled).norm.gain, gain)
    assert followed.origins.of(moved).norm.gain is None
    assert followed.origins.of(half).norm.gain == 0.5
    assert followed.origins.of(by_token).given is None


def test_what_is_no_result_of_a_norm():
    x = torch.randn(B, N, C)
    with Followed() as followed:
        stream = F.layer_norm(x, (C,)) + torch.randn(1, N, C)
        made = F.gelu(F.layer_norm(x, (C,)))
        gated = x * x.sigmoid()
        weighed = x * torch.rand(B, N, 1)
    assert followed.origins.of(stream).norm is followed.origins.of(gated).norm is None
    assert followed.origins.of(weighed).norm is None
    assert followed.origins.of(made).norm is not None
    assert followed.origins.of(made).given is None


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("scale", [1, 2.0])  # DeepNorm makes the stream longer before it adds to it
def test_a_norm_of_a_result_and_its_branch_gives_the_stream(norm, scale, x):
    first, second, normed = torch.randn(C, C), torch.randn(C, C), NORMS[norm]
    with Followed() as followed:
        y = normed(x)
        post = normed(F.dropout(y * scale + F.linear(F.gelu(F.linear(y, first)), second), training=False))
        pre = normed(x + F.linear(F.gelu(F.linear(y, first)), second))
    assert followed.origins.of(post).norm.gives_stream
    assert not followed.origins.of(pre).norm.gives_stream
    assert torch.equal(followed.origins.of(pre).given, x + F.linear(F.gelu(F.linear(normed(x), first)), second))


def test_a_norm_of_patches_as_they_were_made_may_belong_to_them(x):
    weight, w = torch.randn(C, 3, 4, 4), torch.randn(C, C)
    with Followed() as followed:
        patches = F.conv2d(torch.randn(B, 3, 8, 12), weight, stride=4).flatten(2).mT
        unsure = F.layer_norm(patches, (C,))
        sure = F.layer_norm(patches + torch.randn(1, N, C), (C,))
        stream = x + F.linear(F.layer_norm(x, (C,)), w)
        after = F.layer_norm(F.linear(stream, w), (C,))  # merged, in a model that was seen to be pre-norm
    assert followed.origins.of(unsure).given is None
    assert followed.origins.of(sure).given is not None
    assert followed.origins.of(after).given is not None


def test_a_norm_of_what_a_norm_gave_is_another(x):
    for first in NORMS.values():
        for second in NORMS.values():
            with Followed() as followed:
                before = torch.arange(1.0, C + 1) * first(x)
                result = second(before)
            assert torch.equal(followed.origins.of(result).given, before)


def test_where_branches_are_normed_before_they_are_added_patches_are_normed_as_they_are_made(x):
    w = torch.randn(C, C)
    with Followed() as followed:
        stream = x + F.layer_norm(F.linear(x, w), (C,))
        after = F.layer_norm(F.linear(stream, w), (C,))
    assert followed.origins.of(after).norm.gives_stream


def test_the_call_that_reads_what_all_came_of(x):
    base, down, up = torch.randn(C, C), torch.randn(3, C), torch.randn(C, 3)
    with Followed() as followed:
        y = F.layer_norm(x, (C,))
        adapted = F.linear(y, base) + F.linear(F.linear(y, down), up)
        chain = F.linear(F.linear(y, down), up)
        embedded = F.linear(F.linear(x, base), base)
        two = F.linear(x, base) + F.linear(y, base)
    linears = [followed.origins.of(one).linears for one in (adapted, chain, embedded, two)]
    readers = [first_reader(one, C) for one in linears]
    assert [torch.equal(one.read, y) for one in readers[:2]] == [True, True]
    assert torch.equal(readers[2].read, F.linear(x, base))  # as wide as the heads: tokens that a linear call made
    assert readers[3] is None
    assert first_reader([], C) is None
    assert [len(one.weight) for one in way_back(linears[1][0])] == [C, 3]


def test_attention_ends_what_was_linear(x):
    with Followed() as followed:
        y = F.linear(x, torch.randn(C, C))
        followed.origins.attention_gave(x)
        moved, projected = x.transpose(0, 1) * 2, F.linear(x, torch.randn(C, C))
    assert followed.origins.of(y).linears == ()
    assert followed.origins.of(moved).attended
    assert not followed.origins.of(projected).attended
