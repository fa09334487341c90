"""The rule of each function: places go where the numbers go."""

import pytest
import torch
from torch import nn

from svda_analysis.places import decode
from svda_analysis.tap import records
from svda_analysis.trails import name_of

IMAGES = torch.randn(2, 3, 32, 32)


class Through(nn.Module):
    """Patches, ``change``, one attention call."""

    def __init__(self, change):
        super().__init__()
        self.change, self.patches = change, nn.Conv2d(3, 8, 8, 8)

    def forward(self, x):
        t = self.change(self.patches(x).flatten(2).mT)  # (B, 16, 8)
        return nn.functional.scaled_dot_product_attention(t, t, t)


def columns_of(change):
    (record,) = records(Through(change), IMAGES)
    queries = record.places.queries
    return None if queries is None else decode(queries[0])[3].tolist()


ROW = [3.5, 11.5, 19.5, 27.5]
NO = float("nan")


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        (lambda t: nn.functional.layer_norm(t, (8,)) * 2 + 1, ROW * 4),
        (lambda t: t.flip(1), ROW[::-1] * 4),
        (lambda t: t.roll(1, 1), [ROW[3], *(ROW * 4)[:15]]),
        (lambda t: t[:, torch.tensor([5, 2])], [ROW[1], ROW[2]]),
        (lambda t: torch.cat([torch.zeros(2, 1, 8), t], 1), [NO, *ROW * 4]),
        (lambda t: nn.functional.pad(t, (0, 0, 0, 1)), [*ROW * 4, NO]),
        (lambda t: t.view(2, 4, 4, 8).mean(1), ROW),
        (lambda t: t.view(2, 2, 2, 4, 8).transpose(2, 3).reshape(2, 2, 4, 16).flatten(1, 2), ROW * 2),
        (lambda t: torch.stack([t[:, :8], t[:, 8:]], 1).flatten(1, 2), ROW * 4),
        (lambda t: torch.cat([part.clone() for part in t.chunk(2, 1)][::-1], 1), ROW * 4),
        (lambda t: nn.functional.max_pool2d(t.mT.unflatten(2, (4, 4)), 2).flatten(2).mT, [7.5, 23.5] * 2),
        (lambda t: nn.functional.interpolate(t.mT.unflatten(2, (4, 4)), scale_factor=2).flatten(2).mT[:, :8],
         [1.5, 5.5, 9.5, 13.5, 17.5, 21.5, 25.5, 29.5]),
        (lambda t: torch.einsum("bnc,cd->bnd", t, torch.eye(8)), ROW * 4),
        (lambda t: (t.mT @ torch.randn(16, 16)).mT, [15.5] * 16),  # tokens are mixed
        (lambda t: t.sort(dim=1).values, None),
        (lambda t: put(torch.zeros(2, 17, 8), t), [NO, *ROW * 4]),
    ],
)  # fmt: skip
def test_places_go_where_the_numbers_go(change, wanted):
    found = columns_of(change)
    assert found is None if wanted is None else found == pytest.approx(wanted, nan_ok=True)


def put(target, tokens):
    target[:, 1:] = tokens
    return target


def test_a_function_has_one_name_in_all_its_forms():
    assert name_of(torch.Tensor.view) == name_of(torch.ops.aten.view.default) == "view"
    assert name_of(torch.Tensor.mT.__get__) == "mT"
    assert name_of(nn.functional.layer_norm) == "layer_norm"
