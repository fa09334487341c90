"""Folders of Hugging Face and timm: nothing in them is run, fetched, waited for or read from elsewhere."""

import json
import os
import re
import warnings
from fractions import Fraction

import pytest
import torch

from svda_analysis.errors import InputError
from svda_analysis.model_folders import check_model_folder, check_numbers


@pytest.fixture
def folder(tmp_path):
    """What is read of one beside its weights."""
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "vit", "hidden_size": 8}))
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"size": {"height": 16, "width": 16}}))
    (tmp_path / "model.safetensors").write_bytes(b"x")  # safetensors itself reads and checks it
    return tmp_path


def change(path, **fields):
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def refused(folder, said):
    with pytest.raises(InputError, match=re.escape(said)) as caught:
        check_model_folder(folder)
    assert "\n" not in str(caught.value)


def test_a_sound_folder_gives_its_config(folder):
    (folder / "README.md").touch()
    (folder / "training_args.bin").write_bytes(b"not read")
    assert check_model_folder(folder) == {"model_type": "vit", "hidden_size": 8}


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"attn_implementation": "someone/kernel"}, "must not name code of the hub, got attn_implementation"),
        ({"_attn_implementation": {"vision_config": "a/b"}}, "must not name code of the hub"),
        ({"vision_config": {"_attn_implementation_internal": 1, "experts_implementation": "a/b:c"}}, "code of the hub"),
        ({"quantization_config": {"quant_method": "fp8"}}, "must not name quantization_config"),
        ({"text_config": {"quantization_config": {"load_in_8bit": True}}}, "must not name quantization_config"),
        ({"transformers_weights": "../other.bin"}, "must not name transformers_weights"),
        ({"num_hidden_layers": 10**6}, "config.json: num_hidden_layers must be at most 1000"),
        ({"vision_config": {"hidden_size": 10**9}}, "config.json: hidden_size must be at most 131072"),
    ],
)
def test_a_config_that_names_code_other_files_or_no_model_is_refused(folder, fields, said):
    change(folder / "config.json", **fields)
    refused(folder, said)


def test_what_is_plain_in_a_config_is_let_be(folder):
    fields = {"attn_implementation": "flash_attention_2", "quantization_config": None, "eos_token_id": 10**9}
    change(folder / "config.json", **fields)
    assert check_model_folder(folder)["attn_implementation"] == "flash_attention_2"


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"size": {"height": 10**5, "width": 4}}, "preprocessor_config.json: height must be at most 4096"),
        ({"crop_size": 10**6}, "crop_size must be at most 4096"),
        ({"pad_size": [10**6, 1]}, "pad_size must be at most 4096"),
    ],
)
def test_sizes_of_images_that_take_gigabytes_are_refused(folder, fields, said):
    change(folder / "preprocessor_config.json", **fields)
    refused(folder, said)
    change(folder / "preprocessor_config.json", size={"longest_edge": 12845056}, crop_size=None, pad_size=None)
    check_model_folder(folder)


@pytest.mark.parametrize("name", ["merges.txt", "spiece.model", "model.safetensors", "tokenizer.json", "notes"])
def test_a_pipe_is_not_waited_for_whatever_its_name(folder, name):
    (folder / name).unlink(missing_ok=True)
    os.mkfifo(folder / name)
    refused(folder, "is a pipe, a socket or a device")


def test_a_pipe_in_a_folder_below_is_not_waited_for(folder):
    (folder / "additional_chat_templates").mkdir()
    os.mkfifo(folder / "additional_chat_templates" / "a.jinja")
    refused(folder, "a.jinja is a pipe")


def test_an_adapter_to_another_model_is_refused(folder):
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "someone/else"}')
    refused(folder, "it holds an adapter to another model")


@pytest.mark.parametrize("name", ["shard-1.bin", "pytorch_model-00001-of-00002.bin", "other.pt"])
def test_every_file_that_an_index_names_is_checked_as_weights(folder, name):
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": {"a": name}}))
    refused(folder, "no such file")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scripts are of the past, and files of them are not
        torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), folder / name)
    refused(folder, "it holds code")
    torch.save({"a": Fraction(1)}, folder / name)
    refused(folder, "it holds fractions.Fraction, and loading it could run code")
    torch.save({"a": torch.ones(2)}, folder / name)
    check_model_folder(folder)


@pytest.mark.parametrize("name", ["../w.bin", "/etc/passwd", "a/b.bin", "..", ""])
def test_an_index_names_files_in_the_folder_alone(folder, name):
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": name}}))
    refused(folder, "must name files in the folder itself, got ")


@pytest.mark.parametrize("content", ["[]", "{", '{"weight_map": [1]}', "[" * 10**5])
def test_an_index_that_is_none_is_refused(folder, content):
    (folder / "pytorch_model.bin.index.json").write_text(content)
    with pytest.raises((InputError, ValueError, RecursionError)):  # libraries.py says what a library raises in one line
        check_model_folder(folder)


def test_numbers_are_found_wherever_they_stand():
    check_numbers({"a": [{"b": 2**17}], "vocab_size": 2**21, "depth": 1000, "flag": True, "x": 1e30}, "here")
    with pytest.raises(InputError, match=r"here: b must be at most 131072, got 1.000e\+06"):
        check_numbers({"a": [{"b": 10**6}]}, "here")
