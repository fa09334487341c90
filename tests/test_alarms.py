"""Alarms: where they are raised, and what they say."""

import pytest

from svda_analysis.alarms import ALARMS, choose_alarms
from svda_analysis.errors import InputError
from svda_analysis.frames import TABLE_COLUMNS, make_frame
from svda_analysis.indicators import INDICATORS


def table(indicator, by_layer):
    rows = [
        {"layer": layer, "head": head, "indicator": indicator, "source": "attention", "mean": mean}
        for layer, means in enumerate(by_layer)
        for head, mean in enumerate(means)
    ]
    return make_frame(rows, TABLE_COLUMNS)


def test_of_a_layer_the_mean_of_its_heads_counts():
    alarm = ALARMS["entropy_collapse"]
    found = alarm.where(table("attention_entropy", [[0.02, 0.3], [0.02, 0.16], [0.05, 0.05]]))
    assert found["layer"].tolist() == [1, 2]
    said = alarm.line(found, 300)
    assert said.startswith("step 300: entropy collapse in layer 1, 2: attention_entropy 0.05, below 0.1 (Zhai et al.")
    assert said.endswith(alarm.advice)


def test_of_a_head_its_own_number_counts_and_many_are_counted():
    alarm = ALARMS["dead_heads"]
    found = alarm.where(table("attention_entropy", [[0.94, 0.96], [1.0] * 7]))
    assert len(found) == 8
    assert "in head 0.1, 1.0, 1.1, 1.2, 1.3, 1.4 and 2 more: attention_entropy 1, above 0.95" in alarm.line(found, 1)


@pytest.mark.parametrize("alarm", ALARMS.values(), ids=str)
def test_every_alarm_reads_an_indicator_and_says_what_to_do(alarm):
    one = INDICATORS[alarm.indicator]
    low = one.low if isinstance(one.low, float) else 0
    assert alarm.beyond in ("above", "below")
    assert alarm.threshold > low
    assert alarm.reference
    assert alarm.advice
    assert "\n" not in alarm.advice
    assert alarm.at(0.5).threshold == 0.5
    assert alarm.where(table("mass_90", [[0.5]])).empty


def test_by_name_all_or_none():
    assert choose_alarms(None) == ()
    assert choose_alarms("all") == tuple(ALARMS.values())
    assert choose_alarms("saturation") == choose_alarms([ALARMS["saturation"]]) == (ALARMS["saturation"],)
    with pytest.raises(InputError, match="alarms must be 'all', or of entropy_collapse"):
        choose_alarms(["loss"])
