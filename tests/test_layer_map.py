"""One layer's map in blocks of queries: the numbers of the whole map, and never more memory than is allowed."""

import numpy as np
import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from svda_analysis import layer_map, streaming
from svda_analysis.indicators import attention_spectrum, choose_indicators
from svda_analysis.layer_map import Batch, LayerMap
from svda_analysis.maps import map_of_image
from svda_analysis.model import ViT, ViTConfig
from svda_analysis.soundness import NotFiniteError
from svda_analysis.streaming import Stream
from svda_analysis.tap import capture, records
from svda_analysis.tokens import GivenLayout

MODELS = {
    "dot": lambda: ViT(ViTConfig(attention="dot", dim=24, depth=2, heads=2)),
    "svda": lambda: ViT(ViTConfig(attention="svda", dim=24, depth=2, heads=2)),
    "registers": lambda: timm.create_model(
        "vit_tiny_patch16_224", img_size=28, patch_size=4, in_chans=1, embed_dim=24, depth=2, num_heads=2, reg_tokens=2
    ),
    "by hand": lambda: timm.create_model(
        "swin_tiny_patch4_window7_224", img_size=28, patch_size=2, in_chans=1, embed_dim=12, depths=(2,), num_heads=(2,)
    ),
}


def measured(model, images, monkeypatch, block, costly=None, **options):
    monkeypatch.setitem(layer_map.BLOCK_BYTES, "cpu", block)
    stream = Stream(model, choose_indicators(["default", "source", "field"]), **options)
    with torch.no_grad():
        stream.update(images, costly=costly)
    return stream


@pytest.mark.parametrize("kind", MODELS)
def test_numbers_of_blocks_are_those_of_whole_maps(kind, monkeypatch):
    torch.manual_seed(0)
    model = MODELS[kind]().eval()
    images, whole = torch.randn(3, 1, 28, 28), {}

    @settings(max_examples=5, deadline=None)
    @given(
        block=st.integers(1, 60_000), memory=st.sampled_from([None, 10**6]), costly=st.sampled_from([None, (1,), ()])
    )
    def check(block, memory, costly):
        few = None if costly is None else torch.tensor(costly, dtype=torch.long)
        if costly not in whole:
            whole[costly] = measured(model, images, monkeypatch, 2**40, few).moments
        found = measured(model, images, monkeypatch, block, few, memory=memory)
        if memory is None:
            assert found.moments.keys() == whole[costly].keys()
        for key, moments in found.moments.items():
            assert moments.n == whole[costly][key].n
            np.testing.assert_allclose(moments.mean, whole[costly][key].mean, rtol=1e-6, atol=1e-6, err_msg=str(key))

    check()


def test_half_precision_is_measured_in_blocks_too(monkeypatch):
    torch.manual_seed(0)
    model, images = MODELS["svda"]().eval().bfloat16(), torch.randn(3, 1, 28, 28).bfloat16()
    whole, found = (measured(model, images, monkeypatch, block).moments for block in (2**40, 999))
    for key, moments in found.items():
        np.testing.assert_allclose(moments.mean, whole[key].mean, rtol=1e-6, atol=1e-6, err_msg=str(key))


def test_what_needs_whole_maps_that_do_not_fit_is_left_out_with_a_line(monkeypatch):
    torch.manual_seed(0)
    images, model = (
        torch.randn(3, 1, 56, 56),
        ViT(ViTConfig(attention="dot", dim=24, depth=2, heads=2, image_size=56)).eval(),
    )
    stream = measured(model, images, monkeypatch, 2**20, memory=10**6)
    whole = {"spectral_entropy", "spectral_sparsity", "attention_rank", "position_share"}
    assert {name for name, _ in stream.unfitted} == whole
    assert ("attention_rank", "attention", 0) not in stream.moments
    assert ("effective_rank", "scores", 0) in stream.moments
    assert ("attention_entropy", "attention", 0) in stream.moments
    lines = list(stream.too_large())
    assert any("attention_rank" in line and "left out in 2 of 2 layers" in line and "1 MB" in line for line in lines)
    assert "attention_rank" not in {one.name for one, _ in stream.lacking()}


def test_maps_of_many_tokens_are_not_decomposed(monkeypatch):
    monkeypatch.setattr(streaming, "MOST_DECOMPOSED", 49)
    torch.manual_seed(0)
    stream = measured(MODELS["dot"]().eval(), torch.randn(2, 1, 28, 28), monkeypatch, 2**20)
    assert ("attention_rank", "attention", 0) not in stream.moments
    assert any("singular values of 50 tokens (over 49) take too long" in line for line in stream.too_large())


def test_singular_values_of_as_many_heads_as_fit_are_those_of_all():
    torch.manual_seed(0)
    model, images, spectra = MODELS["dot"]().eval(), torch.randn(3, 1, 28, 28), []

    def seen(record):
        found = map_of_image(record, 3, GivenLayout())
        few = LayerMap(found, Batch(3, 3, torch.tensor([0, 2])), 2 * 50 * 50 * 64)
        assert few.fits(2)
        assert not few.fits()
        spectra.append(few.spectrum())

    with torch.no_grad(), capture(model, seen, output="rows"):
        model(images)
    for record, found in zip(records(model, images), spectra, strict=True):
        torch.testing.assert_close(found, attention_spectrum(record.a[[0, 2]]), rtol=1e-6, atol=1e-6)


def test_the_output_is_made_of_rows_or_is_the_kernels():
    torch.manual_seed(0)
    model, images = MODELS["svda"]().eval(), torch.randn(2, 1, 28, 28)
    shapes = []

    def half(record):
        shapes.append((record.a.is_meta, tuple(record.rows(0, 20).shape), tuple(record.rows(20, 30).shape)))

    def all_rows(record):
        made = torch.cat([record.rows(at, at + 10) for at in range(0, 50, 10)], -2)
        torch.testing.assert_close(made, record.rows(0, 50))

    with torch.no_grad():
        wanted = model(images)
        with capture(model, half, output="rows"):
            assert torch.equal(model(images), wanted)
        with capture(model, all_rows, output="rows"):
            torch.testing.assert_close(model(images), wanted)
    assert shapes == [(True, (2, 2, 20, 50), (2, 2, 10, 50))] * 2


def test_a_map_that_is_not_finite_is_an_error_in_whatever_block(monkeypatch):
    monkeypatch.setitem(layer_map.BLOCK_BYTES, "cpu", 999)
    model = MODELS["dot"]().eval()
    record = records(model, torch.randn(2, 1, 28, 28))[0]
    record.a[1, 1, 33, 4] = torch.nan
    one = LayerMap(map_of_image(record, 2, GivenLayout()), Batch(2, 2))
    with pytest.raises(NotFiniteError):
        one.over_rows(choose_indicators(["attention_entropy"]))
