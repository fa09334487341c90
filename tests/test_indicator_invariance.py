"""What is a measure of a model's function does not change when only the model's coordinates do.

Every registered indicator is put through changes that leave the maps as they are: a constant on a row of scores, other
axes for q and k (for each kind of attention those that it allows), another order of heads and of tokens.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor

from svda_analysis.indicators import (
    INDICATORS,
    attention_spectrum,
    choose_indicators,
    score_spectrum,
    sigma_spectrum,
)
from svda_analysis.indicators.weights import ov_eigenvalues_of, ov_spectrum, qk_eigenvalues_of, qk_spectrum
from svda_analysis.layer_inputs import HeadWeights
from svda_analysis.vocabulary import SAME_FUNCTION, TOKEN_ORDER, groups_of, register_all

register_all()
B, H, N, D = 2, 3, 8, 4
GRID, PREFIX, SUFFIX = (2, 3), 1, 1
KINDS = ("dot", "svda", "cosine")
ALL = [one for names in (None, groups_of(INDICATORS)) for one in choose_indicators(names)]
CASES = [(one.name, source) for one in ALL for source in one.sources]
generator = torch.Generator().manual_seed(7)


def draw(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=generator)


@dataclasses.dataclass(frozen=True)
class Situation:
    """One attention layer on B images; ``a_noisy`` are maps of noisy copies, ``shifts`` constants on rows of scores."""

    q: Tensor
    k: Tensor
    sigma: Tensor | None
    q_noisy: Tensor
    shifts: Tensor
    tokens: Tensor
    others: Tensor  # scores of other images
    weights: HeadWeights

    @property
    def a(self) -> Tensor:
        return self._map(self.q)

    def _map(self, q: Tensor) -> Tensor:
        sigma = 1 if self.sigma is None else self.sigma[:, None]
        return (q * sigma @ self.k.mT + self.shifts).softmax(-1)

    def given(self, source: str) -> dict[str, Any]:
        """What an indicator may ask for."""
        a_noisy = self._map(self.q_noisy)
        sigma = torch.ones(H, D, dtype=torch.float64) if self.sigma is None else self.sigma
        at_hand = {"q": self.q, "k": self.k, "a": self.a, "a_noisy": a_noisy, "a_pixel_noisy": a_noisy}
        w_q, w_k, w_v, w_o = self.weights
        at_hand |= {"qk_eigenvalues": qk_eigenvalues_of(w_q, w_k, sigma), "ov_eigenvalues": ov_eigenvalues_of(w_o, w_v)}
        spectra = {
            "qk": lambda: qk_spectrum(w_q, w_k, sigma),
            "ov": lambda: ov_spectrum(w_o, w_v),
            "sigma": lambda: None if self.sigma is None else sigma_spectrum(self.sigma)[None],
            "scores": lambda: score_spectrum(self.q, self.k, 1.0, self.sigma),
            "attention": lambda: attention_spectrum(self.a),
        }
        at_hand |= {"tokens": self.tokens, "position_map": (self.others + self.shifts).softmax(-1)}
        at_hand |= {"loss": torch.arange(B), "ablated_loss": self.a.square().sum((-2, -1))}
        return {
            **at_hand,
            "sigma": sigma,
            "grid": GRID,
            "suffix": SUFFIX,
            "frames": 1,
            "prefix": PREFIX,
            "class_token": True,
            "spectrum": spectra[source]() if source in spectra else 0,
        }

    def value(self, name: str, source: str) -> Tensor | None:
        """The indicator ``(B, H)``, of tokens ``(B,)``, of sigma ``(1, H)``; None where there is none."""
        one, given = INDICATORS[name], self.given(source)
        return None if given["spectrum"] is None else one.function(**{need: given[need] for need in one.needs})


def situation(kind: str) -> Situation:
    q, k, q_noisy = draw(3, B, H, N, D)
    if kind != "dot":
        q, k, q_noisy = (torch.nn.functional.normalize(x, dim=-1) for x in (q, k, q_noisy))
    sigma = {"dot": None, "svda": 4 * draw(H, D), "cosine": 3 * draw(H, 1).exp().expand(H, D)}[kind]
    weights = HeadWeights(*draw(3, H, D, 5), draw(H, 5, D))
    nothing = torch.zeros(B, H, N, 1, dtype=torch.float64)
    return Situation(q, k, sigma, q_noisy, nothing, tokens=draw(B, N, 5), others=draw(B, H, N, N), weights=weights)


def other_axes(kind: str, was: Situation) -> Situation:
    """The same scores from other q and k, of the same kind of attention: any invertible map of the axes (dot), one
    rotation of both (cosine), the order and the signs of sigma's axes (svda)."""
    if kind == "svda":
        order, left, right = torch.randperm(D, generator=generator), draw(H, 1, D).sign(), draw(H, 1, D).sign()
        q, q_noisy, k = (x[..., order] * sign for x, sign in ((was.q, left), (was.q_noisy, left), (was.k, right)))
        sigma = None if was.sigma is None else (was.sigma[:, None, order] * left * right)[:, 0]
        w_q, w_k = (w[:, order] * sign.mT for w, sign in zip(was.weights[:2], (left, right), strict=True))
        weights = was.weights._replace(w_q=w_q, w_k=w_k)
        return dataclasses.replace(was, q=q, q_noisy=q_noisy, k=k, sigma=sigma, weights=weights)
    mixing = draw(H, D, D) + 2 * torch.eye(D, dtype=torch.float64)
    if kind == "cosine":
        mixing = torch.linalg.qr(mixing).Q
    q, q_noisy, k = was.q @ mixing, was.q_noisy @ mixing, was.k @ mixing.inverse().mT
    w_q, w_k, w_v, w_o = was.weights
    weights = HeadWeights(mixing.mT @ w_q, mixing.inverse() @ w_k, mixing.mT @ w_v, w_o @ mixing.inverse().mT)
    return dataclasses.replace(was, q=q, q_noisy=q_noisy, k=k, weights=weights)


def row_constants(was: Situation) -> Situation:
    """Keys that share one more part (which no unit row can), and whatever else is added to whole rows of scores."""
    shifted = was.k + draw(H, 1, D) if was.sigma is None else was.k
    return dataclasses.replace(was, k=shifted, shifts=was.shifts + draw(B, H, N, 1))


def same(got: Tensor | None, want: Tensor | None) -> bool:
    if got is None or want is None:
        return got is want
    return bool(torch.allclose(got, want, rtol=1e-7, atol=1e-9))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("name", "source"), CASES)
def test_what_compares_kinds_measures_the_function(name, source, kind):
    was = situation(kind)
    want = was.value(name, source)
    changed = {"basis": other_axes(kind, was), "row constants": row_constants(was)}
    for what in SAME_FUNCTION:
        torch.testing.assert_close(changed[what].a, was.a)
        if what not in INDICATORS[name].varies_with:
            assert same(changed[what].value(name, source), want), what


@pytest.mark.parametrize(("name", "source"), [case for case in CASES if not INDICATORS[case[0]].compares_kinds])
def test_what_says_that_it_varies_does(name, source):
    was = situation("dot")
    changed = {"basis": other_axes("dot", was), "row constants": row_constants(was)}
    for what in INDICATORS[name].varies_with:
        assert not same(changed[what].value(name, source), was.value(name, source)), what


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("name", "source"), CASES)
def test_heads_may_come_in_any_order(name, source, kind):
    was, order = situation(kind), [2, 0, 1]
    moved: dict[str, Any] = {key: getattr(was, key)[:, order] for key in ("q", "k", "q_noisy", "shifts", "others")}
    moved["weights"] = HeadWeights(*(w[order] for w in was.weights))
    moved["sigma"] = None if was.sigma is None else was.sigma[order]
    found, want = dataclasses.replace(was, **moved).value(name, source), was.value(name, source)
    assert same(found, want if want is None or want.ndim == 1 else want[:, order])


@pytest.mark.parametrize(("name", "source"), CASES)
def test_patches_may_come_in_any_order_unless_it_says_where_they_lie(name, source):
    was = situation("dot")
    patches = PREFIX + torch.randperm(N - PREFIX - SUFFIX, generator=torch.Generator().manual_seed(1))
    order = [*range(PREFIX), *patches.tolist(), *range(N - SUFFIX, N)]
    moved = {key: getattr(was, key)[:, :, order] for key in ("q", "k", "q_noisy", "shifts")}
    moved |= {"tokens": was.tokens[:, order], "others": was.others[:, :, order][..., order]}
    found = same(dataclasses.replace(was, **moved).value(name, source), was.value(name, source))
    assert found == (TOKEN_ORDER not in INDICATORS[name].varies_with)
