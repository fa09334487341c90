"""What a compression changed: paired accuracy, maps, work, time, bytes."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from scipy.spatial.distance import jensenshannon
from torch import nn

from svda_analysis.checkpoint import build_model, load, save
from svda_analysis.compression.removal import compress
from svda_analysis.compression.verification import (
    accuracy_change,
    file_size,
    macs,
    map_divergence,
    paired_seconds,
    predictions,
    time_ratio,
    verify,
)
from svda_analysis.errors import InputError
from svda_analysis.model import ViT, ViTConfig
from svda_analysis.sources import open_feed
from svda_analysis.specs import open_model
from svda_analysis.tap import records


def small(**changes) -> ViT:
    torch.manual_seed(0)
    model = ViT(ViTConfig(depth=2, dim=24, heads=2, **changes)).eval()
    nn.init.normal_(model.head.weight)
    return model


def test_accuracy_change_by_hand():
    labels = torch.tensor([0, 1, 2, 3, 0, 1, 2, 3])
    before = torch.tensor([0, 1, 2, 3, 1, 1, 1, 1])  # 5 of 8
    after = torch.tensor([0, 1, 2, 0, 0, 1, 2, 0])  # 6 of 8; one lost, two won
    change = accuracy_change(before, after, labels)
    differences = np.array([0, 0, 0, -1, 1, 0, 1, 0])
    low, high = stats.t.interval(0.95, 7, differences.mean(), differences.std(ddof=1) / math.sqrt(8))
    assert (change.before, change.after, change.change, change.n) == (5 / 8, 6 / 8, 1 / 8, 8)
    assert (change.ci_low, change.ci_high) == pytest.approx((low, high))
    assert change.p == 1.0
    assert change.agreement == 4 / 8


def test_map_divergence_against_scipy():
    first, second, images = small(), small(attention="svda"), torch.randn(3, 1, 28, 28)
    expected = [
        jensenshannon(a.a.numpy(), b.a.numpy(), axis=-1, base=2) ** 2
        for a, b in zip(records(first, images), records(second, images), strict=True)
    ]
    first, second = open_model(first), open_model(second)
    assert map_divergence(first, second, images) == pytest.approx(np.mean(expected), rel=1e-4)
    assert map_divergence(first, first, images) == 0


def test_macs_of_a_vit_by_hand():
    N, C = 50, 24
    block = 3 * C * C * N + 2 * N * N * C + C * C * N + 2 * 4 * C * C * N
    whole = 49 * 16 * C + 2 * block + C * 10
    assert macs(small(), torch.randn(1, 1, 28, 28)) == whole


class Clock:
    """Time that models of known speed take: a forward of ``Timed(seconds)`` moves it on, a little more each time."""

    def __init__(self):
        self.now, self.calls = 0.0, 0

    def perf_counter(self):
        return self.now


class Timed(nn.Module):
    def __init__(self, clock, seconds):
        super().__init__()
        self.clock, self.seconds, self.weight = clock, seconds, nn.Parameter(torch.zeros(1))

    def forward(self, x):
        self.clock.calls += 1
        self.clock.now += self.seconds * (1 + 0.01 * (self.clock.calls * 7 % 5))
        return x


def test_the_ratio_of_times_is_that_of_the_models_over_the_rounds(monkeypatch):
    clock, seconds, rounds = Clock(), [], 12
    monkeypatch.setattr("svda_analysis.compression.verification.time", clock)
    found = time_ratio(Timed(clock, 1.0), Timed(clock, 3.0), torch.zeros(1), rounds=rounds)
    for turn in range(rounds + 1):  # the same once more by hand: neighbours in turns, the first round left out
        order = (0, 1) if turn % 2 else (1, 0)
        took = {which: (1.0, 3.0)[which] * (1 + 0.01 * ((2 * turn + at + 1) * 7 % 5)) for at, which in enumerate(order)}
        seconds.append([took[0], took[1]])
    logs = np.diff(np.log(seconds[1:]), axis=1)[:, 0]
    low, high = stats.t.interval(0.95, rounds - 1, logs.mean(), stats.sem(logs))
    assert found["change"] == pytest.approx(np.exp(logs.mean()))
    assert (found["ci_low"], found["ci_high"]) == pytest.approx((np.exp(low), np.exp(high)))
    assert (found["before"], found["after"]) == pytest.approx(np.exp(np.log(seconds[1:]).mean(axis=0)))
    assert found["change"] == pytest.approx(found["after"] / found["before"])
    with pytest.raises(InputError, match="rounds must be at least 2"):
        time_ratio(Timed(clock, 1.0), Timed(clock, 1.0), torch.zeros(1), rounds=1)


def test_file_size_falls_with_the_rows(tiny):
    origin = load(tiny["svda"])
    smaller = compress(origin, torch.randn(8, 1, 28, 28), energy=0.3)
    assert file_size(build_model(smaller)) < file_size(build_model(origin))


def test_what_is_verified_is_a_subject_a_path_or_a_module_and_they_agree(tiny, fashion, tmp_path):
    """A module after the first is seen as the first is: same preprocessing, prefix tokens and device."""
    origin = load(tiny["svda"])
    smaller = compress(origin, torch.randn(8, 1, 28, 28), energy=0.5)
    save(smaller, tmp_path / "small.pt")
    subject = open_model(tiny["svda"])
    source = open_feed(None, subject, fashion)
    options = {"images": 20, "map_images": 8, "rounds": 2}
    ours = verify(subject, build_model(smaller), source, **options)
    theirs = verify(str(tiny["svda"]), tmp_path / "small.pt", source, **options)
    exact = ~ours["quantity"].str.startswith("seconds")
    pd.testing.assert_frame_equal(ours[exact], theirs[exact])


def test_predictions_are_made_where_the_subject_is_measured_and_leave_the_model_as_it_was(tiny, fashion):
    subject = open_model(tiny["dot"], device="cpu")
    source = open_feed(None, subject, fashion)
    seen = []
    subject.model.register_forward_pre_hook(lambda module, given: seen.append((module.training, given[0].device.type)))
    subject.model.train()
    guesses, labels = predictions(subject, source, images=30)
    assert len(guesses) == len(labels) == 30
    assert set(seen) == {(False, "cpu")}
    assert subject.model.training
    again = predictions(subject.like(build_model(load(tiny["dot"]))), source, images=30)
    assert torch.equal(guesses, again[0])


def test_maps_of_a_model_that_hides_its_tokens_are_those_of_the_subject():
    class Hidden(nn.Module):
        def __init__(self, whole):
            super().__init__()
            self.whole = [whole]  # not a part of it

        def forward(self, x):
            return self.whole[0](x.sort(dim=1).values)  # as it was, and out of sight

    images = torch.randn(2, 1, 28, 28)
    with pytest.raises(InputError, match="give grid and prefix_tokens"):
        map_divergence(open_model(Hidden(small())), open_model(Hidden(small())), images)
    told = [open_model(Hidden(small()), grid=(7, 7), prefix_tokens=1) for _ in range(2)]
    assert map_divergence(*told, images) == 0


def test_times_of_any_two_functions_by_any_clock():
    now = [0.0]

    def taking(seconds):
        def run():
            now[0] += seconds

        return run

    found = paired_seconds(taking(2.0), taking(3.0), rounds=4, clock=lambda: now[0])
    assert (found["before"], found["after"]) == pytest.approx((2.0, 3.0))
    assert found["change"] == pytest.approx(1.5)
    with pytest.raises(InputError, match="rounds must be at least 2, got 1"):
        paired_seconds(taking(1.0), taking(1.0), rounds=1)
