"""Specs taken apart, and models made with arguments."""

import json
import os
from pathlib import Path

import pytest
import torch
from torch import nn

from svda_analysis.analysis import analyze
from svda_analysis.errors import InputError
from svda_analysis.libraries import Spec, is_library, model_libraries
from svda_analysis.model import ViT, ViTConfig
from svda_analysis.specs import open_model


@pytest.mark.parametrize(
    ("rest", "name", "arguments", "weights"),
    [
        ("vit", "vit", {}, None),
        ("vit@w.pt", "vit", {}, "w.pt"),
        ("vit@a@b/w.pt", "vit", {}, "a@b/w.pt"),
        ("vit?img_size=224&num_classes=0@w.pt", "vit", {"img_size": 224, "num_classes": 0}, "w.pt"),
        ("vit?x=1e-3&y=true&z=none&s=avg", "vit", {"x": 1e-3, "y": True, "z": None, "s": "avg"}, None),
        ("a.b:f?k=1@w.pt?", "a.b:f", {"k": 1}, "w.pt?"),
    ],
)
def test_a_spec_is_name_arguments_and_weights(rest, name, arguments, weights):
    assert Spec.parse("timm", rest) == Spec("timm", name, arguments, weights and Path(weights))


def test_a_folder_of_hugging_face_is_taken_whole(tmp_path):
    folder = tmp_path / "me@home?x=1"
    folder.mkdir()
    assert Spec.parse("hf", str(folder)) == Spec("hf", str(folder), {}, None)


@pytest.mark.parametrize("words", ["img_size", "=3", "img size=3", "1x=3"])
def test_arguments_that_are_none_are_named(words):
    with pytest.raises(InputError, match="arguments must be like"):
        Spec.parse("timm", f"vit?{words}")


def test_what_may_stand_before_the_colon():
    assert {"timm", "torchvision", "hf", "module", "dot", "svda", "cosine"} <= set(model_libraries())
    assert is_library("svda")
    assert not is_library("c")


def test_models_of_timm_are_made_with_their_arguments(tmp_path):
    timm = pytest.importorskip("timm", reason="timm is optional")
    made = {"img_size": 64, "in_chans": 1, "num_classes": 0, "reg_tokens": 4}
    model = timm.create_model("vit_tiny_patch16_224", depth=1, **made)
    torch.save(model.state_dict(), tmp_path / "w.pt")
    words = "&".join(f"{key}={value}" for key, value in {**made, "depth": 1}.items())
    subject = open_model(f"timm:vit_tiny_patch16_224?{words}@{tmp_path / 'w.pt'}")
    assert subject.model(torch.randn(1, 1, 64, 64)).shape == (1, 192)
    assert (subject.preprocessing.image_size, subject.preprocessing.mean) == (64, None)
    with pytest.raises(InputError, match=r"w.pt holds weights that do not fit the model \(made otherwise\? say how"):
        open_model(f"timm:vit_tiny_patch16_224@{tmp_path / 'w.pt'}")
    with pytest.raises(InputError, match="timm:vit_tiny_patch16_224 cannot be made with wings=2: "):
        open_model("timm:vit_tiny_patch16_224?wings=2")


def test_other_libraries_take_arguments_too():
    assert open_model("svda:fashion_mnist?depth=1&dim=12").model.config.depth == 1
    assert open_model("torchvision:vit_b_16?image_size=32&num_classes=3").model.image_size == 32
    with pytest.raises(InputError, match="dim must be a multiple of heads 3, got 13"):
        open_model("svda:fashion_mnist?dim=13")


@pytest.mark.parametrize(
    "prefix", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.", "model.", "net."]
)
def test_the_prefix_of_a_wrapper_is_taken_off_the_names_of_weights(tmp_path, prefix):
    wanted = ViT(ViTConfig.preset("vit_tiny", image_size=32, depth=1)).state_dict()
    torch.save({"state_dict": {prefix + name: value for name, value in wanted.items()}}, tmp_path / "w.pt")
    got = open_model(f"dot:vit_tiny?image_size=32&depth=1@{tmp_path / 'w.pt'}").model.state_dict()
    assert all(torch.equal(got[name], value) for name, value in wanted.items())


def test_weights_beside_the_models_own_are_left_out_and_said(tmp_path):
    wanted = ViT(ViTConfig.preset("vit_tiny", image_size=32, depth=1)).state_dict()
    beside = {f"criterion.{at}": torch.ones(1) for at in range(5)}
    torch.save({**{f"student.{name}": value for name, value in wanted.items()}, **beside}, tmp_path / "w.pt")
    subject = open_model(f"dot:vit_tiny?image_size=32&depth=1@{tmp_path / 'w.pt'}")
    named = "criterion.0, criterion.1, criterion.2 and 2 more"
    said = f"5 weights of {tmp_path / 'w.pt'} are left out, which stand beside the model's: {named}"
    assert subject.left_out == said
    result = analyze(subject, torch.randn(2, 3, 32, 32), indicators=["attention_entropy"])
    assert result.warnings == (f"dot_vit_tiny: {said}",)
    torch.save(wanted, tmp_path / "own.pt")
    assert not open_model(f"dot:vit_tiny?image_size=32&depth=1@{tmp_path / 'own.pt'}").left_out


class Wrapper(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Linear(2, 2)


def test_a_prefix_that_is_the_models_own_stays(tmp_path):
    wanted = Wrapper().state_dict()
    for name, state in {"own": wanted, "wrapped": {f"module.{key}": value for key, value in wanted.items()}}.items():
        torch.save(state, tmp_path / f"{name}.pt")
        got = open_model(f"module:{__name__}:Wrapper@{tmp_path / name}.pt").model.state_dict()
        assert all(torch.equal(got[key], value) for key, value in wanted.items())


def test_models_of_torchvision_get_images_of_their_size():
    subject = open_model("torchvision:vit_b_32?image_size=64")
    assert (subject.preprocessing.image_size, subject.preprocessing.resize) == (64, 73)
    assert subject.model(torch.randn(1, 3, 64, 64)).shape == (1, 1000)


def test_names_of_timm_carry_a_tag_and_its_preprocessing():
    timm = pytest.importorskip("timm", reason="timm is optional")
    name = "vit_small_patch16_224.dino"
    assert open_model(f"timm:{name}").preprocessing.mean == timm.get_pretrained_cfg(name).mean
    assert open_model("timm:vit_small_patch16_224").preprocessing.mean != timm.get_pretrained_cfg(name).mean


# --- folders of Hugging Face ------------------------------------------------------------------------------------------

SIZES = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}


@pytest.fixture
def hugging_face(tmp_path):
    """A folder that save_pretrained wrote, its weights, and how to write changed ones."""
    transformers = pytest.importorskip("transformers", reason="transformers is optional")
    from safetensors.torch import load_file, save_file

    config = transformers.ViTConfig(**SIZES, image_size=32, patch_size=8)
    transformers.ViTForImageClassification(config).save_pretrained(tmp_path / "hf")
    path = tmp_path / "hf" / "model.safetensors"
    return tmp_path / "hf", load_file(path), lambda state: save_file(state, path, metadata={"format": "pt"})


def refusal(spec):
    with pytest.raises(InputError) as caught:
        open_model(spec)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_weights_that_do_not_fit_their_config_are_refused_as_strictly_as_ours(hugging_face, capfd):
    folder, state, write = hugging_face
    name = sorted(state)[5]
    rest = {key: value for key, value in state.items() if key != name}
    write(rest)
    assert "its weights do not fit the model: they lack " in refusal(f"hf:{folder}")
    write({**rest, f"{name}x": state[name]})
    assert "they lack " in refusal(f"hf:{folder}")
    write({**state, "another": torch.ones(1)})
    assert refusal(f"hf:{folder}").endswith("they have too much another")
    write({**state, name: torch.ones(3, 3)})
    assert "they have in another size " in refusal(f"hf:{folder}")
    capfd.readouterr()
    write(state)
    assert open_model(f"hf:{folder}").model.config.hidden_size == 24
    assert capfd.readouterr() == ("", "")


def test_an_adapter_alone_is_told_the_way_out(tmp_path):
    pytest.importorskip("transformers", reason="transformers is optional")
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(InputError, match=r"holds an adapter alone: merge_and_unload\(\) it, and save the model"):
        open_model(f"hf:{tmp_path}")


def test_a_folder_that_timm_wrote_for_the_hub_is_opened(tmp_path):
    timm = pytest.importorskip("timm", reason="timm is optional")
    pytest.importorskip("transformers", reason="transformers is optional")
    size = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 1, "num_heads": 2, "num_classes": 5}
    saved = timm.create_model("vit_tiny_patch16_224", **size)
    fields = {"architecture": "vit_tiny_patch16_224", "num_classes": 5, "model_args": size}
    fields["pretrained_cfg"] = {"input_size": [3, 32, 32], "mean": [0.1, 0.2, 0.3], "std": [1.0, 1.0, 1.0]}
    (tmp_path / "config.json").write_text(json.dumps(fields))
    with pytest.raises(InputError, match=r"it has no model.safetensors or pytorch_model.bin"):
        open_model(f"hf:{tmp_path}")
    torch.save(saved.state_dict(), tmp_path / "pytorch_model.bin")
    subject = open_model(f"hf:{tmp_path}")
    assert (subject.name, subject.preprocessing.mean) == (tmp_path.name, (0.1, 0.2, 0.3))
    assert all(torch.equal(value, saved.state_dict()[name]) for name, value in subject.model.state_dict().items())


def test_encoders_are_opened_without_the_pooler_that_they_were_saved_without(tmp_path):
    transformers = pytest.importorskip("transformers", reason="transformers is optional")
    config = transformers.ViTConfig(**SIZES, image_size=32, patch_size=8)
    for pooled in (False, True):
        saved = transformers.ViTModel(config, add_pooling_layer=pooled)
        saved.save_pretrained(tmp_path / str(pooled))
        model = open_model(f"hf:{tmp_path / str(pooled)}").model
        assert (model.pooler is not None) == pooled
        assert all(torch.equal(value, saved.state_dict()[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"num_hidden_layers": 10**9}, "num_hidden_layers must be at most 1000"),
        ({"hidden_size": 2**17}, "has at most 2,147,483,648 parameters"),
        ({"hidden_size": "wide"}, "cannot be loaded"),
        ({"patch_size": 0}, "division"),
        ({"architectures": ["pipeline"]}, "'pipeline' is no model of transformers itself"),
        ({"architectures": ["OwnViT"]}, "code in a folder is not run"),
        ({"model_type": "own", "auto_map": {"AutoConfig": "own.Config"}}, "cannot be loaded"),
        ({"num_hidden_layers": 3}, "they lack "),
        ({"num_hidden_layers": 1}, "they have too much "),
    ],
)
def test_a_config_that_does_not_fit_is_refused_in_one_line(hugging_face, fields, said):
    folder = hugging_face[0]
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **fields}))
    (folder / "own.py").write_text(f"open({str(folder / 'ran')!r}, 'w')\nclass Config: pass\n")
    assert said in refusal(f"hf:{folder}")
    assert not (folder / "ran").exists()


def test_damaged_files_of_a_folder_are_refused_in_one_line(hugging_face):
    folder, state, _ = hugging_face
    whole = (folder / "model.safetensors").read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"\xff" * 100, whole[:8] + b"[" * 50 + whole[58:]):
        (folder / "model.safetensors").write_bytes(content)
        refusal(f"hf:{folder}")
    (folder / "model.safetensors").unlink()
    os.mkfifo(folder / "model.safetensors")
    assert "is a pipe" in refusal(f"hf:{folder}")
    (folder / "model.safetensors").unlink()
    torch.save(state, folder / "pytorch_model.bin")
    open_model(f"hf:{folder}")
    rotten = bytearray((folder / "pytorch_model.bin").read_bytes())
    rotten[rotten.index(bytes(state["classifier.weight"].numpy().tobytes()[:32])) + 3] ^= 64
    (folder / "pytorch_model.bin").write_bytes(rotten)
    assert "checksum of its member" in refusal(f"hf:{folder}")
    for content in ("[" * 10**5, "3", "{", '{"model_type": 3}'):
        (folder / "config.json").write_text(content)
        refusal(f"hf:{folder}")


@pytest.mark.parametrize("words", ["pretrained=true", "checkpoint_path=w.pt", "pretrained_cfg=x"])
def test_weights_come_as_a_file_that_is_checked(words):
    pytest.importorskip("timm", reason="timm is optional")
    assert "takes weights as @FILE" in refusal(f"timm:vit_tiny_patch16_224?{words}")


@pytest.mark.parametrize("words", ["depth=100000000", "embed_dim=12288", "img_size=100000", "num_classes=99999999999"])
def test_numbers_that_no_model_has_are_refused_before_their_memory_is_taken(words):
    pytest.importorskip("timm", reason="timm is optional")
    assert "must be at most" in (said := refusal(f"timm:vit_tiny_patch16_224?{words}")) or "has at most" in said


def test_weights_of_another_kind_of_number_are_refused(tmp_path):
    state = ViT(ViTConfig.preset("vit_tiny", image_size=32, depth=1)).state_dict()
    torch.save({**state, "cls_token": state["cls_token"].int()}, tmp_path / "w.pt")
    assert "cls_token holds torch.int32" in refusal(f"dot:vit_tiny?image_size=32&depth=1@{tmp_path / 'w.pt'}")
    torch.save({**state, "cls_token": torch.zeros(1).expand(1, 1, 192)}, tmp_path / "w.pt")
    assert "no plain tensor as 'cls_token'" in refusal(f"dot:vit_tiny?image_size=32&depth=1@{tmp_path / 'w.pt'}")


@pytest.mark.parametrize("spec", ["timm:vit_tiny_patch16_224", "torchvision:vit_b_16", "dot:vit_tiny"])
@pytest.mark.parametrize("weight", [torch.tensor(1.0), torch.zeros(10**9, 0)])
def test_a_classifier_that_is_none_asks_for_no_memory(spec, weight, tmp_path):
    name = "heads.head" if spec.startswith("torchvision") else "head"
    if spec.startswith("timm"):
        pytest.importorskip("timm", reason="timm is optional")
    torch.save({f"{name}.weight": weight}, tmp_path / "w.pt")
    assert "holds weights that do not fit the model" in refusal(f"{spec}@{tmp_path / 'w.pt'}")


def test_more_classes_than_any_model_has_are_refused(tmp_path):
    torch.save({"head.weight": torch.zeros(10**6, 1, dtype=torch.bool)}, tmp_path / "w.pt")
    assert "head.weight: num_classes must be at most 131072" in refusal(f"dot:vit_tiny@{tmp_path / 'w.pt'}")


@pytest.mark.parametrize("name", ["attn_implementation", "_attn_implementation", "_attn_implementation_internal"])
def test_no_attention_of_others_is_fetched_even_to_look_at_the_size(hugging_face, name, monkeypatch):
    modeling = pytest.importorskip("transformers.modeling_utils")
    for function in ("lazy_import_flash_attention", "load_and_register_attn_kernel"):  # by version
        if hasattr(modeling, function):
            monkeypatch.setattr(modeling, function, lambda *_, **__: pytest.fail("code was fetched"))
    monkeypatch.setattr(modeling, "is_kernels_available", lambda *_: True, raising=False)
    folder = hugging_face[0]
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, name: "flash_attention_2"}))
    assert open_model(f"hf:{folder}").model.config._attn_implementation == "sdpa"


def test_a_pickle_in_a_folder_is_refused_and_never_run(hugging_face, tmp_path):
    folder = hugging_face[0]
    (folder / "model.safetensors").unlink()
    torch.save({"a": Harm(tmp_path / "ran")}, folder / "pytorch_model.bin")
    assert "pytorch_model.bin was refused: it holds " in (said := refusal(f"hf:{folder}"))
    assert "loading it could run code" in said
    (folder / "pytorch_model.bin").rename(folder / "part.bin")
    (folder / "pytorch_model.bin.index.json").write_text('{"weight_map": {"a": "part.bin"}}')
    assert "part.bin was refused: it holds " in refusal(f"hf:{folder}")
    assert not (tmp_path / "ran").exists()


class Harm:
    """What leaves a file behind when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")
