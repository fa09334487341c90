"""Sinks: what TensorBoard, Weights & Biases, MLflow, accelerate and a csv file get."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from svda_analysis import sinks
from svda_analysis.errors import InputError
from svda_analysis.frames import TABLE_COLUMNS
from svda_analysis.model import ViT, ViTConfig
from svda_analysis.monitor import Monitor
from svda_analysis.results import read_frame
from svda_analysis.sinks import Measurement, open_sink, open_sinks, picture


@pytest.fixture(autouse=True)
def no_accelerator():
    """What accelerate keeps for the whole process is as it was afterwards."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def measure(*given, times=2):
    torch.manual_seed(0)
    model = ViT(ViTConfig(attention="svda", dim=24, depth=3, heads=2))
    monitor = Monitor(model, torch.randn(3, 1, 28, 28), every=1, sinks=given)
    for _ in range(times):
        monitor.step()
    return monitor.measurements


def test_scalars_maps_and_sigmas_are_the_tables():
    found = measure(times=1)[0]
    table = found.table
    entropy = table[table["indicator"] == "attention_entropy"]
    assert found.scalars()["attention/attention_entropy/mean"] == pytest.approx(entropy["mean"].mean())
    of_layer = entropy[entropy["layer"] == 1]["mean"]
    assert found.scalars()["attention/attention_entropy/layer_1"] == pytest.approx(of_layer.mean())
    maps = found.heat_maps()["attention/attention_entropy"]
    np.testing.assert_array_equal(maps, entropy["mean"].to_numpy().reshape(3, 2))
    assert set(found.sigmas()) == {"sigma/layer_0", "sigma/layer_1", "sigma/layer_2"}
    np.testing.assert_allclose(found.sigmas()["sigma/layer_0"], np.full(24, 24.0), rtol=1e-6)


def test_a_layer_with_fewer_heads_is_grey_there():
    rows = [("a", 0, 0, 1.0), ("a", 0, 1, 2.0), ("a", 1, 0, 3.0)]
    table = pd.DataFrame(rows, columns=["indicator", "layer", "head", "mean"]).assign(source="attention")
    maps = Measurement(1, table, pd.DataFrame()).heat_maps()["attention/a"]
    np.testing.assert_array_equal(maps, [[1.0, 2.0], [3.0, np.nan]])
    pixels = picture(maps)
    assert pixels.shape == (32, 32, 3)
    assert pixels[20, 20].tolist() == [153, 153, 153]
    assert pixels[0, 0].sum() < pixels[20, 0].sum()


def test_csv_goes_on_and_keeps_every_digit(tmp_path):
    path = tmp_path / "runs" / "a.csv"
    first, second = measure(str(path))
    third = measure(path, times=1)[0]
    expected = pd.concat([first.table, second.table, third.table], ignore_index=True)
    pd.testing.assert_frame_equal(read_frame(path, TABLE_COLUMNS), expected)


def test_a_function_gets_the_measurement():
    seen = []
    assert measure(seen.append) == seen


def test_tensorboard_holds_scalars_images_and_histograms(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    first, second = measure(f"tensorboard:{tmp_path}")
    events = EventAccumulator(str(tmp_path), size_guidance={"images": 0}).Reload()
    values = events.Scalars("attention/attention_entropy/layer_2")
    assert [value.step for value in values] == [1, 2]
    assert values[1].value == pytest.approx(second.scalars()["attention/attention_entropy/layer_2"], rel=1e-6)
    image = events.Images("heads/attention/attention_entropy")[0]
    assert (image.height, image.width) == (48, 32)
    assert events.Histograms("sigma/layer_0")[0].histogram_value.num == 24
    assert first.step == 1


def test_wandb_gets_the_same(tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_SILENT", "true")
    with pytest.raises(InputError, match=r"wandb.init\(\)"):
        open_sink("wandb")
    run = wandb.init(mode="offline", dir=tmp_path, project="test")
    try:
        run.log({"loss": 1.0})
        _, second = measure("wandb")
        assert run.summary["monitor/step"] == 2
        assert run.summary["sigma/effective_rank/mean"] == pytest.approx(second.scalars()["sigma/effective_rank/mean"])
        assert "heads/attention/attention_entropy" in run.summary.keys()  # noqa: SIM118  (no mapping)
    finally:
        run.finish()


def test_mlflow_gets_metrics_and_images(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    mlflow.set_tracking_uri(f"file://{tmp_path}")
    mlflow.set_experiment("test")
    with mlflow.start_run() as run:
        _, second = measure("mlflow")
    metrics = mlflow.MlflowClient().get_run(run.info.run_id).data.metrics
    assert metrics["tokens/rank_one_residual/mean"] == pytest.approx(second.scalars()["tokens/rank_one_residual/mean"])
    pictures = sorted(path.name for path in tmp_path.rglob("step_*.png") if path.parent.name == "sigma")
    assert pictures == ["step_1.png", "step_2.png"]


def test_an_accelerators_trackers_get_the_scalars(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accelerator = Accelerator(cpu=True, log_with="tensorboard", project_dir=tmp_path)
    accelerator.init_trackers("run")
    measure(accelerator)
    accelerator.end_training()
    events = EventAccumulator(str(tmp_path / "run")).Reload()
    assert [value.step for value in events.Scalars("sigma/effective_rank/mean")] == [1, 2]


@pytest.mark.parametrize("name", ["tensorboard", "wandb", "mlflow"])
def test_what_is_not_installed_names_the_line_that_installs_it(name, monkeypatch):
    def missing(module):
        raise ImportError(module)

    monkeypatch.setattr(sinks, "import_module", missing)
    with pytest.raises(InputError, match=f"{name} is not installed: pip install {name}"):
        open_sink(name)


@pytest.mark.parametrize("given", ["a.txt", "", 3, None])
def test_any_other_sink_is_told_what_is_allowed(given):
    with pytest.raises(InputError, match=r"sinks must be tensorboard, wandb, mlflow, a path ending in \.csv"):
        open_sink(given)


@pytest.mark.parametrize("given", ["a.csv", Path("a.csv"), print, ["a.csv"], (print,)])
def test_one_sink_needs_no_list(given):
    assert len(open_sinks(given)) == 1


def test_a_name_that_stands_alone_is_not_read_letter_by_letter():
    with pytest.raises(InputError, match="got 'tensor'"):
        open_sinks("tensor")
