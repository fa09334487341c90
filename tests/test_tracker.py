"""Attention multiplied by hand, in the ways in which people write it, is a record like the kernel's."""

import pytest
import torch
from torch import nn

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
    (kernel,) = records(ByHand(nn.functional.scaled_dot_product_attention), IMAGES)
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
    attend = WAYS.get(way, nn.functional.scaled_dot_product_attention)
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
