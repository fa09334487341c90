"""The last blocks of a pretrained ViT trained on what the first of them reads: what is frozen, what is written."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from converted_cases import images, made
from late_cases import base_spec, photographs
from torch import nn

from svda_analysis.analysis import analyze
from svda_analysis.answers import logits_of
from svda_analysis.converted import learned_of, load_converted, replaced
from svda_analysis.errors import InputError
from svda_analysis.hosts import attention_hosts
from svda_analysis.late_blocks import _block_of, _from_block, _reads_of, train_late_blocks
from svda_analysis.recipe import TrainConfig
from svda_analysis.specs import open_model

LIBRARIES = ["timm", "ours", "hf vit", "hf dinov2"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return photographs(tmp_path_factory.mktemp("photographs"))


def recipe_of(data, **more):
    given = {"dataset": data, "epochs": 2, "batch_size": 4, "probe_images": 4, "lr": 1e-3}
    return TrainConfig(**{**given, **more})


def trained(spec, data, out, *, recipe=None, **how):
    return train_late_blocks(spec, recipe or recipe_of(data), out, **{"blocks": 2, **how})


def accuracy_said(learned, part="test"):
    history = learned.history
    last = history[(history["epoch"] == learned.epoch) & (history["source"] == part)]
    return last.set_index("indicator").loc["accuracy"]


@pytest.mark.parametrize(
    ("library", "kind"), [*((library, "svda") for library in LIBRARIES), ("timm", "dot"), ("hf vit", "cosine")]
)
def test_what_is_frozen_stays_and_the_file_has_the_accuracy_that_was_said(library, kind, data, tmp_path):
    spec = base_spec(library, tmp_path)
    learned = trained(spec, data, tmp_path / "late.pt", attention=kind)
    subject = open_model(tmp_path / "late.pt")
    before, after = open_model(spec).model.state_dict(), subject.model.state_dict()
    before = {name: x for name, x in before.items() if name in after and x.shape == after[name].shape}
    prefix = {"hf dinov2": "dinov2."}.get(library, "")
    before |= {prefix + name: x for name, x in open_model(spec).model.state_dict().items() if prefix + name in after}
    unchanged = {name for name, x in before.items() if torch.equal(x, after[name])}
    early = {name for name in before if not _is_late(name)}
    assert early
    assert early <= unchanged
    assert any("attention" in name or "attn" in name for name in early)
    late_weights = {name for name in before if _is_late(name) and before[name].ndim == 2}
    assert late_weights
    assert not late_weights & unchanged
    assert [layer.kind for layer in replaced(subject.model).values()] == [kind] * 2
    found = analyze(subject, indicators=["attention_entropy"], examples=0)
    row = found.table[(found.table["indicator"] == "accuracy")].iloc[0]
    said = accuracy_said(learned)
    assert (row["mean"], row["n"]) == (said["mean"], said["n"])


def _is_late(name):
    """Whether a parameter lies in the last two of three blocks, behind them, or is not of the frozen part."""
    behind = ("norm.", "head.", "classifier.", "fc_norm.", "vit.layernorm.", "dinov2.layernorm.")
    return any(f".{at}." in f".{name}" for at in (1, 2)) or name.startswith(behind) or ".layernorm." in f".{name}"[:16]


@pytest.mark.parametrize("library", ["timm vit", "ours", "torchvision vit", "hf vit", "timm dinov2"])
def test_the_last_blocks_on_features_are_the_whole_model(library):
    model = made(library)
    block = _block_of(model, attention_hosts(model)[1].name)
    names = [name for name, _ in model.named_parameters()]
    with torch.no_grad():
        with _reads_of(block.module) as features:
            whole = model(images())
        with _from_block(model, block, images()[0] * 0) as late:
            alone = late(features[0])
            assert len(list(model.named_parameters())) < len(names)
    torch.testing.assert_close(alone, logits_of(whole, model))
    assert [name for name, _ in model.named_parameters()] == names


def test_the_same_seed_gives_the_same_file_and_another_seed_another(data, tmp_path):
    spec = base_spec("timm", tmp_path)
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        trained(spec, data, tmp_path / name, recipe=recipe_of(data, seed=seed), start="weights")
    a, b, c = (load_converted(tmp_path / name).state_dict() for name in "abc")
    assert all(torch.equal(x, b[name]) for name, x in a.items())
    assert any(not torch.equal(x, c[name]) for name, x in a.items())


def test_it_learns_and_tells_each_epoch(data, tmp_path):
    states, done, lines = [], [], []
    recipe = recipe_of(data, epochs=8, validation_images=3, monitor_images=2)
    learned = trained(
        base_spec("timm", tmp_path),
        data,
        tmp_path / "late.pt",
        recipe=recipe,
        progress=lambda *x: done.append(x),
        on_start=lines.extend,
        on_progress=states.append,
    )
    assert accuracy_said(learned)["mean"] == 1
    assert accuracy_said(learned, "validation")["n"] == 3
    history = learned.history
    tested = history[(history["source"] == "test") & (history["indicator"] == "accuracy")]
    assert tested["n"].tolist() == [2] * 7 + [6]
    losses = history[(history["source"] == "train") & (history["indicator"] == "loss")]["mean"].tolist()
    assert losses[-1] < losses[0] / 2
    assert set(history["layer"].dropna()) == {0, 1, 2}  # of frozen blocks too
    assert done[-1] == ("through the frozen blocks", 18, 18)  # 9 learned from, 3 kept, 6 tested on
    assert "features of 18 images" in lines[-1]
    assert [state.epoch for state in states if state.epoch_rows is not None] == list(range(1, 9))
    kept = learned_of(load_converted(tmp_path / "late.pt"))
    assert kept.recipe["late_blocks"] == 2
    assert kept.recipe["flip"] is False
    assert kept.data["classes"] == ["blue", "green", "red"]
    assert kept.history.equals(history)
    assert kept.epoch == 8


def test_penalties_are_of_the_late_layers_alone(data, tmp_path):
    """Of our own model all layers could have them; the frozen ones must not weigh in."""
    spec = base_spec("ours", tmp_path)
    free = trained(spec, data, tmp_path / "free.pt", recipe=recipe_of(data, qk_weight_decay=0.0))
    held = trained(spec, data, tmp_path / "held.pt", recipe=recipe_of(data, qk_weight_decay=50.0, sigma_l1=1.0))
    assert free.epoch == held.epoch == 2
    a, b = (load_converted(tmp_path / f"{name}.pt").attention_layers() for name in ("free", "held"))
    assert torch.equal(a[0].qkv.weight, b[0].qkv.weight)
    assert b[2].qkv.weight[:48].norm() < 0.9 * a[2].qkv.weight[:48].norm()


class _Skips(nn.Module):
    """What it answers depends on pixels beside what its blocks make of them."""

    def __init__(self):
        super().__init__()
        self.inside = made("timm vit")

    def forward(self, x):
        return self.inside(x) + x.mean((1, 2, 3))[:, None]

    def reset_classifier(self, number):
        self.inside.reset_classifier(number)

    def get_classifier(self):
        return self.inside.get_classifier()


def test_blocks_that_read_more_than_tokens_are_refused(data, tmp_path):
    given = open_model(_Skips(), preprocessing={"image_size": 32})
    with pytest.raises(InputError, match="cannot be run alone: they read more than the tokens of the block before"):
        trained(given, data, tmp_path / "late.pt")


def test_a_rate_that_is_too_high_is_said_and_nothing_is_left(data, tmp_path):
    spec = base_spec("timm", tmp_path)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(InputError, match=r"lr is too high for this recipe: .* is no longer a finite number"):
        trained(spec, data, tmp_path / "late.pt", recipe=recipe_of(data, label_smoothing=0.0, **{"sigma_l1": 1e38}))
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"blocks": 4}, "late_blocks must be at most the 3 blocks of vit_tiny_patch16_224, got 4"),
        ({"blocks": 0}, "late_blocks must be a whole number of at least 1"),
        ({"attention": "tanh"}, "attention must be one of"),
        ({"start": "cold"}, "start must be one of"),
        ({"sigma_start": "three"}, "sigma_start must be"),
    ],
)
def test_bad_input_leaves_no_file(how, said, data, tmp_path):
    spec = base_spec("timm", tmp_path)
    with pytest.raises(InputError, match=said):
        trained(spec, data, tmp_path / "late.pt", **how)
    assert not list(tmp_path.glob("*late*"))


def test_a_base_that_cannot_be_converted_says_which_module(data, tmp_path):
    spec = "timm:swin_tiny_patch4_window7_224"
    with pytest.raises(InputError, match=r"attn .* cannot be converted: it a"):
        trained(spec, data, tmp_path / "late.pt")


def test_a_disk_that_is_full_is_said_before_it_is(data, tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(InputError, match=r"features of 18 images take .* GB on disk, .*train_images"):
        trained(base_spec("timm", tmp_path), data, tmp_path / "late.pt")
    assert not Path(tmp_path / "late.pt").exists()


def test_an_output_that_exists_is_kept(data, tmp_path):
    (tmp_path / "late.pt").write_text("mine")
    with pytest.raises(InputError, match=r"out already exists: .*late\.pt \(choose another name\)$"):
        trained(base_spec("timm", tmp_path), data, tmp_path / "late.pt")
    assert (tmp_path / "late.pt").read_text() == "mine"
