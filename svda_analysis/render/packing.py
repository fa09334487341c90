"""Attention maps and images as text that a page holds, in 8 bits a weight where these lose little. No torch here."""

from __future__ import annotations

import base64
import io
import zlib
from typing import Any

import numpy as np

MOST_LOST = 0.01  # of a row's mass, at another key than it was
_LEVELS = (127, 255)  # steps of a weight: as few as lose no more than that


def pack_rows(rows: np.ndarray) -> dict[str, Any]:
    """Rows of attention ``(..., N)``, at least 0, as compressed text with what :func:`unpack_rows` needs.

    A weight is written as the square root of its share of the row's largest, in 127 or 255 steps: a step is small where
    weights are small, where most of them lie. Each row has a scale of its own, float32, so that its sum is kept.
    Where more than 1 % of a row's mass would lie at another key, ``sum |a' - a| / (2 sum a)``, float16 is written
    instead. ``lost`` is the largest such share of what is written. ``above``: of each row but the first, what it adds
    to the row above it, modulo 256, where that takes less room. Our definition.
    """
    N = rows.shape[-1]
    exact = np.ascontiguousarray(rows, dtype=np.float32).reshape(-1, N)
    about = {"shape": list(rows.shape), "above": False}
    for levels in _LEVELS:
        steps, scales = _quantised(exact, levels)
        lost = _share_moved(exact, _restored(steps, scales, levels))
        if lost <= MOST_LOST:
            above, data = _shorter(scales.tobytes(), steps)
            return {**about, "kind": "u8", "levels": levels, "above": above, "lost": lost, "data": data}
    half = exact.astype("<f2")
    return {**about, "kind": "f16", "lost": _share_moved(exact, half.astype(np.float32)), "data": _text(half.tobytes())}


def unpack_rows(packed: dict[str, Any]) -> np.ndarray:
    """What :func:`pack_rows` wrote, as a page reads it, float32."""
    data, shape = zlib.decompress(base64.b64decode(packed["data"])), tuple(packed["shape"])
    if packed["kind"] == "f16":
        return np.frombuffer(data, "<f2").astype(np.float32).reshape(shape)
    count = int(np.prod(shape[:-1]))
    scales = np.frombuffer(data, "<f4", count)
    steps = np.frombuffer(data, np.uint8, offset=4 * count).reshape(count, shape[-1])
    steps = steps.cumsum(axis=0, dtype=np.uint8) if packed["above"] else steps
    return _restored(steps, scales, packed["levels"]).reshape(shape)


def picture_url(pixels: np.ndarray) -> str:
    """An image ``(H, W, C) uint8`` of 1, 3 or 4 channels as the address of a PNG that is its own content."""
    from PIL import Image

    held = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(held, "PNG")
    return "data:image/png;base64," + base64.b64encode(held.getvalue()).decode("ascii")


def _quantised(rows: np.ndarray, levels: int) -> tuple[np.ndarray, np.ndarray]:
    """Steps ``(rows, N) uint8`` and the scale of each row, with which the row's sum is what it was."""
    largest = rows.max(axis=1, keepdims=True, initial=0)
    shares = np.divide(rows, largest, out=np.zeros_like(rows), where=largest > 0)
    steps = np.rint(np.sqrt(shares) * levels).astype(np.uint8)
    written = _restored(steps, np.ones(len(rows), np.float32), levels).sum(axis=1)
    sums = rows.sum(axis=1)
    return steps, np.divide(sums, written, out=np.zeros_like(sums), where=written > 0).astype("<f4")


def _restored(steps: np.ndarray, scales: np.ndarray, levels: int) -> np.ndarray:
    return (steps.astype(np.float32) / levels) ** 2 * scales[:, None]


def _shorter(scales: bytes, steps: np.ndarray) -> tuple[bool, str]:
    """The steps as they are, or each row as what it adds to the one above it: what takes less room."""
    texts = [
        _text(scales + made.tobytes()) for made in (steps, np.diff(steps, axis=0, prepend=np.zeros_like(steps[:1])))
    ]
    return (True, texts[1]) if len(texts[1]) < len(texts[0]) else (False, texts[0])


def _share_moved(exact: np.ndarray, written: np.ndarray) -> float:
    """The largest share of a row's mass that lies at another key."""
    mass = exact.sum(axis=1)
    moved = np.abs(written - exact).sum(axis=1) / 2
    return float(np.divide(moved, mass, out=np.zeros_like(mass), where=mass > 0).max(initial=0))


def _text(data: bytes) -> str:
    return base64.b64encode(zlib.compress(data, 6)).decode("ascii")
