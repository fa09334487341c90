"""How to run heads of unequal size: padded, grouped, one by one -> reports/benchmarks/ragged_heads.md and .csv.

    python benchmarks/ragged_heads.py [--rounds 15]

One attention layer of S/16 at 224 pixels (6 heads of 64, 197 tokens) after compression: random weights, heads of 4 to
40 rows. All layouts give the same output (checked); each takes turns with the one that the package uses.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from svda_analysis.attention import Attention
from svda_analysis.compact import CompactSelfAttention
from svda_analysis.compression.verification import time_ratio
from svda_analysis.render.markdown import markdown_table as markdown

FOLDER = Path("reports") / "benchmarks"
ROWS = (4, 8, 8, 16, 20, 40)


class Layout(nn.Module):
    """The layer ``of`` with another way from its rows to the heads' outputs ``(B, H, N, D)``."""

    def __init__(self, of: CompactSelfAttention, heads: Callable[[CompactSelfAttention, Tensor], Tensor]) -> None:
        super().__init__()
        self.of, self.heads = of, heads

    def forward(self, x: Tensor) -> Tensor:
        return self.of.proj(self.heads(self.of, x).transpose(1, 2).flatten(2))


def widest(layer: CompactSelfAttention, x: Tensor) -> Tensor:
    """q and k padded to the widest head alone; v keeps its width."""
    qk, v = layer.rows(x)
    q, k = qk[..., : max(ROWS)].permute(2, 0, 3, 1, 4)
    return F.scaled_dot_product_attention(q, k, v, scale=layer.head_dim**-0.5)


def grouped(layer: CompactSelfAttention, x: Tensor) -> Tensor:
    """One projection, then one kernel for all heads of one size."""
    q, k, v = _parts(layer, x)
    out: list[Tensor] = [x] * len(ROWS)
    for size in sorted(set(ROWS)):
        heads = [head for head, rows in enumerate(ROWS) if rows == size]
        stacked = [torch.stack([part[head] for head in heads], dim=1) for part in (q, k, v)]
        result = F.scaled_dot_product_attention(stacked[0], stacked[1], stacked[2], scale=layer.head_dim**-0.5)
        for at, head in enumerate(heads):
            out[head] = result[:, at]
    return torch.stack(out, dim=1)


def one_by_one(layer: CompactSelfAttention, x: Tensor) -> Tensor:
    """One projection, then a kernel for each head."""
    found = [
        F.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None], scale=layer.head_dim**-0.5)
        for q, k, v in zip(*_parts(layer, x), strict=True)
    ]
    return torch.cat(found, dim=1)


def _parts(layer: CompactSelfAttention, x: Tensor) -> list[tuple[Tensor, ...]]:
    """q, k and v, each head by head ``(B, N, rows)``."""
    q, k, v = layer.qkv(x).split([sum(ROWS), sum(ROWS), x.shape[-1]], dim=-1)
    return [q.split(ROWS, dim=-1), k.split(ROWS, dim=-1), v.chunk(len(ROWS), dim=-1)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    torch.manual_seed(0)
    padded = CompactSelfAttention(384, len(ROWS), kind="dot", score_dims=ROWS).eval()
    others = {
        "padded to the widest head": Layout(padded, widest),
        "grouped by size": Layout(padded, grouped),
        "one by one": Layout(padded, one_by_one),
    }
    rows = []
    for batch in (1, 8):
        x = torch.randn(batch, 197, 384)
        for name, layout in {**others, "not compressed": Attention(384, len(ROWS), kind="dot").eval()}.items():
            if name in others:
                torch.testing.assert_close(layout(x), padded(x), rtol=1e-5, atol=1e-5)
            timed = time_ratio(padded, layout, x, rounds=rounds)
            ratio = f"x {timed['change']:.3f} [{timed['ci_low']:.3f}, {timed['ci_high']:.3f}]"
            ours, other = (f"{1e3 * timed[which]:.2f}" for which in ("before", "after"))
            rows.append({"layout": name, "images": batch, "ms": other, "ms of the package": ours, "time": ratio})
            print(rows[-1], flush=True)
    FOLDER.mkdir(parents=True, exist_ok=True)
    frame = pd.DataFrame(rows)
    frame.to_csv(FOLDER / "ragged_heads.csv", index=False)
    threads = torch.get_num_threads()
    (FOLDER / "ragged_heads.md").write_text(
        f"# Heads of unequal size\n\nMade by `python benchmarks/ragged_heads.py --rounds {rounds}` (CPU, {threads} "
        f"thread{'s' if threads > 1 else ''}, torch {torch.__version__}). One layer of S/16, 197 tokens, heads of "
        f"{', '.join(map(str, ROWS))} rows. Time against padding every head to the head dimension, which is what the "
        "package does: paired rounds, geometric mean and 95 % interval; above 1 is slower. Each line is a run of its "
        "own, beside whatever else the machine did: compare within a line. The package pads although groups can be "
        "faster on a CPU at this size: a layer is then one kernel and one record.\n\n" + markdown(frame) + "\n"
    )


if __name__ == "__main__":
    main()
