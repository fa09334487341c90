"""Attention maps and images as text that a page holds, in as few steps a weight as lose little. No torch here."""

from __future__ import annotations

import base64
import io
import zlib
from typing import Any

import numpy as np

MOST_LOST = 0.01  # of a row's mass, at another key than it was
_LEVELS = (15, 19, 23, 27, 31, 39, 47, 55, 63, 79, 95, 127, 191, 255)  # steps of a weight, at most a byte's


def pack_rows(rows: np.ndarray) -> dict[str, Any]:
    """Rows of attention ``(..., N)``, at least 0, as compressed text with what :func:`unpack_rows` needs.

    A weight is written as the square root of its share of the row's largest, in steps: a step is small where weights
    are small, where most of them lie. Each row has as few levels as leave 99 % of its mass where it was,
    ``sum |a' - a| / (2 sum a) <= 0.01``, and a scale of its own, float32, so that its sum is kept. Where 255 levels are
    too few for some row, float16 is written instead. ``lost`` is the largest such share of what is written. ``above``:
    of each row but the first, what it adds to the row above it, modulo 256, where that takes less room. Our definition.
    """
    N = rows.shape[-1]
    exact = np.ascontiguousarray(rows, dtype=np.float32).reshape(-1, N)
    about = {"shape": list(rows.shape), "above": False}
    steps, scales, levels, lost = _fewest_steps(exact)
    if lost <= MOST_LOST:
        above, data = _shorter(scales.tobytes() + levels.tobytes(), steps)
        return {**about, "kind": "u8", "above": above, "lost": lost, "data": data}
    half = exact.astype("<f2")
    lost = float(_shares_moved(exact, half.astype(np.float32)).max(initial=0))
    return {**about, "kind": "f16", "lost": lost, "data": _text(half.tobytes())}


def _fewest_steps(exact: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """Steps ``(rows, N) uint8``, scales and levels ``(rows,)`` of rows with as few levels as lose little, and the
    largest share of a row's mass that moved."""
    steps, levels = np.zeros(exact.shape, np.uint8), np.zeros(len(exact), np.uint8)
    scales, lost = np.zeros(len(exact), "<f4"), np.zeros(len(exact))
    left = np.arange(len(exact))
    for count in _LEVELS:
        tried, scaled = _quantised(exact[left], count)
        moved = _shares_moved(exact[left], _restored(tried, scaled, np.full(len(left), count)))
        good = (moved <= MOST_LOST) | (count == _LEVELS[-1])
        done = left[good]
        steps[done], scales[done], levels[done], lost[done] = tried[good], scaled[good], count, moved[good]
        left = left[~good]
    return steps, scales, levels, float(lost.max(initial=0))


def unpack_rows(packed: dict[str, Any]) -> np.ndarray:
    """What :func:`pack_rows` wrote, as a page reads it, float32."""
    data, shape = zlib.decompress(base64.b64decode(packed["data"])), tuple(packed["shape"])
    if packed["kind"] == "f16":
        return np.frombuffer(data, "<f2").astype(np.float32).reshape(shape)
    count = int(np.prod(shape[:-1]))
    scales, levels = np.frombuffer(data, "<f4", count), np.frombuffer(data, np.uint8, count, offset=4 * count)
    steps = np.frombuffer(data, np.uint8, offset=5 * count).reshape(count, shape[-1])
    steps = steps.cumsum(axis=0, dtype=np.uint8) if packed["above"] else steps
    return _restored(steps, scales, levels).reshape(shape)


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
    written = _restored(steps, np.ones(len(rows), np.float32), np.full(len(rows), levels)).sum(axis=1)
    sums = rows.sum(axis=1)
    return steps, np.divide(sums, written, out=np.zeros_like(sums), where=written > 0).astype("<f4")


def _restored(steps: np.ndarray, scales: np.ndarray, levels: np.ndarray) -> np.ndarray:
    return (steps / levels.astype(np.float32)[:, None]) ** 2 * scales[:, None]


def _shorter(before: bytes, steps: np.ndarray) -> tuple[bool, str]:
    """The steps as they are, or each row as what it adds to the one above it: what takes less room."""
    texts = [
        _text(before + made.tobytes()) for made in (steps, np.diff(steps, axis=0, prepend=np.zeros_like(steps[:1])))
    ]
    return (True, texts[1]) if len(texts[1]) < len(texts[0]) else (False, texts[0])


def _shares_moved(exact: np.ndarray, written: np.ndarray) -> np.ndarray:
    """Of each row the share of its mass that lies at another key, ``(rows,)``."""
    mass = exact.sum(axis=1)
    moved = np.abs(written - exact).sum(axis=1) / 2
    return np.divide(moved, mass, out=np.zeros_like(mass), where=mass > 0)


def _text(data: bytes) -> str:
    """Compressed by what repeats, or by how often each byte comes alone: what takes less room."""
    made = []
    for strategy in (zlib.Z_DEFAULT_STRATEGY, zlib.Z_HUFFMAN_ONLY):
        packer = zlib.compressobj(strategy=strategy)
        made.append(packer.compress(data) + packer.flush())
    return base64.b64encode(min(made, key=len)).decode("ascii")
