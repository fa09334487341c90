"""Rows about the whole model, against explicit formulas."""

import math

import numpy as np
import pytest
import torch

from svda_analysis.frames import TABLE_COLUMNS
from svda_analysis.history_rows import loss_and_accuracy, rows_of_model, sums_of_answers


def test_sums_over_parts_give_what_all_images_do():
    draw = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(37, 5, generator=draw), torch.randint(5, (37,), generator=draw)
    sums = sum(sums_of_answers(a, b) for a, b in zip(logits.split(10), labels.split(10), strict=True))
    found = loss_and_accuracy(sums)
    answers = logits.double().numpy()
    losses = np.log(np.exp(answers).sum(1)) - answers[range(37), labels.numpy()]
    hits = (answers.argmax(1) == labels.numpy()).astype(float)
    for name, values in (("loss", losses), ("accuracy", hits)):
        assert found[name]["mean"] == pytest.approx(values.mean(), rel=1e-6), name
        assert found[name]["std"] == pytest.approx(values.std(ddof=1), rel=1e-5), name
        assert found[name]["ci_low"] < values.mean() < found[name]["ci_high"], name


def test_a_loss_that_is_no_number_stays_one():
    assert not sums_of_answers(torch.full((2, 3), math.nan), torch.tensor([0, 1])).isfinite().all()


def test_rows_have_the_one_schema_and_their_limits():
    rows = rows_of_model({"model": "a", "epoch": 2}, "test", {"accuracy": {"mean": 0.5}, "loss": {"mean": 2.0}}, 8)
    assert list(rows.columns) == list(TABLE_COLUMNS)
    assert rows["indicator"].tolist() == ["accuracy", "loss"]
    assert rows[["low", "high"]].to_numpy().tolist() == [[0.0, 1.0], [0.0, math.inf]]
    assert set(rows["n"]) == {8}
    assert rows["layer"].isna().all()
