"""``svda indicators``: everything that a table can hold, in groups, within the terminal."""

import json

import pytest
from command_line import refused, run

from svda_analysis.cli import main
from svda_analysis.indicators import INDICATORS
from svda_analysis.metrics import METRICS
from svda_analysis.vocabulary import QUANTITIES, register_all


def listed(text):
    """The names, and what stands under each on one line."""
    blocks, name = {}, ""
    for line in text.splitlines():
        if line.startswith("    "):
            blocks[name].append(line.strip())
        elif "  (" in line:
            name = line.partition("  (")[0]
            blocks[name] = []
    return {name: " ".join(lines) for name, lines in blocks.items()}


def test_every_registered_quantity_is_listed_once_within_80_columns(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert run(main, "indicators") == 0
    text = capsys.readouterr().out
    register_all()
    found = listed(text)
    assert set(found) == set(QUANTITIES)
    assert all(text.count(f"\n{name}  (") + text.startswith(f"{name}  (") == 1 for name in QUANTITIES)
    assert max(map(len, text.splitlines())) <= 80
    for name, about in found.items():
        one = QUANTITIES[name]
        assert about.startswith(f"{one.label}.")
        assert one.higher_means in about
        assert one.reference in about
    groups = [
        text.index(start) for start in ("\nMeasured only when", "\nMetrics of faithfulness", "\nOther quantities")
    ]
    assert groups == sorted(groups)
    assert all(text.index(f"{name}  (") < groups[0] for name, one in INDICATORS.items() if not one.group)
    assert all(groups[1] < text.index(f"\n{name}  (") < groups[2] for name in METRICS)


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (["mass_90", "effective_rank", "mass_90"], ["mass_90", "effective_rank"]),
        (["faithfulness"], list(METRICS)),
        (["source"], [name for name, one in (INDICATORS | METRICS).items() if one.group == "source"]),
        (["fillers"], [name for name, one in METRICS.items() if one.group == "fillers"]),
        (["insertion_gain", "accuracy"], ["insertion_gain", "accuracy"]),
    ],
)
def test_a_name_or_a_group_is_listed_alone(names, found, capsys):
    assert run(main, "indicators", *names) == 0
    assert list(listed(capsys.readouterr().out)) == found


def test_an_unknown_name_is_one_line_with_the_nearest(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said = refused(capsys, main, "indicators", "mass_90", "attention_entropie")
    assert said.endswith("lists, or a group of them, got 'attention_entropie'; did you mean attention_entropy?")


def test_a_program_gets_the_same_and_a_list_of_names_is_short(capsys):
    assert run(main, "indicators", "effective_rank", "accuracy", "--json") == 0
    rank, accuracy = json.loads(capsys.readouterr().out)["indicators"]
    assert (rank["name"], rank["low"], rank["high"]) == ("effective_rank", 1.0, "D")
    assert (accuracy["low"], accuracy["high"], accuracy["group"]) == (0.0, 1.0, "")
    assert run(main, "indicators", "source", "--quiet") == 0
    assert capsys.readouterr().out.split() == [
        name for name, one in (INDICATORS | METRICS).items() if one.group == "source"
    ]
