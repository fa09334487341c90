"""``python tests/rounding.py``: how far float32 is off for each indicator -> reports/reliability/numbers.csv and .md.

Each indicator is computed in float32 and, of the very same numbers, in float64 (which tests hold against references);
the inputs are layers of many sizes and scales, from all but uniform to all but one-hot, with denormal halves in them.
An error counts as it is, or as a share of the value where that is above 1.
"""

from __future__ import annotations

import itertools
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from svda_analysis.indicators import INDICATORS, attention_spectrum, score_spectrum, sigma_spectrum
from svda_analysis.indicators.weights import ov_eigenvalues_of, ov_spectrum, qk_eigenvalues_of, qk_spectrum
from svda_analysis.vocabulary import register_all

OUT = Path(__file__).resolve().parents[1] / "reports" / "reliability"
SIZES = (((1, 1), 2), ((2, 3), 4), ((7, 7), 8), ((14, 14), 64))  # grid of patches, dimensions of a head
SPREADS = (1e-7, 1e-4, 1e-2, 1.0, 4.0, 12.0, 30.0)  # of the logits
SCALES = (1e-12, 1.0, 1e12)  # of queries, keys, sigma and tokens
STATED = re.compile(r"Rounding in float32: ([\d.e-]+\d|\d)[.,]")


def layers(sizes: Any = SIZES, seed: int = 0) -> Iterator[dict[str, Any]]:
    """Layers whose numbers are all of float32, given in float64."""
    random = torch.Generator().manual_seed(seed)
    for (grid, dim), spread, scale in itertools.product(sizes, SPREADS, SCALES):
        yield _layer(grid, dim, spread, scale, random)


def _layer(grid: tuple[int, int], dim: int, spread: float, scale: float, random: torch.Generator) -> dict[str, Any]:
    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=random, dtype=torch.float64)

    B, H, N, C = 2, 3, 2 + grid[0] * grid[1], 2 * dim
    logits = spread * normal(B, H, N, N)
    a, noisy = (x.softmax(-1) for x in (logits, logits + 0.1 * spread * normal(B, H, N, N)))
    a[0] = a[0].half().double()  # rows whose sum is not 1, and denormal halves in their tails
    sigma = (scale * normal(H, dim).abs()).sort(descending=True)[0] * torch.logspace(0, -spread, dim)
    weights = {"w_q": normal(H, dim, C), "w_k": normal(H, dim, C), "w_v": normal(H, dim, C), "w_o": normal(H, C, dim)}
    made = {
        **{"a": a, "a_noisy": noisy, "a_pixel_noisy": noisy, "position_map": a.mean(0, keepdim=True)},
        **{"q": scale * (normal(B, H, N, dim) + spread), "k": scale * (normal(B, H, N, dim) - spread), "sigma": sigma},
        **{"tokens": scale * (normal(B, N, C) + spread), "loss": normal(B).abs(), "ablated_loss": normal(B, H).abs()},
        **weights,
    }
    return {name: x.float().double() for name, x in made.items()} | {
        "grid": grid,
        "prefix": 2,
        "class_token": True,
        "suffix": 0,
        "frames": 1,
    }


def _spectrum(data: dict[str, Any], source: str) -> Tensor:
    if source == "attention":
        return attention_spectrum(data["a"])
    if source == "scores":
        return score_spectrum(data["q"], data["k"], 1.0, data["sigma"])
    if source == "qk":
        return qk_spectrum(data["w_q"], data["w_k"], data["sigma"])
    return ov_spectrum(data["w_o"], data["w_v"]) if source == "ov" else sigma_spectrum(data["sigma"])


def computed(name: str, source: str, data: dict[str, Any]) -> Tensor | None:
    """An indicator of a layer as an analysis computes it, in the precision of ``data``."""
    entry, given = INDICATORS[name], dict(data)
    if "spectrum" in entry.needs:
        given["spectrum"] = _spectrum(data, source)
    if "qk_eigenvalues" in entry.needs:
        given["qk_eigenvalues"] = qk_eigenvalues_of(data["w_q"], data["w_k"], data["sigma"])
    if "ov_eigenvalues" in entry.needs:
        given["ov_eigenvalues"] = ov_eigenvalues_of(data["w_o"], data["w_v"])
    return entry.function(**{need: given[need] for need in entry.needs})


def worst_errors(sizes: Any = SIZES) -> pd.DataFrame:
    """A row for each indicator and source: the largest error of float32, and the value that was off by it."""
    register_all()
    worst: dict[tuple[str, str], tuple[float, float]] = {}
    for wide in layers(sizes):
        narrow = {name: x.float() if isinstance(x, Tensor) else x for name, x in wide.items()}
        for name, entry in INDICATORS.items():
            for source in entry.sources:
                wanted, got = (computed(name, source, data) for data in (wide, narrow))
                if wanted is None or got is None:
                    continue
                error = (got.double() - wanted).abs() / wanted.abs().clamp(min=1)
                if name == "position_share":  # float32 cannot tell such maps from uniform ones
                    error = error.where(_is_told_from_uniform(wide["a"]), 0)
                at = int(error.argmax())
                found = float(error.flatten()[at]), float(wanted.flatten()[at])
                worst[name, source] = max(worst.get((name, source), (0.0, 0.0)), found)
    rows = [{"indicator": n, "source": s, "error": e, "of": v} for (n, s), (e, v) in worst.items()]
    return pd.DataFrame(rows)


def _is_told_from_uniform(a: Tensor) -> Tensor:
    return (a - 1 / a.shape[-1]).square().sum((-2, -1)) > 1e-9


def stated(name: str) -> float:
    """The error that an indicator's docstring states."""
    found = STATED.search(INDICATORS[name].function.__doc__ or "")
    if found is None:
        raise SystemExit(f"{name} states no error: write 'Rounding in float32: 1e-6.' into its docstring")
    return float(found[1])


def main() -> int:
    """Write what was found; 1 if an indicator is off by more than it states."""
    found = worst_errors()
    found["stated"] = [stated(str(name)) for name in found["indicator"]]
    OUT.mkdir(parents=True, exist_ok=True)
    found.to_csv(OUT / "numbers.csv", index=False, float_format="%.3g")
    (OUT / "numbers.md").write_text(page(found), encoding="utf-8")
    wrong = found[found["error"] > found["stated"]]
    print(f"{len(found)} indicators and sources, {len(wrong)} off by more than they state", *wrong["indicator"])
    return int(len(wrong) > 0)


def page(found: pd.DataFrame) -> str:
    """The table as Markdown."""
    tokens = ", ".join(str(grid[0] * grid[1]) for grid, _ in SIZES)
    lines = [
        "# How far float32 is off",
        "",
        "Made by `python tests/rounding.py`: for each indicator the largest error of float32 against float64 of the",
        f"very same numbers, over {len(SIZES) * len(SPREADS) * len(SCALES)} layers ({tokens} patches and two tokens",
        f"more; logits with a spread from {SPREADS[0]:g} to {SPREADS[-1]:g}; queries, keys, sigma and tokens from",
        f"{SCALES[0]:g} to {SCALES[-1]:g}; rows of half precision). As it is, or as a share of a value",
        "above 1. What an indicator states stands in its docstring; float64 is held against references by the tests.",
        "",
        "| indicator | source | error | of a value of | stated |",
        "|---|---|---|---|---|",
        *(f"| {r.indicator} | {r.source} | {r.error:.1e} | {r.of:.3g} | {r.stated:.0e} |" for r in found.itertuples()),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
