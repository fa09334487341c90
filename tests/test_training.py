"""Training: exact resume, several processes, what the history says, what stops a run."""

import contextlib
import os
import re
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from process_cases import children, of_proc
from teams import free_port

from svda_analysis import checkpoint as checkpoints
from svda_analysis import training
from svda_analysis.data import load_dataset
from svda_analysis.errors import HaltedError, InputError
from svda_analysis.frames import TABLE_COLUMNS
from svda_analysis.indicators import choose_indicators
from svda_analysis.model import Block, ViT, ViTConfig
from svda_analysis.recipe import TrainConfig, named_recipe, parameter_groups
from svda_analysis.soundness import NotFiniteError
from svda_analysis.stats import interval_over, proportion_interval
from svda_analysis.tap import records
from svda_analysis.training import train

SMALL = {"dim": 24, "depth": 2, "heads": 2}


def small(kind, **changes):
    return ViTConfig(attention=kind, **{**SMALL, **changes})


def recipe(**changes):
    return TrainConfig(**{"epochs": 4, "batch_size": 50, "probe_images": 8, "crop_padding": 2, **changes})


@pytest.mark.parametrize("kind", ["dot", "svda"])
def test_two_and_two_epochs_equal_four_bit_for_bit(kind, tmp_path, fashion):
    config = small(kind, dropout=0.1, attention_dropout=0.1)
    whole = train(config, recipe(), tmp_path / "whole.pt", data_root=fashion)
    half = train(config, recipe(), tmp_path / "half.pt", data_root=fashion, stop_after=2)
    assert half.epoch == 2
    torch.manual_seed(12345)  # nothing may depend on the process's own generator
    both = train(config, recipe(), tmp_path / "half.pt", data_root=fashion, resume=True)
    stored = checkpoints.load(tmp_path / "half.pt")
    for name, value in whole.model.items():
        assert torch.equal(value, both.model[name]), name
        assert torch.equal(value, stored.model[name]), name
    timeless = [frame[frame["indicator"] != "epoch_seconds"] for frame in (whole.history, stored.history)]
    np.testing.assert_array_equal(timeless[0]["mean"], timeless[1]["mean"])
    assert both.epoch == 4
    assert stored.trace.epochs.tolist() == [1, 2, 3, 4]
    np.testing.assert_array_equal(stored.trace.maps, whole.trace.maps)
    if kind == "svda":
        np.testing.assert_array_equal(stored.trace.sigma, whole.trace.sigma)


@pytest.mark.parametrize("kind", ["dot", "svda"])
def test_the_trace_ends_with_what_the_model_does(kind, tmp_path, fashion):
    done = train(small(kind), recipe(epochs=2), tmp_path / "a.pt", data_root=fashion)
    model = checkpoints.build_model(done)
    data = load_dataset("fashion_mnist", root=fashion)
    images = torch.stack([data[int(i)][0] for i in data.examples(4)])
    for layer, record in enumerate(records(model, images)):
        seen = record.a[:, :, 0, 1:].mean(1).detach().numpy()
        np.testing.assert_allclose(done.trace.maps[-1, :, layer], seen, atol=1e-3)
    if kind == "dot":
        assert done.trace.sigma is None
    else:
        sigmas = torch.stack([attention.sigma for attention in model.attention_layers()]).detach()
        np.testing.assert_array_equal(done.trace.sigma[-1], sigmas.numpy())
        assert not np.array_equal(done.trace.sigma[0], done.trace.sigma[-1])


def test_another_seed_gives_other_weights(tmp_path, fashion):
    one, other = (
        train(small("dot"), recipe(epochs=1, seed=seed), tmp_path / f"{seed}.pt", data_root=fashion) for seed in (0, 1)
    )
    assert not torch.equal(one.model["blocks.0.attention.qkv.weight"], other.model["blocks.0.attention.qkv.weight"])


def test_training_learns(tmp_path, fashion):
    settings = recipe(batch_size=10, lr=3e-3, flip=False, crop_padding=0)
    done = train(small("svda"), settings, tmp_path / "a.pt", data_root=fashion)
    loss = done.history.query("indicator == 'loss' and source == 'test'")["mean"].tolist()
    accuracy = done.history.query("indicator == 'accuracy' and source == 'test'")["mean"].iloc[-1]
    assert loss[-1] < loss[0]
    assert accuracy > 0.5  # ten classes, each with a pattern of its own


def test_history_has_the_one_schema_and_every_indicator_each_epoch(tmp_path, fashion):
    done = train(small("svda"), recipe(epochs=2), tmp_path / "svda_s0.pt", data_root=fashion)
    history = checkpoints.load(tmp_path / "svda_s0.pt").history
    assert dict(history.dtypes.astype(str)) == dict(done.history.dtypes.astype(str))
    assert list(history.columns) == list(TABLE_COLUMNS)
    for epoch in (1, 2):
        rows = history[history["epoch"] == epoch]
        assert {one.name for one in choose_indicators()} < set(rows["indicator"])
        assert not any(name.startswith("source_") for name in rows["indicator"])
        places = {("loss", "train"), ("accuracy", "train"), ("loss", "test"), ("accuracy", "test")}
        assert places < set(zip(rows["indicator"], rows["source"], strict=True))
        accuracy = rows.query("indicator == 'accuracy' and source == 'test'").iloc[0]
        assert accuracy["n"] == 120
        assert accuracy["ci_low"] <= accuracy["mean"] <= accuracy["ci_high"]


def test_intervals_over_images_are_those_of_every_table(tmp_path, fashion):
    done = train(small("dot"), recipe(epochs=1, lr=3e-3), tmp_path / "a.pt", data_root=fashion)
    whole = done.history[done.history["layer"].isna()]
    rows = {(row["indicator"], row["source"]): row for _, row in whole.iterrows()}
    loss, accuracy = rows["loss", "test"], rows["accuracy", "test"]
    images, labels = next(load_dataset("fashion_mnist", root=fashion).batches(120))
    with torch.no_grad():
        logits = checkpoints.load_model(tmp_path / "a.pt")(images)
    losses = torch.nn.functional.cross_entropy(logits, labels, reduction="none").double().numpy()
    assert (loss["ci_low"], loss["ci_high"]) == pytest.approx(interval_over(losses, low=0), rel=1e-5)
    assert loss["std"] == pytest.approx(losses.std(ddof=1), rel=1e-5)
    assert (accuracy["ci_low"], accuracy["ci_high"]) == proportion_interval(accuracy["mean"], 120)
    assert np.isnan([rows["loss", "train"]["ci_low"], rows["accuracy", "train"]["ci_high"]]).all()
    for (name, _), row in rows.items():
        assert (row["low"], row["high"]) == (0, 1 if name == "accuracy" else np.inf)


def test_checkpoint_accuracy_is_that_of_its_model(tmp_path, fashion):
    done = train(small("dot"), recipe(epochs=2, lr=3e-3), tmp_path / "a.pt", data_root=fashion)
    images, labels = next(load_dataset("fashion_mnist", root=fashion).batches(120))
    hits = checkpoints.load_model(tmp_path / "a.pt")(images).argmax(-1) == labels
    said = done.history.query("indicator == 'accuracy' and source == 'test'")["mean"].iloc[-1]
    assert said == pytest.approx(hits.float().mean().item())


def test_a_compressed_model_trains_without_decay_of_its_norms(tmp_path, fashion):
    kept = ((5, 3), (4, 4))
    config = small("svda", score_dims=kept, norm_dims=((2, 1), (0, 0)))
    model = ViT(config)
    names = {id(p): name for name, p in model.named_parameters()}
    decays = {names[id(p)]: g["weight_decay"] for g in parameter_groups(model, TrainConfig()) for p in g["params"]}
    assert decays["blocks.0.attention.norm_length"] == decays["blocks.0.attention.sigma_linear"] == 0
    with pytest.raises(InputError, match=r"orthogonality must be 0 for a compressed model, got 0\.1"):
        train(config, recipe(epochs=1, orthogonality=0.1), tmp_path / "a.pt", data_root=fashion)
    with pytest.raises(InputError, match=r"qk_weight_decay must be 0 for a model with qk_dim, got 0\.1"):
        train(small("dot", qk_dim=3), recipe(epochs=1, qk_weight_decay=0.1), tmp_path / "a.pt", data_root=fashion)


def test_a_teacher_takes_the_place_of_the_labels(tmp_path, fashion):
    """One step over all training images: its loss is the squared distance from the teacher's logits."""
    config, plan = small("dot"), recipe(epochs=1, batch_size=300, flip=False, crop_padding=0)
    torch.manual_seed(0)
    teacher, start = ViT(config), ViT(config)
    torch.nn.init.normal_(teacher.head.weight)
    torch.nn.init.normal_(start.head.weight)
    ours = train(config, plan, tmp_path / "a.pt", data_root=fashion, weights=start.state_dict(), teacher=teacher)
    images, _ = next(load_dataset("fashion_mnist", root=fashion, train=True).batches(300))
    with torch.no_grad():
        wanted = (start(images) - teacher.eval()(images)).square().mean().item()
    said = ours.history.query("indicator == 'loss' and source == 'train'")["mean"].item()
    assert said == pytest.approx(wanted, rel=1e-5)
    assert not any(name.startswith("teacher") for name in ours.model)


def test_what_is_not_measured_is_trained_alike(tmp_path, fashion):
    whole, bare = (
        train(small("svda"), recipe(epochs=2), tmp_path / f"{measured}.pt", data_root=fashion, measured=measured)
        for measured in (True, False)
    )
    assert all(torch.equal(value, bare.model[name]) for name, value in whole.model.items())
    assert len(whole.history)
    assert bare.history.empty


def test_only_the_parameters_that_are_named_are_trained(tmp_path, fashion):
    start = ViT(small("svda"))
    torch.nn.init.normal_(start.head.weight)
    options = {"weights": start.state_dict(), "trained": lambda name: ".attention." in name}
    done = train(small("svda"), recipe(epochs=1), tmp_path / "a.pt", data_root=fashion, **options)
    for name, value in start.state_dict().items():
        assert torch.equal(value, done.model[name]) == (".attention." not in name), name


def test_resume_with_another_recipe_is_refused_and_names_the_change(tmp_path, fashion):
    train(small("dot"), recipe(epochs=2), tmp_path / "a.pt", data_root=fashion, stop_after=1)
    with pytest.raises(InputError, match=r"another recipe: lr 0\.001 -> 0\.002"):
        train(small("dot"), recipe(epochs=2, lr=0.002), tmp_path / "a.pt", data_root=fashion, resume=True)
    checkpoints.export(tmp_path / "a.pt", tmp_path / "b.pt")
    with pytest.raises(InputError, match="exported without its optimizer state"):
        train(small("dot"), recipe(epochs=2), tmp_path / "b.pt", data_root=fashion, resume=True)


def test_tracker_writes_beside_the_checkpoint(tmp_path, fashion):
    pytest.importorskip("tensorboard", reason="tensorboard is an optional tracker")
    train(small("dot"), recipe(epochs=1), tmp_path / "run.pt", data_root=fashion, track="tensorboard")
    assert list(tmp_path.rglob("events.out.tfevents.*"))


PLAIN = {**SMALL, "batch_size": 50, "probe_images": 8}


def run_train(out, data, *words, processes=1, port=0, **options):
    """``svda train`` in a process of its own, or in several under torchrun; the process that was started."""
    command = [sys.executable, "-m", "svda_analysis.cli"]
    if processes > 1:
        launch = ["-m", "torch.distributed.run", f"--nproc-per-node={processes}", f"--master-port={port}"]
        command = [sys.executable, *launch, "-m", "svda_analysis.cli"]
    command += ["train", "--dataset=fashion_mnist", f"--data-root={data}", f"--out={out}"]
    command += [f"--set={key}={value}" for key, value in PLAIN.items()]
    return subprocess.Popen(
        [*command, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        **options,
    )


def close_to(found, wanted):
    for name, value in wanted.model.items():
        torch.testing.assert_close(found.model[name], value, rtol=1e-3, atol=2e-4)


def test_two_processes_train_one_model_and_go_on_from_each_other(tmp_path, fashion):
    """Each process has half of every batch, augmented as one process would augment it."""
    out, plan = tmp_path / "two.pt", TrainConfig(epochs=2, batch_size=50, probe_images=8)
    running = run_train(out, fashion, "--epochs=2", "--stop-after=1", processes=2, port=free_port())
    said, errors = running.communicate(timeout=300)
    assert running.returncode == 0, errors[:2000]
    assert said.count("epoch 1/2") == said.count("checkpoint:") == 1, said
    first = checkpoints.load(out)
    assert first.versions["processes"] == "2"
    alone = train(small("svda"), plan, tmp_path / "one.pt", data_root=fashion, stop_after=1)
    close_to(first, alone)
    for source in ("train", "test"):
        rows = f"indicator == 'loss' and source == '{source}'"
        losses = [c.history.query(rows)["mean"] for c in (first, alone)]
        np.testing.assert_allclose(losses[0], losses[1], rtol=1e-4)
    lines = []
    both = train(small("svda"), plan, out, data_root=fashion, resume=True, on_start=lines.extend)
    assert "processes 2 -> 1" in lines[-1]
    assert both.versions["processes"] == "2, 1"
    close_to(both, train(small("svda"), plan, tmp_path / "one.pt", data_root=fashion, resume=True))


@of_proc
@pytest.mark.slow
def test_a_process_that_hangs_ends_the_others_in_one_line(tmp_path, fashion):
    words = ("--epochs=1000", "--timeout=5")
    running = run_train(tmp_path / "a.pt", fashion, *words, processes=2, port=free_port(), start_new_session=True)
    try:
        assert any(re.match(r"epoch +2/1000 ", line) for line in running.stdout)
        os.kill(max(children(running.pid)), signal.SIGSTOP)
        _, errors = running.communicate(timeout=300)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(running.pid, signal.SIGKILL)
        running.communicate()
    assert running.returncode != 0
    assert re.search(r"process \d of 2 lost the others: one hangs \(timeout 5 s\) or has died", errors), errors[-3000:]


@pytest.mark.parametrize("kind", ["dot", "svda"])
def test_a_run_stopped_within_an_epoch_goes_on_bit_for_bit(kind, tmp_path, fashion):
    config = small(kind, dropout=0.1)
    whole = train(config, recipe(epochs=2), tmp_path / "whole.pt", data_root=fashion)
    out, stops = tmp_path / "stopped.pt", []

    def stop(state):
        if state.epoch_rows is None and not stops:
            stops.append(state)
            os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(HaltedError, match="stopped by SIGTERM, saved after step 1 of epoch 1 of 2") as halt:
        train(config, recipe(epochs=2), out, data_root=fashion, on_progress=stop)
    assert halt.value.code == 143
    assert signal.getsignal(signal.SIGTERM) is before
    saved = checkpoints.load(out)
    assert (saved.epoch, saved.under_way["step"], len(saved.history)) == (0, 1, 0)
    done = train(config, recipe(epochs=2), out, data_root=fashion, resume=True)
    assert done.under_way is None
    for name, value in whole.model.items():
        assert torch.equal(value, done.model[name]), name
    timeless = [c.history[c.history["indicator"] != "epoch_seconds"]["mean"] for c in (whole, done)]
    np.testing.assert_array_equal(*timeless)


def test_sigterm_after_the_last_step_of_an_epoch_ends_the_run_there(tmp_path, fashion):
    def stop(state):
        if state.epoch_rows is not None and state.epoch == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(HaltedError, match="saved after epoch 1 of 2"):
        train(small("dot"), recipe(epochs=2), tmp_path / "a.pt", data_root=fashion, on_progress=stop)
    assert checkpoints.load(tmp_path / "a.pt").epoch == 1


def test_a_run_that_diverges_names_step_and_layer(tmp_path, fashion):
    said = r"lr is too high for this recipe: at step \d of epoch 1 the .*(blocks|patch_embed|head|norm).* no longer a"
    with pytest.raises(InputError, match=said) as stopped:
        train(small("dot"), recipe(epochs=1, lr=1e30, clip_norm=0), tmp_path / "a.pt", data_root=fashion)
    assert "\n" not in str(stopped.value)
    assert "nothing was saved yet" in str(stopped.value)
    assert not (tmp_path / "a.pt").exists()


def test_a_run_that_diverges_keeps_the_last_sound_checkpoint(tmp_path, fashion, monkeypatch):
    out, plan = tmp_path / "a.pt", recipe(epochs=3)
    train(small("svda"), plan, out, data_root=fashion, stop_after=1)
    before, steps = out.read_bytes(), []
    forward = Block.forward

    def burst(self, x):
        steps.append(1)
        return forward(self, x) * (float("inf") if len(steps) >= 6 else 1.0)  # the second layer at the third step

    monkeypatch.setattr(Block, "forward", burst)
    with pytest.raises(InputError, match=r"at step 3 of epoch 2 the output of blocks\.\d .*a\.pt keeps what was sound"):
        train(small("svda"), plan, out, data_root=fashion, resume=True)
    assert out.read_bytes() == before


def test_a_model_that_breaks_after_the_last_step_is_not_saved(tmp_path, fashion):
    """Weights of 1e30 pass the last step: what they give of the test images is no number."""
    plan = recipe(epochs=1, batch_size=300, lr=1e30, warmup_share=0.0)
    with pytest.raises(InputError, match=r"lr is too high for this recipe: after epoch 1 the output of"):
        train(small("dot"), plan, tmp_path / "a.pt", data_root=fashion)
    assert not (tmp_path / "a.pt").exists()


def test_a_probe_that_breaks_is_searched_where_it_broke(tmp_path, fashion, monkeypatch):
    searched = []

    def breaking(model, batches, *_, **__):
        for at, _ in enumerate(batches):
            if at == 1:
                raise NotFiniteError("a map")

    monkeypatch.setattr(training, "measure_probe", breaking)
    monkeypatch.setattr(training, "first_broken", lambda model, images: searched.append(len(images)) or "")
    with pytest.raises(InputError, match="after epoch 1"):
        train(small("dot"), recipe(epochs=1, probe_images=70), tmp_path / "a.pt", data_root=fashion)
    assert searched == [70 - 64]  # the second batch of the probe


def test_weights_that_are_not_finite_are_no_start(tmp_path, fashion):
    weights = ViT(small("dot")).state_dict()
    weights["blocks.1.norm2.bias"][3] = float("nan")
    with pytest.raises(InputError, match=r"not finite .*: the first are in the weight blocks\.1\.norm2\.bias"):
        train(small("dot"), recipe(epochs=1), tmp_path / "a.pt", data_root=fashion, weights=weights)


def test_two_writers_of_one_checkpoint_the_second_is_refused(tmp_path, fashion):
    code = "import sys, time; from svda_analysis.writing import only_writer\nwith only_writer(sys.argv[1]):\n"
    code += "    print('held', flush=True); time.sleep(60)"
    other = subprocess.Popen([sys.executable, "-c", code, tmp_path / "a.pt"], stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(InputError, match=rf"a\.pt is being written by process {other.pid}, for \d+ s: wait for it"):
            train(small("dot"), recipe(epochs=1), tmp_path / "a.pt", data_root=fashion)
    finally:
        other.kill()
        other.communicate()
    (tmp_path / ".a.pt.1234.unfinished").write_bytes(b"half")
    train(small("dot"), recipe(epochs=1), tmp_path / "a.pt", data_root=fashion)  # the lock of the dead is taken over
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.pt"]


def test_a_folder_without_parts_is_not_trained_on_its_test_images(tmp_path):
    for name in ("a", "b"):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        Image.new("RGB", (32, 32)).save(tmp_path / "pictures" / name / "0.png")
    config = ViTConfig.preset("vit_tiny", depth=1, image_size=32, num_classes=2)
    with pytest.raises(InputError, match="has no training and test parts"):
        train(config, recipe(dataset=f"imagefolder:{tmp_path / 'pictures'}"), tmp_path / "a.pt")


def test_mixed_precision_trains_and_measures_in_full(tmp_path, fashion):
    done = train(small("svda"), recipe(epochs=1), tmp_path / "a.pt", data_root=fashion, mixed_precision="bf16")
    again = train(small("svda"), recipe(epochs=1), tmp_path / "b.pt", data_root=fashion, mixed_precision="no")
    assert done.history["mean"].notna().all()
    assert not torch.equal(done.model["head.weight"], again.model["head.weight"])
    images, labels = next(load_dataset("fashion_mnist", root=fashion).batches(120))
    with torch.no_grad():
        loss = torch.nn.functional.cross_entropy(checkpoints.load_model(tmp_path / "a.pt")(images), labels).item()
    said = done.history.query("indicator == 'loss' and source == 'test'")["mean"].item()
    assert said == pytest.approx(loss, rel=1e-5)  # bfloat16 would be off by some 1e-3


def test_between_epochs_few_test_images_are_enough_and_the_last_epoch_uses_all(tmp_path, fashion):
    done = train(small("dot"), recipe(epochs=3, monitor_images=40), tmp_path / "a.pt", data_root=fashion)
    wanted = "indicator == 'accuracy' and source == 'test'"
    tested = done.history.query(wanted)
    assert tested["n"].tolist() == [40, 40, 120]
    whole = train(small("dot"), recipe(epochs=3), tmp_path / "b.pt", data_root=fashion)
    assert tested["mean"].iloc[-1] == whole.history.query(wanted)["mean"].iloc[-1]
    with pytest.raises(InputError, match="monitor_images must be a whole number of at least 1, got 0"):
        TrainConfig(monitor_images=0)


def test_a_run_of_the_source_resumes_bit_for_bit(tmp_path, fashion):
    model, fields = named_recipe("source", "fashion_mnist")
    config = ViTConfig(**{**model, "dim": 24, "depth": 2, "heads": 2, "attention": "svda"})
    plan = TrainConfig(**{**fields, "epochs": 2, "rotation": 15.0, "qk_weight_decay": 0.1, "probe_images": 8})
    whole = train(config, plan, tmp_path / "whole.pt", data_root=fashion)
    train(config, plan, tmp_path / "half.pt", data_root=fashion, stop_after=1)
    both = train(config, plan, tmp_path / "half.pt", data_root=fashion, resume=True)
    for name, value in whole.model.items():
        assert torch.equal(value, both.model[name]), name


def test_a_checkpoint_from_before_a_field_was_there_is_resumed(tmp_path, fashion):
    config, plan = small("dot"), recipe(epochs=2)
    train(config, plan, tmp_path / "a.pt", data_root=fashion, stop_after=1)
    found = checkpoints.load(tmp_path / "a.pt")
    for name in ("qk_weight_decay", "schedule"):
        del found.recipe[name]
    checkpoints.save(found, tmp_path / "a.pt")
    assert train(config, plan, tmp_path / "a.pt", data_root=fashion, resume=True).epoch == 2
