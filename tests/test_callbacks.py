"""The monitor in the loops of Hugging Face, Lightning and timm: the weights are those of a run without it."""

import contextlib
import warnings

import pytest
import torch
import torch.nn.functional as F
from accelerate.state import AcceleratorState
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from svda_analysis import callbacks
from svda_analysis.callbacks import lightning_callback, trainer_callback
from svda_analysis.errors import InputError
from svda_analysis.monitor import Monitor

SIZE = {"image_size": 16, "patch_size": 8, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}


@pytest.fixture(autouse=True)
def no_accelerator():
    """What accelerate keeps for the whole process is as it was afterwards."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def images_and_labels(number=8):
    drawing = torch.Generator().manual_seed(1)
    return torch.randn(number, 3, 16, 16, generator=drawing), torch.arange(number) % 3


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def monitor_of(on, model):
    return Monitor(model, images_and_labels()[0][:3] if on == "probe" else None, on=on, every=2)


@pytest.mark.parametrize("on", ["probe", "batch"])
@pytest.mark.parametrize("precision", ["full", "bf16"])
def test_trainer_of_hugging_face(on, precision, tmp_path):
    transformers = pytest.importorskip("transformers", reason="transformers is optional")
    images, labels = images_and_labels()
    data = [{"pixel_values": image, "labels": label} for image, label in zip(images, labels, strict=True)]

    def train(monitored):
        torch.manual_seed(0)
        config = transformers.ViTConfig(**SIZE, intermediate_size=32, num_labels=3, hidden_dropout_prob=0.1)
        model = transformers.ViTForImageClassification(config)
        monitor = monitor_of(on, model) if monitored else None
        arguments = transformers.TrainingArguments(
            output_dir=str(tmp_path),
            per_device_train_batch_size=2,
            gradient_accumulation_steps=2,
            num_train_epochs=2,
            bf16=precision == "bf16",
            use_cpu=True,
            report_to=[],
            save_strategy="no",
            disable_tqdm=True,
        )
        chosen = [trainer_callback(monitor)] if monitor else []
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the library's own
            transformers.Trainer(model, arguments, train_dataset=data, callbacks=chosen).train()
        return model, monitor

    (plain, _), (watched, monitor) = train(False), train(True)
    assert same(plain, watched)
    assert sorted(monitor.history["epoch"].unique()) == [2, 4]


@pytest.mark.parametrize("on", ["probe", "batch"])
def test_lightning(on, tmp_path):
    lightning = pytest.importorskip("lightning.pytorch", reason="lightning is optional")
    transformers = pytest.importorskip("transformers", reason="transformers is optional")

    class Classifier(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            config = transformers.ViTConfig(**SIZE, intermediate_size=32, num_labels=3, hidden_dropout_prob=0.1)
            self.vit = transformers.ViTForImageClassification(config)

        def training_step(self, batch, _):
            return F.cross_entropy(self.vit(batch[0]).logits, batch[1])

        def configure_optimizers(self):
            return torch.optim.AdamW(self.parameters(), 1e-3)

    def train(monitored):
        torch.manual_seed(0)
        module = Classifier()
        monitor = monitor_of(on, module.vit) if monitored else None
        quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the library's own
            trainer = lightning.Trainer(
                max_epochs=2,
                accelerator="cpu",
                accumulate_grad_batches=2,
                default_root_dir=tmp_path,
                callbacks=[lightning_callback(monitor)] if monitor else [],
                enable_model_summary=False,
                **quiet,
            )
            trainer.fit(module, DataLoader(TensorDataset(*images_and_labels()), batch_size=2))
        return module, monitor

    (plain, _), (watched, monitor) = train(False), train(True)
    assert same(plain, watched)
    assert monitor.steps == 4
    assert sorted(monitor.history["epoch"].unique()) == [2, 4]


@pytest.mark.parametrize("on", ["probe", "batch"])
def test_the_loop_of_timm(on):
    """Its scaler, optimizer, schedule, mixup and averaged model, as its training script uses them."""
    timm = pytest.importorskip("timm", reason="timm is optional")
    for part in ("data", "loss", "optim", "scheduler", "utils"):
        pytest.importorskip(f"timm.{part}")

    images, labels = images_and_labels()

    def train(monitored):
        torch.manual_seed(0)
        timm.utils.random_seed(0)
        size = {"img_size": 16, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 2}
        model = timm.create_model("vit_tiny_patch16_224", num_classes=3, drop_path_rate=0.2, drop_rate=0.1, **size)
        average = timm.utils.ModelEmaV3(model, decay=0.9)
        optimizer = timm.optim.create_optimizer_v2(model, opt="adamw", lr=1e-3)
        schedule = timm.scheduler.CosineLRScheduler(optimizer, t_initial=4)
        mix = timm.data.Mixup(mixup_alpha=0.8, cutmix_alpha=1.0, num_classes=3)
        scaler = timm.utils.NativeScaler(device="cpu")
        monitor = monitor_of(on, model) if monitored else None
        model.train()
        with monitor or contextlib.nullcontext():
            for step in range(4):
                x, y = mix(images.clone(), labels)
                with torch.autocast("cpu", dtype=torch.bfloat16):
                    loss = timm.loss.SoftTargetCrossEntropy()(model(x), y)
                scaler(loss, optimizer, clip_grad=1.0, parameters=model.parameters())
                optimizer.zero_grad()
                average.update(model, step=step)
                schedule.step_update(step)
        return model, average, monitor

    (plain, plain_average, _), (watched, watched_average, monitor) = train(False), train(True)
    assert same(plain, watched)
    assert same(plain_average, watched_average)
    assert monitor.steps == 4
    assert set(monitor.history["epoch"]) == ({0, 2, 4} if on == "probe" else {2, 4})


def test_what_is_not_installed_names_the_line_that_installs_it(monkeypatch):
    def missing(module):
        raise ImportError(module)

    monkeypatch.setattr(callbacks, "import_module", missing)
    monitor = Monitor(nn.Identity(), on="batch")
    with pytest.raises(InputError, match="pip install transformers"):
        trainer_callback(monitor)
    with pytest.raises(InputError, match="pip install lightning"):
        lightning_callback(monitor)
