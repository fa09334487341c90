"""The processes of a run: trackers that are not there, signals that ask for a stop, processes that get lost."""

import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from svda_analysis import processes
from svda_analysis.errors import HaltedError, InputError
from svda_analysis.model import ViTConfig
from svda_analysis.processes import Termination, accelerated, check_same, together
from svda_analysis.recipe import TrainConfig
from svda_analysis.training import train

ALONE = SimpleNamespace(num_processes=1)


@pytest.mark.parametrize(
    ("track", "said"),
    [
        ("tensorboard", "track needs tensorboard, which is not installed: pip install tensorboard"),
        ("wandb", "track needs wandb, which is not installed: pip install wandb"),
        ("all", "track needs a tracker and none is installed: pip install tensorboard"),
        ("tensorbored", "track cannot be used here: Unsupported logging capability: tensorbored"),
    ],
)
def test_a_tracker_that_is_not_there_stops_the_run_before_it_starts(track, said, tmp_path, monkeypatch):
    monkeypatch.setattr(processes, "get_available_trackers", list)
    out = tmp_path / "runs" / "a.pt"
    with pytest.raises(InputError, match=said) as stopped:  # not that there is no data
        train(
            ViTConfig(depth=1, dim=8, heads=2),
            TrainConfig(dataset="cifar10"),
            out,
            data_root=tmp_path / "nothing",
            track=track,
        )
    assert "\n" not in str(stopped.value)
    assert not out.parent.exists()


def test_sigterm_is_a_wish_inside_the_context_and_what_it_was_after_it():
    before = signal.getsignal(signal.SIGTERM)
    with Termination().listening() as stop:
        assert not stop.asked(ALONE)
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.asked(ALONE)
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_thread_changes_no_signals():
    heard = []

    def listen():
        with Termination().listening() as stop:
            heard.append((signal.getsignal(signal.SIGTERM), stop.asked(ALONE)))

    thread = threading.Thread(target=listen)
    thread.start()
    thread.join()
    assert heard == [(signal.getsignal(signal.SIGTERM), False)]


def test_all_processes_hear_of_a_stop_that_one_was_asked_for():
    class Two:
        num_processes = 2

        def __init__(self, others):
            self.others, self.mine = others, False

        def set_trigger(self):
            self.mine = True

        def check_trigger(self):
            asked, self.mine = self.mine or self.others.pop(0), False
            return asked

    stop = Termination()
    two = Two([False, True, False])
    assert [stop.asked(two) for _ in range(3)] == [False, True, True]
    with Termination().listening() as own:
        os.kill(os.getpid(), signal.SIGTERM)
        assert own.asked(Two([False]))


@pytest.mark.parametrize(
    "said", ["Timed out waiting 5000ms for recv", "Connection closed by peer [127.0.0.1]:4", "Connection reset by peer"]
)
def test_lost_processes_are_one_line(said, monkeypatch, tmp_path):
    monkeypatch.setattr(processes, "Accelerator", lambda **_: (_ for _ in ()).throw(RuntimeError(f"[gloo]\n{said}")))
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    lost = pytest.raises(HaltedError, match=r"^process 1 of 2 lost the others: .*timeout 7 s.*--resume")
    with lost as halt, accelerated("no", None, Path(tmp_path), 7.0):
        pass
    assert halt.value.code == 1
    assert "\n" not in str(halt.value)


def test_an_error_of_another_kind_stays_what_it_is(monkeypatch, tmp_path):
    monkeypatch.setattr(processes, "Accelerator", lambda **_: (_ for _ in ()).throw(RuntimeError("shapes differ")))
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(RuntimeError, match="shapes differ"), accelerated("no", None, tmp_path):
        pass


def test_what_every_process_must_have_alike(monkeypatch):
    monkeypatch.setattr(processes, "gather_object", lambda mine: [*mine, (0, 3)])
    check_same(SimpleNamespace(num_processes=2), (0, 3), "x")
    with pytest.raises(InputError, match="out must be one file"):
        check_same(SimpleNamespace(num_processes=2), (1, 0), "out must be one file")


# --- together ---------------------------------------------------------------------------------------------------------


def test_a_process_that_no_other_was_started_with_is_a_team_of_its_own(monkeypatch):
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    with together() as team:
        assert team is processes.ALONE
    monkeypatch.setenv("WORLD_SIZE", "2")
    with together(alone=True) as team:
        assert team is processes.ALONE


def test_others_that_do_not_come_are_one_line(monkeypatch):
    def nobody(**_):
        raise RuntimeError("Timed out after 601 seconds waiting for clients. 1/2 clients joined.")

    monkeypatch.setattr(processes, "PartialState", nobody)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    said = r"^process 0 of 2 lost the others: .*timeout 600 s.* every process must come, or one with alone=True"
    with pytest.raises(HaltedError, match=said) as halt, together():
        pass
    assert halt.value.code == 1


MEMBER = """
import os
from svda_analysis.errors import HaltedError
from svda_analysis.processes import together
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


def free_port():
    """One that is not given to whoever asks for any, as other tests do meanwhile."""
    for port in random.sample(range(20_000, 32_000), 50):
        with socket.socket() as found, contextlib.suppress(OSError):
            found.bind(("127.0.0.1", port))
            return port
    raise AssertionError("no port is free")


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
    assert said.startswith("process 0 of 2 lost the others: one hangs")
    assert said.count("\n") == 1
