"""The shapes and dtypes that public docstrings promise, checked by jaxtyping and beartype on odd sizes."""

import pytest
import torch
from beartype import beartype
from jaxtyping import Float, jaxtyped
from torch import Tensor

from svda_analysis import attention as att
from svda_analysis import indicators, model

B, H, N, D, DV = 2, 3, 10, 5, 4  # 10 tokens: CLS and a 3 x 3 grid
Rows = Float[Tensor, "B H N D"]
Map = Float[Tensor, "B H N N"]
checked = jaxtyped(typechecker=beartype)


@checked
def dot(q: Rows, k: Rows, v: Float[Tensor, "B H N Dv"]) -> Float[Tensor, "B H N Dv"]:
    return att.dot_product_attention(q, k, v)


@checked
def svda(q: Rows, k: Rows, v: Float[Tensor, "B H N Dv"], sigma: Float[Tensor, "H D"]) -> Float[Tensor, "B H N Dv"]:
    return att.svda_attention(q, k, v, sigma)


@checked
def cosine(q: Rows, k: Rows, v: Float[Tensor, "B H N Dv"], t: Float[Tensor, " H"]) -> Float[Tensor, "B H N Dv"]:
    return att.cosine_attention(q, k, v, t)


@checked
def scores(q: Rows, k: Rows, sigma: Float[Tensor, "H D"]) -> Float[Tensor, "B H R"]:
    return indicators.score_spectrum(q, k, 0.5, sigma)


@checked
def attention(a: Map) -> Float[Tensor, "B H N"]:
    return indicators.attention_spectrum(a)


@checked
def classify(images: Float[Tensor, "B C S S"]) -> Float[Tensor, "B classes"]:
    return model.ViT(model.ViTConfig(dim=12, depth=1, num_classes=7))(images)


def inputs(dtype=torch.float32):
    torch.manual_seed(0)
    q, k = (torch.randn(B, H, N, D, dtype=dtype) for _ in range(2))
    v = torch.randn(B, H, N, DV, dtype=dtype)
    return q, k, v, torch.rand(H, D, dtype=dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_attention_functions_keep_shape_and_dtype(dtype):
    q, k, v, sigma = inputs(dtype)
    for out in (dot(q, k, v), svda(q, k, v, sigma), cosine(q, k, v, sigma[:, 0])):
        assert out.dtype == dtype


@pytest.mark.parametrize(
    "name",
    [one.name for names in (None, ["source", "field", "ablation"]) for one in indicators.choose_indicators(names)],
)
def test_every_indicator_gives_one_number_per_image_and_head(name):
    q, k, _, sigma = inputs()
    a = (q @ k.mT).softmax(-1)
    given = {
        "q": q,
        "k": k,
        "sigma": sigma,
        "a": a,
        "grid": (3, 3),
        "prefix": 1,
        "class_token": True,
        "suffix": 0,
        "frames": 1,
        "spectrum": scores(q, k, sigma),
    }
    given |= {"tokens": torch.randn(B, N, 15), "position_map": a, "prefix": 2, "grid": (2, 4)}
    given |= dict.fromkeys(("qk_eigenvalues", "ov_eigenvalues"), torch.randn(B, H, D, dtype=torch.complex64))
    given |= {"loss": torch.rand(B), "ablated_loss": torch.rand(B, H)}
    given |= {"a_noisy": a.flip(0), "a_pixel_noisy": a.flip(0)}
    found = indicators.INDICATORS[name]

    shape = "2" if "tokens" in found.needs else "2 3"  # tokens have no heads

    @checked
    def call() -> Float[Tensor, shape]:
        return found.function(**{need: given[need] for need in found.needs})

    assert call().dtype == torch.float32


def test_spectra_and_logits():
    q, k, _, sigma = inputs()
    assert scores(q, k, sigma).shape == (B, H, D)
    assert scores(q[:, :, :3], k[:, :, :3], sigma).shape == (B, H, 2)
    attention((q @ k.mT).softmax(-1))
    classify(torch.randn(2, 1, 28, 28))
