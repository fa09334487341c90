"""A team: every batch is one process's, all know what each tells, and fail together."""

import threading

import pytest
import torch
from teams import in_team

from svda_analysis.errors import InputError
from svda_analysis.soundness import NotFiniteError
from svda_analysis.team import ALONE, Team, first_to_fail


@pytest.mark.parametrize("world", [1, 2, 3, 7])
@pytest.mark.parametrize(("images", "size"), [(23, 5), (20, 5), (3, 5), (0, 5)])
def test_whole_batches_are_dealt_and_every_image_is_in_one(world, images, size):
    order = torch.arange(images) + 100
    seen = {}
    for rank in range(world):
        team = Team(rank, world)
        batches = team.part_of(order, size).split(size) if len(team.part_of(order, size)) else ()
        for first, batch in zip(team.firsts(size), batches, strict=False):
            assert team.has(first // size)
            assert batch.tolist() == order[first : first + size].tolist()
            seen |= dict.fromkeys(batch.tolist(), rank)
        assert [one.tolist() for one in team.share(order.split(size) if images else ())] == [
            batch.tolist() for batch in batches
        ]
    assert sorted(seen) == order.tolist()


def test_all_know_what_each_holds_and_what_the_first_makes():
    made = []

    def work(team):
        told = team.first(lambda: made.append(team.rank) or {"of": team.rank})
        return team.gather(team.rank**2), told

    assert in_team(3, work) == [([0, 1, 4], {"of": 0})] * 3
    assert made == [0]
    assert ALONE.gather("x") == ["x"]
    assert ALONE.first(lambda: 5) == 5


@pytest.mark.parametrize("counts", [(3, 2), (1, 0, 0), (2, 2), (0, 0)])
def test_rounds_go_on_for_all_until_none_has_more(counts):
    found = in_team(len(counts), lambda team: list(team.rounds(range(counts[team.rank]))))
    for own, count in zip(found, counts, strict=True):
        assert own == [*range(count), *[None] * (max(counts) - count)]


@pytest.mark.parametrize("where", ["before", "between", "behind"])
def test_what_one_meets_is_raised_in_all_and_they_go_on_together(where):
    def steps(team):
        for step in ("before", "between", "behind"):
            if team.rank and step == where:
                raise NotFiniteError(f"of process {team.rank}")
            if step != "behind":
                team.first(lambda: 0)

    def work(team):
        with pytest.raises(NotFiniteError) as raised, team.failing_together(NotFiniteError):
            steps(team)
        return str(raised.value), team.gather(team.rank)

    found = in_team(3, work)
    assert found == [("of process 1", [0, 1, 2])] * 3


def test_another_error_is_of_its_process_alone():
    def work(team):
        with team.failing_together(NotFiniteError):
            if team.rank:
                raise InputError("an image that cannot be read")
            return "done"

    with pytest.raises(InputError, match="cannot be read"), ALONE.failing_together(NotFiniteError):
        raise InputError("an image that cannot be read")
    first, second = in_team(2, work)
    assert isinstance(second, InputError)
    assert isinstance(first, threading.BrokenBarrierError)  # of processes the end of one is the end of the others


def test_a_process_that_torchrun_did_not_start_says_why_it_fails(monkeypatch):
    monkeypatch.delenv("TORCHELASTIC_USE_AGENT_STORE", raising=False)
    assert first_to_fail()


def test_of_those_that_it_did_start_the_first_does(monkeypatch):
    store = torch.distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    for name, value in (("TORCHELASTIC_USE_AGENT_STORE", "True"), ("MASTER_ADDR", "127.0.0.1")):
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MASTER_PORT", str(store.port))
    assert [first_to_fail() for _ in range(3)] == [True, False, False]
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    assert first_to_fail()
    del store
    assert first_to_fail()  # with nobody to ask
