"""The monitor: the training is bit for bit what it is without one, and the numbers are those of analyze."""

import contextlib
import copy
import random
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import nn

from svda_analysis.alarms import ALARMS, AttentionWarning
from svda_analysis.analysis import analyze
from svda_analysis.errors import InputError
from svda_analysis.frames import TABLE_COLUMNS
from svda_analysis.model import ViT, ViTConfig
from svda_analysis.monitor import Monitor
from svda_analysis.reports import render_folder
from svda_analysis.results import Analysis


@pytest.fixture(autouse=True)
def no_accelerator():
    """What accelerate keeps for the whole process is as it was afterwards."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


class Drawing(nn.Module):
    """Draws from every generator in its forward, in eval mode too, and drops out in training."""

    def __init__(self, kind="svda"):
        super().__init__()
        self.vit = ViT(ViTConfig(attention=kind, dim=24, depth=2, heads=2, dropout=0.1, attention_dropout=0.1))
        nn.init.normal_(self.vit.head.weight)
        self.drawn = []

    def forward(self, x):
        draws = torch.rand(()).item(), np.random.rand(), random.random()  # noqa: NPY002  (as others draw)
        if self.training:
            self.drawn.append(draws)
        return self.vit(x + 0.01 * torch.randn_like(x))


def images_and_labels(number=6):
    drawing = torch.Generator().manual_seed(1)
    return torch.randn(number, 1, 28, 28, generator=drawing), torch.arange(number) % 10


def train(monitored=None, *, by_hand=False, steps=4, autocast=False, forward=lambda model: model, **options):
    """The model after a few steps, what it drew, and its monitor."""
    torch.manual_seed(0), np.random.seed(0), random.seed(0)  # noqa: NPY002
    model = Drawing()
    model.vit.blocks[0].eval()  # a frozen block of one's own
    images, labels = images_and_labels()
    called = forward(model)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    probe = images[:3] if monitored == "probe" else None
    monitor = monitored and Monitor(called, probe, on=monitored, every=2)
    with contextlib.nullcontext() if by_hand or not monitor else monitor:
        for _ in range(steps):
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
                loss = F.cross_entropy(called(images), labels)
                if by_hand and monitor and monitored == "probe":
                    monitor.measure()  # between forward and backward, under autocast
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            if by_hand and monitor:
                monitor.step()
    if monitor:
        monitor.close()
    return model, monitor


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize("monitored", ["probe", "batch"])
@pytest.mark.parametrize("by_hand", [False, True])
@pytest.mark.parametrize("autocast", [False, True])
def test_training_is_bit_for_bit_the_same(monitored, by_hand, autocast):
    plain, _ = train(autocast=autocast)
    watched, monitor = train(monitored, by_hand=by_hand, autocast=autocast)
    assert same(plain, watched)
    assert plain.drawn == watched.drawn
    assert [m.training for m in plain.modules()] == [m.training for m in watched.modules()]
    assert len(monitor.measurements) >= 2
    assert not watched._forward_hooks
    assert not watched._forward_pre_hooks


def test_a_different_training_would_be_seen():
    assert not same(train(steps=4)[0], train(steps=3)[0])


@pytest.mark.filterwarnings("ignore:Dynamo does not know how to trace")  # torch 2.10, of Python's random
@pytest.mark.parametrize("way", ["compiled", "compiled in place", "ddp", "accelerate"])
def test_what_wraps_a_model_is_looked_through(way, tmp_path):
    def compiled(model):
        return torch.compile(model, backend="eager")

    def in_place(model):
        model.compile(backend="eager")
        return model

    def ddp(model):
        return nn.parallel.DistributedDataParallel(model)

    def prepared(model):
        return Accelerator(cpu=True, mixed_precision="bf16").prepare(model)

    wrap = {"compiled": compiled, "compiled in place": in_place, "ddp": ddp, "accelerate": prepared}[way]
    if way == "ddp":
        torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        plain, _ = train(forward=wrap)
        watched, monitor = train("probe", forward=wrap)
        assert same(plain, watched)
        assert monitor.name == "Drawing"
        assert sorted(monitor.history["epoch"].unique()) == [0, 2, 4]
        if not way.startswith("compiled"):
            assert same(plain, train("batch", forward=wrap)[0])
    finally:
        if way == "ddp":
            torch.distributed.destroy_process_group()


def test_measured_in_full_precision_what_accelerate_runs_in_half():
    torch.manual_seed(0)
    model = ViT(ViTConfig(dim=24, depth=2, heads=2))
    images, _ = images_and_labels()
    before = Monitor(model, images).measure().table
    prepared = Accelerator(cpu=True, mixed_precision="bf16").prepare(model)
    assert "forward" in vars(prepared)
    after = Monitor(prepared, images).measure().table
    assert "forward" in vars(prepared)
    np.testing.assert_array_equal(before["mean"], after["mean"])


def test_fsdp_is_measured_through_its_own_forward(tmp_path):
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    torch.manual_seed(0)
    images, labels = images_and_labels()
    model = ViT(ViTConfig(dim=24, depth=2, heads=2))
    expected = Monitor(model, images).measure().table
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        sharded = fully_shard(model, mesh=init_device_mesh("cpu", (1,)))
        monitor = Monitor(sharded, images, every=1)
        np.testing.assert_array_equal(monitor.measure().table["mean"], expected["mean"])
        optimizer = torch.optim.SGD(sharded.parameters(), 0.1)
        with monitor:
            F.cross_entropy(sharded(images), labels).backward()
            optimizer.step()
        assert monitor.steps == 1
    finally:
        torch.distributed.destroy_process_group()


def test_numbers_are_those_of_analyze():
    torch.manual_seed(0)
    model, (images, _) = ViT(ViTConfig(attention="svda", dim=24, depth=2, heads=2)), images_and_labels()
    names = ["default", "field"]
    monitor = Monitor(model, images, indicators=names, batch_size=4)
    found, expected = monitor.measure().table, analyze(model, images, indicators=names, batch_size=4).table
    assert dict(found.dtypes) == dict(expected.dtypes)
    assert list(found) == list(TABLE_COLUMNS)
    keys = ["layer", "head", "indicator", "source"]
    left, right = (t[t["layer"].notna()].set_index(keys)["mean"] for t in (found, expected))
    np.testing.assert_array_equal(left, right.loc[left.index])


def test_the_batch_is_measured_as_a_probe_of_the_same_images_would_be():
    torch.manual_seed(0)
    model, (images, labels) = ViT(ViTConfig(attention="svda", dim=24, depth=2, heads=2)), images_and_labels()
    probe = Monitor(model, images).measure().table
    monitor = Monitor(model, on="batch", every=1)
    F.cross_entropy(model.train()(images), labels).backward()
    found = monitor.step().table
    probe = probe[probe["source"] != "scores"]
    np.testing.assert_allclose(found["mean"], probe["mean"], rtol=1e-6)
    assert (found["n"][found["source"] == "attention"] == len(images)).all()


def test_of_accumulated_batches_the_first_is_measured():
    model, (images, labels) = Drawing(), images_and_labels()
    monitor = Monitor(model, on="batch", every=2)
    for _ in range(2):
        for part in (images[:2], images[2:]):
            F.cross_entropy(model(part), labels[: len(part)]).backward()
        monitor.step()
    assert set(monitor.history["epoch"]) == {2}
    assert monitor.history.query("source == 'attention'")["n"].eq(2).all()


def test_a_copy_of_the_model_is_not_measured():
    model, (images, _) = Drawing(), images_and_labels()
    monitor = Monitor(model, on="batch", every=1)
    copy.deepcopy(model)(images)
    with pytest.warns(AttentionWarning, match="no forward in training mode"):
        assert monitor.step() is None


def test_only_optimizers_of_the_model_count():
    model, other = Drawing(), nn.Linear(2, 2)
    images, labels = images_and_labels()
    with Monitor(model, images, every=1) as monitor:
        other(torch.ones(2)).sum().backward()
        torch.optim.SGD(other.parameters(), 0.1).step()
        assert monitor.steps == 0
        F.cross_entropy(model(images), labels).backward()
        torch.optim.SGD(model.parameters(), 0.1).step()
    torch.optim.SGD(model.parameters(), 0.1).step()
    assert monitor.steps == 1


def test_saved_it_is_an_analysis(tmp_path):
    _, monitor = train("probe")
    monitor.save(tmp_path)
    found = Analysis.load(tmp_path)
    assert found.history.equals(monitor.history)
    assert found.table.equals(monitor.measurements[-1].table)
    assert found.runs[0].epoch == 4


@pytest.mark.slow
def test_report_shows_what_was_saved(tmp_path):
    train("probe")[1].save(tmp_path)
    (files,) = render_folder(tmp_path)
    assert "an epoch here is one step" in files[0].read_text(encoding="utf-8")
    assert list(tmp_path.glob("figures/epochs.*"))


def test_alarms_begin_once_and_not_before_the_first_step():
    torch.manual_seed(0)
    model = ViT(ViTConfig(dim=24, depth=2, heads=2))
    images, _ = images_and_labels()
    with torch.no_grad():
        for block in model.blocks:
            block.attention.qkv.weight.zero_()  # uniform attention
    monitor = Monitor(model, images, every=1, alarms="all")
    monitor.measure()
    with pytest.warns(AttentionWarning, match=r"step 1: dead heads in head 0.0, 0.1, 1.0, 1.1: attention_entropy 1,"):
        monitor.step()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        monitor.step()
        with torch.no_grad():
            for block in model.blocks:
                block.attention.qkv.weight.normal_(std=30)
                block.attention.qkv.bias.normal_(std=30)
    with pytest.warns(AttentionWarning) as caught:
        monitor.step()
    said = " ".join(str(one.message) for one in caught)
    assert "entropy collapse in layer" in said
    assert "saturation in head" in said
    assert "Zhai et al. 2023" in said


def test_rank_collapse_and_thresholds_of_ones_own():
    torch.manual_seed(0)
    model = ViT(ViTConfig(dim=24, depth=2, heads=2))
    images, _ = images_and_labels()
    with torch.no_grad():
        model.pos_embed.zero_()
        model.cls_token.fill_(1)
        model.patch_embed.weight.zero_()
        model.patch_embed.bias.fill_(1)
    with pytest.warns(AttentionWarning, match="rank collapse in layer 0, 1"):
        Monitor(model, images, every=1, alarms=["rank_collapse"]).step()
    own = [ALARMS["rank_collapse"].at(-1.0)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Monitor(model, images, every=1, alarms=own).step()


def test_numbers_that_are_not_finite_are_warned_of_and_the_training_goes_on():
    model, (images, _) = Drawing(), images_and_labels()
    monitors = Monitor(model, images, every=1), Monitor(model, on="batch", every=1)
    with torch.no_grad():
        model.vit.blocks[0].attention.qkv.weight.fill_(float("nan"))
    model(images)
    for monitor in monitors:
        with pytest.warns(AttentionWarning, match="step 1: nothing measured"):
            assert monitor.step() is None
        assert monitor.history.empty


def test_a_training_that_diverged_ends_as_without_a_monitor():
    model, (images, labels) = Drawing(), images_and_labels()
    optimizer, monitor = torch.optim.SGD(model.parameters(), lr=1e30), Monitor(model, images, every=100)

    def diverge():
        with monitor:
            for _ in range(2):
                F.cross_entropy(model(images), labels).backward()
                optimizer.step()

    with pytest.warns(AttentionWarning, match="step 2: nothing measured: the model has numbers that are not finite"):
        diverge()
    assert [found.step for found in monitor.measurements] == [0]


def test_a_round_of_several_optimizers_is_one_step():
    model, (images, labels) = Drawing(), images_and_labels()
    matrices, others = ([p for p in model.parameters() if (p.ndim == 2) == large] for large in (True, False))
    optimizers = torch.optim.SGD(matrices, lr=1e-3), torch.optim.AdamW(others)
    with Monitor(model, images, every=2) as monitor:
        for at in range(4):
            F.cross_entropy(model(images), labels).backward()
            for optimizer in optimizers[: 1 + (at != 1)]:  # one of them may sit out
                optimizer.step()
    assert [found.step for found in monitor.measurements] == [0, 2, 4]


def test_a_sink_that_fails_is_left_out():
    model, (images, _) = Drawing(), images_and_labels()
    seen = []

    def broken(found):
        raise OSError("the disk is full")

    monitor = Monitor(model, images, every=1, sinks=[broken, seen.append])
    with pytest.warns(AttentionWarning, match="the disk is full"):
        monitor.step()
    monitor.step()
    assert [found.step for found in seen] == [1, 2]


def test_one_indicator_and_one_sink_need_no_list():
    monitor = Monitor(Drawing(), images_and_labels()[0], indicators="attention_entropy", sinks="a.csv")
    assert [one.name for one in monitor.indicators] == ["attention_entropy"]
    assert len(monitor.sinks) == 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"probe_images": torch.zeros(2, 3, 28, 28)}, "images must be"),
        ({"probe_images": torch.zeros(2, 1, 30, 30)}, "images must be"),
        ({"probe_images": torch.zeros(0, 1, 28, 28)}, "probe_images must be floats"),
        ({"probe_images": torch.zeros(2, 1, 28, 28, dtype=torch.uint8)}, "probe_images must be floats"),
        ({"probe_images": None}, "probe_images must be floats"),
        ({"every": 0}, "every must be a whole number of at least 1, got 0"),
        ({"on": "epoch"}, "on must be one of probe, batch"),
        ({"on": "batch"}, "probe_images must be left out"),
        ({"indicators": ["nothing"]}, "nothing"),
        ({"alarms": ["fire"]}, "alarms must be"),
        ({"on": "batch", "probe_images": None, "indicators": ["perturbation_robustness"]}, "use a probe"),
        ({"sinks": [3]}, "sinks must be tensorboard"),
    ],
)
def test_bad_input_is_told_at_once(options, words):
    with pytest.raises(InputError, match=words):
        Monitor(ViT(ViTConfig(dim=24, depth=1, heads=2)), **{"probe_images": torch.zeros(2, 1, 28, 28), **options})


def test_a_model_without_attention_and_a_compiled_one():
    with pytest.raises(InputError, match="shows no attention"):
        Monitor(nn.Conv2d(1, 1, 1), torch.zeros(2, 1, 8, 8))
    with pytest.raises(InputError, match="not compiled"):
        Monitor(torch.compile(Drawing(), backend="eager"), on="batch")
    with pytest.raises(InputError, match="got no step that was measured"):
        Monitor(Drawing(), on="batch").save("nowhere")
