"""Which models of a study are settings of one dial."""

from __future__ import annotations

from dial_cases import DIALS, VARIANTS

from svda_analysis.study.dials import dials_of
from svda_analysis.study.manifest import load_manifest


def test_models_that_differ_in_one_field_are_a_dial_from_loose_to_tight():
    assert dials_of(VARIANTS, list(VARIANTS)) == DIALS
    assert dials_of(VARIANTS, ["vit", "vit_8", "target_1"]) == [
        DIALS[1]._replace(models=("vit", "vit_8"), settings=("all", "8"))
    ]
    assert dials_of(VARIANTS, ["svda", "vit_8", "target_1"]) == []


def test_another_field_makes_another_dial():
    more = {**VARIANTS, "deep_8": {"attention": "dot", "qk_dim": 8, "depth": 9}}
    assert dials_of(more, list(more)) == DIALS
    more["deep"] = {"attention": "dot", "depth": 9}
    assert dials_of(more, list(more))[2].models == ("deep", "deep_8")


def test_the_packaged_study_turns_three_dials():
    dial = load_manifest("dial")
    found = {one.field: one.settings for one in dials_of(dial.variants, list(dial.variants))}
    assert found == {
        "target_rank": ("1", "3/4", "1/2", "1/4", "1/8"),
        "qk_dim": ("all", "24", "16", "8", "4"),
        "qk_weight_decay": ("none", "0.3", "1", "3"),
    }
    sigma = load_manifest("sigma")
    assert dials_of(sigma.variants, list(sigma.variants)) == []
