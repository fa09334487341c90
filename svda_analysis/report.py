"""Frames and figures -> a folder: csv, json, figures as PDF and PNG, a summary in markdown, a table in LaTeX."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd

from svda_analysis import plots
from svda_analysis.compare import compare, summarise
from svda_analysis.errors import InputError, check_writable
from svda_analysis.results import Analysis

# Which direction of an indicator means a more structured attention, for the sentences of a comparison.
STRUCTURE = {
    ("attention_entropy", "attention"): -1,
    ("attention_sparsity", "attention"): +1,
    ("selectivity_index", "attention"): +1,
    ("effective_rank", "scores"): -1,
}
_SOURCES = ["test", "train", "sigma", "scores", "attention"]  # the order of rows in tables


def write_report(
    analysis: Analysis,
    folder: str | os.PathLike[str],
    *,
    baseline: str | None = None,
    command: str = "",
) -> list[Path]:
    """Write the whole report of an analysis into ``folder``; returns the files, ``summary.md`` first.

    Everything is made in a hidden folder inside it first and moved at the end, so that a failed call leaves what was
    there. Raises :class:`~svda_analysis.errors.InputError` when the folder cannot be written.
    """
    folder = Path(folder)
    check_writable(folder, "output folder")
    labels = analysis.meta.get("labels", {})
    several = len(analysis.table["model"].unique()) > 1
    comparison = compare(analysis.table, baseline) if several else None
    with _staged(folder) as stage:
        frames = {"indicators": analysis.table, "spectra": analysis.spectra}
        if not analysis.history.empty:
            frames["history"] = analysis.history
        frames |= {f"maps_{name}": frame for name, frame in analysis.maps.items()}
        if comparison is not None:
            frames["comparison"] = comparison
        for name, frame in frames.items():
            frame.to_csv(stage / f"{name}.csv", index=False, float_format="%.6g")
        names = _write_figures(analysis, comparison, labels, stage)
        (stage / "summary.md").write_text(_summary(analysis, comparison, labels, names, folder.name, command))
        (stage / "table.tex").write_text(_latex(analysis, comparison, labels))
        written = sorted([*(path.relative_to(stage) for path in stage.rglob("*") if path.is_file()), Path("meta.json")])
        meta = {"command": command, **analysis.meta, "files": [path.as_posix() for path in written]}
        (stage / "meta.json").write_text(json.dumps(meta, indent=2, default=str) + "\n")
    return sorted((folder / path for path in written), key=lambda path: (path.name != "summary.md", path))


@contextlib.contextmanager
def _staged(folder: Path) -> Iterator[Path]:
    """A folder to write into; when all went well its files take the place of those of an earlier report."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".unfinished-") as name:
            stage = Path(name)
            yield stage
            for old in _files_of(folder):
                (folder / old).unlink(missing_ok=True)
            for path in sorted(path for path in stage.rglob("*") if path.is_file()):
                target = folder / path.relative_to(stage)
                target.parent.mkdir(exist_ok=True)
                os.replace(path, target)
    except OSError as error:
        raise InputError(f"output folder {folder} cannot be written: {error.strerror or error}") from None


def _files_of(folder: Path) -> list[str]:
    """What the report that lies in ``folder`` says it consists of; nothing where there is none."""
    try:
        files = json.loads((folder / "meta.json").read_text())["files"]
    except (OSError, ValueError, KeyError, TypeError):
        return []
    return [
        name for name in files if isinstance(name, str) and ".." not in Path(name).parts and not name.startswith("/")
    ]


def _write_figures(
    analysis: Analysis, comparison: pd.DataFrame | None, labels: Mapping[str, str], stage: Path
) -> list[str]:
    names = []
    for name, figure in plots.figures(
        analysis.table,
        analysis.spectra,
        analysis.examples,
        history=None if analysis.history.empty else analysis.history,
        comparison=comparison,
        labels=labels,
    ):
        plots.save(figure, stage / "figures", name)
        plt.close(figure)
        names.append(name)
    if analysis.maps:
        names.append("map_similarity")
        figure = plots.plot_map_similarity(analysis.maps["similarity"])
        plots.save(figure, stage / "figures", names[-1])
        plt.close(figure)
    return names


# --- tables for reading ---------------------------------------------------------------------------------------------


def layer_table(table: pd.DataFrame, model: str, labels: Mapping[str, str] | None = None) -> pd.DataFrame:
    """One model's indicators (rows, by source) per layer and over all layers, as text: means over heads and runs."""
    labels = labels or {}
    summary = summarise(table[table["model"] == model])
    summary = summary[summary["indicator"].isin(table.loc[table["layer"].notna(), "indicator"])]
    layers = sorted(summary["layer"].dropna().unique())
    made = []
    groups = summary.groupby(["indicator", "source"], sort=False)
    for (indicator, source), rows in sorted(groups, key=lambda group: _place(group[0][1])):
        means = {-1 if pd.isna(row.layer) else row.layer: number(row.mean) for row in rows.itertuples()}
        name = labels.get(indicator, str(indicator).capitalize())
        cells = {str(layer): means.get(layer, "-") for layer in layers}
        made.append({"Source": source, "Indicator": name, **cells, "all": means[-1]})
    return pd.DataFrame(made)


def comparison_tables(
    comparison: pd.DataFrame, labels: Mapping[str, str] | None = None
) -> dict[tuple[str, str], pd.DataFrame]:
    """The whole-model rows of a comparison as text, for each (model, baseline): both means, the difference with its
    95 % interval, adjusted p, effect and number of runs; ordered by source."""
    labels = labels or {}
    rows = comparison[comparison["layer"].isna()]
    tables = {}
    for (model, baseline), group in rows.groupby(["model", "baseline"], sort=False):
        made = [
            {
                "Source": row.source,
                "Indicator": labels.get(row.indicator, str(row.indicator).capitalize()),
                str(baseline): number(row.baseline_mean),
                str(model): number(row.model_mean),
                "Difference [95% CI]": f"{signed(row.difference)} {interval(row.ci_low, row.ci_high)}",
                "p (Holm)": "-" if pd.isna(row.p_adjusted) else _p(row.p_adjusted),
                "Effect": "-" if pd.isna(row.effect) else f"{row.effect:+.1f}",
                "Runs": str(row.n_seeds) if row.unit == "seeds" else "1",
            }
            for row in sorted(group.itertuples(), key=lambda row: _place(row.source))
        ]
        tables[str(model), str(baseline)] = pd.DataFrame(made)
    return tables


def matching_table(matching: pd.DataFrame) -> pd.DataFrame:
    """The Jensen-Shannon rows of a map comparison as text, by seed and layer."""
    rows = matching[matching["measure"] == "js"]
    made = [
        {
            "Models": f"{row.model}, {row.baseline}",
            "Seed": "-" if pd.isna(row.seed) else str(row.seed),
            "Layer": f"{row.layer_a}, {row.layer_b}",
            "Images": str(row.images),
            "As ordered": number(row.identity),
            "Matched": number(row.matched),
            "By chance": number(row.chance),
            "Gain over chance [95% CI]": f"{signed(row.gain_over_chance)} "
            f"{interval(row.gain_over_chance_low, row.gain_over_chance_high)}",
        }
        for row in rows.itertuples()
    ]
    return pd.DataFrame(made)


def statements(comparison: pd.DataFrame, labels: Mapping[str, str] | None = None) -> list[str]:
    """One sentence for each measure of structure: which model is more structured, and how sure that is."""
    labels = labels or {}
    said = []
    for row in comparison[comparison["layer"].isna()].itertuples():
        direction = STRUCTURE.get((str(row.indicator), str(row.source)))
        if direction is None:
            continue
        unit = f"over {row.n_seeds} training runs" if row.unit == "seeds" else "over images, these two checkpoints only"
        numbers = (
            f"{number(row.model_mean)} against {number(row.baseline_mean)}, difference {signed(row.difference)} "
            f"{interval(row.ci_low, row.ci_high)} {unit}"
        )
        name = f"{labels.get(row.indicator, str(row.indicator))} ({row.source})"
        if pd.isna(row.ci_low) or row.ci_low <= 0 <= row.ci_high:
            said.append(f"{name}: no difference shown between {row.model} and {row.baseline} ({numbers}).")
        else:
            more = row.model if row.difference * direction > 0 else row.baseline
            said.append(f"{name}: {more} is more structured ({row.model} {numbers}).")
    return said


def accuracy_lines(table: pd.DataFrame) -> list[str]:
    """Test accuracy of every model with its interval, one line each; empty where labels were not known."""
    known = table[(table["indicator"] == "accuracy") & (table["source"] == "test")]
    if known.empty:
        return []
    lines = []
    for row in summarise(known).itertuples():
        unit = f"{row.n_seeds} training runs" if row.n_seeds > 1 else "images of one run"
        lines.append(f"{row.model}: {row.mean:.2%} {interval(row.ci_low, row.ci_high, percent=True)} over {unit}")
    return lines


def _place(source: str) -> tuple[int, str]:
    """Where the rows of a source stand in tables; methods of attribution come last, by name."""
    return (_SOURCES.index(source), "") if source in _SOURCES else (len(_SOURCES), source)


def number(x: float) -> str:
    """Three decimals below ten, then fewer; a dash for a missing number."""
    if pd.isna(x):
        return "-"
    return f"{x:.3f}" if abs(x) < 10 else f"{x:.2f}" if abs(x) < 100 else f"{x:.1f}"


def signed(x: float) -> str:
    """:func:`number` with its sign."""
    return f"+{number(x)}" if x > 0 else number(x)


def interval(low: float, high: float, *, percent: bool = False) -> str:
    """``[low, high]``; "[no interval]" where there is none."""
    if pd.isna(low) or pd.isna(high):
        return "[no interval]"
    return f"[{low:.2%}, {high:.2%}]" if percent else f"[{number(low)}, {number(high)}]"


def _p(p: float) -> str:
    return "<0.001" if p < 0.001 else f"{p:.3f}"


# --- documents ------------------------------------------------------------------------------------------------------


def _summary(
    analysis: Analysis,
    comparison: pd.DataFrame | None,
    labels: Mapping[str, str],
    figures: Sequence[str],
    title: str,
    command: str,
) -> str:
    table, meta = analysis.table, analysis.meta
    parts = [f"# Attention analysis: {title}", *(f"**Warning: {line}**" for line in meta["warnings"])]
    if command:
        parts.append(f"Made by `{command}`.")
    parts.append(markdown(_runs_table(meta["runs"])))
    if lines := accuracy_lines(table):
        parts += ["## Test accuracy", "\n".join(f"- {line}" for line in lines)]
    if comparison is not None:
        parts += [
            "## Which attention is more structured?",
            "\n".join(f"- {line}" for line in statements(comparison, labels)),
            "## Comparison over the whole model",
            _COMPARING,
        ]
        for (model, against), cells in comparison_tables(comparison, labels).items():
            parts += [f"### {model} against {against}", markdown(cells)]
    if analysis.maps:
        cells = matching_table(analysis.maps["matching"])
        parts += ["## Do the heads attend to the same places?", _MATCHING, markdown(cells)]
    for model in dict.fromkeys(table["model"]):
        parts += [f"## {model}, layer by layer", markdown(layer_table(table, model, labels))]
    parts += ["## Figures", *(f"![{name}](figures/{name}.png)" for name in figures)]
    parts += ["## How to read this", _READING]
    return "\n\n".join(parts) + "\n"


_COMPARING = """Means over heads and layers; differences are model minus baseline, paired by training seed where seeds
are shared. p is adjusted by Holm's method over all rows; the effect is the paired difference in units of its own spread
over seeds (Hedges' correction)."""
_MATCHING = """Similarity (one minus the Jensen-Shannon distance) of what the class token attends to, between the heads
of two models: in the order the heads have, matched one to one, and by chance. Heads were matched on one half of the
images and are judged on the other; intervals are over images. With "other", one model saw another image: a gain
that stays there is a habit of the heads, not an answer to the image."""
_READING = """Layers and heads count from 0. The source says what an indicator was computed from: the learned diagonal
(sigma), the scores before the softmax (scores), or the maps after it (attention). Intervals are 95 %: over training
seeds where a model has several runs, else over images, and then they speak of that checkpoint alone. Compare two models
within one source only: sigma exists for SVDA alone and stands beside no number of another model. A structured attention
map is not by itself a faithful explanation of a decision: where deletion and insertion were measured, set each method
beside the random ranking of the same model, since the areas depend on how confident a model is."""


def _runs_table(runs: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    shown = ("model", "attention", "seed", "epoch", "parameters", "images", "data")
    return pd.DataFrame([{key.capitalize(): _dash(run[key]) for key in shown} for run in runs])


def _dash(x: Any) -> str:
    return "-" if x is None else str(x)


def markdown(frame: pd.DataFrame) -> str:
    """A frame of text as a pipe table."""
    rows = [list(frame.columns), ["---"] * len(frame.columns), *frame.astype(str).to_numpy().tolist()]
    return "\n".join("| " + " | ".join(cell.replace("|", r"\|") for cell in row) + " |" for row in rows)


def _latex(analysis: Analysis, comparison: pd.DataFrame | None, labels: Mapping[str, str]) -> str:
    stamps = "".join(f"% WARNING: {line}\n" for line in analysis.meta["warnings"])
    if comparison is not None:
        return stamps + "\n".join(_booktabs(cells) for cells in comparison_tables(comparison, labels).values())
    rows = summarise(analysis.table)
    rows = rows[rows["layer"].isna()]
    made = {
        "Indicator": [
            f"{labels.get(name, name)} ({s})" for name, s in zip(rows["indicator"], rows["source"], strict=True)
        ],
        "Mean": rows["mean"].map(number).to_list(),
        "95 % CI": [interval(low, high) for low, high in zip(rows["ci_low"], rows["ci_high"], strict=True)],
    }
    return stamps + _booktabs(pd.DataFrame(made))


def _booktabs(frame: pd.DataFrame) -> str:
    escapes = str.maketrans({"%": r"\%", "_": r"\_", "&": r"\&", "#": r"\#", "<": "$<$", "|": r"$|$"})
    escaped = frame.astype(str).map(lambda x: x.translate(escapes)).rename(columns=lambda x: x.translate(escapes))
    alignment = "".join("l" if name in ("Source", "Indicator") else "r" for name in frame.columns)
    return "% needs \\usepackage{booktabs}\n" + escaped.style.hide(axis="index").to_latex(
        hrules=True, column_format=alignment
    )
