"""The source's numbers as they lie in the package."""

import pandas as pd

from svda_analysis.data import DATASETS
from svda_analysis.frames import TABLE_COLUMNS, make_frame
from svda_analysis.indicators import choose_indicators
from svda_analysis.source_numbers import EPOCHS, SOURCE_MEASURES, by_epoch, source_epochs, source_results


def test_the_source_has_each_number_once_of_both_models():
    rows = source_results()
    assert not rows.duplicated(["dataset", "model", "measure"]).any()
    assert set(rows["model"]) == {"baseline", "svda"}
    assert set(rows["dataset"]) - {"late_block"} <= DATASETS.keys()
    assert set(SOURCE_MEASURES) <= set(rows["measure"])
    assert rows["mean"].notna().all()


def test_its_log_counts_epochs_from_the_first_and_holds_every_indicator():
    log = source_epochs()
    assert log["epoch"].iloc[0] == 1
    assert log["epoch"].iloc[-1] == EPOCHS
    assert set(SOURCE_MEASURES) < set(log.columns)


def test_each_measure_is_an_indicator_of_ours():
    known = {one.name: one for one in choose_indicators(["source"])}
    for measure in SOURCE_MEASURES.values():
        assert measure.source in known[measure.indicator].sources


def test_a_run_at_an_epoch_is_the_mean_over_its_heads():
    about = {"model": "svda", "attention": "svda", "indicator": "source_effective_rank", "source": "sigma", "n": 1}
    cells = [(seed, epoch, layer, head) for seed in (0, 1) for epoch in (1, 2) for layer in (0, 1) for head in (0, 1)]
    rows = [
        {**about, "seed": s, "epoch": e, "layer": a, "head": h, "mean": 100 * s + 10 * e + 2 * a + h, "std": 0.0}
        for s, e, a, h in cells
    ]
    found = by_epoch(make_frame(rows, TABLE_COLUMNS), SOURCE_MEASURES["effective_rank"])
    expected = (
        pd.DataFrame(rows).groupby(["epoch", "seed"], as_index=False)["mean"].mean()["mean"].to_numpy().reshape(2, 2)
    )
    assert (found.to_numpy() == expected).all()
