"""A team: every batch is one process's, all know what each tells, and fail together."""

import os
import subprocess
import sys
import threading

import pytest
import torch
from teams import free_port, in_team

from svda_analysis.errors import HaltedError, InputError
from svda_analysis.soundness import NotFiniteError
from svda_analysis.team import ALONE, Team, first_to_fail, together


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


# --- together ---------------------------------------------------------------------------------------------------------


def test_a_process_that_no_other_was_started_with_is_a_team_of_its_own(monkeypatch):
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    with together() as team:
        assert team is ALONE
    monkeypatch.setenv("WORLD_SIZE", "2")
    with together(alone=True) as team:
        assert team is ALONE


def test_others_that_do_not_come_are_one_line(monkeypatch):
    def nobody(**_):
        raise RuntimeError("Timed out after 601 seconds waiting for clients. 1/2 clients joined.")

    monkeypatch.setattr("accelerate.PartialState", nobody)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    said = r"^process 0 of 2 lost the others: .*timeout 600 s.* every process must come, or one with alone=True"
    with pytest.raises(HaltedError, match=said) as halt, together():
        pass
    assert halt.value.code == 1


MEMBER = """
import os
from svda_analysis.errors import HaltedError
from svda_analysis.team import together
os.environ["LOCAL_RANK"] = os.environ["RANK"]
with together() as team:
    assert team.gather(team.rank) == [0, 1]
    assert team.first(lambda: "told by %d" % team.rank) == "told by 0"
    with together() as again:
        assert again.gather("x") == ["x", "x"]
    if team.rank:
        os._exit(9)
    try:
        team.gather("alone")
    except HaltedError as halt:
        print(halt)
"""


def test_processes_talk_and_hear_of_the_end_of_one():
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2"}
    environment = {key: value for key, value in os.environ.items() if not key.startswith("TORCHELASTIC")} | place
    started = [
        subprocess.Popen(
            [sys.executable, "-c", MEMBER],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**environment, "RANK": str(rank), "OMP_NUM_THREADS": "1"},
        )
        for rank in range(2)
    ]
    try:
        (said, errors), _ = (one.communicate(timeout=120) for one in started)
    finally:
        for one in started:
            one.kill()
    assert [one.returncode for one in started] == [0, 9], errors
    lines = [line for line in said.splitlines() if not line.startswith("[Gloo]")]  # of older versions of torch
    assert len(lines) == 1
    assert lines[0].startswith("process 0 of 2 lost the others: one hangs")
