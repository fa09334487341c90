"""What a page shows of single heads and images: heat maps of heads, and the explorer of attention. No torch here."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from svda_analysis.document import Section, Widget
from svda_analysis.formatting import file_word
from svda_analysis.frames import each_row
from svda_analysis.render.packing import pack_rows, picture_url
from svda_analysis.results import Analysis, Examples, Run, Trace
from svda_analysis.vocabulary import quantity

_THROUGH = ("rollout", "relevance")


def explorer_widget(analysis: Analysis, *, name: str = "", of: str = "") -> Widget | None:
    """Attention over the example images, patch by patch; None where no maps are at hand. ``name`` and ``of`` tell it
    from another one on the same page."""
    if not analysis.examples:
        return None
    data, title = partial(explorer_data, analysis), _titled(of, "where does each head look?")
    return Widget(name=_named_widget("explorer", name), kind="explorer", data=data, title=title)


def heads_widget(analysis: Analysis, *, name: str = "", of: str = "", explorer: Widget | None = None) -> Widget | None:
    """A heat map of layers and heads for every indicator, whose cells open the ``explorer``; None where no head was
    measured."""
    found = heads_data(analysis.table)
    if not found["maps"]:
        return None
    data = found | {"explorer": explorer.name if explorer else ""}
    return Widget(name=_named_widget("heads", name), kind="heads", data=lambda: data, title=_titled(of, "head by head"))


def widget_section(analysis: Analysis, *, name: str = "", of: str = "") -> Section | None:
    """Both, where there is one to show. It has no title of its own: what cannot show them says nothing of them."""
    explorer = explorer_widget(analysis, name=name, of=of)
    heads = heads_widget(analysis, name=name, of=of, explorer=explorer)
    found = tuple(one for one in (explorer, heads) if one is not None)
    return Section(name=_named_widget("explorer", name), blocks=found) if found else None


def _named_widget(kind: str, name: str) -> str:
    return f"{kind}_{file_word(name)}" if name else kind


def _titled(of: str, title: str) -> str:
    return f"{of}: {title}" if of else title[:1].upper() + title[1:]


# --- heads ------------------------------------------------------------------------------------------------------------


def heads_data(table: pd.DataFrame) -> dict[str, Any]:
    """For each indicator and source measured head by head its means over runs: ``values`` by model, layer and head
    (None where nothing was measured), and what there is to say of it."""
    rows = table[table["layer"].notna() & table["head"].notna()]
    last = rows["epoch"].isna() | (
        rows["epoch"] == rows.groupby(["model", "seed"], dropna=False)["epoch"].transform("max")
    )
    keys = ["indicator", "source", "model", "layer", "head"]
    means = rows[last].groupby(keys, sort=False)["mean"].mean().reset_index()
    found: dict[tuple[str, str], dict[str, dict[int, dict[int, float]]]] = {}
    for row in each_row(means):
        of_model = found.setdefault((row.indicator, row.source), {}).setdefault(row.model, {})
        of_model.setdefault(int(row.layer), {})[int(row.head)] = row.mean
    maps: list[dict[str, Any]] = [
        {
            "label": f"{quantity(indicator).label} ({source})",
            "term": quantity(indicator).label,
            "values": {model: _grid(layers) for model, layers in by_model.items()},
        }
        for (indicator, source), by_model in found.items()
    ]
    return {"maps": sorted(maps, key=lambda one: -len(one["values"]))}  # what all models have comes first


def _grid(layers: Mapping[int, Mapping[int, float]]) -> list[list[float | None]]:
    """Values ``[layer][head]`` with six digits; None where there is none."""
    width = max(max(heads) for heads in layers.values()) + 1
    return [
        [_short(layers.get(layer, {}).get(head, math.nan)) for head in range(width)] for layer in range(max(layers) + 1)
    ]


def _short(x: float) -> float | None:
    return float(f"{x:.6g}") if math.isfinite(x) else None


# --- maps -------------------------------------------------------------------------------------------------------------


def explorer_data(analysis: Analysis) -> dict[str, Any]:
    """All that the explorer shows: the images, each once; the models with the packed rows of every image and layer; and
    which heads were matched."""
    pictures: dict[str, int] = {}
    runs = {run.model: run for run in reversed(analysis.runs) if not run.broken}
    models = []
    for name in [name for name in analysis.models if name in analysis.examples]:
        shown = analysis.examples[name]
        run, trace = runs.get(name), analysis.traces.get(name)
        models.append(
            {
                "name": name,
                "about": _kind_of_run(run),
                "layers": shown.maps.shape[1],
                "heads": shown.maps.shape[2],
                "tokens": shown.layout.tokens,
                **{key: getattr(shown, key) for key in ("grid", "prefix", "suffix", "frames")},
                "class_token": shown.layout.has_class_token,
                "images": [_image(shown, at, pictures) for at in range(len(shown.images))],
                "trace": None if trace is None else _traced_rows(trace, run, shown),
            }
        )
    return {"models": models, "pictures": list(pictures), "matched": _matched(analysis)}


def _kind_of_run(run: Run | None) -> str:
    if run is None:
        return ""
    said = [f"{run.attention} attention" if run.attention else "", "" if run.seed is None else f"seed {run.seed}"]
    return ", ".join(one for one in said if one)


def _image(shown: Examples, at: int, pictures: dict[str, int]) -> dict[str, Any]:
    """One image as a model sees it: its picture's number, its classes, its rows by layer and of what flows through."""
    url = picture_url(shown.images[at])
    known = {name: values for name in _THROUGH if (values := getattr(shown, name)) is not None}
    return {
        "picture": pictures.setdefault(url, len(pictures)),
        "label": _named_class(shown, int(shown.labels[at])),
        "prediction": _named_class(shown, int(shown.predictions[at])),
        "layers": [pack_rows(layer) for layer in shown.maps[at]],
        **{name: pack_rows(np.clip(values[at], 0, None)[None]) for name, values in known.items()},
    }


def _named_class(shown: Examples, label: int) -> str:
    if label < 0:
        return ""
    return shown.classes[label] if label < len(shown.classes) else f"class {label}"


def _traced_rows(trace: Trace, run: Run | None, shown: Examples) -> dict[str, Any] | None:
    """What CLS pays to the patches, epoch by epoch; None where it was not traced on the images that are shown, which
    are the first of the data set that a run was trained on."""
    alike = (
        run is not None
        and run.dataset == run.recipe.get("dataset")
        and trace.maps.shape[2:]
        == (
            shown.maps.shape[1],
            shown.layout.patches,
        )
    )
    if not alike:
        return None
    n = min(trace.maps.shape[1], len(shown.images))
    return {"epochs": [int(epoch) for epoch in trace.epochs], "images": n, "rows": pack_rows(trace.maps[:, :n])}


def _matched(analysis: Analysis) -> list[dict[str, Any]]:
    """For each pair of models whose first runs were compared: by layer, which head of the second is the partner of each
    head of the first."""
    if "heads" not in analysis.maps:
        return []
    first = {run.model: run.seed for run in reversed(analysis.runs) if not run.broken}
    found: dict[tuple[str, str], dict[str, dict[str, int]]] = {}
    for row in each_row(analysis.maps["heads"]):
        pair, seeds = (row.model, row.baseline), (row.seed, row.baseline_seed)
        same = row.measure == "js" and row.images == "same" and row.layer_a == row.layer_b and row.model != row.baseline
        known = all(_equal(seed, first.get(name)) for name, seed in zip(pair, seeds, strict=True))
        if same and known and not (pd.isna(row.head_a) or pd.isna(row.head_b)):
            found.setdefault(pair, {}).setdefault(str(row.layer_a), {})[str(row.head_a)] = int(row.head_b)
    return [{"model": model, "baseline": baseline, "layers": layers} for (model, baseline), layers in found.items()]


def _equal(seed: Any, other: int | None) -> bool:
    return pd.isna(seed) if other is None else bool(not pd.isna(seed) and seed == other)
