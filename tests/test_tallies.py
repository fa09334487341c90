"""What several streams came to is what one came to, however the batches lay."""

import copy
import functools
import itertools

import numpy as np
import pytest
import torch
from teams import in_team

from svda_analysis.indicators import choose_indicators
from svda_analysis.model import ViT, ViTConfig
from svda_analysis.streaming import Stream

SIZES = (5, 1, 4, 4, 3, 6, 2)  # of the batches


@functools.cache
def weights():
    torch.manual_seed(0)
    model = ViT(ViTConfig(attention="svda", dim=24, depth=2, heads=2)).eval()
    torch.nn.init.normal_(model.head.weight)
    return model


def a_stream():
    return Stream(copy.deepcopy(weights()), choose_indicators(["default", "source", "field"]), classes=10)


def fed(stream, chosen, labels, position_maps=None):
    """The stream after some of the batches."""
    stream.position_maps = dict(position_maps or {})
    images = torch.randn(sum(SIZES), 1, 28, 28, generator=torch.Generator().manual_seed(1))
    firsts = [0, *itertools.accumulate(SIZES)]
    with torch.no_grad():
        for at in chosen:
            part = slice(firsts[at], firsts[at + 1])
            costly = torch.arange(0, SIZES[at], 2) if at % 3 else torch.tensor([], dtype=torch.long)
            stream.update(images[part], labels[part], costly=costly, first=firsts[at])
    return stream


@pytest.fixture(scope="module")
def alone():
    return fed(a_stream(), range(len(SIZES)), torch.arange(sum(SIZES)) % 10)


@pytest.mark.parametrize("world", [2, 3, 4])
@pytest.mark.parametrize("draw", range(3))
def test_any_split_of_the_batches_comes_to_the_same(world, draw, alone):
    home = np.random.default_rng(draw).integers(world, size=len(SIZES))
    home[0] = 0  # the first batch is the first process's

    def work(team):
        chosen = np.flatnonzero(home == team.rank)
        maps = alone.position_maps if team.rank else None
        return fed(a_stream(), chosen, torch.arange(sum(SIZES)) % 10, maps).joined(team)

    who = {"model": "m", "dataset": "d"}
    for whole in in_team(world, work):
        for name in ("table", "spectra"):
            got, want = getattr(whole, name)(who), getattr(alone, name)(who)
            assert list(got) == list(want)
            for column in want:
                if want[column].dtype == "float64":
                    np.testing.assert_allclose(got[column], want[column], rtol=1e-12, atol=1e-15, err_msg=column)
                else:
                    assert got[column].equals(want[column]), column
        for name in ("images", "costly_images", "kind", "layers", "calls", "starts", "left_out", "bounds", "map_bytes"):
            assert getattr(whole, name) == getattr(alone, name), name


def test_labels_beyond_the_outputs_in_one_leave_no_accuracy_of_all():
    labels = torch.arange(sum(SIZES)) % 10
    labels[5] = 12  # the image of the second batch
    found = in_team(2, lambda team: fed(a_stream(), range(team.rank, 4, 2), labels).joined(team))
    for whole in found:
        assert whole.beyond == "label 12 and the model 10 outputs"
        assert not {"accuracy", "loss"} & {key[0] for key in whole.moments}
        assert whole.settle(0.9, 1)  # nothing speaks of what is gone


def test_what_was_left_out_anywhere_is_said_of_all():
    def work(team):
        stream = a_stream()
        stream.images = stream.layers = 4
        stream.unfitted["field", "too large"] = {team.rank, 3}
        return list(stream.joined(team).too_large())

    assert in_team(2, work) == [["field of maps left out in 3 of 4 layers: too large"]] * 2


def test_a_process_without_a_batch_adds_nothing(alone):
    def work(team):
        stream = a_stream()
        return (stream if team.rank else fed(stream, [0], torch.arange(sum(SIZES)) % 10)).joined(team)

    for whole in in_team(3, work):
        assert (whole.images, whole.kind) == (SIZES[0], "svda")
        assert whole.moments["attention_entropy", "attention", 0].n == SIZES[0]
