"""Converted models in files: what they remember, and what is refused."""

import dataclasses
import os
import zipfile

import pytest
import torch
from converted_cases import HF, answer, images, made, ours

from svda_analysis.checkpoint import Learned
from svda_analysis.conversion import convert
from svda_analysis.converted import (
    CONVERTED,
    Base,
    base_of,
    conversion_of,
    is_converted,
    learned_of,
    load_converted,
    preprocessing_fields,
    preprocessing_of,
    save_converted,
)
from svda_analysis.data.preprocessing import Preprocessing
from svda_analysis.errors import InputError
from svda_analysis.frames import TABLE_COLUMNS, make_frame
from svda_analysis.history_rows import rows_of_model
from svda_analysis.specs import open_model

TIMM = "timm:vit_tiny_patch16_224?img_size=32&patch_size=8&embed_dim=48&depth=3&num_heads=2"


def spec_of(library, folder):
    """A model with weights of its own, as a spec."""
    path = folder / "weights.pt"
    if library == "timm":
        torch.save(made("timm vit").state_dict(), path)  # of 5 classes
        return f"{TIMM}@{path}"
    if library == "hf":
        made("hf dinov2").save_pretrained(folder / "hf")
        return f"hf:{folder / 'hf'}"
    return "dot:vit_tiny?image_size=32&patch_size=8&dim=24&depth=3&heads=2"


@pytest.mark.parametrize("library", ["timm", "hf", "dot"])
def test_a_file_is_opened_by_itself(library, tmp_path):
    spec = spec_of(library, tmp_path)
    model = convert(spec, blocks="last:2", start="weights", images=images())
    save_converted(model, tmp_path / "converted.pt")
    for left in [*tmp_path.glob("hf/*"), *tmp_path.glob("weights.pt")]:
        left.unlink()  # what it was made of is not needed
    found = load_converted(tmp_path / "converted.pt")
    assert torch.equal(answer(found, images()), answer(model.eval(), images()))
    assert not found.training
    subject = open_model(tmp_path / "converted.pt")
    assert subject.attention == "svda"
    assert subject.name == "converted"
    want = dataclasses.replace(open_model(spec).preprocessing, processor=None) if library == "dot" else None
    assert want is None or subject.preprocessing == want
    again = convert(tmp_path / "converted.pt", to="cosine", blocks="all")
    save_converted(again, tmp_path / "again.pt")
    assert torch.equal(answer(load_converted(tmp_path / "again.pt"), images()), answer(again, images()))


def test_arguments_and_classes_of_a_spec_are_remembered(tmp_path):
    model = open_model(spec_of("timm", tmp_path)).model
    assert base_of(model, f"{TIMM}@weights.pt") == Base(spec=f"{TIMM}&num_classes=5")
    assert base_of(model, "timm:vit_tiny_patch16_224") == Base(spec="timm:vit_tiny_patch16_224")
    assert base_of(model, None) == base_of(model, "file.pt") == Base()
    assert base_of(ours(), None).config["dim"] == 24


def test_a_module_of_ones_own_is_given_as_base(tmp_path):
    path = tmp_path / "own.pt"
    model = convert(made("torchvision vit"), blocks="last:1")
    save_converted(model, path)
    with pytest.raises(InputError, match="module of one's own: give that as base"):
        load_converted(path)
    base = made("torchvision vit")
    found = load_converted(path, base)
    assert torch.equal(found(images()), model(images()))
    assert not hasattr(base, "conversion")
    with pytest.raises(InputError, match="holds weights that do not fit"):
        load_converted(path, _wider())


def _wider():
    import torchvision

    return torchvision.models.VisionTransformer(
        image_size=32, patch_size=8, num_layers=3, num_heads=2, hidden_dim=48, mlp_dim=48, num_classes=5
    )


def test_a_file_runs_no_code_of_a_module_that_it_names(tmp_path):
    model = convert(made("timm vit"), blocks="last:1")
    base = Base(spec="module:antigravity:fly")
    model.conversion = dataclasses.replace(conversion_of(model), base=base)
    save_converted(model, tmp_path / "a.pt")
    with pytest.raises(InputError, match="made of module:antigravity:fly: give what that makes as base"):
        load_converted(tmp_path / "a.pt")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: c.update(kind="other"), "is no converted model"),
        (lambda c: c.update(format=9), "has format 9, this version reads 1"),
        (lambda c: c["model"].popitem(), "is damaged: its tensors"),
        (lambda c: c["conversion"].update(sites={"blocks.7.attention": {"kind": "svda"}}), "damaged converted model"),
        (lambda c: c["conversion"].update(sites={"blocks.0.attention": {"kind": "tanh"}}), "attention must be one of"),
        (lambda c: c["conversion"]["base"]["config"].update(depth=10**9), "depth must be"),
        (lambda c: c.pop("conversion"), "damaged converted model"),
    ],
)
def test_damaged_and_foreign_files_are_refused(change, words, tmp_path):
    path = tmp_path / "a.pt"
    save_converted(convert(ours(), blocks="last:1"), path)
    content = torch.load(path, weights_only=True)
    change(content)
    torch.save(content, path)
    with pytest.raises(InputError, match=words) as refused:
        load_converted(path)
    assert "\n" not in str(refused.value)


def test_which_files_are_converted_models(tmp_path):
    save_converted(convert(ours(), blocks="last:1"), tmp_path / "a.pt")
    torch.save(ours().state_dict(), tmp_path / "b.pt")
    (tmp_path / "c.pt").write_text("text")
    assert is_converted(tmp_path / "a.pt")
    os.mkfifo(tmp_path / "pipe.pt")  # it would be waited for
    with zipfile.ZipFile(tmp_path / "grows.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", CONVERTED.encode() + bytes(10**6))  # it is not unpacked to be looked into
    names = ("b.pt", "c.pt", "none.pt", ".", "pipe.pt", "grows.pt")
    assert not any(is_converted(tmp_path / name) for name in names)


def test_a_configuration_of_transformers_makes_its_model_again(tmp_path):
    transformers = pytest.importorskip("transformers", reason="transformers is optional")
    config = transformers.ViTConfig(**HF, id2label={0: "cat", 1: "dog"})
    base = Base(hf={"name": "ViTForImageClassification", "config": config.to_dict()})
    model = base.make()
    assert model.config.id2label == {0: "cat", 1: "dog"}
    with pytest.raises(InputError, match="no model of transformers itself"):
        Base(hf={"name": "AutoConfig", "config": config.to_dict()}).make()
    with pytest.raises(InputError, match="hidden_size must be at most"):
        Base(hf={"name": "ViTModel", "config": {**config.to_dict(), "hidden_size": 10**9}}).make()


def test_a_way_with_images_comes_back():
    way = Preprocessing(image_size=(32, 64), resize=(36, 70), mean=(0.5,), std=(0.25,), interpolation="bicubic")
    model = convert(made("timm vit"), blocks="last:1")
    found = dataclasses.replace(conversion_of(model), preprocessing=preprocessing_fields(way))
    assert preprocessing_of(found) == way


def test_what_was_not_converted_is_not_saved(tmp_path):
    with pytest.raises(InputError, match="model must be one that convert made, got ViT"):
        save_converted(ours(), tmp_path / "a.pt")
    with pytest.raises(InputError, match="no such file"):
        load_converted(tmp_path / "none.pt")


def test_a_base_with_other_classes_is_made_with_them(tmp_path):
    names = ("cat", "dog")
    assert Base(spec="timm:a?num_classes=5&depth=2").with_classes(names).spec == "timm:a?depth=2&num_classes=2"
    assert Base(spec="timm:a").with_classes(names).spec == "timm:a?num_classes=2"
    assert Base(config={"dim": 8}).with_classes(names).config == {"dim": 8, "num_classes": 2}
    assert Base(hf={"name": "A", "config": {}}).with_classes(names).hf["config"]["id2label"] == {0: "cat", 1: "dog"}
    assert Base().with_classes(names) == Base()


def test_what_was_learned_is_in_the_file(tmp_path):
    model = convert(ours(), blocks="last:1")
    history = rows_of_model({"model": "a", "seed": 3, "epoch": 2}, "test", {"accuracy": {"mean": 0.5}}, 8)
    about = {"epoch": 2, "recipe": {"seed": 3}, "data": {"name": "sample", "classes": ["a", "b"]}}
    model.learned = Learned(**about, history=history, versions={})
    save_converted(model, tmp_path / "a.pt")
    found = learned_of(load_converted(tmp_path / "a.pt"))
    assert (found.epoch, found.seed, found.data) == (2, 3, about["data"])
    assert found.history.equals(history)
    subject = open_model(tmp_path / "a.pt")
    assert (subject.epoch, subject.seed, subject.classes) == (2, 3, ("a", "b"))
    assert subject.history.equals(history)
    assert subject.checkpoint is None


@pytest.mark.parametrize(
    "broken", [{"epoch": -1}, {"epoch": "2"}, {"data": 3}, {"history": None}, {"recipe": {"a": {}}}]
)
def test_what_was_learned_is_checked(broken, tmp_path):
    model = convert(ours(), blocks="last:1")
    model.learned = Learned(epoch=1, recipe={}, data={}, history=make_frame([], TABLE_COLUMNS), versions={})
    save_converted(model, tmp_path / "a.pt")
    content = torch.load(tmp_path / "a.pt", weights_only=True)
    content["learned"] |= broken
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(InputError, match="holds a damaged converted model"):
        load_converted(tmp_path / "a.pt")
