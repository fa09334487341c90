"""What structure costs along the dials of a study."""

from __future__ import annotations

import numpy as np
import pytest
from dial_cases import DIALS, LEVELS, VARIANTS, dialled
from study_cases import some_runs, with_frames

from svda_analysis.comparison import contrast_blocked
from svda_analysis.document import Picture, Table
from svda_analysis.formatting import p_value, points
from svda_analysis.stats import holm
from svda_analysis.study.dials import dials_of
from svda_analysis.study.findings import parts_of, what_parts_do
from svda_analysis.study.frontier import (
    at_equal_rank,
    equal_rank_table,
    frontier_runs,
    frontier_table,
    what_structure_costs,
)
from svda_analysis.study.result import StudyResult
from svda_analysis.study.sections import study_document

ACCURACY = ("accuracy", "test")


@pytest.fixture(scope="module")
def shown():
    return dialled()


def accuracies(shown):
    rows = shown.table[shown.table["indicator"] == "accuracy"]
    return rows.pivot(index="seed", columns="model", values="mean")


def test_each_run_is_a_row(shown):
    runs = frontier_runs(shown, DIALS)
    assert list(runs["model"].unique()) == ["target_1", "target_1_2", "vit", "vit_8", "vit_4"]
    assert len(runs) == 15
    for row in runs.itertuples():
        assert row.rank == LEVELS[row.model][0]
        assert row.accuracy == accuracies(shown).loc[row.seed, row.model]
        assert row.attention == VARIANTS[row.model]["attention"]


def test_settings_stand_beside_the_loosest_of_their_dial(shown):
    table = frontier_table(shown, DIALS)
    assert list(table.numbers["setting"]) == ["1", "1/2", "all", "8", "4"]
    assert list(table.text["Dial"]) == [
        "a target for the rank of sigma",
        "",
        "fewer directions of queries and keys",
        "",
        "",
    ]
    assert list(table.text["Rank of sigma"]) == ["28.0 ± 0.0", "20.0 ± 0.0", "-", "-", "-"]
    by_model = table.numbers.set_index("model")
    assert by_model.loc[["target_1", "vit"], "difference"].isna().all()
    found = contrast_blocked(shown.table, *ACCURACY, {"vit_4": 1, "vit": -1})
    assert tuple(by_model.loc["vit_4", ["difference", "ci_low", "ci_high"]]) == (found.difference, *found.interval)
    assert (by_model["runs"] == 3).all()
    assert table.note.endswith("not adjusted for their number.")
    pale = shown.table.copy()
    pale.loc[(pale["model"] == "vit_4") & (pale["indicator"] == "selectivity_index"), "mean"] = 0.01
    dead = with_frames(shown, table=pale)
    alive = dials_of(VARIANTS, dead.alive)
    assert "vit_4" not in set(frontier_table(dead, alive).numbers["model"])
    assert frontier_table(dead, alive).note.endswith("so left out: vit_4.")


def test_at_equal_rank_the_other_dial_is_a_straight_line(shown):
    """Rank 5 lies in the middle of 4 and 6, 7 is not reached."""
    assert at_equal_rank(shown, *DIALS) == {"target_1_2": {"target_1_2": 1.0, "vit_8": -0.5, "vit": -0.5}}
    (row,) = equal_rank_table(shown, DIALS).numbers.itertuples()
    mean = accuracies(shown).mean()
    assert row.difference == pytest.approx(mean["target_1_2"] - (mean["vit"] + mean["vit_8"]) / 2)
    assert row.difference == pytest.approx(0.05, abs=0.01)
    assert row.ci_low < row.difference < row.ci_high
    assert (row.rank_scores, row.p_adjusted) == (5.0, row.p)


@pytest.mark.parametrize(
    ("rank", "weights"), [(6.0, {"vit": 1.0}), (3.0, {"vit_4": 1.0}), (4.0, {"vit_8": 1.0}), (2.9, None)]
)
def test_a_setting_at_the_rank_of_another_stands_beside_it_alone(shown, rank, weights):
    table = shown.table.copy()
    table.loc[(table["model"] == "target_1_2") & (table["source"] == "scores"), "mean"] = rank
    found = at_equal_rank(with_frames(shown, table=table), *DIALS).get("target_1_2")
    if weights is None:
        assert found is None
    else:
        theirs = {name: -w for name, w in found.items() if name != "target_1_2" and w}
        assert theirs == weights


def test_the_answers_follow_from_the_contrasts(shown):
    reached, equal = what_structure_costs(shown, DIALS)
    assert reached == "A target for the rank of sigma, at 1, 1/2: rank of sigma 28.0, 20.0; rank of scores 7.0, 5.0."
    found = contrast_blocked(shown.table, *ACCURACY, {"target_1_2": 1, "vit_8": -0.5, "vit": -0.5})
    number = points(found.difference, *found.interval)
    assert equal == (
        "At the same rank of scores, a target for the rank of sigma beside fewer directions of queries and keys: "
        f"accuracy higher ({number} points, p {p_value(found.p)}; mean over target_1_2)."
    )
    noisy = what_structure_costs(dialled(noise=0.2), DIALS)
    assert "accuracy no difference shown" in noisy[1]


def test_what_is_not_reached_and_what_one_run_cannot_say(shown):
    table = shown.table.copy()
    table.loc[table["model"].str.startswith("target") & (table["source"] == "scores"), "mean"] += 10
    _, line = what_structure_costs(with_frames(shown, table=table), DIALS)
    assert line == (
        "No rank of scores is reached both by a target for the rank of sigma and by fewer directions of queries and "
        "keys."
    )
    assert not len(equal_rank_table(with_frames(shown, table=table), DIALS).text)
    single = dialled(seeds=1)
    assert len(what_structure_costs(single, DIALS)) == 1
    assert np.isnan(frontier_table(single, DIALS).numbers["difference"]).all()
    assert list(equal_rank_table(single, DIALS).text["p (Holm)"]) == ["-"]
    assert what_structure_costs(shown, []) == []
    (alone,) = what_structure_costs(shown, DIALS[1:])
    assert alone == "Fewer directions of queries and keys, at all, 8, 4: rank of scores 6.0, 4.0, 3.0."
    apart = shown.table.copy()
    apart["seed"] += 10 * apart["model"].str.startswith("vit").astype(int)
    assert len(what_structure_costs(with_frames(shown, table=apart), DIALS)) == 1


def test_p_is_adjusted_over_the_dials(shown):
    other = DIALS[1]._replace(title="another way", models=("vit", "vit_4"), settings=("none", "3"))
    _, *lines = what_structure_costs(shown, [*DIALS, other])
    weights = [
        {"target_1_2": 1, "vit_8": -0.5, "vit": -0.5},
        {"target_1_2": 1, "vit_4": -1 / 3, "vit": -2 / 3},
    ]
    adjusted = holm([contrast_blocked(shown.table, *ACCURACY, one).p for one in weights])
    assert all(f"p {p_value(p)};" in line for p, line in zip(adjusted, lines, strict=True))


def test_a_setting_of_one_run_keeps_the_others_on_theirs(shown):
    thin = some_runs(shown, vit_4=1)
    reached, equal = what_structure_costs(thin, DIALS)
    assert "accuracy higher" in equal
    assert reached == what_structure_costs(shown, DIALS)[0]
    numbers = frontier_table(thin, DIALS).numbers.set_index("model")
    assert numbers["runs"].to_dict() == {"target_1": 3, "target_1_2": 3, "vit": 3, "vit_8": 3, "vit_4": 1}
    assert numbers.loc[["target_1_2", "vit_8", "vit_4"], "ci_low"].notna().all()
    width = numbers["ci_high"] - numbers["ci_low"]
    assert width["vit_4"] > width["vit_8"]
    assert equal_rank_table(thin, DIALS).note.endswith("Training runs compared: 3 of each model, but 1 of vit_4.")


def test_a_study_of_dials_shows_them_first(shown):
    study = StudyResult(title="T", datasets=(shown,), variants=VARIANTS, of_variants=True)
    document = study_document(study)
    lines = what_structure_costs(shown, DIALS)
    lines += what_parts_do(shown, parts_of(shown, "svda", VARIANTS))
    assert document.answer == tuple(lines)
    assert document.answer[2].startswith("A target for the rank of sigma (target_1_2 against target_1): ")
    first, second, *_ = document.sections
    picture, table = first.blocks
    assert isinstance(picture, Picture)
    assert (picture.name, table.name) == ("x_frontier", "frontier_x")
    assert isinstance(second.blocks[0], Table)
    assert second.name == "equal_rank_x"
