"""Bad input is named."""

from __future__ import annotations

import pandas as pd
import pytest
from figure_frames import make_comparison, make_spectra, make_table

from svda_analysis import figures
from svda_analysis.errors import InputError
from svda_analysis.figures.rows import layered_pairs

SINGLE = (figures.plot_indicator_heatmap, figures.plot_indicator_by_layer, figures.plot_indicator_over_epochs)


@pytest.mark.parametrize("plot", [*SINGLE, figures.plot_indicator_heatmaps])
def test_indicator_plots_name_what_is_wrong(plot):
    table = make_table(("svda",), 1)
    with pytest.raises(InputError, match="lacks the columns indicator, mean"):
        plot(table.drop(columns=["indicator", "mean"]), indicator="effective_rank", source="scores")
    with pytest.raises(InputError, match="no rows"):
        plot(table.iloc[:0], indicator="effective_rank")
    with pytest.raises(InputError, match=r"indicator must be one of .*effective_rank, attention_entropy, got 'typo'"):
        plot(table, indicator="typo")
    with pytest.raises(InputError, match="source of effective_rank must be one of sigma, scores, got None"):
        plot(table, indicator="effective_rank")
    with pytest.raises(InputError, match="got several"):
        plot(pd.concat([table, table.assign(dataset="other")]), indicator="attention_entropy")


def test_other_plots_name_missing_columns():
    with pytest.raises(InputError, match="spectra lacks the columns value"):
        figures.plot_spectra(make_spectra().drop(columns="value"))
    with pytest.raises(InputError, match="source must be one of scores, sigma, got 'attention'"):
        figures.plot_spectra(make_spectra(), source="attention")
    with pytest.raises(InputError, match="comparison lacks the columns p_adjusted"):
        figures.plot_comparison(make_comparison().drop(columns="p_adjusted"))
    with pytest.raises(InputError, match="history lacks the columns indicator"):
        figures.plot_training_curves(make_table().drop(columns="indicator"))
    for plot in (figures.plot_all_heatmaps, figures.plot_all_by_layer, figures.plot_all_over_epochs):
        with pytest.raises(InputError, match="lacks the columns layer"):
            plot(make_table().drop(columns="layer"))


def test_models_of_several_kinds_share_no_axes_of_what_depends_on_coordinates():
    table = make_table()
    aligned = table[table["source"] == "attention"].assign(indicator="angular_alignment", source="scores")
    both = pd.concat([table, aligned], ignore_index=True)
    assert ("angular_alignment", "scores") not in layered_pairs(both, ())
    assert layered_pairs(both, ()) == layered_pairs(table, ())
    for alone in (both[both["model"] == "svda"], pd.concat([table, aligned[aligned["model"] == "svda"]])):
        assert ("angular_alignment", "scores") in layered_pairs(alone, ())


def test_unknown_model_and_seed():
    table = make_table(seeds=2)
    with pytest.raises(InputError, match="model must be one of vit, svda, got None"):
        figures.plot_indicator_heatmap(table, indicator="attention_entropy")
    with pytest.raises(InputError, match="seed must be one of 0, 1, got 7"):
        figures.plot_indicator_heatmap(table, indicator="attention_entropy", model="vit", seed=7)
    with pytest.raises(InputError, match="models must hold at least one of vit, svda, got deit"):
        figures.plot_indicator_by_layer(table, indicator="attention_entropy", models=["deit"])
