"""The first screen of a page: what was analysed, what was found, how to cite."""

from __future__ import annotations

import re
from pathlib import Path

from test_sections_analysis import an_analysis

import svda_analysis
from svda_analysis.sections.page import about_analysis, citation, first_findings, terms_of
from svda_analysis.sections.sentences import statements


def test_models_data_and_images_are_named():
    about = dict(about_analysis(an_analysis()))
    assert about["Models"] == (
        "vit (dot attention, 3 runs, seeds 0, 1, 2, 1 234 parameters); svda (svda attention, 3 runs, seeds 0, 1, 2, "
        "1 234 parameters)"
    )
    assert (about["Data"], about["Images measured"]) == ("sample test", "50")
    assert "Preprocessing" not in about
    assert dict(about_analysis(an_analysis(models=("vit",), seeds=(4,))))["Model"].startswith(
        "vit (dot attention, seed 4"
    )


def test_what_is_decided_comes_with_its_interval_and_is_counted():
    analysis = an_analysis()
    found = first_findings(analysis)
    assert sum(line.startswith("Test accuracy, ") for line in found) == 2
    whole = analysis.comparison[analysis.comparison["layer"].isna()]
    assert "attention_entropy" in set(whole["indicator"])  # which selectivity restates
    verdicts = whole.loc[whole["indicator"] != "selectivity_index", "verdict"].dropna().tolist()
    assert verdicts.count("supported") > 0
    count = next(line for line in found if line.startswith("Verdicts over the whole model: "))
    assert f"{verdicts.count('supported')} supported" in count
    said = [line for line in found if " against " in line]
    every = [*statements(analysis.comparison), *statements(analysis.comparison, "faithful")]
    assert said
    assert all(line in every and "inconclusive" not in line and re.search(r"\[-?\d", line) for line in said)


def test_where_nothing_is_decided_a_few_sentences_say_so():
    found = first_findings(an_analysis(seeds=(0,)))
    assert 1 <= sum("inconclusive (" in line for line in found) <= 2


def test_a_single_model_is_compared_with_nothing():
    accuracy, *gains = first_findings(an_analysis(models=("vit",)))
    assert accuracy.startswith("Test accuracy, vit: ")
    assert all(" gain " in line and line.endswith("chance.") for line in gains)


def test_terms_are_the_quantities_of_the_table():
    table = an_analysis().table
    assert [one.name for one in terms_of(table)] == list(dict.fromkeys(table["indicator"]))


def test_the_citation_is_that_of_the_project():
    cff = Path(__file__).parents[1] / "CITATION.cff"
    known = cff.read_text(encoding="utf-8")
    said = citation({"svda-analysis": svda_analysis.__version__})
    for field in ("title", "version", "license"):
        (value,) = re.findall(rf'^{field}: "?([^"\n]+)"?$', known, re.MULTILINE)
        assert f"{{{value}}}" in said
    assert "{The authors of svda_analysis}" in said
