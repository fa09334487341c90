"""What is damaged, and how: one function a class of damage. Each draws from its own seeded generator."""

from __future__ import annotations

import argparse
import contextlib
import copy
import importlib.util
import io
import json
import math
import os
import pickle
import random
import shutil
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib.pyplot  # noqa: F401  (it makes a folder for its fonts when it is first imported)
import numpy as np
import torch
from PIL import Image

from fuzz.harness import Case, SilentError
from svda_analysis.analysis import analyze
from svda_analysis.checkpoint import Checkpoint, load, save
from svda_analysis.cli import main
from svda_analysis.data import open_image
from svda_analysis.errors import InputError
from svda_analysis.frames import TABLE_COLUMNS, make_frame
from svda_analysis.model import ViT, ViTConfig
from svda_analysis.results import Analysis, Trace
from svda_analysis.specs import open_model
from svda_analysis.study.manifest import load_manifest

CONFIG = ViTConfig(depth=1, dim=8, heads=2, attention="svda")
SPEC = "svda:fashion_mnist?depth=1&dim=8&heads=2"
MANIFEST = """title = "x"
seeds = [0, 1]
attentions = ["dot", "svda"]
mixed_precision = "no"
[recipe]
epochs = 2
lr = 0.001
flip = false
[model]
depth = 1
dim = 8
heads = 2
[analysis]
images = 20
precision = 0.1
[datasets.fashion_mnist]
[variants.a]
shape_penalty = 0.5
"""
EXTREMES = (
    *(0, -1, 1, 2, 10**4, 10**8, 2**31, 2**63, 10**30, -(2**63), 0.5, -0.0, 1e-320, 1e308, math.nan, math.inf),
    *("", "x", "\n", "\x1b[31m", "é", "\u202e", "x" * 10**5, None, True, [], [[]], {}, [1] * 1000, {"a": {}}),
)


# --- sound files ------------------------------------------------------------------------------------------------------


def make_base(place: Path) -> None:
    """The sound files that the cases damage."""
    torch.manual_seed(0)
    model = ViT(CONFIG)
    state = {name: value + 0.1 * torch.randn_like(value) for name, value in model.state_dict().items()}
    moments = {"exp_avg": torch.ones(3), "exp_avg_sq": torch.ones(3), "step": torch.tensor(1.0)}
    rows = [{"model": "m", "indicator": "loss", "source": "train", "mean": 0.1, "n": 10, "epoch": 1}]
    save(
        Checkpoint(
            config=CONFIG,
            model=state,
            epoch=1,
            recipe={"seed": 0, "lr": 0.1, "dataset": "sample"},
            data={"name": "sample", "mean": [0.5], "std": [0.5], "classes": list("abcdefghij")},
            history=make_frame(rows, TABLE_COLUMNS),
            trace=Trace(np.array([1]), np.ones((1, 1, 2, 4), np.float32), np.ones((1, 1, 1, 49), np.float16)),
            optimizer={"state": {0: moments}, "param_groups": [{"lr": 0.1, "params": [0]}]},
        ),
        place / "c.pt",
    )
    torch.save(state, place / "w.pt")
    torch.save(state, place / "old.pt", _use_new_zipfile_serialization=False)
    if importlib.util.find_spec("safetensors"):
        from safetensors.torch import save_file

        save_file(state, place / "w.safetensors")
    if importlib.util.find_spec("transformers"):
        _make_model_folders(place)
    pixels = Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 24, 3), dtype=np.uint8))
    for suffix in ("png", "jpg", "gif", "bmp", "webp", "tif", "ppm"):
        pixels.save(place / f"image.{suffix}")
    analyze(place / "c.pt", torch.randn(4, 1, 28, 28), examples=2).save(place / "report")
    (place / "m.toml").write_text(MANIFEST)


def _make_model_folders(place: Path) -> None:
    """Small models as transformers and timm write them, with what is in them beside."""
    import transformers

    transformers.utils.logging.disable_progress_bar()
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    images = {"image_size": 16, "patch_size": 8}
    vit = transformers.ViTForImageClassification(transformers.ViTConfig(**sizes, **images, num_labels=3))
    words = {**sizes, "vocab_size": 300, "max_position_embeddings": 16, "eos_token_id": 1, "bos_token_id": 0}
    of_both = transformers.CLIPConfig(text_config=words, vision_config={**sizes, **images}, projection_dim=8)
    models = {"hf": vit, "clip": transformers.CLIPModel(of_both)}
    for name, model in models.items():
        model.save_pretrained(place / name)
        transformers.ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(place / name)
        torch.save(model.state_dict(), place / f"{name}.weights")
    _make_tokenizer(place / "clip")
    if importlib.util.find_spec("timm"):
        import timm

        small = {"img_size": 32, "depth": 1, "num_classes": 3}
        made = timm.create_model("vit_tiny_patch16_224", **small)
        timm.models.save_for_hf(made, place / "timm", model_args=small)
        torch.save(made.state_dict(), place / "timm.weights")


def _make_tokenizer(place: Path) -> None:
    """One of bytes, without merges."""
    letters = [chr(at) for at in range(33, 127)]
    words = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{letter}</w>" for letter in letters)]
    (place / "vocab.json").write_text(json.dumps({word: at for at, word in enumerate(words)}))
    (place / "merges.txt").write_text("#version: 0.2\n")
    (place / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "CLIPTokenizer"}))


# --- ways to damage ---------------------------------------------------------------------------------------------------


def flipped(rng: random.Random, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice([1, 1, 1, 2, 16])):
        changed[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def cut(rng: random.Random, data: bytes) -> bytes:
    """Cut off, with a hole of zeros, with a part twice, or with junk behind it."""
    at, more = sorted(rng.randrange(len(data)) for _ in range(2))
    hole, twice = data[:at] + bytes(more - at) + data[more:], data[:more] + data[at:]
    return rng.choice([data[:at], hole, twice, data + rng.randbytes(rng.randrange(1, 100)), data[at:]])


def members(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def pack(parts: list[tuple[str, bytes]], path: Path, packed: int = zipfile.ZIP_STORED) -> None:
    import warnings

    with warnings.catch_warnings(), zipfile.ZipFile(path, "w", packed) as archive:
        warnings.simplefilter("ignore")  # two members of one name
        for name, data in parts:
            archive.writestr(name, data)


def same(found: dict[str, torch.Tensor], base: Path, what: str) -> None:
    """Raise :class:`SilentError` unless the weights are those that were saved."""
    wanted = torch.load(base / "w.pt", weights_only=True)
    if found.keys() != wanted.keys() or not all(torch.equal(found[name], x) for name, x in wanted.items()):
        raise SilentError(f"{what} was read as other weights")


# --- checkpoints ------------------------------------------------------------------------------------------------------


def checkpoint_bits(rng: random.Random, base: Path, folder: Path) -> None:
    (folder / "c.pt").write_bytes(flipped(rng, (base / "c.pt").read_bytes()))
    same(load(folder / "c.pt").model, base, "a flipped bit")


def checkpoint_cuts(rng: random.Random, base: Path, folder: Path) -> None:
    (folder / "c.pt").write_bytes(cut(rng, (base / "c.pt").read_bytes()))
    same(load(folder / "c.pt").model, base, "a cut")


def checkpoint_members(rng: random.Random, base: Path, folder: Path) -> None:
    """Swapped, dropped, doubled, renamed, changed or packed, each under whole checksums."""
    parts = list(members(base / "c.pt").items())
    one, other = rng.sample(range(len(parts)), 2)
    what = rng.choice(["swap", "drop", "double", "rename", "change", "pickle", "pack", "extra"])
    if what == "swap":
        parts[one], parts[other] = (parts[one][0], parts[other][1]), (parts[other][0], parts[one][1])
    elif what == "drop":
        del parts[one]
    elif what == "double":
        parts.append((parts[one][0], parts[other][1]))
    elif what == "rename":
        parts[one] = (parts[one][0] + rng.choice(["x", "/../../x", "\n", ""]), parts[one][1])
    elif what == "change":
        parts[one] = (parts[one][0], flipped(rng, parts[one][1] or b"\0"))
    elif what == "pickle":
        parts = [(name, flipped(rng, data) if name.endswith("data.pkl") else data) for name, data in parts]
    elif what == "extra":
        parts.append((f"archive/data/{rng.randrange(10**6)}", bytes(10**6)))
    pack(parts, folder / "c.pt", zipfile.ZIP_DEFLATED if what == "pack" else zipfile.ZIP_STORED)
    same(load(folder / "c.pt").model, base, f"a member ({what})")


def checkpoint_tensors(rng: random.Random, base: Path, folder: Path) -> None:
    content = torch.load(base / "c.pt", weights_only=True)
    if rng.random() < 0.5:
        del content["digest"]  # as a file of an earlier version
    damage_tensors(rng, content["model"])
    torch.save(content, folder / "c.pt")
    check_shapes(load(folder / "c.pt").model)


def damage_tensors(rng: random.Random, state: dict[str, Any]) -> None:
    name = rng.choice(sorted(state))
    value = state.pop(name)
    ways: list[Callable[[], None]] = [
        lambda: None,
        lambda: state.update({name + rng.choice(["x", "", ".weight"]) + "y": value}),
        lambda: state.update({name: value.reshape(-1, 1)}),
        lambda: state.update({name: value.to(rng.choice([torch.float16, torch.int32, torch.complex64, torch.bool]))}),
        lambda: state.update({name: torch.full_like(value, rng.choice([math.nan, math.inf, -math.inf, 1e38]))}),
        lambda: state.update({name: torch.zeros(1).expand(10 ** rng.randrange(1, 12))}),
        lambda: state.update({name: value.flatten()[:1].expand(value.numel()).reshape(value.shape)}),
        lambda: state.update({name: value.to_sparse()}),
        lambda: state.update({name: torch.empty(value.shape, device="meta")}),
        lambda: state.update({name: rng.choice(EXTREMES)}),
        lambda: state.update({rng.choice([7, None, True, ""]): value}),
        lambda: state.update({name: value, "extra": value}),
    ]
    rng.choice(ways)()


def check_shapes(found: dict[str, torch.Tensor]) -> None:
    wanted = ViT(CONFIG).state_dict()
    if {k: (v.shape, v.dtype) for k, v in found.items()} != {k: (v.shape, v.dtype) for k, v in wanted.items()}:
        raise SilentError("weights that do not fit were taken")


def checkpoint_fields(rng: random.Random, base: Path, folder: Path) -> None:
    """Any value, of any kind and size, in any place; what loads must be of use."""
    content = torch.load(base / "c.pt", weights_only=True)
    places = [
        "epoch",
        "format",
        "kind",
        "digest",
        "optimizer",
        "history",
        "trace",
        "recipe",
        "data",
        "versions",
        "config",
    ]
    part = rng.choice(places)
    held = content[part]
    value = rng.choice([*EXTREMES, torch.ones(2)])
    if isinstance(held, dict) and rng.random() < 0.85:
        key = rng.choice([*held, "new", 3])
        if part == "history" and rng.random() < 0.7:
            value = [value]
        if part == "trace" and rng.random() < 0.7:
            value = torch.zeros(rng.choice([(1,), (0,), (1, 1), (1, 1, 1, 49), (2, 1, 1, 49), (1, 10**6)]))
        held[key] = value
    else:
        content[part] = value
    with contextlib.suppress(TypeError, ValueError, OverflowError):  # not every value can be written
        torch.save(content, folder / "c.pt")
    if not (folder / "c.pt").exists():
        return
    subject = open_model(folder / "c.pt")
    check_shapes(subject.model.state_dict())
    json.dumps([subject.identity, subject.data, subject.recipe])
    subject.history.to_csv(io.StringIO())


FOREIGN = ("os.system", "posix.system", "builtins.eval", "builtins.exec", "subprocess.Popen", "builtins.bytearray",
           "torch.hub.load", "runpy.run_path", "shutil.rmtree", "torch.FloatTensor", "builtins.open", "torch.load",
           "numpy.zeros", "_codecs.encode", "collections.Counter", "torch._utils._rebuild_tensor_v2")  # fmt: skip


def foreign_pickles(rng: random.Random, base: Path, folder: Path) -> None:
    module, _, name = rng.choice(FOREIGN).rpartition(".")
    command = f"touch {folder / 'ran'}".encode()
    argument = rng.choice([b"X" + struct.pack("<I", len(command)) + command, b"J\xff\xff\xff\x7f", b"K\x01", b"}"])
    body = b"\x80\x02c" + f"{module}\n{name}\n".encode() + argument + b"\x85R."
    if rng.random() < 0.3:
        body = pickle.dumps(_Calls(module, name, command.decode()), rng.choice([0, 2, 4]))
    path = folder / "c.pt"
    if rng.random() < 0.6:
        parts = members(base / "c.pt")
        pack([(key, body if key.endswith("data.pkl") else data) for key, data in parts.items()], path)
    else:
        path.write_bytes(body)
    rng.choice([load, lambda at: open_model(f"{SPEC}@{at}")])(path)
    raise SilentError("a foreign pickle was taken")


class _Calls:
    def __init__(self, module: str, name: str, argument: str) -> None:
        self.parts = module, name, argument

    def __reduce__(self) -> Any:
        module, name, argument = self.parts
        return getattr(importlib.import_module(module), name), (argument,)


def scripts(rng: random.Random, base: Path, folder: Path) -> None:
    """Archives as TorchScript writes them, whole or with one of its members in a checkpoint."""
    path = folder / "c.pt"
    parts = list(members(base / "c.pt").items())
    top = parts[0][0].split("/")[0]
    code = [(f"{top}/code/__torch__.py", b"op_version_set = 1\n"), (f"{top}/constants.pkl", b"\x80\x02).")]
    chosen = rng.sample(code, rng.randrange(1, 3))
    mixed = chosen + parts if rng.random() < 0.5 else parts + chosen
    pack([part for part in mixed if rng.random() < 0.95 or part in chosen], path)
    rng.choice([load, lambda at: open_model(f"{SPEC}@{at}")])(path)
    raise SilentError("an archive that holds code was taken")


# --- weights of others ------------------------------------------------------------------------------------------------


def weights(rng: random.Random, base: Path, folder: Path) -> None:
    state = torch.load(base / "w.pt", weights_only=True)
    damage_tensors(rng, state)
    nested: Any = rng.choice([state, {"state_dict": state}, {"model": {"state_dict": state}}, [state]])
    torch.save(nested, folder / "w.pt", _use_new_zipfile_serialization=rng.random() < 0.8)
    check_shapes(open_model(f"{SPEC}@{folder / 'w.pt'}").model.state_dict())


def weights_of_old_torch(rng: random.Random, base: Path, folder: Path) -> None:
    """They have no checksum: what loads has the names and shapes of the model."""
    (folder / "w.pt").write_bytes(rng.choice([flipped, cut])(rng, (base / "old.pt").read_bytes()))
    check_shapes(open_model(f"{SPEC}@{folder / 'w.pt'}").model.state_dict())


def safetensors(rng: random.Random, base: Path, folder: Path) -> None:
    data = (base / "w.safetensors").read_bytes()
    size = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + size])
    name = rng.choice(sorted(header))
    if rng.random() < 0.5:
        key = rng.choice(["dtype", "shape", "data_offsets"])
        values = [*EXTREMES, "F64", "I32", "BF16", [2**62, 2**62], [0, 2**63], [-1, 4], [8, 4], [0, 0]]
        header[name] = {**header[name], key: rng.choice(values)}
        with contextlib.suppress(ValueError):
            text = json.dumps(header).encode()
            data = struct.pack("<Q", len(text)) + text + data[8 + size :]
    elif rng.random() < 0.5:
        data = struct.pack("<Q", rng.choice([0, 1, 2**40, 2**63, 2**64 - 1, size - 1])) + data[8:]
    else:
        data = rng.choice([flipped, cut])(rng, data[: 8 + size]) + data[8 + size :]
    (folder / "w.safetensors").write_bytes(data)
    check_shapes(open_model(f"{SPEC}@{folder / 'w.safetensors'}").model.state_dict())


def model_folders(rng: random.Random, base: Path, folder: Path) -> None:
    """A folder of transformers or timm, or one of images and texts: any file of it damaged, or another beside it."""
    kind = rng.choice([name for name in ("hf", "hf", "clip", "timm") if (base / name).exists()])
    place = folder / kind
    shutil.copytree(base / kind, place)
    path = rng.choice(sorted(place.iterdir()))
    what = rng.random()
    if what < 0.05:
        path.unlink()
    elif what < 0.1:
        path.unlink()
        os.mkfifo(path)
    elif what < 0.3:
        _add_beside(rng, place, base)
    elif what < 0.45 or path.suffix != ".json":
        path.write_bytes(rng.choice([flipped, cut])(rng, path.read_bytes()))
    else:
        fields = json.loads(path.read_text())
        held = rng.choice([fields, *(value for value in fields.values() if isinstance(value, dict))])
        fresh = ["auto_map", "quantization_config", "attn_implementation", "transformers_weights", "pad_size", "new"]
        held[rng.choice([*held, *fresh])] = rng.choice([*EXTREMES, "a/b", {"height": 10**6, "width": 1}, ["evil.A"]])
        path.write_text(json.dumps(fields))
    (place / "evil.py").write_text(f"open({str(folder.parent / 'ran')!r}, 'w')\n")
    subject = open_model(f"hf:{place}", text=["a cat", "a dog"] if kind == "clip" else ())
    if (folder.parent / "ran").exists():
        raise SilentError("code in the folder was run")
    wanted = torch.load(base / f"{kind}.weights", weights_only=True)
    found = getattr(subject.model, "model", subject.model) if kind == "clip" else subject.model
    if {name: x.shape for name, x in found.state_dict().items()} != {name: x.shape for name, x in wanted.items()}:
        raise SilentError("weights that do not fit were taken")


def _add_beside(rng: random.Random, place: Path, base: Path) -> None:
    """A file that a library looks for by its name: an adapter, an index, other weights, a tokenizer."""
    harm = pickle.dumps(_Calls("os", "system", f"touch {place.parent.parent / 'ran'}"), 2)
    shard = rng.choice(["../c.pt", "shard.bin", "/etc/passwd", "a/b.bin", "", "model.safetensors"])
    index = json.dumps({"metadata": {}, "weight_map": rng.choice([{"a": shard}, {}, [], {"a": 3}, shard])})
    files = {
        "adapter_config.json": b'{"base_model_name_or_path": "/etc", "peft_type": "LORA"}',
        "pytorch_model.bin": harm,
        "pytorch_model.bin.index.json": index.encode(),
        "model.safetensors.index.json": index.encode(),
        "spiece.model": rng.randbytes(99),
        "added_tokens.json": rng.choice([b"{", b'{"x": -1}', b"[]"]),
        "generation_config.json": b'{"max_length": "x"}',
        "custom_generate": b"x",
    }
    if rng.random() < 0.5:  # else the sound one is read
        for sound in place.glob("*.safetensors"):
            sound.unlink()
    name = rng.choice(sorted(files))
    (place / name).write_bytes(files[name])
    (place / "shard.bin").write_bytes(rng.choice([harm, b"", (base / "w.pt").read_bytes()]))


def foreign_weights(rng: random.Random, base: Path, folder: Path) -> None:
    """Weights as training scripts leave them: tables in tables, settings, prefixes, odd names, a classifier that is
    none, in one of several libraries."""
    state = torch.load(base / "w.pt", weights_only=True)
    sound = rng.random() < 0.3
    if not sound:
        rng.choice([damage_tensors, _odd_names, _odd_classifier])(rng, state)
    around: Any = {"epoch": 1}
    around["self"] = around
    tables: list[Any] = [
        state,
        {"state_dict": state, "args": argparse.Namespace(lr=rng.choice(EXTREMES)), "best": np.float64(1)},
        {"module": {f"module.{name}": x for name, x in state.items()}, "optimizer": {"state": {0: around}}},
        {"model": state, "ema": state, "again": around},
        {rng.choice(["a\nb", "\x1b[31m", "x" * 10**4]): {"model": state}},
    ]
    path = folder / "w.pt"
    torch.save(rng.choice(tables), path, _use_new_zipfile_serialization=rng.random() < 0.8)
    libraries = [SPEC] * 3 + ["timm:vit_tiny_patch16_224?depth=1"] * bool(importlib.util.find_spec("timm"))
    spec = rng.choice(libraries)
    check_shapes(open_model(f"{spec}@{path}").model.state_dict())


def _odd_names(rng: random.Random, state: dict[str, Any]) -> None:
    name = rng.choice(sorted(state))
    state[rng.choice([f"module.{name}", f"{name}\n", "\x1b", "x" * 10**4, f"_orig_mod.{name}"])] = state.pop(name)


def _odd_classifier(rng: random.Random, state: dict[str, Any]) -> None:
    shape = rng.choice([(), (0,), (10**9, 0), (10**6, 1), (3,), (3, 8), (10, 8, 1)])
    state["head.weight"] = torch.zeros(shape, dtype=torch.bool if rng.random() < 0.5 else torch.float32)


# --- images, reports, manifests ---------------------------------------------------------------------------------------


def images(rng: random.Random, base: Path, folder: Path) -> None:
    data = rng.choice(sorted(base.glob("image.*"))).read_bytes()
    made: list[Callable[[], bytes]] = [
        lambda: flipped(rng, data),
        lambda: cut(rng, data),
        lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n(x) run showpage\n%%EOF\n",
        lambda: b"P6 %d %d 255\n" % (rng.choice([1, 10**9]), rng.choice([1, 10**9])),
        lambda: data[:16] + struct.pack(">II", 10 ** rng.randrange(9), 10 ** rng.randrange(9)) + data[24:],
        lambda: rng.randbytes(rng.randrange(300)),
    ]
    path = folder / f"x{rng.choice(['.png', '.jpg', '.tif', '.gif'])}"
    if rng.random() < 0.03:
        os.mkfifo(path)
    else:
        path.write_bytes(rng.choice(made)())
    if open_image(path).mode != "RGB":
        raise SilentError("an image of another mode")


def reports(rng: random.Random, base: Path, folder: Path) -> None:
    place = folder / "report"
    shutil.copytree(base / "report", place)
    path = rng.choice(sorted(place.iterdir()))
    data, what = path.read_bytes(), rng.random()
    if what < 0.05:
        path.unlink()
    elif what < 0.5 and path.suffix == ".csv":
        lines = path.read_text().split("\n")
        row = rng.randrange(len(lines) - 1)
        cells = lines[row].split(",")
        cells[rng.randrange(len(cells))] = str(rng.choice(EXTREMES)).replace("\n", "")
        lines[row] = ",".join(cells[: rng.choice([None, None, -1])])
        path.write_text("\n".join(lines))
    elif what < 0.7 and path.suffix == ".json":
        meta = json.loads(data)
        meta[rng.choice(sorted(meta))] = rng.choice(EXTREMES)
        path.write_text(json.dumps(meta))
    else:
        path.write_bytes(rng.choice([flipped, cut])(rng, data))
    found = Analysis.load(place)
    json.dumps(found.meta, default=str)


def manifests(rng: random.Random, base: Path, folder: Path) -> None:
    lines = (base / "m.toml").read_text().split("\n")
    row = rng.randrange(len(lines) - 1)
    key, equals, _ = lines[row].partition("=")
    values = ["[" * 10**4, "9" * 5000, "0x" + "f" * 5000, "1e999", "nan", "-inf", "-1", "100000000", "'x'", "[]", "{}",
              "true", '"\\u0000"', '"' + "x" * 10**5 + '"', "[" + "0, " * 10**4 + "]", "1979-05-27"]  # fmt: skip
    if equals and rng.random() < 0.7:
        lines[row] = f"{key}= {rng.choice(values)}"
    else:
        lines[row] = rng.choice(["a." * 2000 + "b = 1", "[[x]]", "=", lines[row] * 2, "[datasets.x]", "\x00", lines[0]])
    data = "\n".join(lines).encode()
    (folder / "m.toml").write_bytes(data if rng.random() < 0.8 else rng.choice([flipped, cut])(rng, data))
    load_manifest(folder / "m.toml")


# --- the command line -------------------------------------------------------------------------------------------------

WORDS = (
    *(
        "0",
        "-1",
        "1",
        "1e8",
        "100000000",
        str(10**30),
        "nan",
        "inf",
        "-inf",
        "1e-320",
        "",
        "x",
        "true",
        "a,b",
        "=",
        "@",
    ),
    *("x" * 5000, "\udcff", "é", "\x1b[31m", "--", "..", "/dev/null", "/dev/zero"),
)
FIELDS = (
    *("depth", "dim", "heads", "crop_padding", "epochs", "lr", "batch_size", "mlp_ratio", "patch_size", "image_size"),
    *("dropout", "sigma_start", "seed", "train_images", "warmup_share", "nothing", "flip", "in_channels"),
)


def command_line(rng: random.Random, base: Path, folder: Path) -> None:
    """Any word in any place, of commands that have no images to measure."""
    (folder / "empty").mkdir()
    none, file, value = f"imagefolder:{folder / 'empty'}", str(base / "c.pt"), rng.choice(WORDS)
    field, out = rng.choice(FIELDS), str(folder / "out")
    options = ("--images", "--precision", "--noise", "--seed", "--batch-size", "--examples", "--indicators", "--device",
               "--prefix-tokens", "--baseline", "--maps", "--faithfulness", "--data-root")  # fmt: skip
    arguments = rng.choice(
        [
            ["train", "--dataset", none, "--out", out, "--set", "num_classes=2", "--set", f"{field}={value}"],
            ["train", "--dataset", value, "--data-root", str(folder / "empty"), "--out", out, "--set", "depth=0"],
            ["analyze", file, "--data", none, "--out", out, rng.choice(options), value],
            ["analyze", f"svda:fashion_mnist?{field}={value}", "--data", none, "--out", out],
            [
                "analyze",
                file,
                "--data",
                none,
                "--out",
                out,
                "--preprocess",
                f"{rng.choice(['mean', 'resize'])}={value}",
            ],
            [
                "compress",
                file,
                "--data",
                none,
                "--out",
                out,
                rng.choice(["--energy", "--budget", "--min-logit"]),
                value,
            ],
            ["explain", file, str(folder / "empty"), "--out", out, rng.choice(["--target", "--methods"]), value],
            ["explain", value, value],
            ["export", value, out],
            ["report", value],
            ["paper", value, "--out", out],
            [value, value],
        ]
    )
    _run_command(arguments)


def _run_command(arguments: list[str]) -> None:
    """Raise what a command says that ends with exit code 2 and one line; it may end with 0."""
    out, err = io.StringIO(), io.StringIO()
    code: Any = None
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main(arguments)
        except SystemExit as stopped:
            code = stopped.code
    said = err.getvalue().strip("\n")
    if code == 0:
        return
    if code != 2 or not said.startswith("error: "):
        raise SilentError(f"exit code {code} of {arguments}: {said[:200]}")
    raise InputError(said)


_NEEDS = {"safetensors": "safetensors", "model_folders": "transformers"}
KINDS: dict[str, Callable[[random.Random, Path, Path], None]] = {
    function.__name__: function
    for function in (
        checkpoint_bits, checkpoint_cuts, checkpoint_members, checkpoint_tensors, checkpoint_fields, foreign_pickles,
        scripts, weights, foreign_weights, weights_of_old_torch, safetensors, model_folders, images, reports,
        manifests, command_line,
    )
}  # fmt: skip


def make_cases(number: int) -> list[Case]:
    """So many cases, each class in turn; those of a library that is not here are left out."""
    there = [name for name in KINDS if importlib.util.find_spec(_NEEDS.get(name, "torch"))]
    return [Case(there[at % len(there)], copy.copy(KINDS[there[at % len(there)]])) for at in range(number)]
