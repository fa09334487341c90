"""How alike the tokens are that a layer reads, and which stand out. In the group ``field``.

``tokens (B, N, C)`` is the stream that the blocks add to, as the layer finds it. It has no heads: functions return
``(B,)``, and every head is given its layer's value.
"""

from __future__ import annotations

import torch
from torch import Tensor

from svda_analysis.indicators.numerics import of_patches, or_one, scale_to_one, widen
from svda_analysis.indicators.registry import indicator

HIGH_NORM = 3.0  # times the median norm of the image's patches


@indicator(
    group="field",
    label="Token similarity",
    sources=("tokens",),
    low=-1.0,
    high=1.0,
    higher_means="tokens more alike",
    reference="after Dong et al. 2021 (rank collapse); mean cosine",
    question="Do the tokens become one and the same with depth?",
    not_said="whether attention or the other parts of a block do it",
)
def token_similarity(tokens: Tensor) -> Tensor | None:
    """Mean cosine between different tokens, ``sum_{i != j} cos(x_i, x_j) / (N (N - 1))``, in [-1, 1]; ``(B,)``.

    After Dong et al. 2021, whose tokens collapse to one. A zero token is at cosine 0 to all. None for a single token.

    Rounding in float32: 5e-7.
    """
    x = scale_to_one(tokens)
    norms = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    unit, N = x / or_one(norms), x.shape[-2]
    if N < 2:
        return None
    pairs = unit.sum(-2).square().sum(-1) - unit.square().sum((-2, -1))
    return (pairs / (N * (N - 1))).clamp(-1, 1)


@indicator(
    group="field",
    label="Residual of rank one",
    sources=("tokens",),
    low=0.0,
    high=1.0,
    higher_means="tokens further from one and the same",
    reference="Dong et al. 2021, res(X) of sec. 2, in the Frobenius norm",
    question="How much of the tokens is not the same in all of them?",
    not_said="whether that part serves the answer",
)
def rank_one_residual(tokens: Tensor) -> Tensor:
    """``||X - 1 m^T||_F / ||X||_F`` with ``m`` the mean token, in [0, 1]; ``(B,)``. 0 where all tokens are 0.

    ``res(X)`` of Dong et al. 2021, relative, in the Frobenius norm (theirs is a composite norm), in which the mean is
    the best single row.

    Rounding in float32: 1e-6.
    """
    x = scale_to_one(tokens.flatten(1)).view(tokens.shape)
    residual, whole = (torch.linalg.vector_norm(y, dim=(-2, -1)) for y in (x - x.mean(-2, keepdim=True), x))
    return (residual / or_one(whole)).clamp(0, 1)


@indicator(
    group="field",
    label="High-norm tokens",
    sources=("tokens",),
    low=0.0,
    high=1.0,
    higher_means="more patches stand out by their norm",
    reference="after Darcet et al. 2024 (outlier tokens); norm above 3 times the median: our definition",
    question="Are there patches that the model uses as registers?",
    not_said="what they hold; theirs is an absolute threshold for each model, this one is relative",
)
def high_norm_tokens(tokens: Tensor, prefix: int, suffix: int = 0) -> Tensor:
    """Share of an image's patches whose norm is above 3 times the median norm of its patches, in [0, 1]; ``(B,)``.

    After Darcet et al. 2024, whose threshold is absolute and chosen for each model (the relative one is our
    definition). Tokens before and behind the patches are left out.

    Rounding in float32: 0, but at the threshold itself.
    """
    norms = torch.linalg.vector_norm(widen(of_patches(tokens, prefix, suffix)).double(), dim=-1)  # (B, P)
    above = norms > HIGH_NORM * norms.median(-1, keepdim=True).values
    return (above + 0 * norms).mean(-1).to(widen(tokens).dtype)
