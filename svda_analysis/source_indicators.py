"""The six indicators of the source's public code, as computed there, under their own names. Off by default.

These are the formulas of the public experiment code that fits arXiv 2602.10994 (github.com/VasilisTz1/
svda_image_classification), so that its numbers can be measured again. They are asked for by name, or all at once as the
group ``"source"``. Our own indicators of these six names (:mod:`svda_analysis.indicators`) are bounded and made to be
compared between models; these are to be read with care, and each says how.

What a function's parameter names mean, and shapes and dtypes, are those of :mod:`svda_analysis.indicators`. The source
prints a layer's mean over heads and images, and the mean of those over layers: each function gives every image and head
a number of its own, such that their mean is the source's.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from svda_analysis.attention import unit_rows
from svda_analysis.errors import InputError
from svda_analysis.indicators import indicator, widen
from svda_analysis.indicators.blocks import Mean, Total

EPS = 1e-8  # added to divisors and logarithms there
SMALL_SIGMA = 1e-3
PIXEL_NOISE = 0.01  # standard deviation, of pixels in [0, 1]

_source_indicator = partial(indicator, group="source", reference="as in the source's public code")


# --- of sigma ---------------------------------------------------------------------------------------------------------


@_source_indicator(
    label="Source's spectral entropy",
    sources=("sigma",),
    low=0.0,
    high="ln D",
    higher_means="flatter spectrum, in nats",
    question="What does the source print as spectral entropy?",
    not_said="anything across head dimensions: it is not divided by ln D",
    beside="spectral_entropy",
)
def source_spectral_entropy(spectrum: Tensor) -> Tensor:
    """``H = -sum_k p_k ln(p_k + eps)``, ``p_k = sigma_k^2 / (sum sigma^2 + eps)``, as in the source's public code.

    In nats, [0, ln D], per layer and head; the source then takes the mean over heads. Read with care: the squares make
    it another number than :func:`~svda_analysis.indicators.spectral_entropy`, and without the division by ``ln D`` it
    cannot be compared across head dimensions. The source's loss has it as a penalty: it is trained for there.

    Rounding in float32: 5e-7.
    """
    squares = widen(spectrum).square()
    p = squares / (squares.sum(-1, keepdim=True) + EPS)
    return -(p * (p + EPS).log()).sum(-1)


@_source_indicator(
    label="Source's effective rank",
    sources=("sigma",),
    low=1.0,
    high="D",
    higher_means="more directions in use",
    question="What does the source print as effective rank?",
    not_said="how the data use the directions: it is of sigma alone",
    beside="effective_rank",
)
def source_effective_rank(spectrum: Tensor) -> Tensor:
    """``exp(H)``, with ``H`` the :func:`source_spectral_entropy`, as in the source's public code; in [1, D].

    Per layer and head; the source takes the mean over heads of the ranks, which is not the exponential of the mean
    entropy. Read with care: it is one of squares, and so (but for eps) never above
    :func:`~svda_analysis.indicators.effective_rank` of the same sigma.

    Rounding in float32: 1e-6.
    """
    return source_spectral_entropy(spectrum).exp()


@_source_indicator(
    label="Source's spectral sparsity",
    sources=("sigma",),
    low=0.0,
    high=1.0,
    higher_means="more entries of sigma near zero",
    question="What does the source print as spectral sparsity?",
    not_said="relative sparsity: the threshold is absolute",
    beside="spectral_sparsity",
)
def source_spectral_sparsity(spectrum: Tensor) -> Tensor:
    """Share of the entries with ``|sigma_k| < 1e-3``, as in the source's public code; in [0, 1].

    Per layer and head; the source then takes the mean over heads. Read with care: the threshold is absolute, so that
    the same spectrum at another scale has another sparsity, and a sigma that started near 1 mostly has none.

    Rounding in float32: 0, but at the threshold itself.
    """
    s = widen(spectrum)
    return ((s < SMALL_SIGMA) + 0 * s).mean(-1)  # 0 * s carries a NaN over, which no comparison does


# --- of queries, keys and the map -------------------------------------------------------------------------------------


@_source_indicator(
    label="Source's angular alignment",
    sources=("scores",),
    low=-1.0,
    high=1.0,
    higher_means="each token's key points along its own query",
    question="What does the source print as angular alignment?",
    not_said="what is attended to; nor anything of another kind of attention",
    varies_with=("basis", "row constants"),
    beside="angular_alignment",
)
def source_angular_alignment(q: Tensor, k: Tensor) -> Tensor:
    """``mean_i cos(q_i, k_i)``: the same token's query and key, before sigma, as in the source's public code.

    In [-1, 1], per image and head; the source takes the mean over heads and images of a layer. For dot-product
    attention, which the source does not measure, q and k are normalised per token, as the formula's q_hat and k_hat.
    Read with care: it says how far a token matches itself, and nothing of the keys that it attends to
    (:func:`~svda_analysis.indicators.angular_alignment` does).

    Rounding in float32: 5e-7.
    """
    return (unit_rows(widen(q)) * unit_rows(widen(k))).sum(-1).mean(-1)


def _selectivities(a: Tensor) -> Mean:
    rows = widen(a)
    shares = rows.square().sum(-1) / (rows.sum(-1).square() + EPS)  # (B, H, n)
    return Mean(shares.sum(-1), torch.full_like(shares[..., 0], shares.shape[-1]))


def _one_minus(value: Tensor) -> Tensor:
    return 1 - value


@_source_indicator(
    rows=_selectivities,
    finish=_one_minus,
    label="Source's selectivity index",
    sources=("attention",),
    low=0.0,
    high="1 - 1/N",
    higher_means="more diffuse (it runs backwards)",
    question="What does the source print as selectivity index?",
    not_said="that a high number is selective: uniform attention has the highest",
    beside="selectivity_index",
)
def source_selectivity(a: Tensor) -> Tensor:
    """``1 - sum_j a_ij^2 / ((sum_j a_ij)^2 + eps)``, mean over queries i, as in the source's public code.

    In [0, 1 - 1/N], per image and head; the source takes the mean over heads and images of a layer. Read with care: it
    runs backwards. Uniform attention gives the maximum 1 - 1/N, and a row that looks at one key alone gives 0; numbers
    near 1 - 1/N say that attention is all but uniform. :func:`~svda_analysis.indicators.selectivity_index` rises with
    selectivity.

    Rounding in float32: 5e-7.
    """
    return _one_minus(_selectivities(a).value())


def _squares_moved(a: Tensor, a_pixel_noisy: Tensor) -> Total:
    """Of a layer, over ``(H N^2)^2``, given to every head ``(B, H)``."""
    if a.shape != a_pixel_noisy.shape:
        raise InputError(f"a_pixel_noisy must have the shape of a {tuple(a.shape)}, got {tuple(a_pixel_noisy.shape)}")
    B, H, _, N = a.shape
    norm = torch.linalg.vector_norm(widen(a) - widen(a_pixel_noisy), dim=(1, 2, 3))  # (B,)
    return Total((norm / (H * N * N))[:, None].expand(B, H).double().square())


@_source_indicator(
    rows=_squares_moved,
    finish=torch.sqrt,
    label="Source's perturbation robustness",
    sources=("attention",),
    low=0.0,
    high=float("inf"),
    higher_means="less steady under pixel noise (lower is steadier)",
    question="What does the source print as perturbation robustness?",
    not_said="anything across numbers of tokens; a uniform map cannot move",
    needs_living=True,
    beside="perturbation_robustness",
)
def source_perturbation_robustness(a: Tensor, a_pixel_noisy: Tensor) -> Tensor:
    """``||A(x) - A(x + delta)||_F / (H N^2)``, the norm over all heads of a layer, as in the source's public code.

    At least 0; ``delta`` is noise on pixels in [0, 1] (:func:`source_noise`). Per image, and every head is given its
    layer's value, so that the mean over heads is the source's number: there is none of a head alone. The source takes
    one image and the mean over layers; this is the mean over images. Read with care: LOWER is steadier; and the
    division by the number of entries, of which the norm grows with the root alone, makes it incomparable across N (and
    H). Raises :class:`InputError` when the shapes differ.

    Rounding in float32: 1e-7.
    """
    return _squares_moved(a, a_pixel_noisy).value().sqrt().to(widen(a).dtype)


def source_noise(
    images: Tensor, drawn: Tensor, normalisation: tuple[Sequence[float], Sequence[float]] | None
) -> Tensor:
    """``images (B, C, H, W)`` with noise N(0, 0.01^2) on their pixels, clamped, as in the source's public code.

    ``drawn`` is standard normal, of that shape. ``normalisation`` is the mean and the deviation per channel that pixels
    in [0, 1] were brought to; where it is None the noise lies on the images as they are, and nothing is clamped.
    """
    if normalisation is None:
        return images + PIXEL_NOISE * drawn
    wide = widen(images)
    mean, std = (torch.tensor(x, dtype=wide.dtype, device=wide.device)[:, None, None] for x in normalisation)
    pixels = wide * std + mean
    return (((pixels + PIXEL_NOISE * drawn).clamp(0, 1) - mean) / std).to(images.dtype)
