"""How words of the command line become values."""

import json
import math
from pathlib import Path

import click
import numpy as np
import pandas as pd
import pytest

from svda_analysis.cli.shared import (
    Registered,
    as_plain,
    command_line,
    conclude,
    conclude_report,
    names_in,
    open_subjects,
    output_options,
    say,
    show,
    split_settings,
    warn,
)
from svda_analysis.document import Document
from svda_analysis.errors import InputError
from svda_analysis.model import ViTConfig
from svda_analysis.recipe import TrainConfig

UNSAID = {**dict.fromkeys(("grid", "prefix_tokens", "suffix_tokens", "frames")), "text": ()}


def test_settings_go_to_their_class_with_the_type_of_their_field():
    words = ["depth=3", "lr=1e-3", "flip=true", "sigma_form=free", "out=x"]
    with pytest.raises(InputError, match="--set must name a field of the model or the recipe, got 'out'"):
        split_settings(words, {}, ViTConfig, TrainConfig)
    model, recipe = split_settings(words[:-1], {"seed": 4, "lr": 5.0}, ViTConfig, TrainConfig, named=["seed"])
    assert model == {"depth": 3, "sigma_form": "free"}
    assert recipe == {"seed": 4, "lr": 1e-3, "flip": True}  # --set is stronger than an option left as it is
    assert [type(value) for value in (*model.values(), *recipe.values())] == [int, str, int, float, bool]


def test_a_field_is_not_said_twice():
    with pytest.raises(
        InputError, match="--set seed must be left out where --seed is given, got --seed 4 and --set seed=5"
    ):
        split_settings(["depth=3", "seed=5"], {"seed": 4}, ViTConfig, TrainConfig, named=["seed"])


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("depth", "--set must be KEY=VALUE, got 'depth'"),
        ("depth=x", "depth must be a number like"),
        ("crop_padding=few", "crop_padding must be a whole number or none, got 'few'"),
        ("flip=1", "flip must be true or false, got '1'"),
    ],
)
def test_a_setting_that_is_none_is_named(word, said):
    with pytest.raises(InputError, match=said):
        split_settings([word], {}, ViTConfig, TrainConfig)


def test_a_setting_that_may_be_none_can_be_set_to_it():
    assert split_settings(["crop_padding=None", "qk_dim=none"], {}, ViTConfig, TrainConfig) == [
        {"qk_dim": None},
        {"crop_padding": None},
    ]


@pytest.mark.parametrize("word", ["size=3", "image_size=big", "mean=a,b", "interpolation=sharp", "mean"])
def test_preprocessing_that_is_none_is_refused_before_a_model_is_opened(word):
    with pytest.raises(InputError, match=f"--preprocess must be like .*, got '{word}'"):
        open_subjects(["no model"], {"preprocess": ["resize=8", word], "device": None, **UNSAID})


def test_what_a_model_is_opened_with_leaves_the_other_options(tiny):
    options = {"preprocess": ["mean=0.25", "std=0.5"], "device": "cpu", **UNSAID, "images": 3}
    (subject,) = open_subjects([str(tiny["dot"])], options)
    assert options == {"images": 3}
    assert subject.preprocessing.normalisation == ((0.25,), (0.5,))


def test_a_choice_is_what_is_registered_when_the_command_runs():
    registry = {"dot": 1}
    choice = Registered(registry)
    registry["mine"] = 2
    assert choice.convert("mine", None, None) == "mine"
    with pytest.raises(click.BadParameter, match="'other' is not one of 'dot', 'mine'"):
        choice.convert("other", None, None)


def test_names_warnings_and_the_command_as_it_was_given(capsys):
    assert names_in(None) is None
    assert names_in("a, b,c") == ["a", "b", "c"]
    warn(["once", "twice", "once"])
    assert capsys.readouterr() == ("", "warning: once\nwarning: twice\n")
    for given, program, wanted in (
        (["analyze", "a b.pt"], "svda-analyze", "svda-analyze 'a b.pt'"),
        (["x.pt"], "svda-analyze", "svda-analyze x.pt"),
        (["compress", "x.pt"], "svda", "svda compress x.pt"),
    ):
        with click.Context(click.Command("any"), obj=given):
            assert command_line(program) == wanted


def test_how_tokens_lie_is_said_and_checked(tiny):
    said = {
        "device": "cpu",
        "prefix_tokens": 1,
        "suffix_tokens": 2,
        "grid": "7x9",
        "frames": 4,
        "preprocess": (),
        "text": (),
    }
    (subject,) = open_subjects([str(tiny["dot"])], said)
    assert subject.tokens == {"grid": (7, 9), "prefix_tokens": 1, "suffix_tokens": 2, "frames": 4}
    with pytest.raises(InputError, match="--grid must be ROWSxCOLUMNS like 14x14, got 'seven'"):
        open_subjects([str(tiny["dot"])], {"device": "cpu", "preprocess": (), **UNSAID, "grid": "seven"})


def test_the_last_line_names_the_page_and_opens_it_when_asked_to(tmp_path, capsys, monkeypatch):
    opened = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    written = [tmp_path / name for name in ("summary.md", "figures/a.png", "report.html")]
    conclude_report(written)
    assert opened == []
    conclude_report(written, opened=True)
    assert capsys.readouterr().out == 2 * f"report: {tmp_path / 'report.html'} (3 files)\n"
    assert opened == [(tmp_path / "report.html").as_uri()]


@click.command()
@output_options
def example():
    say("a line")
    warn(["careful", "careful"])
    show(Document(title="A title", sections=()))
    conclude(["made: x.pt"], {"made": Path("x.pt")})


def test_a_command_says_all_or_its_result_or_json_alone(capsys):
    example.main([], standalone_mode=False)
    assert capsys.readouterr() == ("a line\nA title\nmade: x.pt\n", "warning: careful\n")
    example.main(["--quiet"], standalone_mode=False)
    assert capsys.readouterr() == ("made: x.pt\n", "warning: careful\n")
    for words in (["--json"], ["--json", "--quiet"]):
        example.main(words, standalone_mode=False)
        out, err = capsys.readouterr()
        assert json.loads(out) == {"made": "x.pt", "warnings": ["careful"]}
        assert err == "warning: careful\n"


def test_values_become_what_json_holds():
    frame = pd.DataFrame({"a": [1.5, math.nan], "b": pd.array([1, None], dtype="Int64"), "c": ["x", "y"]})
    given = {"frame": frame, 1: (Path("p"), np.float32(0.5), np.arange(2)), "none": None, "far": math.inf, "yes": True}
    assert as_plain(given) == {
        "frame": [{"a": 1.5, "b": 1, "c": "x"}, {"a": None, "b": None, "c": "y"}],
        "1": ["p", 0.5, [0, 1]],
        "none": None,
        "far": None,
        "yes": True,
    }
    assert json.dumps(as_plain(given), allow_nan=False)
