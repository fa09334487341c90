"""What the report of a study says, and in which order."""

import dataclasses

import pandas as pd
import pytest
from study_cases import result, with_frames
from study_source_cases import by_recipe

from svda_analysis.document import Picture, Points, Table, Widget
from svda_analysis.frames import MAP_COLUMNS, make_frame
from svda_analysis.render.html import to_html
from svda_analysis.render.markdown import to_markdown
from svda_analysis.results import Run, nothing_measured
from svda_analysis.study.claims import claims_table
from svda_analysis.study.result import NOT_AT_HAND, StudyResult
from svda_analysis.study.sections import study_document, study_pictures

VARIANTS = {"vit": {"attention": "dot"}, "svda": {"attention": "svda"}, "cosine": {"attention": "cosine"}}


def study(*results, **more):
    return StudyResult(**{"title": "A study", "datasets": results, "variants": VARIANTS, **more})


def said_to_be(shown, name, model, **changed):
    """``shown`` with one run of ``model`` that tells of a recipe by name, with ``changed`` in it."""
    runs = (*shown.analysis.runs, by_recipe(name, model, **changed))
    return dataclasses.replace(shown, analysis=dataclasses.replace(shown.analysis, runs=runs))


@pytest.fixture
def shown():
    return dataclasses.replace(result(3), source="X test, 9 images from here")


def test_sections_come_in_the_order_of_reading_with_a_line_on_each_data_set(shown):
    absent = dataclasses.replace(
        shown, name="y", title="Y", analysis=nothing_measured(), missing=NOT_AT_HAND, source="", sizes={}
    )
    document = study_document(
        study(shown, absent, notes=("Tuned on validation images.",)), command="svda paper", warnings=["old checkpoints"]
    )
    seen = "X: X test, 9 images from here; models of 1 layer"
    said = (seen, "Not run here: Y (data not at hand)", "Tuned on validation images.")
    assert document.lead == (Points(said),)
    assert (document.title, document.command, document.warnings) == ("A study", "svda paper", ("old checkpoints",))
    names = [section.name for section in document.sections]
    first, *_, last = names
    assert (first, last) == ("answers", "figures_x")
    assert names.index("t1_accuracy") < names.index("t1_cost") < names.index("t2_x_svda_vit")
    assert not any("_y" in name for name in names)
    assert all(isinstance(section.blocks[0], Table | Picture | Widget) for section in document.sections[1:])


def test_of_how_many_images_attention_and_directions_were_measured_is_said(shown):
    table = shown.table
    measured = table["indicator"] == "selectivity_index"
    table.loc[measured, "n"] = 20
    directions = table[measured].assign(indicator="directions_90", source="data", n=6)
    of_sigma = directions.assign(source="sigma", n=1)
    few = with_frames(shown, table=pd.concat([table, directions, of_sigma], ignore_index=True))
    said = "; attention measured on 20 of them, directions by data on 6; models of 1 layer"
    assert said in study_document(study(few)).lead[0].lines[0]


def test_the_first_screen_answers_in_at_most_ten_lines_and_names_what_is_judged(shown, without_figures):
    other = dataclasses.replace(shown, name="z", title="Z")
    third = dataclasses.replace(shown, name="w", title="W")
    document = study_document(study(*(said_to_be(one, "ours", "svda") for one in (shown, other, third))))
    first, *_ = document.sections
    assert document.answer[-1].startswith("What SVDA adds to normalisation (svda against cosine). **Supported**: more")
    assert len(document.answer) == 5  # a line for each claim, and one on what is added
    assert first.title == (
        "The claims of arXiv 2602.10994, judged on svda (the recipe of this toolkit, not the one of the paper)"
    )
    (table,) = first.blocks
    assert list(table.text.columns) == ["Models", "Claim", "X", "Z", "W"]
    sparser = claims_table([shown], 0.5).text.set_index("Claim").loc["sparser attention"]
    said = f"opposed, {sparser['Number [95% CI]']}"
    assert list(table.text.iloc[1]) == ["svda against vit", "sparser attention", said, said, said]
    assert not any(line in to_markdown(document).split("\n", 12)[-1] for line in document.answer)  # each is said once


def test_each_verdict_on_the_first_screen_has_its_number_and_interval(shown, without_figures):
    document = study_document(study(shown))
    rows = {row["Claim"]: row for row in claims_table([shown], 0.5).text.to_dict("records")}
    for claim, row in rows.items():
        line = next(line for line in document.answer if line.lower().startswith(claim.lower()))
        remark = f" ({row['Why']})" if claim == "no accuracy is sacrificed" else ""
        assert line.endswith(f"): **{row['Verdict']}** on X, {row['Number [95% CI]']}{remark}.")


def test_the_title_of_the_claims_says_what_was_changed(shown, without_figures):
    variants = {**VARIANTS, "svda": {"attention": "svda", "sigma_start": "one"}}
    first, *_ = study_document(study(shown, variants=variants)).sections
    assert first.title.endswith("judged on svda (sigma_start one)")


@pytest.mark.parametrize(
    ("name", "changed", "said"),
    [
        ("source", {}, "svda (the recipe of the source's public code)"),
        ("source", {"train_images": 64}, "svda (the recipe of the source's public code but for train_images 64)"),
        (
            "ours",
            {"lr": 0.5, "flip": False},
            "svda (the recipe of this toolkit but for lr 0.5, flip False, not the one",
        ),
        ("ours", {"epochs": 3, "monitor_images": 8}, "svda (the recipe of this toolkit, not the one of the paper)"),
    ],
)
def test_the_recipe_that_is_said_is_that_of_the_runs(shown, without_figures, name, changed, said):
    of_both = dataclasses.replace(shown, name="fashion_mnist")
    first, *_ = study_document(study(said_to_be(of_both, name, "svda", **changed))).sections
    assert f"judged on {said}" in first.title


def test_recipes_that_differ_between_data_sets_are_said_of_each(shown, without_figures):
    other = said_to_be(dataclasses.replace(shown, name="z", title="Z"), "ours", "svda", lr=0.5)
    first, *_ = study_document(study(shown, said_to_be(dataclasses.replace(shown, name="y"), "ours", "svda"))).sections
    assert "svda (of a recipe that is not known on X; the recipe of this toolkit, not the one of" in first.title
    first, *_ = study_document(study(said_to_be(shown, "ours", "svda"), other)).sections
    assert "of the paper on X; the recipe of this toolkit but for lr 0.5, not the one of the paper on Z)" in first.title


def test_trainings_that_differ_in_more_than_variants_are_warned_of(shown, without_figures):
    variants = {**VARIANTS, "plain": {"attention": "svda", "norm_penalty": 0.0}}
    alike = said_to_be(said_to_be(shown, "ours", "vit"), "ours", "plain", norm_penalty=0.0)
    assert study_document(study(alike, variants=variants), warnings=["old"]).warnings == ("old",)
    other = said_to_be(alike, "ours", "svda", lr=0.01, norm_penalty=0.0)
    said = "X: models were not trained by one recipe: lr 0.001 in vit, 0.001 in plain, 0.01 in svda"
    (found,) = study_document(study(other, variants=variants)).warnings
    assert found == f"{said}; norm_penalty 0.3 in vit, 0.0 in svda"


def test_variants_have_one_table_and_no_claims(shown):
    names = [section.name for section in study_document(study(shown, of_variants=True)).sections]
    assert not any(name.startswith(("t3", "t1_accuracy", "t2")) for name in names)
    assert sum("x" in name.split("_") for name in names) == len([name for name in names if name != "t1_cost"])


def test_maps_that_were_compared_have_a_section(shown):
    row = {
        "layer_a": 0,
        "layer_b": 0,
        "measure": "js",
        "matched": 0.5,
        "model": "svda",
        "baseline": "vit",
        "images": "same",
    }
    maps = {"matching": make_frame([row], MAP_COLUMNS["matching"])}
    sections = {section.name: section for section in study_document(study(with_frames(shown, maps=maps))).sections}
    assert sections["maps_x"].title == "X: do the heads attend to the same places?"
    assert "maps_x" not in {section.name for section in study_document(study(shown)).sections}


def test_figures_are_named_for_their_data_set_and_what_is_carried_or_missing_is_said(shown):
    drawn = study_pictures(shown, of_variants=False)
    assert drawn
    assert all(picture.name.startswith("x_") and picture.caption for picture in drawn)
    old = dataclasses.replace(shown, carried=("x_sigma_over_epochs_svda",), untraced=("vit", "svda"))
    *_, figures = study_document(study(old)).sections
    carried = figures.blocks[len(drawn)]
    assert (carried.name, carried.draw) == ("x_sigma_over_epochs_svda", None)
    assert "](figures/x_sigma_over_epochs_svda.png)" in to_markdown(study_document(study(old)), figures="figures")
    assert '<img src="figures/x_sigma_over_epochs_svda.png"' in to_html(study_document(study(old)), figures="figures")
    assert "not drawn for vit, svda" in figures.blocks[-1]


@pytest.mark.parametrize(
    ("recipes", "said"),
    [
        ([{"epochs": 5, "train_images": 10000}], "; trained for 5 epochs on 10 000 images"),
        ([{"epochs": 5, "train_images": 10000}, {"epochs": 7}], "; trained for 5 to 7 epochs on 10 000 or all images"),
        ([{"epochs": 1}], "; trained for 1 epoch"),
        ([{}], ""),
    ],
)
def test_for_how_long_runs_were_trained_and_on_what_is_said(shown, recipes, said):
    runs = tuple(Run(model="svda", recipe=recipe) for recipe in recipes)
    trained = dataclasses.replace(shown, analysis=dataclasses.replace(shown.analysis, runs=runs))
    assert f"{shown.source}; models of 1 layer{said}\n" in to_markdown(study_document(study(trained)))
