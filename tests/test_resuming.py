"""What a run may go on from: every way in which a checkpoint does not fit is one line that names it."""

import copy
import dataclasses
import math
import re

import pytest
import torch

from svda_analysis.checkpoint import load, save
from svda_analysis.errors import InputError
from svda_analysis.model import ViT, ViTConfig
from svda_analysis.recipe import TrainConfig, parameter_groups
from svda_analysis.training import train

CONFIG = ViTConfig(depth=1, dim=24, heads=2, attention="svda")
PLAN = TrainConfig(epochs=2, batch_size=100, probe_images=8)


@pytest.fixture(scope="module")
def begun(tmp_path_factory, fashion):
    """A checkpoint after one of two epochs, of three steps each. Not to be changed."""
    out = tmp_path_factory.mktemp("begun") / "a.pt"
    train(CONFIG, PLAN, out, data_root=fashion, stop_after=1)
    return load(out)


def save_as_before(checkpoint, path):
    """As versions wrote it that put no digest into it, which leaves any optimizer state to the checks of resuming."""
    save(dataclasses.replace(checkpoint, optimizer=None), path)
    content = torch.load(path, weights_only=True)
    del content["digest"]
    torch.save({**content, "optimizer": checkpoint.optimizer}, path)


@pytest.fixture
def resume(begun, tmp_path, fashion):
    """Resume from the checkpoint with some of its fields changed; the error, and that the file is as it was."""

    def resume(**fields):
        out = tmp_path / "a.pt"
        save_as_before(dataclasses.replace(begun, **fields), out)
        before = out.read_bytes()
        with pytest.raises(InputError) as refused:
            train(CONFIG, PLAN, out, data_root=fashion, resume=True)
        assert out.read_bytes() == before
        assert "\n" not in str(refused.value)
        return str(refused.value)

    return resume


def cut(state):
    state["exp_avg"] = state["exp_avg"].flatten()[:1]


def emptied(state):
    state["exp_avg_sq"] = state["exp_avg_sq"].narrow(0, 0, 0)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (cut, r"must hold exp_avg of \(.*\) float32, got \(1,\) float32"),
        (emptied, r"must hold exp_avg_sq of \(.*\) float32, got \(0.*\) float32"),
        (lambda state: state.update(exp_avg=state["exp_avg"].double()), "got .* float64"),
        (lambda state: state.update(exp_avg_sq=torch.zeros(3, device="meta")), "must hold a tensor as exp_avg_sq"),
        (lambda state: state.update(exp_avg_sq=3), "must hold a tensor as exp_avg_sq, got int"),
        (lambda state: state["exp_avg"].fill_(math.nan), "numbers out of range in exp_avg"),
        (lambda state: state["exp_avg_sq"].fill_(-1), "numbers out of range in exp_avg_sq"),
        (lambda state: state["exp_avg_sq"].fill_(math.inf), "numbers out of range in exp_avg_sq"),
        (lambda state: state.update(step=torch.tensor(7.0)), "must be of step 3, got 7"),
        (lambda state: state.update(step=torch.tensor(-3.0)), "numbers out of range in step"),
        (lambda state: state.update(step=torch.tensor([3.0])), r"must hold step of \(\) float32, got \(1,\)"),
        (lambda state: state.pop("exp_avg"), "must hold step, exp_avg and exp_avg_sq"),
        (lambda state: state.update(max_exp_avg_sq=state["exp_avg"]), "must hold step, exp_avg and exp_avg_sq"),
    ],
)
@pytest.mark.parametrize("at", [0, 3])
def test_an_optimizer_state_that_does_not_fit_is_refused(at, spoil, said, begun, resume):
    optimizer = copy.deepcopy(begun.optimizer)
    spoil(optimizer["state"][at])
    found = resume(optimizer=optimizer)
    assert f"cannot be resumed: the optimizer's state of {name_of(begun, at)} " in found
    assert re.search(said, found), found


def name_of(begun, at):
    """The parameter with this number, by the order of the groups in the recipe."""
    model = ViT(begun.config)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return [names[id(p)] for group in parameter_groups(model, PLAN) for p in group["params"]][at]


@pytest.mark.parametrize("spoil", [lambda s: s.pop(2), lambda s: s.update({99: s[0]}), lambda s: s.clear()])
def test_a_parameter_without_state_or_a_state_without_parameter(spoil, begun, resume):
    optimizer = copy.deepcopy(begun.optimizer)
    spoil(optimizer["state"])
    assert "cannot be resumed: the" in resume(optimizer=optimizer)
    assert "not one of these parameters" in resume(optimizer={"param_groups": []})


def test_weights_that_are_not_finite_are_named(begun, resume):
    model = {name: value.clone() for name, value in begun.model.items()}
    model["head.bias"][0] = math.inf
    assert "its weight head.bias is not finite" in resume(model=model)


def test_hyperparameters_come_from_the_recipe(begun, tmp_path, fashion):
    """Whatever a file says of rates, decay, maximize and betas, the run goes on as if it had not."""
    out, whole = tmp_path / "a.pt", train(CONFIG, PLAN, tmp_path / "whole.pt", data_root=fashion)
    optimizer = copy.deepcopy(begun.optimizer)
    for group in optimizer["param_groups"]:
        group.update(lr=9.0, peak_lr=9.0, weight_decay=5.0, betas=(0.0, 0.0), maximize=True, amsgrad=True, eps=1.0)
        group["params"] = [0]
    save(dataclasses.replace(begun, optimizer=optimizer), out)
    done = train(CONFIG, PLAN, out, data_root=fashion, resume=True)
    for name, value in whole.model.items():
        assert torch.equal(value, done.model[name]), name


def test_moments_that_share_their_memory_are_parted(begun, tmp_path, fashion):
    """Two parameters whose state is one storage, or one number spread over all, would be written over each other."""
    optimizer = copy.deepcopy(begun.optimizer)
    for state in optimizer["state"].values():
        state["exp_avg"] = torch.zeros(1).expand(state["exp_avg"].shape)
    save_as_before(dataclasses.replace(begun, optimizer=optimizer), tmp_path / "a.pt")
    for state in optimizer["state"].values():
        state["exp_avg"] = state["exp_avg"].clone()
    save(dataclasses.replace(begun, optimizer=optimizer), tmp_path / "b.pt")
    spread, plain = (train(CONFIG, PLAN, tmp_path / f"{x}.pt", data_root=fashion, resume=True) for x in "ab")
    assert all(torch.equal(value, plain.model[name]) for name, value in spread.model.items())


def test_another_precision_renamed_classes_and_an_older_drawing_are_refused(begun, resume):
    versions = begun.versions
    assert resume(versions={**versions, "mixed_precision": "bf16"}).endswith("mixed_precision bf16 -> no")
    old = {name: value for name, value in versions.items() if name != "augmentation"}
    assert "which drew augmentation by batch; finish it there, or begin again" in resume(versions=old)
    classes = [*begun.data["classes"]]
    classes[2] = "a renamed folder"
    renamed = {**begun.data, "classes": classes}
    assert "cannot be resumed with other data: classes 'a renamed folder' -> 'Pullover'" in resume(data=renamed)
    fewer = {**begun.data, "classes": classes[:7]}
    assert "classes 7 -> 10 of them" in resume(data=fewer)
    assert "other data: mean 0.1 -> " in resume(data={**begun.data, "mean": [0.1]})


def test_another_thread_count_is_said_and_recorded(begun, tmp_path, fashion):
    out, lines = tmp_path / "a.pt", []
    save(dataclasses.replace(begun, versions={**begun.versions, "threads": "64"}), out)
    done = train(CONFIG, PLAN, out, data_root=fashion, resume=True, on_start=lines.extend)
    now = begun.versions["threads"]
    said = f"resumed with threads of torch 64 -> {now}: results agree to rounding, not bit for bit"
    assert lines[-1] == said
    assert done.versions["threads"] == f"64, {now}"


@pytest.mark.parametrize("step", [0, 3, -1])
def test_a_step_that_no_epoch_has_is_refused(step, resume):
    under_way = {"step": step, "sums": [1.0, 1.0, 100.0], "seconds": 1.0}
    assert f"it stopped at step {step} of an epoch of 3" in resume(under_way=under_way)


@pytest.mark.parametrize("sums", [[1.0, 2.0], [math.nan, 1.0, 1.0], [1.0, -1.0, 1.0]])
def test_sums_that_are_none_are_damage(sums, resume):
    assert "damaged" in resume(under_way={"step": 1, "sums": sums, "seconds": 1.0})
