"""A cache that serves what would be measured now: its key covers all that the numbers depend on."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import shutil
import sys

import pandas as pd
import pytest
import torch
from torch.utils.data import TensorDataset

from svda_analysis import cache
from svda_analysis.analysis import analyze_runs
from svda_analysis.data import load_dataset
from svda_analysis.errors import InputError
from svda_analysis.indicators import INDICATORS, choose_indicators, indicator
from svda_analysis.kinds import ATTENTIONS
from svda_analysis.metrics import METRICS, metric
from svda_analysis.results import Analysis, nothing_measured
from svda_analysis.sources import open_feed
from svda_analysis.specs import open_model
from svda_analysis.vocabulary import QUANTITIES


@pytest.fixture
def subject(tiny):
    return open_model(tiny["svda"])


@pytest.fixture
def data(fashion):
    return load_dataset("fashion_mnist", root=fashion)


@pytest.fixture
def own_registry():
    """Indicators that a test enters are gone after it."""
    before = [(registry, dict(registry)) for registry in (INDICATORS, QUANTITIES)]
    yield
    for registry, held in before:
        registry.clear()
        registry.update(held)


def enter(value: float, sources=("attention",), high=1.0, name: str = "always") -> None:
    """An indicator whose function has the same text for every value."""

    def function(a):
        return torch.full(a.shape[:2], value)

    function.__name__ = name
    about = {"low": 0.0, "higher_means": "nothing", "reference": "a test"}
    indicator(label="Always", sources=sources, high=high, **about)(function)


def measure(subject, data, folder, name="model") -> Analysis:
    return analyze_runs(subject, data, names=[name], cache=folder, images=20, examples=1)


def means(measured: Analysis, name: str) -> set[float]:
    return set(measured.table.loc[measured.table["indicator"] == name, "mean"])


def test_a_changed_indicator_gives_its_new_numbers_from_a_warm_cache(subject, data, tmp_path, own_registry):
    for value in (0.25, 0.75, 0.25):
        enter(value)
        assert means(measure(subject, data, tmp_path), "always") == {value}
    assert len(list(tmp_path.iterdir())) == 2


def test_a_new_indicator_appears_in_a_warm_cache(subject, data, tmp_path, own_registry):
    assert not means(measure(subject, data, tmp_path), "always")
    enter(0.5)
    assert means(measure(subject, data, tmp_path), "always") == {0.5}


def test_an_entry_is_read_as_it_was_measured(subject, data, tmp_path, monkeypatch):
    first = measure(subject, data, tmp_path)
    monkeypatch.setattr("svda_analysis.analysis.analyze_subject", None)  # nothing is measured again
    again = measure(subject, data, tmp_path)
    for name in ("table", "spectra", "history"):
        pd.testing.assert_frame_equal(getattr(first, name), getattr(again, name))
    assert (again.examples["model"].maps == first.examples["model"].maps).all()
    assert again.runs == first.runs


def test_the_cache_changes_nothing_but_the_time(subject, data, tmp_path):
    kept, plain = (analyze_runs(subject, data, cache=place, images=20, examples=1) for place in (tmp_path, None))
    for name in ("table", "spectra", "history"):
        pd.testing.assert_frame_equal(getattr(kept, name), getattr(plain, name))
    assert dataclasses.replace(kept.runs[0], seconds=0) == dataclasses.replace(plain.runs[0], seconds=0)
    assert kept.traces.keys() == plain.traces.keys()


def test_an_entry_serves_a_run_under_any_name(subject, data, tmp_path):
    measure(subject, data, tmp_path)
    assert measure(subject, data, tmp_path, "mine").models == ["mine"]
    assert len(list(tmp_path.iterdir())) == 1


def test_warnings_speak_of_a_run_under_its_own_name(subject, tmp_path):
    images = torch.rand(20, 1, 28, 28)
    asked = {"cache": tmp_path, "indicators": ["ablation_loss", "attention_entropy"], "examples": 0}
    for name in ("one", "two"):
        found = analyze_runs([dataclasses.replace(subject, name=name)], images, **asked)
        assert [line.partition(":")[0] for line in found.warnings] == [f"ablation_loss of {name}"]


def test_compared_maps_are_kept_too(tiny, data, tmp_path, monkeypatch):
    def compared():
        return analyze_runs([tiny["svda"], tiny["dot"]], data, maps=8, cache=tmp_path, images=20, examples=1).maps

    first = compared()
    monkeypatch.setattr("svda_analysis.analysis.compare_run_maps", None)
    for name, frame in compared().items():
        pd.testing.assert_frame_equal(frame, first[name])


@pytest.mark.parametrize("name", ["indicators.csv", "spectra.csv", "meta.json", "examples.npz"])
def test_a_damaged_entry_is_measured_again(subject, data, tmp_path, name):
    table = measure(subject, data, tmp_path).table
    (entry,) = tmp_path.iterdir()
    (entry / name).write_text("damaged")
    pd.testing.assert_frame_equal(measure(subject, data, tmp_path).table, table)


def test_what_cannot_be_read_back_is_said_and_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "_read_entry", lambda entry: None)
    with pytest.raises(InputError, match=r"what was measured for .*entry cannot be read back"):
        cache.kept(lambda: tmp_path / "entry", nothing_measured)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("found", ["a whole entry", "a damaged entry", "no folder"])
def test_of_two_writers_of_one_entry_both_go_on_and_a_whole_one_is_there(found, tmp_path, monkeypatch):
    replace, entry = os.replace, tmp_path / "entry"

    def too_late(stage, target):
        """Another process has put its entry there in the meantime."""
        monkeypatch.setattr(cache.os, "replace", replace)
        shutil.copytree(stage, target) if found != "no folder" else target.write_text("no folder")
        if found == "a damaged entry":
            (target / "meta.json").write_text("damaged")
        replace(stage, target)

    monkeypatch.setattr(cache.os, "replace", too_late)
    mine = dataclasses.replace(nothing_measured(), warnings=("measured",))
    assert cache.kept(lambda: entry, lambda: mine).warnings == ("measured",)
    assert Analysis.load(entry).warnings == ("measured",)
    assert list(tmp_path.iterdir()) == [entry]


def test_the_key_covers_weights_seed_images_and_settings(subject, data, own_registry):
    def key(one=subject, images=data, **settings):
        return cache.run_key(one, open_feed(images, one), settings, choose_indicators())

    keys = [key(), key(images_of="other")]
    other = dataclasses.replace(subject.checkpoint, recipe={**subject.checkpoint.recipe, "seed": 7})
    keys.append(key(dataclasses.replace(subject, checkpoint=other)))
    keys.append(key(images=dataclasses.replace(data, labels=data.labels.flip(0))))
    keys += [key(open_model(subject, preprocessing={name: (0.7,)})) for name in ("mean", "std")]
    keys.append(key(open_model(subject, prefix_tokens=1)))
    weights = next(subject.model.parameters())
    with torch.no_grad():
        weights += 1
    keys.append(key())
    enter(0.5)
    keys.append(key())
    enter(0.5, high=2.0)
    keys.append(key())
    enter(0.5, sources=("attention", "scores"))
    keys.append(key())
    assert len(set(keys)) == len(keys)
    assert key() == key()


def test_the_text_of_a_function_is_the_same_in_every_process_and_tells_constants():
    texts = []
    for constant in (1, 2):
        space = {}
        exec(f"def function(a, more={constant}):\n    return a * {constant}", space)
        made = dataclasses.replace(INDICATORS["effective_rank"], function=space["function"])
        texts.append(cache.measure_source(made))
    assert texts[0] != texts[1]
    assert not any(" at 0x" in text for one in INDICATORS.values() for text in cache.measure_source(one))


def test_the_code_that_measures_is_part_of_the_key(subject, data, monkeypatch):
    def key():
        return cache.run_key(subject, open_feed(data, subject), {}, [])

    before = key()
    monkeypatch.setattr(cache, "measuring_code", lambda: "changed")
    assert key() != before


@pytest.mark.parametrize("name", cache.NOT_MEASURING)
def test_what_measures_nothing_exists(name):
    place = cache._PACKAGE / name
    assert place.is_dir() or place.with_suffix(".py").exists()


def test_what_measures_counts():
    """The files that the numbers of a run come from, and none that only shows them."""
    files = {file.relative_to(cache._PACKAGE).as_posix() for file in cache.measuring_files()}
    assert {
        "attention.py",
        "indicators/rows.py",
        "tap.py",
        "streaming.py",
        "data/__init__.py",
        "faithful.py",
        "analysis.py",
    } <= files
    assert not any(name.startswith(("figures/", "render/", "cli/", "study/")) for name in files)


def test_a_changed_metric_and_a_new_one_give_their_numbers_from_a_warm_cache(subject, data, tmp_path, own_metrics):
    def found(name):
        measured = analyze_runs(subject, data, faithfulness=4, metrics=[name], cache=tmp_path, images=8, examples=0)
        return means(measured, name)

    for value in (1.0, 2.0):
        enter_metric("always_this", value)
        assert found("always_this") == {value}


@pytest.fixture
def own_metrics():
    before = [(registry, dict(registry)) for registry in (METRICS, QUANTITIES)]
    yield
    for registry, held in before:
        registry.clear()
        registry.update(held)


def enter_metric(name: str, value: float) -> None:
    def function(trial):
        return torch.full((len(trial.images),), value, dtype=torch.float64)

    metric(name=name, label="Always", higher_means="nothing", reference="a test")(function)


def test_what_a_module_of_ones_own_does_is_part_of_the_key(data, tmp_path):
    keys = []
    for scale in (1, 2):
        file = tmp_path / f"own{scale}.py"
        body = f"class Own(nn.Linear):\n    def forward(self, x):\n        return {scale} * x\n"
        file.write_text(f"from torch import nn\n{body}")
        spec = importlib.util.spec_from_file_location("own_module", file)
        module = importlib.util.module_from_spec(spec)
        sys.modules["own_module"] = module
        spec.loader.exec_module(module)
        torch.manual_seed(0)
        one = open_model(module.Own(2, 2))
        keys.append(cache.run_key(one, open_feed(data, one), {}, []))
    del sys.modules["own_module"]
    assert keys[0] != keys[1]


def test_the_rule_of_an_attention_is_part_of_the_key(subject, data, monkeypatch):
    def key():
        return cache.run_key(subject, open_feed(data, subject), {}, [])

    before, kind = key(), ATTENTIONS["svda"]
    other = dataclasses.replace(kind, layer=dataclasses.replace(kind.rule, rows=lambda qk: 2 * qk))
    monkeypatch.setitem(ATTENTIONS, "svda", other)
    assert key() != before


@pytest.mark.parametrize("wrap", [lambda images: images, lambda images: TensorDataset(images)])
def test_every_image_counts_where_images_are_given(subject, wrap):
    images = torch.rand(40, 1, 28, 28)
    other = images.clone()
    other[-1] = 0
    keys = [cache.run_key(subject, open_feed(wrap(x), subject), {}, []) for x in (images, other, images)]
    assert keys[0] == keys[2] != keys[1]
