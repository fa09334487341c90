"""What a model costs: parameters and multiply-adds off its configuration, seconds and memory off its history. torch is
imported where a model is counted.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import pandas as pd

from svda_analysis.frames import each_row, make_frame
from svda_analysis.kinds import ATTENTIONS, ROLES

if TYPE_CHECKING:
    from svda_analysis.model import ViTConfig

TIMED = ("epoch_seconds", "peak_memory_mb")  # of the history: what a machine needed, not what a model became
COST_COLUMNS = {
    "dataset": "string",
    "model": "string",
    "attention": "string",
    "parameters": "Int64",
    "macs": "Int64",
    "seconds": "float64",
    "seconds_std": "float64",
    "memory": "float64",
    "memory_std": "float64",
}


class Size(NamedTuple):
    """What a model costs: read off its configuration, and seconds an epoch and peak memory (MB) as mean and standard
    deviation over its runs (NaN: not known). ``macs`` are multiplications with an addition, one image."""

    attention: str
    parameters: int
    macs: int
    seconds: float = math.nan
    seconds_std: float = math.nan
    memory: float = math.nan
    memory_std: float = math.nan

    @property
    def place(self) -> int:
        """Where a study shows it: baselines first, controls last; a kind that nobody registered is studied."""
        kind = ATTENTIONS.get(self.attention)
        return kind.place if kind else ROLES.index("studied")

    def timed(self, history: pd.DataFrame) -> Size:
        """With seconds (median over a run's epochs) and memory (their largest) from the history of its runs."""
        seconds, memory = _by_run(history, "epoch_seconds", "median"), _by_run(history, "peak_memory_mb", "max")
        ends = [float(x) for x in (seconds.mean(), seconds.std(), memory.mean(), memory.std())]
        return Size(self.attention, self.parameters, self.macs, *ends)


def _by_run(history: pd.DataFrame, indicator: str, how: str) -> pd.Series:
    rows = history[history["indicator"] == indicator]
    return rows.groupby("seed", dropna=False)["mean"].agg(how).astype(float)


def model_size(config: ViTConfig) -> Size:
    """Parameters, and multiply-adds of one image (half of what torch's counter calls flops), without making weights."""
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    from svda_analysis.model import ViT

    with torch.device("meta"), torch.no_grad():
        model = ViT(config).eval()
        image = torch.empty(1, config.in_channels, config.image_size, config.image_size)
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            model(image)
    return Size(config.attention, sum(p.numel() for p in model.parameters()), counter.get_total_flops() // 2)


def in_order(sizes: Mapping[str, Size]) -> dict[str, Size]:
    """Baselines first, controls last, else in their order."""
    return dict(sorted(sizes.items(), key=lambda item: item[1].place))


def cost_frame(sizes: Iterable[tuple[str, Mapping[str, Size]]]) -> pd.DataFrame:
    """The sizes of each data set's models as rows of :data:`COST_COLUMNS`."""
    rows = (
        {"dataset": dataset, "model": model, **size._asdict()}
        for dataset, models in sizes
        for model, size in models.items()
    )
    return make_frame(rows, COST_COLUMNS)


def sizes_of(costs: pd.DataFrame, dataset: str) -> dict[str, Size]:
    """What :func:`cost_frame` wrote of one data set, by model."""
    rows = costs[costs["dataset"] == dataset]
    return {str(row.model): size_in(row, str(row.attention)) for row in each_row(rows)}


def size_in(row: Any, attention: str) -> Size:
    """The size that a row of a table of costs holds."""
    times = [float(getattr(row, name)) for name in Size._fields[3:]]
    return Size(attention, int(row.parameters), int(row.macs), *times)
