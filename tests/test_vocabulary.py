"""The vocabulary of quantities: every number that is measured has its words and limits there."""

import math
import subprocess
import sys

import pytest

from svda_analysis.errors import InputError
from svda_analysis.vocabulary import (
    QUANTITIES,
    SAME_FUNCTION,
    TOKEN_ORDER,
    Quantity,
    known_bounds,
    label,
    quantity,
    register,
)


def test_an_unknown_name_says_what_it_can():
    found = quantity("some_new_number")
    assert (found.label, found.bounds()) == ("Some new number", (-math.inf, math.inf))
    assert "some_new_number" not in QUANTITIES


def test_every_quantity_says_what_it_answers_and_what_it_does_not():
    """Of a fresh process, where nothing but ours is entered; a sentence is made around what is not said."""
    code = (
        "from svda_analysis.vocabulary import QUANTITIES, register_all; register_all()\n"
        "assert len(QUANTITIES) > 70, len(QUANTITIES)\n"
        "print([q.name for q in QUANTITIES.values() if q.question[-1:] != '?' or q.not_said[-1:] in ('', '.', '?')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_labels_name_their_source_where_it_is_asked_for():
    assert label("effective_rank") == "Effective rank"
    assert label("effective_rank", "scores") == "Effective rank (scores)"


def test_what_every_module_measures_is_registered():
    from svda_analysis.faithful import faithfulness  # noqa: F401  (it registers its metrics)
    from svda_analysis.indicators import INDICATORS

    metrics = {"deletion_auc", "insertion_auc", "deletion_gain", "insertion_gain", "infidelity"}
    assert {*INDICATORS, *metrics, "accuracy", "loss", "directions_90"} <= QUANTITIES.keys()
    assert all(QUANTITIES[name] is one for name, one in INDICATORS.items())


def test_a_name_of_a_group_brings_its_module():
    code = "from svda_analysis.vocabulary import label; print(label('source_selectivity'))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "Source's selectivity index"


@pytest.mark.parametrize("name", ["accuracy", "loss", "deletion_gain", "mass_90", "effective_rank", "attention_rank"])
def test_the_known_bounds_are_the_numbers_among_the_limits(name):
    low, high = known_bounds(name)
    one = quantity(name)
    assert low == one.low
    assert high == (math.inf if isinstance(one.high, str) else one.high)


def test_signs_go_by_source_and_by_star():
    one = Quantity(name="x", label="X", direction={"scores": -1, "*": +1})
    assert (one.sign("scores"), one.sign("rollout"), quantity("loss").sign("test")) == (-1, 1, 0)


def test_limits_that_are_sizes_need_the_size():
    one = quantity("effective_rank")
    assert one.bounds("scores", D=32, N=50) == (1.0, 32.0)
    assert one.bounds("scores", D=64, N=50) == (1.0, 49.0)  # N centred keys span N - 1 directions
    assert one.bounds("scores", D=64, N=1) == (1.0, 1.0)
    assert quantity("attention_distance").bounds("attention", grid=(4, 5)) == (0.0, 5.0)
    assert quantity("source_spectral_entropy").bounds("sigma", D=32) == (0.0, math.log(32))
    assert quantity("source_selectivity").bounds("attention", N=50) == (0.0, 0.98)
    with pytest.raises(InputError, match="D and N must be given"):
        one.bounds("scores", D=32)
    with pytest.raises(InputError, match="N must be given"):
        quantity("source_selectivity").bounds("attention", D=32)
    with pytest.raises(InputError, match="source must be one of sigma, scores"):
        one.bounds("attention")


def test_what_is_registered_twice_is_the_later():
    before = register(Quantity(name="twice", label="First"))
    register(Quantity(name="twice", label="Second"))
    assert (before.label, label("twice")) == ("First", "Second")
    del QUANTITIES["twice"]


def test_a_direction_may_hold_for_any_other_source():
    one = Quantity(name="gain", label="Gain", direction={"*": +1, "random": 0})
    assert [one.sign(source) for source in ("rollout", "random")] == [1, 0]
    assert Quantity(name="rank", label="Rank", direction={"scores": -1}).sign("sigma") == 0


def test_a_source_may_have_another_family():
    one = Quantity(name="gain", label="Gain", family="mine", other_families={"brightness": "theirs"})
    assert [one.family_of(source) for source in ("rollout", "brightness")] == ["mine", "theirs"]


def test_what_a_number_varies_with_says_whether_it_compares_kinds_of_attention():
    varies = {name: Quantity(name="x", label="X", varies_with=(name,)) for name in (*SAME_FUNCTION, TOKEN_ORDER)}
    assert {name: one.compares_kinds for name, one in varies.items()} == {
        "basis": False,
        "row constants": False,
        "token order": True,
    }
    assert not quantity("angular_alignment").compares_kinds
    assert quantity("effective_rank").compares_kinds
    for wrong in ("basis", ("weather",)):
        with pytest.raises(InputError, match="varies_with must hold some of basis, row constants, token order"):
            Quantity(name="x", label="X", varies_with=wrong)
