"""What the weights of a head can do, whatever the data: its circuits ``W_q^T W_k`` and ``W_o W_v``. In the group
``field``.

``W_q, W_k (H, D, C)`` make queries and keys of tokens, ``W_v (H, Dv, C)`` and ``W_o (H, C, Dv)`` values and what is
added to the stream; they lie in :class:`~svda_analysis.layer_inputs.HeadWeights`. Spectra and eigenvalues come from
``D x D`` matrices. Results are ``(1, H)``: there are no images in them.
"""

from __future__ import annotations

import torch
from torch import Tensor

from svda_analysis.indicators.numerics import or_one, scale_to_one
from svda_analysis.indicators.registry import indicator
from svda_analysis.indicators.spectra import effective_rank


def qk_spectrum(w_q: Tensor, w_k: Tensor, sigma: Tensor) -> Tensor:
    """Singular values of ``W_q^T diag(sigma) W_k`` in descending order, ``(1, H, D)`` float64; ``sigma (H, D)``."""
    return _product_spectrum(w_q.double() * sigma.double()[..., None], w_k.double())


def ov_spectrum(w_o: Tensor, w_v: Tensor) -> Tensor:
    """Singular values of ``W_o W_v`` in descending order, ``(1, H, Dv)`` float64."""
    return _product_spectrum(w_o.double().mT, w_v.double())


def qk_eigenvalues_of(w_q: Tensor, w_k: Tensor, sigma: Tensor) -> Tensor:
    """The D eigenvalues of ``W_q^T diag(sigma) W_k`` that need not be 0, ``(1, H, D)`` complex: those of
    ``diag(sigma) W_k W_q^T``."""
    return torch.linalg.eigvals(sigma.double()[..., None] * (w_k.double() @ w_q.double().mT))[None]


def ov_eigenvalues_of(w_o: Tensor, w_v: Tensor) -> Tensor:
    """The Dv eigenvalues of ``W_o W_v`` that need not be 0, ``(1, H, Dv)`` complex: those of ``W_v W_o``."""
    return torch.linalg.eigvals(w_v.double() @ w_o.double())[None]


def _product_spectrum(left: Tensor, right: Tensor) -> Tensor:
    """Singular values of ``left^T right`` of ``(H, D, C)``, by thin QR factors."""
    r_left, r_right = (torch.linalg.qr(x.mT, mode="r").R for x in (left, right))
    return torch.linalg.svdvals(r_left @ r_right.mT)[None]


@indicator(
    group="field",
    label="Modes in use",
    sources=("qk", "ov"),
    low=1.0,
    high="D",
    higher_means="more singular modes of the weights in use",
    reference="effective rank (Roy & Vetterli 2007) of the circuits of Elhage et al. 2021",
    question="How many patterns can a head ask for (qk), or write (ov)?",
    not_said="which of them the data use; biases, position biases and the lengths of tokens are left out",
)
def mode_rank(spectrum: Tensor) -> Tensor:
    """Effective rank of the singular values of ``W_q^T diag(sigma) W_k`` (source qk) or ``W_o W_v`` (ov), in [1, D].

    Roy & Vetterli 2007, of the circuits of Elhage et al. 2021.

    Rounding in float32: 0, computed in float64.
    """
    return effective_rank(spectrum)


@indicator(
    group="field",
    label="Leading mode",
    sources=("qk", "ov"),
    low=0.0,
    high=1.0,
    higher_means="one singular mode dominates the weights",
    reference="our definition, of the circuits of Elhage et al. 2021",
    question="Does a head do one thing only?",
    not_said="whether the data use it: weights have no images",
)
def leading_mode(spectrum: Tensor) -> Tensor:
    """``s_1^2 / sum s^2`` of the singular values of a circuit, in [1/D, 1] (our definition); 1 where all are 0.

    Rounding in float32: 0, computed in float64.
    """
    squares = scale_to_one(spectrum).square()
    total = squares.sum(-1)
    return torch.where(total == 0, 1, squares.amax(-1) / or_one(total))


@indicator(
    group="field",
    label="QK eigenvalue variance",
    sources=("qk",),
    low=0.0,
    high=1.0,
    higher_means="eigenvalues less concentrated: attention less localised, after Bao et al. 2024",
    reference="after Bao et al. 2024 (variance of the QK eigenspectrum), as a share of the second moment",
    question="Do the weights make tokens attend to what is like them?",
    not_said="whether the data do: it is a theory of random tokens; and which sign the eigenvalues have",
)
def qk_eigenvalue_variance(qk_eigenvalues: Tensor) -> Tensor:
    """``1 - |mean l|^2 / mean |l|^2`` over the D eigenvalues l of ``W_q^T diag(sigma) W_k`` that need not be 0, in [0,
    1].

    0: all are one and the same number, the concentrated spectrum that localises attention in Bao et al. 2024, who take
    the variance itself (as a share, it has no scale: our definition). 1 where all are 0.

    Rounding in float32: 0, computed in float64.
    """
    second = qk_eigenvalues.abs().square().mean(-1)
    return (1 - qk_eigenvalues.mean(-1).abs().square() / or_one(second)).clamp(0, 1)


@indicator(
    group="field",
    label="OV copying",
    sources=("ov",),
    low=-1.0,
    high=1.0,
    higher_means="the head writes what it reads",
    reference="Elhage et al. 2021, sum of eigenvalues over the sum of their magnitudes, of W_o W_v alone",
    question="Does a head copy what it attends to into the stream, or its opposite?",
    not_said="what the following layers make of it; theirs goes through the embeddings of words",
)
def ov_copying(ov_eigenvalues: Tensor) -> Tensor:
    """``sum_i l_i / sum_i |l_i|`` over the eigenvalues of ``W_o W_v``, in [-1, 1]; 0 where all are 0.

    Elhage et al. 2021 (copying matrices), without the embedding and unembedding that images do not have.

    Rounding in float32: 0, computed in float64.
    """
    total = ov_eigenvalues.abs().sum(-1)
    return (ov_eigenvalues.real.sum(-1) / or_one(total)).clamp(-1, 1)
