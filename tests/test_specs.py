"""Models named on the command line: loaded with their weights and preprocessing, or refused in one line."""

import dataclasses
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn

from svda_analysis.analysis import analyze
from svda_analysis.checkpoint import Checkpoint, load, save
from svda_analysis.cli import analyze_main
from svda_analysis.data import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from svda_analysis.errors import InputError
from svda_analysis.model import ViT, ViTConfig
from svda_analysis.recipe import TrainConfig
from svda_analysis.specs import open_folder, open_model, run_names
from svda_analysis.subject import Subject

SMALL = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 1, "num_heads": 2}


@pytest.fixture
def own_module(tmp_path, monkeypatch):
    """A module of a user on the path, with a function that builds a model."""
    (tmp_path / "users_models.py").write_text(
        "from svda_analysis.model import ViT, ViTConfig\n"
        "def grey():\n    return ViT(ViTConfig(dim=12, depth=1, heads=2, in_channels=3, num_classes=2))\n"
        "def nothing():\n    return 3\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "module:users_models:grey"
    sys.modules.pop("users_models", None)


@pytest.fixture
def folder(tmp_path):
    """Two classes of coloured pictures, of several sizes."""
    for at in range(6):
        place = tmp_path / "pictures" / f"class{at % 2}"
        place.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40 + at, 50), (40 * at, 10, 90)).save(place / f"{at}.png")
    return tmp_path / "pictures"


def test_a_function_of_ones_own_with_weights_of_both_kinds(own_module, tmp_path):
    model = ViT(ViTConfig(dim=12, depth=1, heads=2, in_channels=3, num_classes=2))
    safetensors = pytest.importorskip("safetensors.torch", reason="safetensors comes with timm")
    torch.save({"state_dict": {f"module.{k}": v for k, v in model.state_dict().items()}}, tmp_path / "w.pt")
    safetensors.save_file(model.state_dict(), tmp_path / "w.safetensors")
    for weights in ("w.pt", "w.safetensors"):
        opened = open_model(f"{own_module}@{tmp_path / weights}")
        assert opened.name == "grey"
        assert not opened.model.training
        for name, value in opened.model.state_dict().items():
            assert torch.equal(value, model.state_dict()[name])


def test_timm_brings_its_preprocessing_and_its_number_of_classes(tmp_path):
    timm = pytest.importorskip("timm", reason="timm is optional")
    model = timm.create_model("vit_tiny_patch16_224", num_classes=7)
    torch.save(model.state_dict(), tmp_path / "w.pth")
    opened = open_model(f"timm:vit_tiny_patch16_224@{tmp_path / 'w.pth'}")
    assert opened.model.num_classes == 7
    expected = Preprocessing(
        image_size=224, resize=248, interpolation="bicubic", mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)
    )
    assert opened.preprocessing == expected


def test_torchvision_brings_its_preprocessing():
    opened = open_model("torchvision:vit_b_32")
    assert opened.preprocessing == Preprocessing(image_size=224, resize=256, mean=IMAGENET_MEAN, std=IMAGENET_STD)


def test_a_saved_model_of_hugging_face(tmp_path):
    transformers = pytest.importorskip("transformers", reason="transformers is optional")
    config = transformers.ViTConfig(
        hidden_size=24, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48, image_size=32, patch_size=8
    )
    transformers.ViTForImageClassification(config).save_pretrained(tmp_path / "mine")
    transformers.ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path / "mine")
    opened = open_model(f"hf:{tmp_path / 'mine'}")
    assert opened.name == "mine"
    assert opened.preprocessing is not None
    assert opened.preprocessing.image_size == 32
    assert opened.preprocessing.mean == (0.5, 0.5, 0.5)
    result = analyze(opened, torch.randn(2, 3, 32, 32), indicators=["attention_entropy"])
    assert result.table["layer"].max() == 1


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("timm:vit_tinny_patch16_224", "timm has no model 'vit_tinny_patch16_224'; did you mean vit_tiny_patch16_224"),
        ("torchvision:vit_b", "torchvision has no model 'vit_b'; did you mean vit_b_"),
        ("tim:vit_tiny_patch16_224", "'tim' is not one of timm, torchvision, hf, module"),
        ("module:users_models", "module: must be module:package.module:function"),
        ("module:no_such_module:build", "no_such_module cannot be imported"),
        ("module:users_models:absent", "users_models has no function 'absent'"),
        ("module:users_models:nothing", "users_models:nothing must return an nn.Module, got int"),
        ("hf:nowhere", "hf: must name a folder that save_pretrained wrote"),
        ("module:users_models:grey@none.pt", "no such file: none.pt"),
        ("module:users_models:grey@none.safetensors", "no such file: none.safetensors"),
    ],
)
def test_specs_that_are_wrong_say_why(spec, message, own_module):
    if spec.startswith("timm:"):
        pytest.importorskip("timm", reason="timm is optional")
    with pytest.raises(InputError, match=message):
        open_model(spec)


def test_weights_that_do_not_fit_name_the_first_that_does_not(own_module, tmp_path):
    torch.save(ViT(ViTConfig(dim=24, depth=1, heads=2)).state_dict(), tmp_path / "w.pt")
    with pytest.raises(InputError, match=r"w.pt holds weights that do not fit the model: .* expected \("):
        open_model(f"{own_module}@{tmp_path / 'w.pt'}")
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(InputError, match="holds no state dict"):
        open_model(f"{own_module}@{tmp_path / 'list.pt'}")
    (tmp_path / "bad.safetensors").write_bytes(b"nothing of the kind")
    pytest.importorskip("safetensors", reason="safetensors comes with timm")
    with pytest.raises(InputError, match="is not a safetensors file"):
        open_model(f"{own_module}@{tmp_path / 'bad.safetensors'}")


def test_our_own_model_by_kind_and_size_is_random_but_the_same_each_time(folder):
    torch.manual_seed(1)
    first = open_model("svda:fashion_mnist")
    torch.manual_seed(2)
    again = open_model("svda:fashion_mnist")
    assert first.model.config == ViTConfig.preset("fashion_mnist", attention="svda")
    assert all(map(torch.equal, first.model.state_dict().values(), again.model.state_dict().values()))
    result = analyze(first, torch.randn(2, 1, 28, 28), indicators=["attention_entropy"])
    assert result.meta["warnings"] == [
        "svda:fashion_mnist names no weights (@FILE): they are random, and nothing here was learned"
    ]
    with pytest.raises(InputError, match=r"preset must be one of .*vit_tiny.* got 'tiny'"):
        open_model("dot:tiny")


def test_a_model_of_text_is_refused(tmp_path):
    transformers = pytest.importorskip("transformers", reason="transformers is optional")
    config = transformers.BertConfig(
        hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, vocab_size=10
    )
    model = transformers.BertModel(config)
    model.save_pretrained(tmp_path)
    for given in (model, f"hf:{tmp_path}"):
        with pytest.raises(InputError, match="must be a model of images, got BertModel, which takes input_ids"):
            open_model(given)


def test_a_missing_library_gives_the_install_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(InputError, match=r'needs timm: pip install "svda-analysis\[timm\]"'):
        open_model("timm:vit_tiny_patch16_224")


def test_preprocessing_decides_what_the_model_sees(folder):
    seen = []

    class Watch(nn.Module):
        num_prefix_tokens = 0

        def forward(self, x):
            seen.append(x)
            x = nn.functional.avg_pool2d(x, 4).flatten(2).transpose(1, 2)[:, None]
            return nn.functional.scaled_dot_product_attention(x, x, x).mean((1, 2))

    own = Preprocessing(image_size=16, resize=16, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    analyze(Watch(), f"imagefolder:{folder}", indicators=["attention_entropy"], preprocessing=own, examples=0)
    assert seen[0].shape[1:] == (3, 16, 16)
    assert 0 <= seen[0].min() <= seen[0].max() <= 1


def test_the_command_line_prints_and_overrides_preprocessing(own_module, folder, tmp_path, capsys):
    arguments = [own_module, "--data", f"imagefolder:{folder}", "--out", str(tmp_path / "out")]
    words = ("image_size=28", "mean=0,0,0", "std=1,1,1")
    arguments += [*(x for word in words for x in ("--preprocess", word)), "--indicators", "attention_entropy"]
    with pytest.raises(SystemExit) as stopped:
        analyze_main(arguments)
    assert stopped.value.code == 0
    assert "preprocessing: 28 x 28 from a shorter side of 32" in capsys.readouterr().out.replace("\n", " ")
    with pytest.raises(SystemExit) as stopped:
        analyze_main([*arguments, "--preprocess", "size=3"])
    assert stopped.value.code == 2
    assert "--preprocess must be like image_size=224" in capsys.readouterr().err


def test_runs_of_one_recipe_share_a_name():
    def run(kind, seed, **recipe):
        model = ViT(ViTConfig(attention=kind))
        known = Checkpoint(config=model.config, model={}, epoch=1, recipe={"seed": seed, **recipe})
        return {"model": model, "checkpoint": known}

    def names(*pairs):
        return run_names([Subject(name=Path(path).stem, spec=path, **found) for path, found in pairs])

    assert names(("a/vit_s0.pt", run("dot", 0)), ("a/vit_s1.pt", run("dot", 1)), ("a/svda_s0.pt", run("svda", 0))) == [
        "vit",
        "vit",
        "svda",
    ]
    assert names(("x.pt", run("dot", 0)), ("y.pt", run("dot", 1))) == ["x", "x"]
    assert names(("a/vit_s0.pt", run("dot", 0)), ("b/vit_s0.pt", run("dot", 0, lr=1))) == ["vit", "b/vit"]
    assert names(("a/vit.pt", run("dot", 0)), ("b/vit.pt", run("dot", 0, lr=1))) == ["vit", "b/vit"]
    assert names(("vit.pt", run("dot", None)), ("other.pt", run("dot", None))) == ["vit", "other"]


def test_runs_of_one_recipe_share_a_name_whichever_version_wrote_them():
    """An older file lacks the fields that came later, whose usual values change nothing."""
    kept = [field.name for field in dataclasses.fields(TrainConfig) if field.name not in ("schedule", "beta2")]

    def run(seed, **changes):
        recipe = dataclasses.asdict(TrainConfig(seed=seed, **changes))
        model = ViT(ViTConfig(depth=1, dim=12, heads=2))
        old = {key: recipe[key] for key in kept} if seed == 0 else recipe
        known = Checkpoint(config=model.config, model={}, epoch=1, recipe=old)
        return Subject(name=f"vit_s{seed}", spec=f"a/vit_s{seed}.pt", model=model, checkpoint=known)

    assert run_names([run(0), run(1)]) == ["vit", "vit"]
    assert run_names([run(0), run(1, schedule="constant")]) == ["vit", "a/vit"]


def test_compressed_runs_of_one_recipe_share_a_name():
    """Their sizes differ from seed to seed; whole runs, and runs compressed otherwise, are other models."""

    def run(name, seed, **changes):
        model = ViT(ViTConfig(depth=1, dim=12, heads=2, **{"attention": "svda", **changes}))
        known = Checkpoint(config=model.config, model={}, epoch=1, recipe={"seed": seed, "lr": 1})
        return Subject(name=name, spec=f"a/{name}.pt", model=model, checkpoint=known)

    kept = [{"score_dims": ((at + 1, 2),), "norm_dims": ((1, at),), "sigma_form": "linear"} for at in range(3)]
    names = [f"svda_s{at}_b30" for at in range(3)]
    pairs = [run(name, at, **kept[at]) for at, name in enumerate(names)]
    assert run_names(pairs) == ["svda_b30"] * 3
    assert run_names([run("x", 0, **kept[0]), run("y", 1, **kept[1])]) == ["x", "x"]
    whole = [run("svda_s0", 0, sigma_form="linear"), run("svda_s1", 1, sigma_form="linear")]
    assert run_names([*pairs[:2], *whole]) == ["svda_b30", "svda_b30", "svda", "svda"]
    assert run_names([pairs[0], whole[1]]) == ["svda_b30", "svda"]
    assert run_names([pairs[0], run("svda_s1_e90", 1, **kept[1])]) == ["svda_b30", "svda_e90"]
    forms = [run("svda_s0", 0, sigma_form="linear"), run("svda_s1", 1, sigma_form="shape")]
    assert run_names(forms) == ["svda", "a/svda"]
    assert run_names([run("svda_s0_b30", 0), run("vit_s1_b30", 1, attention="dot")]) == ["svda_s0_b30", "vit_s1_b30"]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"mean": (0.5,)}, "as many numbers each, got 1 and 0"),
        ({"mean": (0.5,), "std": (0.5, 0.5)}, "as many numbers each, got 1 and 2"),
        ({"mean": (0.5,), "std": (0.0,)}, "std above 0"),
        ({"mean": (float("nan"),), "std": (1.0,)}, "must be finite"),
    ],
)
def test_a_normalisation_that_is_none_is_refused(fields, message):
    with pytest.raises(InputError, match=message):
        open_model(ViT(ViTConfig(dim=24, depth=1, heads=2)), preprocessing=fields)


def test_a_folder_gives_its_finished_checkpoints_of_one_data_set(tiny, tmp_path):
    (tmp_path / "b").mkdir()
    done = load(tiny["svda"])
    save(done, tmp_path / "b" / "svda_s0.pt")
    save(dataclasses.replace(done, recipe={**done.recipe, "epochs": 9}), tmp_path / "early.pt")
    (tmp_path / "text.pt").write_text("no checkpoint")
    (tmp_path / "notes.txt").write_text("left alone")
    found, left_out = open_folder(tmp_path)
    assert [one.spec for one in found] == [str(tmp_path / "b" / "svda_s0.pt")]
    assert left_out[0] == f"left out: {tmp_path / 'early.pt'}, epoch 1 of 9"
    assert left_out[1].startswith(f"left out: {tmp_path / 'text.pt'} is not a checkpoint")
    save(dataclasses.replace(done, data={**done.data, "name": "cifar10"}), tmp_path / "other.pt")
    with pytest.raises(InputError, match="must hold checkpoints of one data set, got cifar10, fashion_mnist"):
        open_folder(tmp_path)


def test_a_folder_without_checkpoints_says_what_else_it_may_be(tmp_path):
    with pytest.raises(InputError, match=r"no finished checkpoint \(\*.pt\) in "):
        open_folder(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(InputError, match=f"hf:{tmp_path} opens what save_pretrained wrote"):
        open_folder(tmp_path)
