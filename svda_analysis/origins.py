"""What every tensor of a forward came of: the norm whose result it is, and the linear calls before it.

A norm is a function of torch, or one by hand: a token times, or minus, a number that was computed of itself.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.weak import WeakIdKeyDictionary

from svda_analysis.places import tried
from svda_analysis.trails import JOINING, MOVING, NO_NUMBERS, PARTING, RESHAPING, name_of, tensors_in


@dataclasses.dataclass(frozen=True, eq=False)
class Norm:
    """A norm of tokens ``(..., C)``. ``gain (C,)`` is what it multiplies axes by (None: nothing), ``centres`` says that
    it takes the mean off each token. ``folds``: but for lengths and what is added, that is all it does.
    ``gives_stream``: blocks add to what it gives (post-norm), not to what it was given."""

    gain: Tensor | None = None
    centres: bool = False
    folds: bool = True
    gives_stream: bool = False
    half: bool = False  # by hand, and only the mean was taken off so far
    key: object = dataclasses.field(default_factory=object)  # the same under another gain
    read: object = None  # who it was given

    def weighed(self, factor: Any) -> Norm:
        """Its result times a number, or ``(C,)``, or what differs by token."""
        if isinstance(factor, Tensor):
            factor = factor.detach().squeeze()
            if factor.ndim > 1:
                return dataclasses.replace(self, folds=False)
        return dataclasses.replace(self, gain=factor if self.gain is None else self.gain * factor)


@dataclasses.dataclass(frozen=True, eq=False)
class Linear:
    """A call of ``F.linear``: it read ``read (..., C)``, which came of ``of``."""

    read: Tensor
    weight: Tensor
    bias: Tensor | None
    of: Origin


@dataclasses.dataclass(frozen=True, eq=False)
class Origin:
    """What a tensor came of.

    ``who`` is the same for what is only moved, cast or normed by hand. ``norm``: whose result it is; ``given``: what
    that norm was given, moved as the tensor was (None: it is something else that came of the result, or the norm gives
    the stream or may give it). ``linears``: the last linear calls on each way here, and ``attended`` whether it came of
    attention with none of them between, both since attention call ``at``. ``measures``: of whose numbers alone it was
    computed, the nearest first. ``closed``: it is the sum of a norm's result and what a branch made of that result.
    ``bare``: it is the result of a convolution or a linear call.
    """

    who: object = dataclasses.field(default_factory=object)
    norm: Norm | None = None
    given: Tensor | None = None
    linears: tuple[Linear, ...] = ()
    attended: bool = False
    measures: tuple[object, ...] = ()
    closed: bool = False
    bare: bool = False
    at: int = 0


def way_back(linear: Linear) -> list[Linear]:
    """The linear call and those that what it read came of, since the last norm; the nearest first."""
    found, todo = list[Linear](), [linear]
    while todo:
        one = todo.pop(0)
        if not any(one is x for x in found):
            found.append(one)
            todo += () if one.of.norm else one.of.linears
    return found


def first_reader(linears: Sequence[Linear], width: int) -> Linear | None:
    """The linear call that reads the tensor that all of ``linears`` came of; None where that is not one tensor.

    What linear calls gave, with fewer than ``width`` features, is a step between two of them and no stream.
    """
    ends = [end for linear in linears for end in _readers_before(linear, width)]
    return ends[0] if ends and all(x.of.who is ends[0].of.who for x in ends) else None


def _readers_before(linear: Linear, width: int) -> list[Linear]:
    if linear.of.norm or not linear.of.linears or linear.read.shape[-1] >= width:
        return [linear]
    return [end for one in linear.of.linears for end in _readers_before(one, width)]


class Origins:
    """The origins of all tensors of one forward."""

    def __init__(self) -> None:
        self._known: WeakIdKeyDictionary = WeakIdKeyDictionary()
        self._at = 0
        self._pre_norm = False  # whether a branch was seen that adds to what its norm was given
        self._normed_branches = False  # or one whose result was normed before it was added

    def of(self, x: Tensor) -> Origin:
        found = self._known.get(x)
        if found is None or found.at != self._at:
            new = {"linears": (), "attended": False, "at": self._at}
            found = Origin(at=self._at) if found is None else dataclasses.replace(found, **new)
            self._mark(x, found)
        return found

    def attention_gave(self, output: Tensor | None) -> None:
        """An attention call is over; ``output``: what its heads gave, None where it projected that by itself."""
        self._at += 1
        if output is not None:
            self._mark(output, Origin(attended=True, at=self._at))

    def follow(
        self, function: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any], result: Any
    ) -> Linear | None:
        """Take note of ``result = function(*args, **kwargs)``; returns the call where it is linear."""
        name, given = name_of(function), tensors_in((*args, *kwargs.values()))
        if name in NO_NUMBERS or not given:
            return None
        if function in _READERS:
            return self._known_function(function, args, kwargs, result)
        if not args and name in _MOVES:  # all by name
            first, *others = kwargs
            args, kwargs = (kwargs[first],), {key: kwargs[key] for key in others}
        if name in _MOVES and (isinstance(args[0], Tensor) or name in _JOINS):
            self._moved(name, function, args, kwargs, result)
        elif len(args) > 1 and name.strip("_") in _SUMS | _PRODUCTS:
            self._mark(result, self._combined(name.strip("_"), args))
        else:
            target = args[:1] if result is None else (result,)  # x[index] = value
            for each in tensors_in(target[0] if isinstance(target[0], list | tuple) else target) if target else ():
                made = self._made_of(self._all(given))
                self._mark(each, dataclasses.replace(made, bare=True) if name.startswith("conv") else made)
        return None

    def _mark(self, x: Any, origin: Origin) -> None:
        if isinstance(x, Tensor) and not isinstance(x, nn.Parameter):
            self._known[x] = origin

    def _all(self, given: Iterable[Tensor]) -> list[Origin]:
        return [self.of(x) for x in given if not isinstance(x, nn.Parameter)]

    def _made_of(self, origins: Sequence[Origin]) -> Origin:
        """Of something computed of these: what came of a norm's result is that result no more."""
        lost = next((x.norm for x in origins if x.norm and not x.norm.gives_stream), None)
        linears = tuple({id(one): one for x in origins for one in x.linears}.values())
        measured = [(x.who, *x.measures) for x in origins] or [()]
        return Origin(
            norm=lost,
            linears=linears,
            attended=any(x.attended for x in origins),
            measures=tuple(who for who in measured[0] if all(who in each for each in measured))[:_STEPS],
            at=self._at,
        )

    def _known_function(
        self, function: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any], result: Any
    ) -> Linear | None:
        """A linear call, or a norm."""
        given = {**dict(zip(_READERS[function], args, strict=False)), **kwargs}
        read, weight = given["input"], given.get("weight")
        of = self.of(read)
        if function is F.linear and weight is not None:
            bias = given.get("bias")
            linear = Linear(read.detach(), weight.detach(), bias if bias is None else bias.detach(), of)
            self._mark(result, Origin(linears=(linear,), bare=True, at=self._at))
            return linear
        over = given.get("normalized_shape", (0,))
        if function is F.normalize and given.get("dim", 1) not in (-1, read.ndim - 1):
            self._mark(result, self._made_of([of]))
            return None
        gain = None if weight is None else weight.detach()
        norm, before = self._norm_of(read, of, Norm(gain, function in _CENTRING, len(over) == 1))
        kept = dataclasses.replace(of, who=object(), closed=False, bare=False, measures=())
        self._mark(result, dataclasses.replace(kept, norm=norm, given=before))
        return None

    def _norm_of(self, read: Tensor, of: Origin, norm: Norm) -> tuple[Norm, Tensor | None]:
        """The norm that was given ``read``, and that, where blocks add to it. A norm of patches as they were made may
        belong to their making, and does where branches were seen to be normed before they are added."""
        gives_stream = of.closed or (of.bare and self._normed_branches)
        known = not gives_stream and (self._pre_norm or not of.bare)
        return dataclasses.replace(norm, gives_stream=gives_stream, read=of.who), read.detach() if known else None

    def _moved(
        self, name: str, function: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any], result: Any
    ) -> None:
        """Numbers are moved, copied or cast: what the norm was given moves along."""
        results = [result] if isinstance(result, Tensor) else list(result)
        parts = [args[0]] if isinstance(args[0], Tensor) else list(args[0])
        origins = [self.of(x) for x in parts]
        origin = origins[0]
        if len(parts) > 1:
            origin = self._made_of(origins)
            if len({id(x.norm) for x in origins}) == 1:
                origin = dataclasses.replace(origin, norm=origins[0].norm, given=origins[0].given)
        moved: list[Tensor | None] = [origin.given] * len(results)
        if origin.given is not None and name not in _COPIES:
            first = origin.given if isinstance(args[0], Tensor) else [x.given for x in origins]
            moved = [
                tried(lambda x, at=at: _part(function(x, *args[1:], **kwargs), at), first, each.shape)  # type: ignore[misc,arg-type]
                for at, each in enumerate(results)
            ]
        for each, given in zip(results, moved, strict=True):
            self._mark(each, dataclasses.replace(origin, given=given))

    def _combined(self, name: str, args: Sequence[Any]) -> Origin:
        """A sum, difference, product or quotient of two: that of a norm by hand, of a norm's result under a gain or a
        bias, of a stream and a branch."""
        a, b = args[:2]
        origins = self._all(x for x in (a, b) if isinstance(x, Tensor))
        made = self._made_of(origins)
        for x, other in ((a, b), (b, a)):
            if not isinstance(x, Tensor) or isinstance(x, nn.Parameter):
                continue
            of = self.of(x)
            if isinstance(other, Tensor) and _is_number_of_each(other, x) and of.who in self.of(other).measures:
                return self._normed_by_hand(x, of, made, folds=name in _PRODUCTS)
            if of.norm and not _has_rows(other):
                norm = of.norm.weighed(other) if "mul" in name else of.norm
                norm = dataclasses.replace(norm, folds=norm.folds and ("mul" in name or "add" in name))
                return dataclasses.replace(made, norm=norm, given=of.given)
        if name not in _SUMS:
            return made
        return self._summed([x for x in (a, b) if _has_rows(x)], made)

    def _normed_by_hand(self, x: Tensor, of: Origin, made: Origin, *, folds: bool) -> Origin:
        """Of ``x`` times (``folds``) or minus a number of each token that was computed of x: a norm, or its next
        step."""
        if of.norm and of.norm.half:
            norm, given = dataclasses.replace(of.norm, half=not folds), of.given
        else:
            norm, given = self._norm_of(x, of, Norm(folds=folds, half=not folds))
        return dataclasses.replace(made, who=of.who, norm=norm, given=given, measures=())

    def _summed(self, parts: Sequence[Tensor], made: Origin) -> Origin:
        """Of a sum of ``parts``, which differ from token to token: a stream, but where all came of linear calls."""
        if len(parts) < 2:
            return made
        origins = [Origin() if isinstance(x, nn.Parameter) else self.of(x) for x in parts]
        linears = made.linears if all(x.linears for x in origins) else ()
        closed = False
        for stream, branch in (origins, origins[::-1]):
            way = [x.of for one in branch.linears for x in way_back(one)]
            norms = [x.norm for x in way if x.norm]
            closed = closed or any(stream.norm is not None and norm.key is stream.norm.key for norm in norms)
            self._pre_norm = self._pre_norm or any(norm.read is stream.who for norm in norms)
            self._normed_branches = self._normed_branches or (
                branch.norm is not None and any(x.who is stream.who for x in way)
            )
        by_image = any(x.shape[-2] == 1 for x in parts)  # the same for all tokens: the norm's result is moved by it
        norm = made.norm if by_image else None
        return dataclasses.replace(made, norm=norm, linears=linears, closed=closed, measures=())


def _part(result: Any, at: int) -> Any:
    return result if isinstance(result, Tensor) else result[at]


def _is_number_of_each(x: Tensor, tokens: Tensor) -> bool:
    """Whether x is one number for each of ``tokens (..., C)``."""
    return x.shape == (*tokens.shape[:-1], 1) and tokens.ndim > 1 and tokens.shape[-1] > 1


def _has_rows(x: Any) -> bool:
    """Whether it differs along other dimensions than the last."""
    return isinstance(x, Tensor) and any(size > 1 for size in x.shape[:-1])


_OF_NORM = ("input", "normalized_shape", "weight")
_READERS = {
    F.linear: ("input", "weight", "bias"),
    F.normalize: ("input", "p", "dim"),
    **dict.fromkeys((F.rms_norm, F.layer_norm, torch.rms_norm, torch.layer_norm), _OF_NORM),
}
_CENTRING = (F.layer_norm, torch.layer_norm)
_STEPS = 8  # of a computation by hand that are remembered
_JOINS = set(JOINING.split())
_COPIED = "to type type_as float half bfloat16 double detach data dropout requires_grad_"
_COPIES = set(_COPIED.split())
_MOVES = _COPIES | _JOINS | {"pad", "contiguous", "clone", *RESHAPING.split(), *MOVING.split(), *PARTING.split()}
_SUMS = {"add", "radd", "iadd", "sub", "rsub", "isub", "subtract"}  # without the lines around names
_PRODUCTS = {"mul", "rmul", "imul", "multiply", "div", "truediv", "rtruediv", "itruediv", "true_divide", "divide"}
