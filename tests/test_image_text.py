"""Models of images and texts as classifiers of images, against what they themselves answer."""

import json

import pytest
import torch
import torch.nn.functional as F
from making import write_image

from svda_analysis.analysis import analyze
from svda_analysis.attribution import attribute
from svda_analysis.cli import main
from svda_analysis.errors import InputError
from svda_analysis.specs import open_model
from svda_analysis.tap import records

transformers = pytest.importorskip("transformers", reason="transformers is optional")
TEXTS = ("a dog", "a cat")
TOWER = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}


@pytest.fixture(scope="module", params=["clip", "siglip"])
def folder(request, tmp_path_factory):
    """A tiny two-tower model with a tokenizer of a few words."""
    place = tmp_path_factory.mktemp(request.param)
    text = {**TOWER, "vocab_size": 8, "max_position_embeddings": 6, "bos_token_id": 1, "eos_token_id": 2}
    config, model = {
        "clip": (transformers.CLIPConfig, transformers.CLIPModel),
        "siglip": (transformers.SiglipConfig, transformers.SiglipModel),
    }[request.param]
    options = {"projection_dim": 16} if request.param == "clip" else {}
    if request.param == "siglip":
        text["projection_size"] = 24
    vision = {**TOWER, "image_size": 32, "patch_size": 8}
    torch.manual_seed(0)
    made = model(config(text_config={**text, "pad_token_id": 0}, vision_config=vision, **options)).eval()
    made.save_pretrained(place)
    _write_tokenizer(place)
    return place, made


def _write_tokenizer(place):
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    words = {"<pad>": 0, "<s>": 1, "</s>": 2, "a": 3, "dog": 4, "cat": 5, "<unk>": 6}
    made = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)])
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="<pad>", unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )
    fast.save_pretrained(place)
    settings = json.loads((place / "tokenizer_config.json").read_text())
    (place / "tokenizer_config.json").write_text(json.dumps({**settings, "tokenizer_class": "PreTrainedTokenizerFast"}))


def test_outputs_are_the_models_own_similarities(folder):
    place, made = folder
    subject = open_model(f"hf:{place}", text=TEXTS)
    images = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    length = {"padding": "max_length", "max_length": 6} if "siglip" in str(place) else {"padding": True}
    tokens = transformers.AutoTokenizer.from_pretrained(place)(list(TEXTS), return_tensors="pt", **length)
    with torch.no_grad():
        wanted = made(pixel_values=images, **tokens).logits_per_image
        torch.testing.assert_close(subject.model(images), wanted)
    assert (subject.classes, subject.outputs, subject.preprocessing.image_size) == (TEXTS, 2, 32)


def test_maps_are_those_of_the_image_tower_for_a_text(folder):
    subject = open_model(f"hf:{folder[0]}", text=TEXTS)
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    assert len(records(subject.model, images)) >= 2
    for target in (0, 1):
        found = attribute(subject, images, method="saliency", target=target)
        pixels = images.clone().requires_grad_()
        features = folder[1].get_image_features(pixel_values=pixels)
        pooled = F.normalize(features if isinstance(features, torch.Tensor) else features.pooler_output, dim=-1)
        score = folder[1].logit_scale.exp() * pooled @ subject.model.embedded[target]
        (wanted,) = torch.autograd.grad(score.sum(), pixels)
        torch.testing.assert_close(found, wanted.abs().amax(1))


def test_texts_that_cannot_be_asked_are_named(folder):
    with pytest.raises(InputError, match=r"which takes input_ids: say the texts .*--text"):
        open_model(f"hf:{folder[0]}")
    with pytest.raises(InputError, match="text must be one or more texts"):
        open_model(f"hf:{folder[0]}", text=[""])
    with pytest.raises(InputError, match="text needs a model of images and texts that is named hf:FOLDER"):
        open_model(torch.nn.Linear(2, 2), text="a dog")


def test_no_text_is_cut_off_in_silence(folder):
    open_model(f"hf:{folder[0]}", text="a dog a cat")  # 6 tokens with the first and the last
    with pytest.raises(InputError, match="text must have at most 6 tokens for this model, got 7: 'a dog a cat a'"):
        open_model(f"hf:{folder[0]}", text=["a dog", "a dog a cat a"])


def test_a_folder_without_a_tokenizer_is_no_answer_to_a_text(folder, tmp_path):
    folder[1].save_pretrained(tmp_path)  # transformers would make an empty one
    with pytest.raises(InputError, match="its folder has no tokenizer, which text needs: one of "):
        open_model(f"hf:{tmp_path}", text=TEXTS)


def test_a_text_is_asked_from_the_command_line(folder, tmp_path, capsys):
    write_image(tmp_path / "a.png", (40, 32))
    words = ["--text", "a dog", "--methods", "rollout,relevance", "--out", str(tmp_path / "out")]
    with pytest.raises(SystemExit) as stop:
        main(["explain", f"hf:{folder[0]}", str(tmp_path / "a.png"), *words])
    assert not stop.value.code, capsys.readouterr().err
    assert (tmp_path / "out" / "explanations.png").is_file()


def test_indicators_are_of_the_image_tower_alone(folder):
    subject = open_model(f"hf:{folder[0]}", text=TEXTS)
    images = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    result = analyze(subject, images, indicators=["attention_entropy"], examples=1)
    assert sorted(result.table["layer"].unique()) == [0, 1]
    pooled = "siglip" in str(folder[0])
    assert any("1 call of one query that pools" in line for line in result.meta["warnings"]) == pooled
