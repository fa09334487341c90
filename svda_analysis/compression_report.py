"""What compressions of one or several runs cost -> ``compression.md``, ``.csv``, ``.json`` and a figure."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd

from svda_analysis import plots
from svda_analysis.errors import check_writable
from svda_analysis.formatting import number, p_value, signed
from svda_analysis.render.markdown import markdown_table as markdown
from svda_analysis.render.writer import staged
from svda_analysis.verify import RATIOS, Compression, over_runs


def write_compression(runs: Sequence[Compression], folder: str | os.PathLike[str], *, command: str = "") -> list[Path]:
    """Write ``compression.md``, ``.csv`` (the sweeps), ``.json`` (what was verified, and how), ``.pdf`` and ``.png``.

    Runs of one model are pooled, models stand side by side. Beside whatever else lies in ``folder``; returns the files,
    the document first. Without a sweep there is no csv and no figure, and those of an earlier run go. Raises
    :class:`~svda_analysis.errors.InputError` when the folder cannot be written.
    """
    folder = Path(folder)
    check_writable(folder, "output folder")
    with staged(folder, instead=False) as stage:
        (stage / "compression.md").write_text(_page(runs, command))
        content = {"command": command, "runs": [_as_json(run) for run in runs]}
        text = json.dumps(_plain_json(content), indent=2, default=str, allow_nan=False)
        (stage / "compression.json").write_text(text + "\n")
        if curves := _curves(runs):
            swept = [run for run in runs if not run.curve.empty]
            labelled = [run.curve.assign(model=run.meta["model"], seed=run.meta["seed"]) for run in swept]
            frame = pd.concat(labelled, ignore_index=True)
            first = ["model", "seed"]
            frame = frame[[*first, *(name for name in frame if name not in first)]]
            frame.to_csv(stage / "compression.csv", index=False, float_format="%.6g")
            figure = plots.plot_compression(curves)
            plots.save(figure, stage, "compression")
            plt.close(figure)
        names = sorted(path.name for path in stage.iterdir())
        for name in {"compression.csv", "compression.pdf", "compression.png"} - {*names}:
            (folder / name).unlink(missing_ok=True)
    return sorted((folder / name for name in names), key=lambda path: (path.suffix != ".md", path))


def _as_json(run: Compression) -> dict[str, Any]:
    tables = {"verification": run.verification, "norms": run.norms}
    return {**run.meta, **{name: json.loads(frame.to_json(orient="records")) for name, frame in tables.items()}}


def _plain_json(value: Any) -> Any:
    """``value`` with the numbers that JSON lacks as words: ``inf``, ``-inf``, ``nan``."""
    if isinstance(value, Mapping):
        return {name: _plain_json(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain_json(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def by_model(runs: Sequence[Compression]) -> dict[str, list[Compression]]:
    """The runs of each model, in the order given."""
    found: dict[str, list[Compression]] = {}
    for run in runs:
        found.setdefault(str(run.meta["model"]), []).append(run)
    return found


def _curves(runs: Sequence[Compression]) -> dict[str, pd.DataFrame]:
    swept = by_model([run for run in runs if not run.curve.empty])
    return {
        model: over_runs([run.curve for run in group], ["criterion", "energy", "budget"])
        for model, group in swept.items()
    }


# --- tables ---------------------------------------------------------------------------------------------------------

_VERIFIED = {
    "accuracy": "accuracy",
    "agreement": "predictions that agree",
    "map_divergence": "map divergence (Jensen-Shannon)",
    "parameters": "parameters",
    "macs": "multiply-accumulates",
    "bytes": "bytes of the weights",
    "seconds_1": "seconds for one image",
    "seconds_32": "seconds for 32 images",
    "before_finetuning": "accuracy, without fine-tuning",
    "finetuning": "accuracy, compressed, by fine-tuning",
}


def verification_table(runs: Sequence[Compression], *, indicators: bool = True) -> pd.DataFrame:
    """What compressing the runs of one model changed, as text: shares as percentages, what is counted or timed as a
    ratio. One run has intervals over images (over rounds, where it is timed), several have them over runs; indicators
    are left out without ``indicators``."""
    made = []
    for row in over_runs([run.verification for run in runs], ["quantity", "source"]).itertuples():
        if not (indicators or row.quantity in _VERIFIED):
            continue
        ratio, percent = row.quantity in RATIOS, "accuracy" in _VERIFIED.get(row.quantity, "")
        show = (lambda x: f"{x:.2%}") if percent or row.quantity == "agreement" else _plain
        change = (
            f"x {row.change:.3f}" if ratio else f"{100 * row.change:+.2f} points" if percent else signed(row.change)
        )
        low, high = (100 * x if percent else x for x in (row.ci_low, row.ci_high))
        cells = {
            "Quantity": _VERIFIED.get(row.quantity, f"{row.quantity} ({row.source})"),
            "Before": "-" if pd.isna(row.before) else show(row.before),
            "After": show(row.after),
            "Change": "-" if pd.isna(row.change) else change,
            "95 % interval": "-" if pd.isna(low) else f"[{low:.3f}, {high:.3f}]",
            "p": p_value(row.p),
        }
        if len(runs) == 1:
            cells["Images"] = "-" if pd.isna(row.n) or row.quantity.startswith("seconds") else str(row.n)
        made.append(cells)
    return pd.DataFrame(made)


def _plain(x: float) -> str:
    return f"{x:,.0f}" if abs(x) >= 1000 else f"{x:.3g}"


def _points(row: Any, how: str = "") -> str:
    names = ("change", "ci_low", "ci_high") if not how else (f"{how}_change", f"{how}_low", f"{how}_high")
    change, low, high = (100 * getattr(row, name) for name in names)
    return f"{change:+.2f} [{low:+.2f}, {high:+.2f}]" if pd.notna(low) else f"{change:+.2f}"


def norms_table(runs: Sequence[Compression]) -> pd.DataFrame:
    """The same directions removed with each means of keeping the norm of unit rows, as text."""
    pooled = over_runs([run.norms for run in runs], ["kept"])
    return pd.DataFrame(
        [
            {
                "What keeps the norm": row.kept,
                "Rows removed": f"{row.rows_removed:.1%}",
                "Accuracy (points)": _points(row),
            }
            for row in pooled.itertuples()
        ]
    )


def compression_table(curve: pd.DataFrame) -> pd.DataFrame:
    """A sweep, of budgets or of energies, as text: masked and removed in separate columns."""
    return pd.DataFrame(
        [
            {
                **(
                    {"Criterion": row.criterion, "Energy": f"{row.energy:g}"}
                    if pd.isna(row.budget)
                    else {"Budget": f"{row.budget:.0%}"}
                ),
                "Directions removed": f"{row.directions_removed:.1%}",
                "Accuracy, masked (points)": _points(row, "masked"),
                "Rows removed": f"{row.rows_removed:.1%}",
                "Parameters": f"{row.parameters_change:+.1%}",
                "MACs": f"{row.macs_change:+.1%}",
                "Accuracy, removed (points)": _points(row, "removed"),
            }
            for row in curve.itertuples()
        ]
    )


# --- the document ---------------------------------------------------------------------------------------------------


def _page(runs: Sequence[Compression], command: str) -> str:
    groups = by_model(runs)
    parts = [f"# Compression: {', '.join(groups)}"]
    parts += [f"**Warning: {line}**" for line in dict.fromkeys(line for run in runs for line in run.meta["warnings"])]
    if command:
        parts.append(f"Made by `{command}`.")
    parts.append("\n".join(f"- {line}" for line in dict.fromkeys(run.meta["data"] for run in runs)))
    for model, group in groups.items():
        if len(groups) > 1:
            parts.append(f"## {model}")
        parts += [_what_went(group), *_how_chosen(group), "### Before and after", markdown(verification_table(group))]
        if not group[0].norms.empty:
            when = " (without fine-tuning)" if group[0].meta["finetune_epochs"] else ""
            parts += [f"### What keeps the norm{when}", markdown(norms_table(group))]
    if curves := _curves(runs):
        parts += ["## The cost of removing", "![sweep](compression.png)"]
        for model, curve in curves.items():
            title = f"{model}: " if len(curves) > 1 else ""
            for name, part in {
                "one threshold for all heads": curve[curve["budget"].notna()],
                "a share of each head's energy": curve[curve["energy"].notna()],
            }.items():
                if len(part):
                    parts += [f"### {title}{name}", markdown(compression_table(part))]
    return "\n\n".join([*parts, "## How to read this", _READING]) + "\n"


def _what_went(runs: Sequence[Compression]) -> str:
    meta: Mapping[str, Any] = runs[0].meta
    gone = [sum(run.meta[name] for run in runs) / len(runs) for name in ("directions_removed", "rows_removed")]
    over = f", mean of {len(runs)} training runs" if len(runs) > 1 else ""
    norm = ""
    if meta["attention"] == "svda":
        mean = sum(run.meta["norm_logit"] for run in runs) / len(runs)
        norm = f"; rows stay for the norm that move the logits by {number(mean)}"
        norm = "; no row stays for the norm alone" if math.isinf(mean) else norm
    epochs = meta["finetune_epochs"]
    tuned = f", after {epochs} epoch{'s' if epochs > 1 else ''} of fine-tuning" if epochs else ""
    return (
        f"{gone[0]:.1%} of the score directions and {gone[1]:.1%} of the rows of W_q and W_k are gone{tuned}{over} "
        f"(criterion {meta['criterion']}{norm})."
    )


def _how_chosen(runs: Sequence[Compression]) -> list[str]:
    """What a tolerance led to: a line for each run, none where no tolerance was given."""
    lines = []
    for run in runs:
        if "tolerance" not in run.meta:
            continue
        held, tolerance = run.meta["held_out"], 100 * run.meta["tolerance"]
        low, high = (f"{100 * held[end]:+.2f}" for end in ("ci_low", "ci_high"))
        seed = f"seed {run.meta['seed']}: " if len(runs) > 1 else ""
        lines.append(
            f"- {seed}a tolerance of {tolerance:g} points led to the threshold {number(run.meta['min_logit'])} on the "
            f"logits: on {held['n']} held-out training images accuracy changes by {100 * held['change']:+.2f} points, "
            f"95 % interval [{low}, {high}] (Bonett & Price 2012), without fine-tuning."
        )
    return ["\n".join(lines)] if lines else []


_READING = """Masked: the scores lose directions, the rows keep their norm; removed: rows of W_q and W_k are gone
and the file is smaller. A budget is the share of all rows that may stay, met by one threshold on the logits for all
heads; energies are shares of each head's total. Intervals are 95 %: over training runs where a model has several (p of
a paired t-test), else paired over images (over rounds for what is timed), and then they speak of that checkpoint alone
(p is McNemar's exact test). The random control keeps as many directions of each head as the criterion operator, chosen
at random. Training images rank the directions, test images only verify; the sweep of energies uses a part of them.
Heads are padded to the widest of their layer, so multiply-accumulates fall a little less than parameters. The indicator
angular_alignment depends on how a factorisation shares signs and rotation between q and k, which removal chooses anew:
its change says little. Fine-tuning teaches what was compressed the whole model's logits on the training images,
without labels: by that loss the whole model itself has nothing to learn, so what comes back is recovery, not longer
training. Held-out images of a tolerance are training images, looked at once for each threshold that was tried: the
test images have the last word."""
