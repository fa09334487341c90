"""What was measured as tables of text: by layer, side by side, matched heads, runs. No torch here."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from svda_analysis.comparison import summarise
from svda_analysis.formatting import MISSING, dash, estimate, fixed, interval, number, p_value
from svda_analysis.frames import each_row, seeds_of_pairs
from svda_analysis.results import Run
from svda_analysis.stats import paired_test
from svda_analysis.vocabulary import label, quantity

_SOURCES = ["test", "train", "sigma", "scores", "attention", "tokens", "qk", "ov"]  # the order of rows in tables
_RUN_SHOWN = ("model", "attention", "epoch", "parameters", "images", "data")


def runs_table(runs: Sequence[Run]) -> pd.DataFrame:
    """Which models were measured, on what, as text: a row for the runs of a model that differ in their seed alone, and
    one for each run that was left out."""
    groups: dict[tuple[str, ...], list[Run]] = {}
    for run in runs:
        shown = tuple(dash(getattr(run, key)) for key in _RUN_SHOWN)
        groups.setdefault((*shown, str(run.path) if run.broken else ""), []).append(run)
    made = []
    for key, mine in groups.items():
        row = {name.capitalize(): text for name, text in zip(_RUN_SHOWN, key, strict=False)}
        seeds = [dash(run.seed) for run in mine]
        row = {**row, "Runs": f"{len(mine)} (seeds {', '.join(seeds)})" if len(mine) > 1 else f"seed {seeds[0]}"}
        if mine[0].seed is None and len(mine) == 1:
            row["Runs"] = "1"
        if mine[0].broken:
            row["Data"] = f"left out, not finite: {mine[0].broken}"
        made.append(row)
    columns = ["Model", "Attention", "Runs", "Epoch", "Parameters", "Images", "Data"]
    return pd.DataFrame(made, columns=columns)


def layer_table(table: pd.DataFrame, model: str) -> pd.DataFrame:
    """One model's indicators (rows, by source) per layer and over all layers, as text: means over heads and runs."""
    summary = summarise(table[table["model"] == model])
    summary = summary[summary["indicator"].isin(table.loc[table["layer"].notna(), "indicator"])]
    layers = sorted(summary["layer"].dropna().unique())
    made = []
    groups = summary.groupby(["indicator", "source"], sort=False)
    for (indicator, source), rows in sorted(groups, key=lambda group: _place(str(group[0][1]))):
        means = {-1 if pd.isna(row.layer) else row.layer: number(row.mean) for row in each_row(rows)}
        cells = {str(layer): means.get(layer, "-") for layer in layers}
        made.append({"Source": source, "Indicator": label(str(indicator)), **cells, "all": means[-1]})
    return pd.DataFrame(made)


def summary_table(table: pd.DataFrame) -> pd.DataFrame:
    """Every headline number about the whole model with its interval, as text: what a single model has to show."""
    rows = _headlines(summarise(table))
    made = [
        {
            "Indicator": label(row.indicator, row.source),
            "Mean": number(row.mean),
            "95 % CI": interval(row.ci_low, row.ci_high),
        }
        for row in each_row(rows[rows["layer"].isna()])
    ]
    return pd.DataFrame(made, columns=["Indicator", "Mean", "95 % CI"])


def beside_table(table: pd.DataFrame) -> pd.DataFrame:
    """What somebody else computes under a name, beside ours of that name, for the whole model as text: a row for each
    such quantity and model, and how to read it. Empty where none was measured; ours is a dash where it was not."""
    rows = summarise(table) if any(quantity(str(name)).beside for name in table["indicator"].unique()) else table[:0]
    whole = rows[rows["layer"].isna()]
    means = {(row.model, row.indicator, row.source): row.mean for row in each_row(whole)}
    made = []
    for (model, name, source), mean in means.items():
        theirs = quantity(name)
        if theirs.beside:
            ours = means.get((model, theirs.beside, source))
            made.append(
                {
                    "Model": model,
                    "Indicator": label(theirs.beside, source),
                    "The source's": number(mean),
                    "Ours": MISSING if ours is None else number(ours),
                    "The source's, higher": theirs.higher_means,
                    "Ours, higher": quantity(theirs.beside).higher_means,
                    "The source's does not say": theirs.not_said,
                }
            )
    return pd.DataFrame(made)


def comparison_tables(comparison: pd.DataFrame) -> dict[tuple[str, str], pd.DataFrame]:
    """The whole-model rows of a comparison as text, for each (model, baseline): both means, the difference with its
    95 % interval, adjusted p, effect and number of runs; ordered by source. Headline numbers alone."""
    rows = _headlines(comparison[comparison["layer"].isna()])
    tables = {}
    for (model, baseline), group in rows.groupby(["model", "baseline"], sort=False):
        made = [
            {
                "Source": row.source,
                "Indicator": label(row.indicator),
                str(baseline): number(row.baseline_mean),
                str(model): number(row.model_mean),
                "Difference [95% CI]": estimate(row.difference, row.ci_low, row.ci_high),
                "p (Holm)": p_value(row.p_adjusted),
                "Effect": fixed(row.effect, 1, sign=True),
                "Runs": str(row.n_seeds) if row.unit == "seeds" else "1",
            }
            for row in sorted(each_row(group), key=lambda row: _place(row.source))
        ]
        tables[str(model), str(baseline)] = pd.DataFrame(made)
    return tables


def matching_table(matching: pd.DataFrame) -> pd.DataFrame:
    """The Jensen-Shannon rows of a map comparison as text, by layer: means over pairs of runs, with the 95 % interval
    of the gain over these pairs; of a single pair, over images. Pairs of equal and of different seeds are apart."""
    rows = matching[matching["measure"] == "js"]
    rows = rows.assign(seeds=seeds_of_pairs(rows))
    made = []
    keys = ["model", "baseline", "seeds", "layer_a", "layer_b", "images"]
    for (model, baseline, seeds, layer_a, layer_b, images), group in rows.groupby(keys, sort=False):
        gains = group["gain_over_chance"].to_numpy()
        low, high = group[["gain_over_chance_low", "gain_over_chance_high"]].iloc[0]
        if len(gains) > 1:
            low, high = paired_test(np.zeros(len(gains)), gains, span=1.0).interval  # similarities lie in [0, 1]
        made.append(
            {
                "Models": _names_of_pair(str(model), str(baseline), str(seeds)),
                "Pairs": str(len(gains)),
                "Layer": f"{layer_a}, {layer_b}",
                "Images": str(images),
                "As ordered": number(group["identity"].mean()),
                "Matched": number(group["matched"].mean()),
                "By chance": number(group["chance"].mean()),
                "Gain over chance [95% CI]": estimate(gains.mean(), low, high),
            }
        )
    return pd.DataFrame(made)


def _headlines(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows whose quantity the vocabulary calls a headline."""
    return rows[rows["indicator"].map(lambda name: quantity(str(name)).headline).astype(bool)]


def _names_of_pair(model: str, baseline: str, seeds: str) -> str:
    if model == baseline:
        return f"{model}, other seed"
    return f"{model}, {baseline}, {seeds} seed" if seeds else f"{model}, {baseline}"


def _place(source: str) -> tuple[int, str]:
    """Where the rows of a source stand in tables; methods of attribution come last, by name."""
    return (_SOURCES.index(source), "") if source in _SOURCES else (len(_SOURCES), source)
