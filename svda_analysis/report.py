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
from matplotlib.figure import Figure
from scipy import stats

from svda_analysis import plots
from svda_analysis.compare import compare, summarise
from svda_analysis.errors import InputError, check_writable
from svda_analysis.results import GAINS, Analysis

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
    with staged(folder) as stage:
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
def staged(folder: Path, *, instead: bool = True) -> Iterator[Path]:
    """A folder to write into; when all went well its files take the place of those of an earlier report.

    What an earlier report lists in its ``meta.json`` and is not written now goes away; equal files are left alone.
    Without ``instead`` an earlier report of another kind stays beside them.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".unfinished-") as made:
            stage = Path(made)
            yield stage
            fresh = {path.relative_to(stage) for path in stage.rglob("*") if path.is_file()}
            for old in _files_of(folder) if instead else ():
                if Path(old) not in fresh:
                    (folder / old).unlink(missing_ok=True)
            for name in sorted(fresh):
                target = folder / name
                if target.is_file() and target.read_bytes() == (stage / name).read_bytes():
                    continue  # what did not change keeps its date
                target.parent.mkdir(exist_ok=True)
                os.replace(stage / name, target)
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
    for name, figure in _map_figures(analysis):
        plots.save(figure, stage / "figures", name)
        plt.close(figure)
        names.append(name)
    return names


def _map_figures(analysis: Analysis) -> Iterator[tuple[str, Figure]]:
    """The layers' similarity, and the matched heads of the runs whose example maps are at hand."""
    if not analysis.maps:
        return
    yield "map_similarity", plots.plot_map_similarity(analysis.maps["similarity"])
    first = {run["model"]: run["seed"] for run in reversed(analysis.meta["runs"])}  # whose examples are at hand
    for (model, baseline), heads in analysis.maps["heads"].groupby(["model", "baseline"], sort=False):
        shown = heads[_is(heads["seed"], first[model]) & _is(heads["baseline_seed"], first[baseline])]
        both = [analysis.examples[name] for name in (model, baseline) if name in analysis.examples]
        if model != baseline and len(both) == 2 and len(shown):
            yield f"matched_heads_{model}_{baseline}", plots.plot_matched_heads(shown, *both)


def _is(seeds: pd.Series, seed: int | None) -> pd.Series:
    return seeds.isna() if seed is None else seeds == seed


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
        name = _label(indicator, labels)
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
                "Indicator": _label(row.indicator, labels),
                str(baseline): number(row.baseline_mean),
                str(model): number(row.model_mean),
                "Difference [95% CI]": f"{signed(row.difference)} {interval(row.ci_low, row.ci_high)}",
                "p (Holm)": p_value(row.p_adjusted),
                "Effect": "-" if pd.isna(row.effect) else f"{row.effect:+.1f}",
                "Runs": str(row.n_seeds) if row.unit == "seeds" else "1",
            }
            for row in sorted(group.itertuples(), key=lambda row: _place(row.source))
        ]
        tables[str(model), str(baseline)] = pd.DataFrame(made)
    return tables


def matching_table(matching: pd.DataFrame) -> pd.DataFrame:
    """The Jensen-Shannon rows of a map comparison as text, by layer: means over pairs of runs, with the 95 % interval
    of the gain over these pairs; of a single pair, over images."""
    rows = matching[matching["measure"] == "js"]
    made = []
    keys = ["model", "baseline", "layer_a", "layer_b", "images"]
    for (model, baseline, layer_a, layer_b, images), group in rows.groupby(keys, sort=False):
        gains = group["gain_over_chance"].to_numpy()
        low, high = group[["gain_over_chance_low", "gain_over_chance_high"]].iloc[0]
        if len(gains) > 1:
            low, high = stats.t.interval(0.95, len(gains) - 1, gains.mean(), max(stats.sem(gains), 1e-15))
        made.append(
            {
                "Models": f"{model}, {baseline}" if model != baseline else f"{model}, other seed",
                "Pairs": str(len(gains)),
                "Layer": f"{layer_a}, {layer_b}",
                "Images": str(images),
                "As ordered": number(group["identity"].mean()),
                "Matched": number(group["matched"].mean()),
                "By chance": number(group["chance"].mean()),
                "Gain over chance [95% CI]": f"{signed(gains.mean())} {interval(low, high)}",
            }
        )
    return pd.DataFrame(made)


def statements(comparison: pd.DataFrame, labels: Mapping[str, str] | None = None) -> list[str]:
    """One sentence for each measure of structure: which model is more structured, and how sure that is."""
    rows = comparison[comparison["layer"].isna()].itertuples()
    known = ((row, STRUCTURE.get((str(row.indicator), str(row.source)))) for row in rows)
    return [_statement(row, direction, "structured", labels or {}) for row, direction in known if direction]


def faithfulness_statements(comparison: pd.DataFrame, labels: Mapping[str, str] | None = None) -> list[str]:
    """One sentence for each method's gain over the random ranking: whose maps are more faithful, and how sure it is."""
    rows = comparison[comparison["indicator"].isin(GAINS)].sort_values("source", kind="stable")
    return [_statement(row, +1, "faithful", labels or {}) for row in rows.itertuples()]


def _statement(row: Any, direction: int, quality: str, labels: Mapping[str, str]) -> str:
    unit = f"over {row.n_seeds} training runs" if row.unit == "seeds" else "over images, these two checkpoints only"
    numbers = (
        f"{number(row.model_mean)} against {number(row.baseline_mean)}, difference {signed(row.difference)} "
        f"{interval(row.ci_low, row.ci_high)} {unit}"
    )
    name = f"{_label(row.indicator, labels)} ({row.source})"
    if pd.isna(row.ci_low) or row.ci_low <= 0 <= row.ci_high:
        return f"{name}: no difference shown between {row.model} and {row.baseline} ({numbers})."
    more = row.model if row.difference * direction > 0 else row.baseline
    return f"{name}: {more} is more {quality} ({row.model} {numbers})."


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


def _label(indicator: str, labels: Mapping[str, str]) -> str:
    return labels.get(indicator, str(indicator).replace("_", " ").capitalize())


def number(x: float) -> str:
    """Three decimals below ten, then fewer; tiny numbers keep one digit; a dash for a missing number."""
    if pd.isna(x):
        return "-"
    if 0 < abs(x) < 0.0005:
        return f"{x:.0e}"
    return f"{x:.3f}" if abs(x) < 10 else f"{x:.2f}" if abs(x) < 100 else f"{x:.1f}"


def signed(x: float) -> str:
    """:func:`number` with its sign."""
    return f"+{number(x)}" if x > 0 else number(x)


def interval(low: float, high: float, *, percent: bool = False) -> str:
    """``[low, high]``; "[no interval]" where there is none."""
    if pd.isna(low) or pd.isna(high):
        return "[no interval]"
    return f"[{low:.2%}, {high:.2%}]" if percent else f"[{number(low)}, {number(high)}]"


def p_value(p: float) -> str:
    """Three decimals; a dash for a missing one."""
    if pd.isna(p):
        return "-"
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
        ]
        if faithful := faithfulness_statements(comparison, labels):
            parts += ["## Whose maps are more faithful?", _FAITHFUL, "\n".join(f"- {line}" for line in faithful)]
        parts += [
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
are shared. p is adjusted by Holm's method, over the rows of faithfulness and over all others; the effect is the paired
difference in units of its own spread over seeds (Hedges' correction)."""
_FAITHFUL = """How much faster the predicted class falls when the patches that a map ranks highest are taken away
(deletion), and rises when they are brought back (insertion), than under a random ranking of the same model. Above 0 the
map tells something. Raw areas depend on how confident a model is, and are not compared here."""
_MATCHING = """Similarity (one minus the Jensen-Shannon distance) of what the class token attends to, between the heads
of two models: in the order the heads have, matched one to one, and by chance. Heads were matched on one half of the
images and are judged on the other. Intervals are over pairs of runs where there are several (those of one model share
runs, so theirs are a guide), else over images. "Other seed" is what a new training run alone changes. With "other"
images, one model saw another image: a gain that stays there is a habit of the heads, not an answer to the image."""
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
        return stamps + "\n".join(booktabs(cells) for cells in comparison_tables(comparison, labels).values())
    rows = summarise(analysis.table)
    rows = rows[rows["layer"].isna()]
    made = {
        "Indicator": [
            f"{_label(name, labels)} ({s})" for name, s in zip(rows["indicator"], rows["source"], strict=True)
        ],
        "Mean": rows["mean"].map(number).to_list(),
        "95 % CI": [interval(low, high) for low, high in zip(rows["ci_low"], rows["ci_high"], strict=True)],
    }
    return stamps + booktabs(pd.DataFrame(made))


_LEFT = ("Source", "Indicator", "Data", "Model", "Claim", "Measure", "Number", "Verdict", "Why", "Changed")


def booktabs(frame: pd.DataFrame) -> str:
    """A frame of text as a LaTeX table of the booktabs package; columns of long text wrap."""
    escapes = str.maketrans(
        {
            "%": r"\%",
            "_": r"\_",
            "&": r"\&",
            "#": r"\#",
            "<": "$<$",
            ">": "$>$",
            "|": r"$|$",
            "±": r"$\pm$",
            "^": r"\^{}",
        }
    )
    escaped = frame.astype(str).map(lambda x: x.translate(escapes)).rename(columns=lambda x: x.translate(escapes))
    longest = frame.astype(str).map(len).max()
    alignment = "".join("p{3cm}" if longest[name] > 40 else "l" if name in _LEFT else "r" for name in frame.columns)
    return "% needs \\usepackage{booktabs}\n" + escaped.style.hide(axis="index").to_latex(
        hrules=True, column_format=alignment
    )
