"""What comes of the images while a model runs: the places of every tensor, from pixels to attention.

A softmax over the last dimension that then weighs values is attention multiplied by hand (:class:`Product`).
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakIdKeyDictionary

from svda_analysis.places import encode, mixed, tried
from svda_analysis.products import Contraction, as_scores, as_weighing, contraction, sums_to_one, to_names
from svda_analysis.trails import (
    ESCAPES,
    MADE_OF_DATA,
    NO_NUMBERS,
    RULES,
    SUMS,
    Call,
    Scores,
    Trail,
    by_shape,
    name_of,
    nowhere,
    tensors_in,
)

_NO_MAP = "of attention in another form than softmax(scores) v (linear attention, a sigmoid)"
_UNSEEN = "of what torch does not show (torch.jit, a kernel of its own), attention or not"


class Places(NamedTuple):
    """Where the tokens of an attention call lie: ``queries (..., N)`` and ``keys (..., M)``, int64 as
    :func:`~svda_analysis.places.encode` has them (None: that was lost on the way), ``after`` = the call that they come
    of (-1: none), ``size`` = frames, height and width of the images."""

    queries: Tensor | None
    keys: Tensor | None
    after: int
    size: tuple[int, int, int]


class Product(NamedTuple):
    """Attention multiplied by hand: ``weights (..., N, M)``, ``soft`` = the softmax they came of, ``v (..., M, Dv)``;
    ``scores`` where the product of queries and keys was seen. ``factor`` is the factor that the weights are, with its
    dimensions in the order ``order``; ``values`` is the other. ``mixed`` says that heads were mixed behind the softmax,
    ``undropped`` is what dropout made the weights of."""

    factor: Tensor
    order: tuple[int, ...]
    weights: Tensor
    soft: Tensor
    v: Tensor
    scores: Scores | None
    places: Places
    values: Tensor
    mixed: bool = False
    undropped: Tensor | None = None


class Tracker:
    """The trails of all tensors of one forward."""

    def __init__(self) -> None:
        self._trails: WeakIdKeyDictionary = WeakIdKeyDictionary()
        self._inputs: WeakIdKeyDictionary = WeakIdKeyDictionary()
        self._other: WeakIdKeyDictionary = WeakIdKeyDictionary()  # of no images: made by torch, or the model's own
        self._projected: WeakIdKeyDictionary = WeakIdKeyDictionary()  # what was made unseen, behind a linear layer
        self.size, self.images, self.escaped, self.scripted = (1, 1, 1), 0, False, False
        self.attended = False  # whether attention over tokens of the images was seen
        self.hidden: list[str] = []  # of what shows no map and is, or may be, attention: a reason a call

    def begin(self, given: Iterable[Any]) -> None:
        """A forward begins with these inputs: floats of 4 or 5 dimensions are its images, others are of none."""
        for each in (self._trails, self._inputs, self.hidden):
            each.clear()
        self.escaped = self.attended = False
        inner = [x for each in given for x in (each.values() if isinstance(each, dict) else [each])]
        for x in inner:
            if isinstance(x, Tensor) and x.is_floating_point():
                self._inputs[x] = None
                self.images = len(x) if x.ndim in (4, 5) else self.images
                self._trails[x] = Trail(self._pixels(x) if x.ndim in (4, 5) else None)
            elif isinstance(x, Tensor):
                self._other[x] = None

    def hold(self, model: nn.Module) -> None:
        """What the model holds is of no images."""
        for module in model.modules():
            self.scripted = self.scripted or isinstance(module, torch.jit.ScriptModule)
            for held in vars(module).values():
                self._other.update(dict.fromkeys(tensors_in(held.values() if isinstance(held, dict) else [held])))

    def end(self, output: Any) -> None:
        """The forward gave ``output``."""
        self._note_lost(tensors_in(output.values() if isinstance(output, dict) else [output]))

    def _pixels(self, images: Tensor) -> Tensor:
        """The place of each pixel."""
        y, x, t = _axes(images)
        self.size = (1 if t is None else images.shape[t], images.shape[y], images.shape[x])
        parts = []
        for axis in (0, t, y, x):
            count = 1 if axis is None else images.shape[axis]
            line = torch.arange(count, dtype=torch.float64, device=images.device)
            parts.append(
                line.view([-1 if axis is not None and d == axis % images.ndim else 1 for d in range(images.ndim)])
            )
        return encode(parts).expand(images.shape)

    def of(self, x: Any) -> Trail | None:
        """What is known of ``x``; None where it does not come of the inputs."""
        return self._trails.get(x) if isinstance(x, Tensor) else None

    def __contains__(self, x: Tensor) -> bool:
        """Whether the forward was given it."""
        return x in self._inputs

    def copy(self, result: Tensor, made: Tensor) -> None:
        """``made`` is ``result`` computed again."""
        trail = self.of(result)
        if trail is not None:
            self.mark(made, trail)

    def mark(self, result: Any, trail: Trail) -> None:
        if isinstance(result, Tensor):
            self._trails[result] = trail

    # --- attention that is a call of its own --------------------------------------------------------------------------

    def places_of(self, queries: Any, keys: Any) -> Places | None:
        """Of a call with queries and keys ``(..., N, D)``; None where neither comes of the inputs."""
        q, k = self.of(queries), self.of(keys)
        if q is None and k is None:
            self._note_lost([queries])
            return None
        found = [_of_tokens(trail, x) for trail, x in ((q, queries), (k, keys))]
        return Places(found[0], found[1], max(trail.after for trail in (q, k) if trail), self.size)

    def mark_output(self, output: Any, queries: Tensor, places: Places | None, number: int) -> None:
        """The call's output ``(..., N, Dv)`` lies where its queries lie."""
        if places is None or not isinstance(output, Tensor):
            if isinstance(output, Tensor):
                self._other[output] = None
            return
        self.attended = True
        trail = self.of(queries) or Trail(nowhere(queries))
        rows = trail.rows
        if rows is not None:
            rows = tried(lambda x: mixed(x, [-1]).expand(output.shape), rows, output.shape)
        self.mark(output, Trail(rows, after=number))

    # --- everything else ----------------------------------------------------------------------------------------------

    def follow(
        self, func: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any], result: Any, number: int
    ) -> Product | None:
        """Give the result of ``func(*args, **kwargs)`` its trail; the product where it is attention, call
        ``number``."""
        given, name = tensors_in((*args, *kwargs.values())), name_of(func)
        known = [trail for x in given if (trail := self.of(x)) is not None]
        self.escaped = self.escaped or bool(known and name in ESCAPES) or of_vmap(given)
        if not known and self.escaped:
            known = self._come_back(name, given, result)
        elif not known:
            self._made(name, given, result)
        if not known or name in NO_NUMBERS:
            return None
        product = contraction(name, args, alpha=kwargs.get("alpha", 1.0))
        if product is not None and isinstance(result, Tensor):
            return self._contracted(product, result, number)
        self._note_hidden(name, given)
        call = Call(self.of, func, name, args, kwargs, known)
        after = max(trail.after for trail in known)
        if name == "einsum" and len(known) > 1 and any(trail.pooled for trail in known):  # of three factors
            self.hidden.append(_NO_MAP)
            self.mark(result, Trail(None, after=after))
            return None
        for each, trail in RULES.get(name, by_shape)(call, result):
            self.mark(each, dataclasses.replace(trail, after=after))
        return None

    def _note_hidden(self, name: str, given: Sequence[Tensor]) -> None:
        """Take note of a call that is attention, or may be, and shows no map."""
        if re.search("attention|attn", name):
            self.hidden.append(f"of {name}, which shows no map")
        elif name in SUMS and self._adds_unseen(given):
            self.hidden.append(_UNSEEN)

    def _note_lost(self, tokens: Sequence[Any]) -> None:
        """Take note, once, that tokens come from where nothing is seen, or what the model gives does."""
        if tokens and _UNSEEN not in self.hidden and all(self._is_unseen(x) for x in tokens):
            self.hidden.append(_UNSEEN)

    def _made(self, name: str, given: Sequence[Tensor], result: Any) -> None:
        """What torch makes of no images is of none."""
        made = tensors_in(result if isinstance(result, list | tuple) else [result])
        if all(isinstance(x, nn.Parameter) or x in self._other for x in given):
            self._other.update(dict.fromkeys(made))
        elif name == "linear" or any(x in self._projected for x in given):
            self._projected.update(dict.fromkeys(made))

    def _is_unseen(self, x: Any) -> bool:
        """Whether nothing that torch showed made a tensor, as a kernel of its own does, or torch.jit."""
        plain = isinstance(x, Tensor) and not isinstance(x, nn.Parameter) and x.is_floating_point()
        return plain and x not in self._trails and x not in self._other

    def _adds_unseen(self, given: Sequence[Tensor]) -> bool:
        """Whether a sum adds tokens ``(B, ..., N, C)`` of the images and what was made unseen, as large.

        Of one image this may be a table of places that was read from elsewhere, unless a linear layer stands behind it.
        """
        unseen = [x for x in given if self._is_unseen(x)]
        rows = next((trail.rows for x in given if (trail := self.of(x)) is not None), None)
        if len(given) != 2 or len(unseen) != 1 or given[0].shape != given[1].shape or rows is None or rows.ndim < 3:
            return False
        computed = len(rows) > 1 or self.scripted or unseen[0] in self._projected
        return computed and bool((rows >= 0).any()) and not _varies(rows, -1)

    def _come_back(self, name: str, given: Sequence[Tensor], result: Any) -> list[Trail]:
        """Images that went out of torch's sight come back as tensors that torch did not make, one entry for each: what
        they are of is known, and where they lie is lost."""
        back = [
            x
            for x in given
            if x.ndim > 1 and len(x) == self.images and x.is_floating_point()
            and not isinstance(x, nn.Parameter) and x not in self._other
        ]  # fmt: skip
        if self.attended:  # and what they met on the way is not seen
            self._note_lost(back)
        for x in back:
            self.mark(x, Trail(None))
        if not back and name not in MADE_OF_DATA:
            for x in tensors_in(result if isinstance(result, list | tuple) else [result]):
                self._other[x] = None
        return [Trail(None) for _ in back]

    def _contracted(self, product: Contraction, result: Tensor, number: int) -> Product | None:
        for one, map_of in self._weighings(product):
            orders = as_weighing(one)
            if orders is not None:
                self.attended = True
                found = self._product(one, orders, map_of)
                if one.a is not product.a and one.a is not product.b:  # a transposed view of it
                    d = one.a.ndim
                    order = tuple({d - 1: d - 2, d - 2: d - 1}.get(x, x) for x in found.order)
                    found = found._replace(factor=product.b, order=order)
                names = tuple(one.of_a[d] for d in orders[0][:-1])
                rows = found.places.queries
                if rows is not None:
                    rows = tried(
                        functools.partial(to_names, own=names, out=product.out, shape=result.shape), rows, result.shape
                    )
                self.mark(result, Trail(rows, after=number))
                return found
        self._multiplied(product, result)
        return None

    def _weighings(self, product: Contraction) -> Iterator[tuple[Contraction, Trail]]:
        """The ways in which the product may be values under a map, the map as its first factor."""
        first, second = (self.of(x) for x in (product.a, product.b))
        if first is None or second is None:
            return
        if first.soft is not None:
            yield product, first
        if second.soft is not None:
            yield product.swapped(), second
            if product.b.ndim > 2 and sums_to_one(product.b, -2):  # v a^T
                turned = product.b_transposed().swapped()
                yield turned, second.over(lambda x: x.transpose(-2, -1), turned.a.shape)

    def _product(self, one: Contraction, orders: tuple[tuple[int, ...], tuple[int, ...]], map_of: Trail) -> Product:
        plain = orders[0] == tuple(range(one.a.ndim))
        weights, v = one.a if plain else one.a.permute(orders[0]), one.b.permute(orders[1])
        moved, values_of = map_of.over(lambda x: x.permute(orders[0]), weights.shape), self.of(one.b) or Trail(None)
        queries = None if moved.rows is None else mixed(moved.rows, [-1]).squeeze(-1)
        keys = None if moved.columns is None else mixed(moved.columns, [-2]).squeeze(-2)
        if map_of.columns is None and values_of.rows is not None:  # scores that are no product
            keys = mixed(values_of.rows.permute(orders[1]), [-1]).squeeze(-1)
        places = Places(queries, keys, max(map_of.after, values_of.after), self.size)
        soft, undropped = map_of.soft, map_of.undropped
        if undropped is not None and not plain:
            undropped = undropped.permute(orders[0])
        soft = weights if soft is None else soft
        return Product(one.a, orders[0], weights, soft, v, map_of.scores, places, one.b, map_of.mixed, undropped)

    def _multiplied(self, product: Contraction, result: Tensor) -> None:
        """The trail of a product that weighs nothing: scores of two factors, or one tensor under weights."""
        sides = []
        for x, own in ((product.a, product.of_a), (product.b, product.of_b)):
            trail = self.of(x)
            spread = functools.partial(to_names, own=own, out=product.out, shape=result.shape)
            sides.append(None if trail is None else trail.over(spread, result.shape))
        first, second = sides
        after = max(side.after for side in sides if side is not None)
        if first is not None and second is not None and _is_matrix_product(product):
            weighing = [side.pooled or side.columns is not None or side.soft is not None for side in (first, second)]
            if weighing[0] != weighing[1]:  # values under what is no map
                map_of, other = (first, second) if weighing[0] else (second, first)
                rows = other.rows if map_of.pooled else map_of.rows
                self.hidden += [_NO_MAP] if rows is None or bool((rows >= 0).any()) else []
                self.mark(result, Trail(rows, after=after))
                return
        both_data = all(side is not None or _is_data(x) for side, x in zip(sides, (product.a, product.b), strict=True))
        if both_data and all(side is None or (side.columns is None and side.soft is None) for side in sides):
            factors = as_scores(product)
            rows, columns = (nowhere(result) if side is None else side.rows for side in sides)
            if factors is not None and product.out[-1] in product.of_a:  # k q^T: the softmax is over queries
                factors, rows, columns = factors[::-1], columns, rows
            scores = Scores(*factors, product.scale) if factors else None
            self.mark(result, Trail(rows, columns, after, scores, pooled=self._sums_over_tokens(product)))
            return
        side = first if first is not None else second
        if side is not None:
            self.mark(result, dataclasses.replace(side.behind_weights(), after=after))

    def _sums_over_tokens(self, product: Contraction) -> bool:
        """Whether the product of two tensors of the images sums over entries that lie apart."""
        for x, own in ((product.a, product.of_a), (product.b, product.of_b)):
            rows = trail.rows if (trail := self.of(x)) is not None else None
            if rows is not None and any(_varies(rows, own.index(name)) for name in product.summed):
                return True
        return False


def _is_matrix_product(product: Contraction) -> bool:
    """Whether each factor has one dimension of the result's that the other has not, and they share what is summed."""
    own, other = ({*names} & {*product.out} for names in (product.of_a, product.of_b))
    return len(own - other) == len(other - own) == len(product.summed) == 1


def _varies(places: Tensor, dim: int) -> bool:
    return places.stride(dim) != 0 and not bool((places == places.narrow(dim, 0, 1)).all())


def of_vmap(given: Iterable[Any]) -> bool:
    """Whether there are tensors of ``torch.vmap``, which stand for one image each and are gone behind it."""
    return any(isinstance(x, Tensor) and torch._C._functorch.is_batchedtensor(x) for x in given)


def _axes(images: Tensor) -> tuple[int, int, int | None]:
    """The axes of rows, columns and frames: ``(B, C, H, W)``, or with frames before or behind the channels; or
    channels last."""
    few = (1, 3)
    if images.ndim == 4:
        return (1, 2, None) if images.shape[-1] in few and images.shape[1] not in few else (2, 3, None)
    if images.shape[2] in few and (images.shape[1] not in few or images.shape[1] == 1):
        return 3, 4, 1
    if images.shape[1] in few:
        return 3, 4, 2
    return (2, 3, 1) if images.shape[-1] in few else (3, 4, 1)


def _is_data(x: Tensor) -> bool:
    """Whether a tensor that does not come of the images may be tokens (learned queries), rather than weights."""
    return x.ndim > 2 and not isinstance(x, nn.Parameter)


def _of_tokens(trail: Trail | None, x: Tensor) -> Tensor | None:
    """Places of tokens ``(..., N)`` of what is ``(..., N, D)``."""
    rows = nowhere(x) if trail is None else trail.rows
    return None if rows is None else mixed(rows, [-1]).squeeze(-1)
