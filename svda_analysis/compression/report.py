"""What compressions of one or several runs cost, as a document beside whatever else lies in its folder."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from svda_analysis.compression.result import Compression, over_runs
from svda_analysis.compression.tables import compression_table, norms_table, verification_table
from svda_analysis.document import Document, Picture, Points, Section, Table
from svda_analysis.figures import plot_compression
from svda_analysis.formatting import counted, number, percent
from svda_analysis.render.writer import write_document

_OWN = ("compression.csv", "compression.pdf", "compression.png")  # of an earlier run with a sweep


def write_compression(runs: Sequence[Compression], folder: str | os.PathLike[str], *, command: str = "") -> list[Path]:
    """Write ``compression.md`` and ``.html``, ``.csv`` (the sweeps), ``.json`` (what was verified, and how), ``.pdf``
    and ``.png``.

    Runs of one model are pooled, models stand side by side. Beside whatever else lies in ``folder``; returns the files,
    the document first. Without a sweep there is no csv and no figure, and those of an earlier run go. Raises
    :class:`~svda_analysis.errors.InputError` when the folder cannot be written.
    """
    content = {"command": command, "runs": [_as_json_record(run) for run in runs]}
    text = json.dumps(_plain_json(content), indent=2, default=str, allow_nan=False)
    return write_document(
        compression_document(runs, command=command),
        folder,
        page="compression.md",
        html="compression.html",
        figures="",
        frames=_sweep_frames(runs),
        texts={"compression.json": text + "\n"},
        own=_OWN,
    )


def _sweep_frames(runs: Sequence[Compression]) -> dict[str, pd.DataFrame]:
    swept = [run.curve.assign(model=run.meta["model"], seed=run.meta["seed"]) for run in runs if not run.curve.empty]
    if not swept:
        return {}
    frame = pd.concat(swept, ignore_index=True)
    first = ["model", "seed"]
    return {"compression": frame[[*first, *(name for name in frame if name not in first)]]}


def _as_json_record(run: Compression) -> dict[str, Any]:
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


def _pooled_curves(runs: Sequence[Compression]) -> dict[str, pd.DataFrame]:
    swept = by_model([run for run in runs if not run.curve.empty])
    return {
        model: over_runs([run.curve for run in group], ["criterion", "energy", "budget"])
        for model, group in swept.items()
    }


# --- the document -----------------------------------------------------------------------------------------------------


def compression_document(runs: Sequence[Compression], *, command: str = "") -> Document:
    """The report of all runs: what went, before and after, what keeps the norm, the cost of removing."""
    groups = by_model(runs)
    sections = [part for model, group in groups.items() for part in _model_sections(group, model, len(groups) > 1)]
    return Document(
        title=f"Compression: {', '.join(groups)}",
        command=command,
        warnings=tuple(dict.fromkeys(line for run in runs for line in run.meta["warnings"])),
        lead=(Points(tuple(dict.fromkeys(run.meta["data"] for run in runs))),),
        sections=(
            *sections,
            *_cost_sections(runs),
            Section(name="reading", title="How to read this", blocks=(_READING,)),
        ),
    )


def terminal_compression(runs: Sequence[Compression]) -> Document:
    """What ``svda compress`` prints: the data, what went, and the numbers that are not indicators."""
    lines = [f"data: {line}" for line in dict.fromkeys(run.meta["data"] for run in runs)]
    sections = []
    for model, group in by_model(runs).items():
        directions, rows = _gone(group)
        told = f"{model}: {percent(directions)} of the score directions gone, {percent(rows)} of the rows"
        text = verification_table(group, indicators=False)
        table = Table(name=f"verification_{model}", title="Before and after", text=text[[*text.columns[:5]]])
        sections.append(Section(name=model, blocks=(told, table)))
    return Document(title="", lead=tuple(lines), sections=tuple(sections))


def _model_sections(runs: Sequence[Compression], model: str, several: bool) -> list[Section]:
    """What went of one model, before and after, and what keeps the norm."""
    made = [Section(name=model, title=model if several else "", blocks=(_what_went(runs), *_how_chosen(runs)))]
    before = Table(name=f"verification_{model}", text=verification_table(runs))
    made.append(Section(name=f"{model}-verification", title="Before and after", blocks=(before,), level=3))
    if not runs[0].norms.empty:
        when = " (without fine-tuning)" if runs[0].meta["finetune_epochs"] else ""
        table = Table(name=f"norms_{model}", text=norms_table(runs))
        made.append(Section(name=f"{model}-norms", title=f"What keeps the norm{when}", blocks=(table,), level=3))
    return made


def _cost_sections(runs: Sequence[Compression]) -> list[Section]:
    """The sweeps, where there are any: a figure, then budgets and energies of each model."""
    curves = _pooled_curves(runs)
    if not curves:
        return []
    picture = Picture(name="compression", draw=partial(plot_compression, curves), caption="sweep")
    made = [Section(name="cost", title="The cost of removing", blocks=(picture,))]
    for model, curve in curves.items():
        title = f"{model}: " if len(curves) > 1 else ""
        for name, part in {
            "one threshold for all heads": curve[curve["budget"].notna()],
            "a share of each head's energy": curve[curve["energy"].notna()],
        }.items():
            if len(part):
                table = Table(name=f"sweep_{model}", text=compression_table(part))
                made.append(Section(name=f"{model}-{name}", title=f"{title}{name}", blocks=(table,), level=3))
    return made


def _gone(runs: Sequence[Compression]) -> tuple[float, float]:
    """Shares of the directions and of the rows that are gone, means over runs."""
    directions, rows = (
        sum(run.meta[name] for run in runs) / len(runs) for name in ("directions_removed", "rows_removed")
    )
    return directions, rows


def _what_went(runs: Sequence[Compression]) -> str:
    meta: Mapping[str, Any] = runs[0].meta
    directions, rows = _gone(runs)
    over = f", mean of {len(runs)} training runs" if len(runs) > 1 else ""
    norm = ""
    if meta["attention"] == "svda":
        mean = sum(run.meta["norm_logit"] for run in runs) / len(runs)
        norm = f"; rows stay for the norm that move the logits by {number(mean)}"
        norm = "; no row stays for the norm alone" if math.isinf(mean) else norm
    epochs = meta["finetune_epochs"]
    tuned = f", after {counted(epochs, 'epoch')} of fine-tuning" if epochs else ""
    return (
        f"{directions:.1%} of the score directions and {rows:.1%} of the rows of W_q and W_k are gone{tuned}{over} "
        f"(criterion {meta['criterion']}{norm})."
    )


def _how_chosen(runs: Sequence[Compression]) -> list[Points]:
    """What a tolerance led to: a line for each run, nothing where no tolerance was given."""
    lines = []
    for run in runs:
        if "tolerance" not in run.meta:
            continue
        held, tolerance = run.meta["held_out"], 100 * run.meta["tolerance"]
        low, high = (f"{100 * held[end]:+.2f}" for end in ("ci_low", "ci_high"))
        seed = f"seed {run.meta['seed']}: " if len(runs) > 1 else ""
        lines.append(
            f"{seed}a tolerance of {tolerance:g} points led to the threshold {number(run.meta['min_logit'])} on the "
            f"logits: on {held['n']} held-out training images accuracy changes by {100 * held['change']:+.2f} points, "
            f"95 % interval [{low}, {high}] (Bonett & Price 2012), without fine-tuning."
        )
    return [Points(tuple(lines))] if lines else []


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
