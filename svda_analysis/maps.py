"""Attention maps of the image: the one place that says which records are maps of the image.

A map is the image's when its queries and keys are the same tokens, and these are all patches of a grid, with what
stands before and behind them: ``N = prefix + frames * rows * columns + suffix``. The tap has followed every token back
to the pixels it stands for (:mod:`svda_analysis.tracker`), or the user has given the grid; nothing is guessed. Windows
are parts of the image and are stitched to it. Everything else - queries that were learned, latents, text, channels,
pooled keys, patches of which some were dropped - is no map of the image: it is left out, with its reason.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
import statistics
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple, Unpack

import torch
from torch import Tensor, nn

from svda_analysis.calls import AttentionRecord
from svda_analysis.errors import InputError
from svda_analysis.forward import call_model
from svda_analysis.layer_inputs import LayerInputs
from svda_analysis.places import NOWHERE, WITHIN_IMAGE, decode, mixed
from svda_analysis.tap import capture, check_captured
from svda_analysis.tokens import GivenLayout, Layout, TokensGiven

_IMAGE_BITS = WITHIN_IMAGE.bit_length()


class Arrangement(NamedTuple):
    """How a tensor ``(..., X, N, X)`` of attention goes to ``(images * windows, heads, N, X)``: the axes of images and
    windows, those of heads, and the order of the former (None: as they are)."""

    outer: tuple[int, ...]
    heads: tuple[int, ...]
    order: Tensor | None
    folded: int  # heads that lie in the batch

    def of(self, x: Tensor) -> Tensor:
        kept = range(x.ndim - 2, x.ndim)
        x = x.permute(*self.outer, *self.heads, *kept).flatten(0, len(self.outer) - 1) if self.outer else x[None]
        x = x.reshape(len(x), -1, *x.shape[-2:])  # (X, H, N, ...)
        if self.order is not None:
            x = x.index_select(0, self.order.to(x.device))
        return x.reshape(len(x) // self.folded, -1, *x.shape[-2:])


@dataclasses.dataclass(frozen=True)
class ImageMap:
    """A record that is of the image: ``a (B * windows, H, N, N)``, the windows of an image one after another.

    ``layout`` = how the tokens of the image, or of a window, lie (None: windows of patches that are no neighbours).
    ``whole`` = the layout of the image that ``windows`` windows are stitched to (None: they cannot be).
    """

    record: AttentionRecord
    arrangement: Arrangement
    windows: int
    layout: Layout | None
    whole: Layout | None
    index: Tensor | None = None  # (windows, N): the place of each token among the tokens of ``whole``; -1: padding
    views: bool = False  # whether each window is a view of the whole image, as of a batch that holds it twice

    @property
    def raw(self) -> Tensor:
        """The map as the model multiplied it."""
        return self.record.a

    @property
    def plain(self) -> bool:
        """Whether the map is ``(B, H, N, N)`` as the model multiplied it."""
        how = self.arrangement
        return self.windows == 1 and (how.outer, how.heads, how.order, how.folded) == ((0,), (1,), None, 1)

    @property
    def tokens(self) -> Tensor | None:
        """What the layer read, ``(B, N, C)``, where that was asked for and can be told."""
        return self.record.tokens if self.plain else None

    def arranged(self, x: Tensor) -> Tensor:
        """What has the map's leading dimensions, as ``(B * windows, H, N, ...)``."""
        return self.arrangement.of(x)

    def laid(self, x: Tensor) -> Tensor:
        """What has the map's shape as ``(B, H, N, N)`` of the whole image, its patches in reading order.

        What windows give to padding is left out.
        """
        x = self.arranged(x)
        if self.index is None or self.whole is None:
            return x
        parts = x.unflatten(0, (-1, self.windows))  # (B, W, H, n, n)
        if self.windows == 1:
            at = self.index[0].argsort()
            return parts[:, 0][:, :, at][..., at]
        N = self.whole.tokens
        found = x.new_zeros(len(parts), x.shape[1], N, N)
        for part, at in zip(parts.unbind(1), self.index, strict=True):
            inside = (at >= 0).nonzero()[:, 0]
            to = at[inside].to(x.device)
            found[:, :, to[:, None], to] = part[:, :, inside][..., inside]
        return found

    def map(self) -> Tensor:
        """The map of the whole image, ``(B, H, N, N)``; rows of sum 1, also where windows gave to padding."""
        a = self.laid(self.raw)
        padded = self.index is not None and bool((self.index < 0).any())
        return a / a.sum(-1, keepdim=True).clamp_min(torch.finfo(a.dtype).tiny) if padded else a


def map_of_image(record: AttentionRecord, images: int, given: GivenLayout) -> ImageMap | str:
    """The record as a map of the image, or the reason why it is none. ``images`` = how many the forward was given."""
    a, places = record.a, record.places
    N, M = a.shape[-2:]
    if places is None:
        return "over what is not the image (text, or queries that were learned)"
    if N == 1 and M > 1:
        return "of one query that pools"
    if record.no_map or N != M:
        return record.no_map or "with other keys than queries"
    if places.queries is None:
        return _by_number(record, images, given)
    if places.keys is not None and not bool((places.queries == places.keys).all()):
        return "with other keys than queries"
    return _by_places(record, places.queries.expand(a.shape[:-1]), images, given)


def _by_number(record: AttentionRecord, images: int, given: GivenLayout) -> ImageMap | str:
    """By the number of tokens alone, for a grid that was given."""
    N = record.a.shape[-1]
    if given.grid is None:
        return f"of {N} tokens that cannot be followed back to pixels (give grid and prefix_tokens)"
    layout = given.layout(N)
    if layout is None or record.a.ndim != 4 or len(record.a) != images:
        return f"of {N} tokens that are not those of {given}"
    return ImageMap(record, Arrangement((0,), (1,), None, 1), 1, layout, layout)


def _by_places(record: AttentionRecord, queries: Tensor, images: int, given: GivenLayout) -> ImageMap | str:
    """By the pixels that the tokens ``queries (..., N)`` stand for."""
    size = record.places.size if record.places else (1, 1, 1)
    leading = range(queries.ndim - 1)
    heads = tuple(d for d in leading if _constant(queries, d))
    if len(heads) == len(leading):  # of one image, whose dimension is the first of one entry
        image = next((d for d in heads if queries.shape[d] == 1), None)
        heads = tuple(d for d in heads if d != image)
    outer = tuple(d for d in leading if d not in heads)
    one_head = queries
    for d in heads:
        one_head = one_head.narrow(d, 0, 1)
    codes = one_head.reshape(-1, queries.shape[-1]).cpu()  # (X, N)
    sorted_ = _by_image(codes, images)
    if isinstance(sorted_, str):
        return sorted_
    order, copies, place = sorted_  # place (W, copies, N)
    alone = math.prod(queries.shape[d] for d in heads) == 1
    folded = copies if alone and bool((place == place[:, :1]).all()) else 1
    if copies > folded:
        layout, how = _read(place[0, 0], size), Arrangement(outer, heads, order, 1)
        views = _are_views(place.flatten(0, 1), size)
        return ImageMap(record, how, copies * len(place), layout and layout[0], None, views=views)
    plain = bool((order == torch.arange(len(order))).all())
    arrangement = Arrangement(outer, heads, None if plain else order, folded)
    found = _laid_out(record, arrangement, place[:, 0], size, given)
    return _by_number(record, images, given) if found is None else found


def _laid_out(
    record: AttentionRecord, arrangement: Arrangement, place: Tensor, size: tuple[int, int, int], given: GivenLayout
) -> ImageMap | str | None:
    """The map whose windows hold the tokens ``place (W, N)``; None where these are no grid and one was given."""
    W, N = place.shape
    if W > 1:
        whole, index = _stitched(place, size)
        layout, views = _of_window(place, size, whole), whole is None and _are_views(place, size)
        return ImageMap(record, arrangement, W, layout, whole, index, views)
    found = _read(place[0], size, covers=True)
    if N > 1 and bool((place == place[0, 0]).all()):
        return f"between {N} channels, each of the whole image"
    if found is None:
        return None if given.grid else f"of {N} tokens that are no grid over the whole image"
    layout, order = found
    if not given.allows(layout):
        raise InputError(f"the model's {N} tokens are {layout}, but given was {given}")
    index = None
    if bool((order != torch.arange(len(order))).any()):
        index = torch.arange(N)
        index[layout.prefix : layout.prefix + layout.patches] = layout.prefix + order.argsort()
    return ImageMap(record, arrangement, 1, layout, layout, None if index is None else index[None])


def _constant(queries: Tensor, dim: int) -> bool:
    """Whether all entries along a dimension are the same tokens: heads are."""
    return queries.stride(dim) == 0 or bool((queries == queries.narrow(dim, 0, 1)).all())


def _by_image(codes: Tensor, images: int) -> tuple[Tensor, int, Tensor] | str:
    """Rows of tokens ``(X, N)`` sorted by image, then by window: their order, how many of each there are, and the
    places within an image ``(windows, copies, N)``; or a reason why they are not each image's."""
    first = codes.masked_fill(codes < 0, torch.iinfo(codes.dtype).max).amin(-1)
    if not bool((codes >= 0).any(-1).all()):
        return "of queries or latents that stand for no patches"
    order = first.argsort(stable=True)
    counts = first.unique(return_counts=True)[1]
    copies, rows = int(counts[0]), len(counts)
    image = (codes >> _IMAGE_BITS)[order]
    expected = torch.arange(images).repeat_interleave(max(len(codes) // images, 1))
    if (
        bool((counts != copies).any())
        or len(codes) % images
        or not bool(((image == expected[:, None]) | (image < 0)).all())
    ):
        return "that are not one for each image"
    place = codes.where(codes < 0, codes & WITHIN_IMAGE)[order].view(images, rows // images, copies, -1)
    if not bool((place == place[:1]).all()):
        return "of other patches in each image (some are dropped)"
    return order, copies, place[0]


def _read(place: Tensor, size: tuple[int, int, int], *, covers: bool = False) -> tuple[Layout, Tensor] | None:
    """The layout that tokens ``(N,)`` show, and the order of its patches in reading order; None where they show none.

    What lies beyond the image, on its padding, is no patch, unless the patches are a grid only with it; nor is a first
    token that is the mean of all others. ``covers``: the grid must reach over the whole image.
    """
    parts = decode(place)[1:]  # frame, row, column
    beyond = (parts[1:] < 0) | (parts[1:] >= torch.tensor(size[1:])[:, None])
    inside = (place >= 0) & ~beyond.any(0)
    for kept in (inside, place >= 0, inside & (torch.arange(len(place)) >= _is_mean(place))):
        at = kept.nonzero()[:, 0]
        if not len(at) or int(at[-1] - at[0]) + 1 != len(at):
            continue
        axes, ranks = zip(*(part[at].unique(return_inverse=True) for part in parts), strict=True)
        T, R, C = (len(axis) for axis in axes)
        index = (ranks[0] * R + ranks[1]) * C + ranks[2]
        if len(at) != T * R * C or len(at) < 2 or len(index.unique()) != len(at):
            continue
        if covers and not all(_reaches(axis, length) for axis, length in zip(axes[1:], size[1:], strict=True)):
            continue
        centres = (tuple(axes[1].tolist()), tuple(axes[2].tolist()))
        layout = Layout((R, C), int(at[0]), len(place) - 1 - int(at[-1]), T, centres)
        return layout, index.argsort()
    return None


def _is_mean(place: Tensor) -> int:
    """1 where the first of the tokens ``(N,)`` lies where the mean of all others does, else 0."""
    return int(len(place) > 2 and bool(place[0] == mixed(place[1:], [0])[0]))


def _reaches(axis: Tensor, length: int) -> bool:
    """Whether middles of patches, in pixels, go from one end of an axis to the other, but for less than a patch."""
    if len(axis) == 1:  # one patch, which may leave almost as much again
        return bool(length / 4 <= axis[0] + 0.5 <= 3 * length / 4)
    pitch = axis.diff()
    even = bool(pitch.max() < 1.6 * pitch.min())
    return even and bool(axis[0] <= pitch[0]) and bool(length - 1 - axis[-1] < 1.5 * pitch[-1])


def _are_views(place: Tensor, size: tuple[int, int, int]) -> bool:
    """Whether the tokens of each window ``(W, N)`` reach over the whole image, in the same frames."""
    frames = {tuple(decode(tokens[tokens >= 0])[1].unique().tolist()) for tokens in place}
    return len(frames) == 1 and all(_read(tokens, size, covers=True) is not None for tokens in place)


def _stitched(place: Tensor, size: tuple[int, int, int]) -> tuple[Layout | None, Tensor | None]:
    """The grid that windows ``(W, N)`` make up together, and the place of each token in it (-1: padding)."""
    parts = decode(place)[2:]
    beyond = ((parts < 0) | (parts >= torch.tensor(size[1:])[:, None, None])).any(0) | (place < 0)
    if bool((place == NOWHERE).any()):
        return None, None
    found = _read(place[~beyond], size, covers=True)
    if found is None:
        return None, None
    index = torch.full(place.shape, -1)
    index[~beyond] = found[1].argsort()
    return found[0], index


def _of_window(place: Tensor, size: tuple[int, int, int], whole: Layout | None) -> Layout | None:
    """The layout of a window, from the fullest whose tokens lie in reading order and next to each other."""
    best = None
    for tokens in place:
        found = _read(tokens, size)
        if found is None or bool((found[1] != torch.arange(len(found[1]))).any()):
            continue
        layout = found[0]
        if whole is None or whole.centres is None or layout.centres is None:
            return layout
        near = all(_neighbours_in(few, every) for few, every in zip(layout.centres, whole.centres, strict=True))
        if near and (best is None or layout.patches > best.patches):
            best = layout
    return best


def _neighbours_in(few: Sequence[float], every: Sequence[float]) -> bool:
    at = [every.index(x) for x in few if x in every]
    return len(at) == len(few) and at == list(range(at[0], at[0] + len(at)))


# --- all maps of one forward ------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class WholeMaps:
    """The maps of one forward of ``B`` images over one grid of patches: that of most layers.

    ``maps`` = the layers; ``layout`` = how their N tokens lie; ``output`` = what the model returned. ``last`` = the
    last map of the image, on whatever grid. ``gaps`` says why the layers are no unbroken stack (rollout needs one),
    ``left_out`` why attention calls are no maps of the image.
    """

    maps: list[ImageMap]
    layout: Layout
    output: Any
    last: ImageMap
    gaps: tuple[str, ...]
    left_out: tuple[str, ...]

    @functools.cached_property
    def layers(self) -> list[Tensor]:
        """``(B, H, N, N)`` each, the patches in reading order."""
        return [one.map() for one in self.maps]

    @property
    def inputs(self) -> list[Tensor | None]:
        """The tokens that each layer read, ``(B, N, C)``; None where it was not asked for, or cannot be told."""
        return [one.tokens for one in self.maps]


def whole_maps(
    model: nn.Module, images: Tensor, *, gradients: bool = False, inputs: bool = False, **tokens: Unpack[TokensGiven]
) -> WholeMaps:
    """The maps of all self-attention layers over whole images, of one forward of ``images (B, C, H, W)``.

    ``tokens`` (``grid``, ``prefix_tokens``, ``suffix_tokens``, ``frames``) says how tokens lie, where the model does
    not show it. ``gradients``: the maps are part of the graph (``capture(output="map")``), else the model's own kernels
    run. ``inputs``: also what each layer reads. Raises :class:`InputError` when there is none.
    """
    given = GivenLayout(**tokens).checked()
    found: list[ImageMap | str] = []
    touching: list[bool] = []

    def on_record(record: AttentionRecord) -> None:
        one = map_of_image(record, len(images), given)
        if isinstance(one, ImageMap) and one.whole is None:
            why = "of several views of an image" if one.views else "inside windows or frames"
            one = f"{why} that are not stitched to the image"
        found.append(one)
        touching.append(_updates_patches(record))

    noted = LayerInputs() if inputs else None
    with capture(model, on_record, output="map" if gradients else "kernel", inputs=noted) as hidden:
        output = call_model(model, images)
    check_captured(len(found), model)
    maps = [one for one in found if isinstance(one, ImageMap)]
    left_out = [one for one in found if isinstance(one, str)]
    check_any_maps(maps, left_out, model)
    layout = statistics.mode(one.whole for one in reversed(maps))
    chosen = [one for one in maps if one.whole == layout]
    missing = [one for one, touches in zip(found, touching, strict=True) if isinstance(one, str) and touches]
    said = [in_words(reasons) for reasons in (missing, hidden) if reasons]
    gaps = _gaps(chosen, [one for one in maps if one.whole != layout], said)
    whole = next(one.whole for one in chosen if one.whole is not None).of_model(model)
    return WholeMaps(chosen, whole, output, maps[-1], gaps, tuple(left_out))


def to_pixels(patches: Tensor, layout: Layout, size: Sequence[int]) -> Tensor:
    """``(..., rows, columns) -> (..., H, W)``, the value of a patch at each of its pixels."""
    rows, columns = (torch.tensor(cells, device=patches.device) for cells in layout.cells(size))
    return patches.index_select(-2, rows).index_select(-1, columns)


def check_any_maps(maps: Sequence[Any], left_out: Sequence[str], model: nn.Module) -> None:
    """Raise :class:`InputError` where no attention call is a map of the image, with the reasons."""
    if not maps:
        raise InputError(f"{type(model).__name__} has no self-attention over whole images: {in_words(left_out)}")


def in_words(left_out: Sequence[str]) -> str:
    """Reasons, each with its number of calls."""
    return "; ".join(f"{count} {'call' if count == 1 else 'calls'} {why}" for why, count in Counter(left_out).items())


def _updates_patches(record: AttentionRecord) -> bool:
    """Whether the queries are patches, or may be: then what attends here is part of the stack."""
    if record.places is None or record.a.shape[-2] == 1:
        return False
    queries = record.places.queries
    return queries is None or bool((queries >= 0).any())


def _gaps(chosen: Sequence[ImageMap], others: Sequence[ImageMap], said: Sequence[str]) -> tuple[str, ...]:
    found = list(said)
    if others:
        grids = dict.fromkeys(str(one.whole) for one in others)
        found.append(f"{len(others)} layers have another grid ({'; '.join(grids)})")
    if any(one.record.mixed for one in chosen):
        found.append("heads are mixed after the softmax")
    pairs = itertools.pairwise(chosen)
    if any(b.record.places is not None and b.record.places.after != a.record.layer for a, b in pairs):
        found.append("its layers do not follow one another: two passes or towers, or several maps in a layer")
    return tuple(found)
