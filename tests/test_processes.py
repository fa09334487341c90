"""The processes of a run: trackers that are not there, signals that ask for a stop, processes that get lost."""

import os
import signal
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
from accelerate.state import AcceleratorState

from svda_analysis import processes
from svda_analysis.errors import HaltedError, InputError
from svda_analysis.model import ViTConfig
from svda_analysis.processes import Termination, accelerated, check_same
from svda_analysis.recipe import TrainConfig
from svda_analysis.training import train

ALONE = SimpleNamespace(num_processes=1)


@pytest.fixture
def on_a_cpu(monkeypatch):
    """Accelerators that are made anew compute on the CPU, whatever there is."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


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


@pytest.mark.usefixtures("on_a_cpu")
def test_fp16_where_nothing_computes_in_it_is_refused(tmp_path, monkeypatch):
    said = r"mixed_precision must be no or bf16 on a cpu \(fp16 needs a GPU\), got fp16"
    with pytest.raises(InputError, match=said), accelerated("fp16", None, tmp_path):
        pass
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "fp16")  # as accelerate launch does
    with pytest.raises(InputError, match=said), accelerated("auto", None, tmp_path):
        pass


def test_a_precision_that_there_is_not_is_refused(tmp_path):
    said = "mixed_precision must be one of auto, no, bf16, fp16, got 'fp8'"
    with pytest.raises(InputError, match=said), accelerated("fp8", None, tmp_path):
        pass


@pytest.mark.usefixtures("on_a_cpu")
@pytest.mark.parametrize(("precision", "track"), [("no", "nope"), ("fp16", None), ("fp8", None)])
def test_a_call_that_is_refused_leaves_the_process_as_it_was(precision, track, tmp_path):
    with pytest.raises(InputError), accelerated(precision, track, tmp_path):
        pass
    for after in ("bf16", "no"):
        with accelerated(after, None, tmp_path) as accelerator:
            assert accelerator.mixed_precision == after


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
