"""How tokens lie: patches, what stands before and behind them, frames; and what a user may say of it."""

import numpy as np
import pytest
import torch

from svda_analysis.errors import InputError
from svda_analysis.tokens import GivenLayout, Layout, parse_grid, says_class_token


def test_what_is_read_off_a_map():
    layout = Layout((2, 3), prefix=1, suffix=2, frames=2)
    assert (layout.patches, layout.tokens, layout.extent, layout.picture) == (12, 15, (2, 2, 3), (2, 6))
    a = np.random.default_rng(0).random((4, 15, 15))
    np.testing.assert_array_equal(layout.class_row(a), a[:, 0, 1:13])
    np.testing.assert_array_equal(Layout((3, 5)).class_row(a), a.mean(1))
    drawn = layout.drawn(np.arange(12))
    np.testing.assert_array_equal(drawn, [[0, 1, 2, 6, 7, 8], [3, 4, 5, 9, 10, 11]])
    assert torch.equal(layout.drawn(torch.arange(12)), torch.as_tensor(drawn))
    assert str(layout) == "2 frames of 2 x 3 patches, 1 before and 2 behind them"


def test_of_a_model_without_a_class_token_no_row_is_its():
    timm, named, unnamed, other = (torch.nn.Sequential(torch.nn.Linear(2, 2)) for _ in range(4))
    timm[0].cls_token, named[0].class_token = None, torch.nn.Parameter(torch.zeros(1))
    unnamed[0].class_token, unnamed.cls_token = None, False
    assert [says_class_token(model) for model in (timm, named, unnamed, other)] == [False, True, False, True]
    layout, a = Layout((2, 3), prefix=2), np.random.default_rng(0).random((4, 8, 8))
    registers = layout.of_model(timm)
    assert (layout.has_class_token, registers.has_class_token) == (True, False)
    assert not Layout((2, 3)).has_class_token
    np.testing.assert_array_equal(layout.of_model(other).class_row(a), a[:, 0, 2:])
    np.testing.assert_array_equal(registers.class_row(a), a.mean(1)[:, 2:])


def test_each_pixel_belongs_to_the_nearest_patch():
    assert Layout((2, 3)).cells((4, 7)) == ([0, 0, 1, 1], [0, 0, 0, 1, 1, 2, 2])
    cut = Layout((2, 2), centres=((3.5, 11.5), (3.5, 11.5)))  # patches of 8, on an image that they do not fill
    assert cut.cells((18, 16)) == ([0] * 8 + [1] * 10, [0] * 8 + [1] * 8)


@pytest.mark.parametrize(
    ("given", "tokens", "wanted"),
    [
        (GivenLayout((4, 4)), 16, Layout((4, 4))),
        (GivenLayout((4, 4)), 17, Layout((4, 4), 1)),
        (GivenLayout((4, 4), 1), 21, Layout((4, 4), 1, 4)),
        (GivenLayout((4, 4), suffix_tokens=4), 21, Layout((4, 4), 1, 4)),
        (GivenLayout((4, 4), frames=2), 33, Layout((4, 4), 1, 0, 2)),
        (GivenLayout((4, 4), 1, 1), 21, None),
        (GivenLayout((5, 5)), 21, None),
        (GivenLayout(prefix_tokens=5), 21, None),
    ],
)
def test_a_given_grid_fits_a_number_of_tokens_or_not(given, tokens, wanted):
    assert given.checked().layout(tokens) == wanted


def test_what_is_no_layout_is_refused():
    for given, said in (
        (GivenLayout((0, 4)), r"grid must be \(rows, columns\) of patches, each at least 1, got \(0, 4\)"),
        (GivenLayout(suffix_tokens=-1), "suffix_tokens must be at least 0, got -1"),
        (GivenLayout(frames=0), "frames must be at least 1, got 0"),
    ):
        with pytest.raises(InputError, match=said):
            given.checked()
    assert parse_grid("7x9") == parse_grid(" 7, 9") == (7, 9)
    with pytest.raises(InputError, match="--grid must be ROWSxCOLUMNS like 14x14, got '7'"):
        parse_grid("7")
