"""What a model costs: multiply-adds, parameters, time and memory."""

from __future__ import annotations

import dataclasses

import pytest
from study_cases import result

from svda_analysis.model import ViTConfig
from svda_analysis.study.costs import Size, cost_frame, in_order, model_size, sizes_of
from svda_analysis.study.tables import cost_table


@pytest.mark.parametrize("kind", ["dot", "svda", "cosine"])
def test_macs_are_those_of_the_matrix_products(kind):
    config = ViTConfig(depth=2, dim=24, heads=2, attention=kind)
    N, C, patches = 50, 24, 49
    block = N * C * 3 * C + 2 * N * N * C + N * C * C + 2 * N * C * 4 * C
    size = model_size(config)
    assert size.macs == patches * 16 * C + 2 * block + C * 10
    extra = {"dot": 0, "svda": 2 * (24 + 2), "cosine": 2 * 2}  # the shapes and temperatures
    assert size.parameters == model_size(dataclasses.replace(config, attention="dot")).parameters + extra[kind]


def test_models_stand_in_the_order_of_their_parts_and_an_unknown_kind_is_studied():
    kinds = ("cosine", "mine", "svda", "dot")
    sizes = in_order({kind: Size(kind, 100, 5) for kind in kinds})
    assert list(sizes) == ["dot", "mine", "svda", "cosine"]
    shown = dataclasses.replace(result(2), sizes=sizes)
    assert list(cost_table([shown]).text["Model"]) == ["dot", "mine", "svda", "cosine"]


def test_sizes_come_back_from_their_frame(tmp_path):
    sizes = {"vit": Size("dot", 10_000, 5, 0.1 + 0.2, 0.5), "svda": Size("svda", 10_003, 5)}
    frame = cost_frame([("x", sizes), ("y", {})])
    back = sizes_of(frame, "x")
    assert list(back) == ["vit", "svda"]
    assert back["vit"][:5] == sizes["vit"][:5]
    assert str(back) == str(sizes)
    assert sizes_of(frame, "y") == {}
