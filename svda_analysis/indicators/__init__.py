"""Attention indicators as pure tensor functions, with their registry :data:`INDICATORS`.

A function's parameter names say what it needs, and one name means the same thing everywhere:

- ``spectrum (..., R)``: non-negative singular values in any order, from :func:`sigma_spectrum`,
  :func:`score_spectrum` (keys centred) or :func:`attention_spectrum`; the result has the leading shape ``(...)``;
- ``a, a_noisy, a_pixel_noisy (B, H, N, N)``: attention after softmax, queries in rows, of the images and of noisy
  copies of them; ``q, k (B, H, N, D)``; ``sigma (H, D)``, ones where there is none; results are ``(B, H)``;
- ``tokens (B, N, C)``: what the layer reads (``tokens.py``); ``position_map``: the mean map of other images
  (``places.py``); ``loss (B,)`` and ``ablated_loss (B, H)``: of labelled images (``heads.py``);
- ``qk_eigenvalues, ov_eigenvalues (1, H, D)``: complex, of the weights (``weights.py``), whose singular values are a
  ``spectrum`` too;
- ``grid``: (rows, columns) of patches, row by row; ``prefix``: tokens before the first patch (CLS and the like);
  ``class_token``: whether the first of these is CLS (else there are registers alone).

Half precision is computed and returned in float32, float64 stays float64. *Rounding in float32* says how far an
indicator is off at most, of layers from all but uniform to all but one-hot (as it is, or as a share of a value above
1; ``reports/reliability`` has what was found). Rows of a map are read as weights: they are
divided by their sum, so rounding of half-precision rows does not count as attention. NaN in, NaN out. A mean over
queries is one over those that attend: an all-zero row (a mask left its query no key) is left out, and where all are the
mean is 0. An all-zero spectrum counts as a single direction (entropy 0, effective rank 1, sparsity 1), and so does a
spectrum or row of length 1, where ``log 1 = 0`` leaves the definitions open. None stands for what is
not defined for a layer. Call outside ``torch.autocast``, which would lower products.
"""

from __future__ import annotations

# Indicators are registered, and shown, in the order of these imports.
# isort: off
from svda_analysis.indicators.numerics import widen
from svda_analysis.indicators.registry import (
    INDICATORS,
    SOURCES,
    Indicator,
    choose_indicators,
    indicator,
)
from svda_analysis.indicators.spectra import (
    attention_rank,
    attention_spectrum,
    effective_rank,
    score_spectrum,
    sigma_spectrum,
    spectral_entropy,
    spectral_sparsity,
)
from svda_analysis.indicators.alignment import angular_alignment, mean_alignment
from svda_analysis.indicators.rows import (
    attention_distance,
    attention_entropy,
    attention_sparsity,
    living_maps,
    mass_90,
    perturbation_robustness,
    selectivity_index,
)
from svda_analysis.indicators.logits import invisible_energy, largest_logit, logit_spread
from svda_analysis.indicators.tokens import high_norm_tokens, rank_one_residual, token_similarity
from svda_analysis.indicators.places import class_mass, position_share, register_mass, sink_mass
from svda_analysis.indicators.heads import ablation_loss, head_distance
from svda_analysis.indicators.weights import leading_mode, mode_rank, ov_copying, qk_eigenvalue_variance

# isort: on

__all__ = [
    "INDICATORS",
    "SOURCES",
    "Indicator",
    "ablation_loss",
    "angular_alignment",
    "attention_distance",
    "attention_entropy",
    "attention_rank",
    "attention_sparsity",
    "attention_spectrum",
    "choose_indicators",
    "class_mass",
    "effective_rank",
    "head_distance",
    "high_norm_tokens",
    "indicator",
    "invisible_energy",
    "largest_logit",
    "leading_mode",
    "living_maps",
    "logit_spread",
    "mass_90",
    "mean_alignment",
    "mode_rank",
    "ov_copying",
    "perturbation_robustness",
    "position_share",
    "qk_eigenvalue_variance",
    "rank_one_residual",
    "register_mass",
    "score_spectrum",
    "selectivity_index",
    "sigma_spectrum",
    "sink_mass",
    "spectral_entropy",
    "spectral_sparsity",
    "token_similarity",
    "widen",
]
