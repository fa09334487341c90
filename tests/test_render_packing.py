"""Attention as text: what is read back, what is lost, which way it is written."""

from __future__ import annotations

import base64
import io
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from svda_analysis.render.packing import MOST_LOST, pack_rows, picture_url, unpack_rows


def some_rows(shape, sharpness, seed=0):
    """Softmaxed Gaussian scores."""
    scores = sharpness * np.random.default_rng(seed).standard_normal(shape)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return (weights / weights.sum(-1, keepdims=True)).astype(np.float32)


def moved(written, exact):
    """The share of each row's mass at another key: total variation of the two rows, by its definition."""
    return np.abs(written.astype(np.float64) - exact).sum(-1) / 2 / exact.astype(np.float64).sum(-1)


@given(st.integers(1, 4), st.integers(1, 70), st.floats(0, 12), st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_what_is_read_back_has_each_rows_mass_where_it_was(H, N, sharpness, seed):
    exact = some_rows((H, N, N), sharpness, seed)
    packed = pack_rows(exact)
    written = unpack_rows(packed)
    assert written.shape == exact.shape
    assert written.dtype == np.float32
    np.testing.assert_allclose(written.sum(-1), exact.sum(-1), rtol=2e-3)
    assert moved(written, exact).max() <= packed["lost"] * (1 + 1e-3) + 1e-6
    assert packed["lost"] <= MOST_LOST


def test_steps_are_within_half_a_step_of_the_square_root():
    exact = some_rows((2, 50, 50), 2.0)
    packed = pack_rows(exact)
    assert packed["kind"] == "u8"
    largest = exact.max(-1, keepdims=True)
    written = unpack_rows(packed) / unpack_rows(packed).max(-1, keepdims=True)
    off = np.abs(np.sqrt(written) - np.sqrt(exact / largest)).max(-1).ravel()
    levels = np.frombuffer(zlib.decompress(base64.b64decode(packed["data"])), np.uint8, 100, offset=400)
    assert (off <= 0.5 / levels + 1e-6).all()
    assert len(set(levels)) > 1  # each row has as few as it needs


@pytest.mark.parametrize("sharpness", [0.05, 0.5, 1.0, 1.5, 2.0, 4.0])
def test_two_tiny_vits_at_224_pixels_fit_into_12_megabytes(sharpness):
    """Twelve layers of three heads of 197 tokens, four images, two models: 96 times one layer; noise packs worst."""
    packed = pack_rows(some_rows((3, 197, 197), sharpness))
    assert packed["lost"] <= MOST_LOST
    assert 96 * len(packed["data"]) < 10.5e6  # with room for pictures, tables and scripts


def test_what_eight_bits_would_spoil_is_written_as_float16():
    spoilt = np.full((1, 2, 4000), 1.5e-6, np.float32)  # the tail is below the first step of so large a maximum
    spoilt[..., 0] = 0.5
    packed = pack_rows(spoilt)
    assert packed["kind"] == "f16"
    np.testing.assert_array_equal(unpack_rows(packed), spoilt.astype(np.float16).astype(np.float32))


def test_rows_of_zeros_stay_and_uniform_rows_are_exact():
    rows = np.stack([np.zeros(10, np.float32), np.full(10, 0.1, np.float32)])
    np.testing.assert_array_equal(unpack_rows(pack_rows(rows)), rows)


def test_rows_that_are_like_the_one_above_take_less_room():
    rows = np.repeat(some_rows((1, 300), 1.0), 60, axis=0)
    slowly = rows * np.linspace(1, 1.001, 300, dtype=np.float32) ** np.arange(60)[:, None].astype(np.float32)
    packed = pack_rows(slowly)
    assert packed["above"]
    assert moved(unpack_rows(packed), slowly).max() <= MOST_LOST
    assert pack_rows(slowly) == packed


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_an_image_is_a_png_of_its_own_pixels(channels):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, channels), dtype=np.uint8)
    head, _, text = picture_url(pixels).partition(",")
    assert head == "data:image/png;base64"
    read = np.asarray(Image.open(io.BytesIO(base64.b64decode(text))))
    np.testing.assert_array_equal(read.reshape(pixels.shape), pixels)
