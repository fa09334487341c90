"""What stands in another module's place answers its call, and says what it cannot do."""

import pytest
import torch
from torch import nn

from svda_analysis.attention import Attention
from svda_analysis.errors import InputError
from svda_analysis.stand_in import OF_HUGGING_FACE, OF_TIMM, OF_TORCH, StandIn, read_call

X = torch.zeros(1, 5, 8)


def test_hugging_faces_call_and_its_further_arguments():
    stand_in = StandIn(Attention(8, 2), nn.Identity(), True, OF_HUGGING_FACE)
    out, weights = stand_in(hidden_states=X, attention_mask=None, output_hidden_states=False, anything=None)
    assert out.shape == X.shape
    assert weights is None
    torch.testing.assert_close(stand_in(X)[0], out)


@pytest.mark.parametrize(
    ("names", "given", "named", "why"),
    [
        (OF_HUGGING_FACE, (X, torch.ones(1, 1, 5, 5).tril().bool()), {}, "attention_mask must be left out.* a mask"),
        (OF_HUGGING_FACE, (X,), {"head_mask": torch.ones(2)}, "head_mask must be left out"),
        (OF_HUGGING_FACE, (X,), {"output_attentions": True}, "output_attentions must be False"),
        (OF_HUGGING_FACE, (X,), {"relative_position_bias": X}, "must be called with hidden_states"),
        (OF_HUGGING_FACE, (), {}, "must be called with hidden_states"),
        (OF_TIMM, (X,), {"rope": X}, "must be called with x"),
        (OF_TORCH, (X, X + 1, X), {}, "key must be the query itself"),
    ],
)
def test_what_it_cannot_do(names, given, named, why):
    with pytest.raises(InputError, match=why):
        StandIn(Attention(8, 2), nn.Identity(), False, names)(*given, **named)


def test_the_plain_call_is_read():
    assert read_call(OF_TIMM, (X, None), {"is_causal": False}) == (X, None)


def test_a_mask_of_hugging_face_that_hides_nothing_is_let_by():
    for mask in (torch.zeros(1, 1, 5, 5), torch.ones(1, 1, 5, 5, dtype=torch.bool)):
        assert read_call(OF_HUGGING_FACE, (X, mask), {})[1] is None
    hiding = torch.zeros(1, 1, 5, 5)
    hiding[..., 4] = -torch.inf
    assert "attention_mask must be left out" in str(read_call(OF_HUGGING_FACE, (X, hiding), {})[1])
