"""Places: what is encoded comes back, means and lines are those of arithmetic."""

import math

import torch
from hypothesis import given
from hypothesis import strategies as st

from svda_analysis.places import NOWHERE, PADDING, along, decode, encode, mixed, padded


def line(values):
    """Places of one row of pixels."""
    y = torch.tensor(values, dtype=torch.float64)
    return encode(torch.stack([torch.zeros_like(y), torch.zeros_like(y), torch.zeros_like(y), y]))


@given(st.integers(0, 65535), st.integers(0, 400), *[st.integers(-4000, 28000) for _ in range(2)])
def test_places_come_back(image, frame, row, column):
    parts = torch.tensor([image, frame + 0.25, row + 0.125, column - 0.5], dtype=torch.float64)
    assert torch.equal(decode(encode(parts)), parts)


def test_what_is_nowhere_is_no_number_and_does_not_count():
    assert encode(torch.tensor([0.0, math.nan, 0, 0], dtype=torch.float64)).item() == NOWHERE
    assert decode(torch.tensor([NOWHERE, PADDING])).isnan().all()
    places = torch.cat([line([2, 4]), torch.tensor([NOWHERE])])
    assert torch.equal(mixed(places, [0]), line([3]))
    assert torch.equal(mixed(line([7]).expand(5), [0]), line([7]))
    assert mixed(torch.full((3,), PADDING), [0]).item() == PADDING


def test_places_between_and_beyond_entries():
    centres = torch.tensor([-1.0, 0.5, 2.0, 4.0], dtype=torch.float64)
    assert torch.equal(along(line([0, 2, 4]), 0, centres), line([-2, 1, 4, 8]))
    assert torch.equal(padded(line([0, 2, 4]), 0, 1, 1), line([-2, 0, 2, 4, 6]))
    assert torch.equal(padded(line([0, 2, 4]), 0, -1, 0), line([2, 4]))
    rolled = padded(line([4, 0, 2]), 0, 0, 2)  # its ends are not those of the image
    assert torch.equal(rolled, torch.cat([line([4, 0, 2]), torch.tensor([PADDING, PADDING])]))
