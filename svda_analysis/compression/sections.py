"""What the report of a compression says: functions ``Compressions -> sections``, in the order of reading. No torch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from svda_analysis.compression.result import Compression, Compressions
from svda_analysis.compression.tables import (
    at_budgets,
    budget_differences,
    budget_table,
    compression_table,
    contrasts_at_budgets,
    norms_table,
    verification_table,
)
from svda_analysis.document import Document, Points, Section, Table
from svda_analysis.formatting import counted, number, percent
from svda_analysis.frames import each_row
from svda_analysis.sections.page import citation
from svda_analysis.sections.registry import section, sections_of
from svda_analysis.vocabulary import Quantity, quantity


def compression_document(found: Compressions, *, command: str = "") -> Document:
    """The report of all runs: which images, then every section registered for ``compression``."""
    versions: Mapping[str, str] = next((run.meta["versions"] for run in found.runs if "versions" in run.meta), {})
    return Document(
        title=f"Compression: {', '.join(found.by_model)}",
        command=command,
        warnings=found.warnings,
        lead=(Points(found.data),),
        sections=sections_of(found, "compression"),
        answer=(*_at_equal_size(found), *(f"{model}: {_what_went(runs)}" for model, runs in found.by_model.items())),
        terms=_terms(found),
        versions=versions,
        cite=citation(versions),
    )


def _at_equal_size(found: Compressions) -> list[str]:
    """Which of SVDA and plain attention is the more accurate at the same size, where several sizes were measured."""
    contrasts = contrasts_at_budgets(at_budgets(found))
    if not contrasts:
        return []
    points = [100 * one.difference for one in contrasts.values()]
    below = sum(one.interval.high < 0 for one in contrasts.values())
    above = sum(one.interval.low > 0 for one in contrasts.values())
    sizes = ", ".join(f"{100 * budget:g}" for budget in dict.fromkeys(budget for _, budget in contrasts))
    return [
        f"At the same size ({sizes} % of the rows of W_q and W_k), SVDA minus plain attention in accuracy: "
        f"{min(points):+.2f} to {max(points):+.2f} points in {counted(len(points), 'comparison')}; {below} of the 95 % "
        f"intervals lie below 0, {above} above."
    ]


def _terms(found: Compressions) -> tuple[Quantity, ...]:
    """The indicators that were verified."""
    names = [str(row.quantity) for run in found.runs for row in each_row(run.verification) if not pd.isna(row.source)]
    return tuple(quantity(name) for name in dict.fromkeys(names))


def terminal_compression(found: Compressions) -> Document:
    """What ``svda compress`` prints: the data, then every section registered for ``compression terminal``."""
    lead = tuple(f"data: {line}" for line in found.data)
    return Document(title="", lead=lead, sections=sections_of(found, "compression terminal"))


@section("budgets", where=("compression", "compression terminal"))
def _budget_sections(found: Compressions) -> list[Section]:
    """How accurate models of equal size are."""
    measured = at_budgets(found)
    if measured.empty:
        return []
    title = "Accuracy of models of equal size"
    blocks = [Table(name="budgets", text=budget_table(measured), note=_equal_size(found, measured))]
    between = budget_differences(measured)
    if len(between):
        note = "Difference at the same size, paired by training seed, with its 95 % interval over seeds."
        blocks.append(Table(name="budget_differences", text=between, note=note))
    return [Section(name="budgets", title=title, blocks=tuple(blocks))]


def _equal_size(found: Compressions, measured: pd.DataFrame) -> str:
    """On how much the table of budgets rests."""
    meta, runs = found.runs[0].meta, measured.groupby("model")["seed"].nunique(dropna=False).max()
    spread = "; mean and standard deviation over training runs" if runs > 1 else ""
    tuned = ""
    if measured["finetuned"].notna().any():
        images = meta.get("finetune_images")
        on = "all training images" if images is None else f"{images} training images, the same for all"
        tuned = (
            f" Fine-tuned: {counted(meta['finetune_epochs'], 'epoch')} through {on}, towards the whole model's logits."
        )
    return (
        f"Test accuracy over {measured['n'].min()} images{spread}; runs: {counted(runs, 'seed')}. Rows kept: the share "
        "of the rows of W_q and W_k that may stay, rows for the norm counted. Operator SVD ranks directions by what "
        "they do to the logits of training images, weight SVD by the singular values of the weights alone."
        f"{tuned}"
    )


@section("models", where=("compression",))
def _model_sections(found: Compressions) -> list[Section]:
    """Of each model what went, before and after, and what keeps the norm."""
    several = len(found.by_model) > 1
    return [part for model, runs in found.by_model.items() for part in _of_model(model, runs, several)]


def _of_model(model: str, runs: Sequence[Compression], several: bool) -> list[Section]:
    made = [Section(name=model, title=model if several else "", blocks=(_what_went(runs), *_how_chosen(runs)))]
    before = Table(name=f"verification_{model}", text=verification_table(runs))
    made.append(Section(name=f"{model}-verification", title="Before and after", blocks=(before,), level=3))
    if not runs[0].norms.empty:
        when = " (without fine-tuning)" if runs[0].meta["finetune_epochs"] else ""
        table = Table(name=f"norms_{model}", text=norms_table(runs))
        made.append(Section(name=f"{model}-norms", title=f"What keeps the norm{when}", blocks=(table,), level=3))
    return made


@section("cost", where=("compression",))
def _cost_sections(found: Compressions) -> list[Section]:
    """The figures, then the sweeps: budgets and energies of each model."""
    from svda_analysis.figures.registry import pictures  # matplotlib, for those who draw

    made, drawn = [], tuple(pictures(found, "compression"))
    if drawn:
        title = "The cost of removing" if found.curves else "Figures"
        made.append(Section(name="cost", title=title, blocks=drawn))
    for model, curve in found.curves.items():
        title = f"{model}: " if len(found.curves) > 1 else ""
        for name, part in {
            "one threshold for all heads": curve[curve["budget"].notna()],
            "a share of each head's energy": curve[curve["energy"].notna()],
        }.items():
            if len(part):
                table = Table(name=f"sweep_{model}", text=compression_table(part))
                made.append(Section(name=f"{model}-{name}", title=f"{title}{name}", blocks=(table,), level=3))
    return made


@section("reading", where=("compression",))
def _reading(found: Compressions) -> Section:
    return Section(name="reading", title="How to read this", blocks=(_READING,))


@section("models", where=("compression terminal",))
def _brief_models(found: Compressions) -> list[Section]:
    """Of each model what went, and the numbers that are not indicators."""
    made = []
    for model, runs in found.by_model.items():
        directions, rows = _gone(runs)
        told = f"{model}: {percent(directions)} of the score directions gone, {percent(rows)} of the rows"
        text = verification_table(runs, indicators=False)
        table = Table(name=f"verification_{model}", title="Before and after", text=text[[*text.columns[:5]]])
        made.append(Section(name=model, blocks=(told, table)))
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
angular alignment depends on how a factorisation shares signs and rotation between q and k, which removal chooses anew:
its change says little. Fine-tuning teaches what was compressed the whole model's logits on the training images,
without labels: by that loss the whole model itself has nothing to learn, so what comes back is recovery, not longer
training. Held-out images of a tolerance are training images, looked at once for each threshold that was tried: the
test images have the last word."""
