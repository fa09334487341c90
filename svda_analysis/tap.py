"""One tap on torch's attention functions: any model -> a stream of attention records, one layer at a time.

A :class:`torch.overrides.TorchFunctionMode` sees each call of an attention function while ``model`` runs, so the model
is not edited, the fused kernels stay on, and nothing is left behind.
"""

from __future__ import annotations

import contextlib
import math
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from svda_analysis.calls import READERS, AttentionCall, AttentionRecord, bound
from svda_analysis.errors import InputError
from svda_analysis.forward import call_model
from svda_analysis.layer_inputs import LayerInputs
from svda_analysis.products import why_no_map
from svda_analysis.tracker import Product, Tracker, of_vmap
from svda_analysis.trails import tensors_in


@contextlib.contextmanager
def capture(
    model: nn.Module,
    on_record: Callable[[AttentionRecord], None],
    *,
    output: Literal["kernel", "map", "rows"] = "kernel",
    inputs: LayerInputs | None = None,
) -> Iterator[list[str]]:
    """While the context is open, call ``on_record`` at each attention call inside ``model``'s forward.

    Gives a list that holds, after a forward, a reason for each call in it that is attention of the image, or may be,
    and shows no map: flex_attention, linear attention, what torch.jit made.

    ``output="kernel"``: the model's own kernel answers, logits are bit-identical to those without capture, and records
    carry no graph. ``output="map"``: the layer's output is the explicit ``a @ v`` (equal to about 1e-5), the map is
    computed once, and gradients reach ``record.a``. ``output="rows"``: a map is not made unless ``on_record`` asks for
    its rows (``record.rows``), and the layer's output is what it asked for times v, if it went through all queries in
    their order; no graph, and attention that the model multiplies itself is left as it is. ``inputs``: takes note of
    the calls between, and tells records their tokens. Speaks of forwards in the thread that opened the context; other
    methods of the model, such as ``forward_features`` or ``encode_image``, are seen from where they give images to a
    part of it.
    Raises :class:`InputError` at the end where attention was called, but none that can be told to be the model's.

    Under a tap torch switches the fast path of ``nn.MultiheadAttention`` off: the logits of such a model are
    bit-identical to those with ``torch.backends.mha.set_fastpath_enabled(False)``.
    """
    if output not in ("kernel", "map", "rows"):
        raise InputError(f"output must be 'kernel', 'map' or 'rows', got {output!r}")
    if isinstance(model, torch.jit.ScriptModule):
        check_captured(0, model)
    tap = Tap(on_record, output, inputs)
    with _tapped(model, tap):
        yield tap.tracker.hidden


@contextlib.contextmanager
def without_head(model: nn.Module, layer: int, head: int) -> Iterator[None]:
    """While the context is open, the output of one head ``a v`` is 0 in ``model``'s forward, and nothing else is
    changed (Michel et al. 2019, sec. 3); ``layer`` counts attention calls from 0, as :attr:`AttentionRecord.layer`
    does, and heads are the second dimension of its map."""
    with _tapped(model, _Muted(layer, head)):
        yield


@contextlib.contextmanager
def _tapped(model: nn.Module, tap: Tap) -> Iterator[None]:
    tap.tracker.hold(model)
    hooks = [
        model.register_forward_pre_hook(lambda _, args, kwargs: tap.start((*args, *kwargs.values())), with_kwargs=True),
        model.register_forward_hook(lambda *given: tap.stop(given[-1]), always_call=True),
    ]
    for part in (part for part in model.children() if not isinstance(part, torch.jit.ScriptModule)):  # it takes no hook
        hooks.append(
            part.register_forward_pre_hook(
                lambda part, args, kwargs: tap.enter_part(part, (*args, *kwargs.values())), with_kwargs=True
            )
        )
    try:
        with tap, _uncompiled():
            yield
        tap.check_seen(model)
    finally:
        for hook in hooks:
            hook.remove()


def records(model: nn.Module, images: Tensor | Mapping[str, Any]) -> list[AttentionRecord]:
    """All attention records of one forward of ``images (B, C, H, W)``, or of a mapping as a processor makes it, in
    eval mode, without gradients.

    Raises :class:`InputError` when the model shows no attention, neither by torch's functions nor by hand.
    """
    found: list[AttentionRecord] = []
    with evaluating(model), torch.no_grad(), capture(model, found.append):
        call_model(model, images)
    check_captured(len(found), model)
    return found


def check_captured(number: int, model: nn.Module) -> None:
    """Raise :class:`InputError`, with the likely cause, when a forward gave no attention record."""
    if not number:
        raise InputError(f"{type(model).__name__} shows no attention: {_why_none(model)}")


def _why_none(model: nn.Module) -> str:
    if any(isinstance(module, torch.jit.ScriptModule) for module in model.modules()):
        return "torch.jit made it, which hides its calls; take the module that it was made of"
    hidden = "a kernel of its own, torch.jit, torch.vmap or flex_attention would hide it"
    return f"no softmax over tokens that weighs values was seen ({hidden})"


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode inside the context; each module's own mode comes back after it, by its ``train``: some fold weights or
    keep caches in eval mode, and undo that there."""
    flags = [(module, module.training) for module in model.modules()]
    if any(flag for _, flag in flags):
        model.eval()
    try:
        yield
    finally:
        for module, flag in flags:  # what holds others comes before them, and sets theirs too
            if module.training != flag:
                module.train(flag)


@contextlib.contextmanager
def _uncompiled() -> Iterator[None]:
    """What torch.compile made runs as it was written: a compiled graph hides its calls.

    Its compiler takes a second to import. Where nothing has, nothing is compiled, until a forward compiles something.
    """
    if "torch._dynamo" in sys.modules:
        with torch.compiler.set_stance("force_eager"):
            yield
    else:
        with _FIRST_COMPILED:
            yield


class _FirstCompiled:
    """While any thread is inside, the first call of torch.compile makes what is compiled run as it was written."""

    def __init__(self) -> None:
        self._lock, self._inside = threading.RLock(), 0
        self._compile: Callable[..., Any] = torch.compile
        self._stance: contextlib.AbstractContextManager[Any] | None = None

    def _call(self, *given: Any, **options: Any) -> Any:
        with self._lock:
            torch.compile = self._compile
            if self._inside and self._stance is None:
                self._stance = torch.compiler.set_stance("force_eager")
                self._stance.__enter__()
        return self._compile(*given, **options)

    def __enter__(self) -> None:
        with self._lock:
            if not self._inside:
                self._compile, torch.compile = torch.compile, self._call
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                torch.compile = self._compile
                if self._stance is not None:
                    self._stance.__exit__(None, None, None)
                    self._stance = None


_FIRST_COMPILED = _FirstCompiled()


class Tap(TorchFunctionMode):
    """Sees the calls inside a model's forward, in the thread that made it; ``layer`` counts those of attention."""

    def __init__(
        self, on_record: Callable[[AttentionRecord], None], output: str, inputs: LayerInputs | None = None
    ) -> None:
        super().__init__()
        self.on_record, self.output, self.inputs = on_record, output, inputs
        self.owner, self.depth, self.layer = threading.get_ident(), 0, 0
        self.tracker = Tracker()
        self.by_parts, self.forwards, self.missed = False, 0, 0
        self.entered: set[nn.Module] = set()  # parts that were called since

    def start(self, given: tuple[Any, ...]) -> None:
        if threading.get_ident() == self.owner:
            if not self.depth:
                self._begin(given, by_parts=False)
            self.depth += 1

    def stop(self, output: Any = None) -> None:
        if threading.get_ident() == self.owner:
            self.depth -= 1
            if not self.depth:
                self.tracker.end(output)

    def enter_part(self, part: nn.Module, given: tuple[Any, ...]) -> None:
        """A part of the model is called: images that it gets outside a forward are those of another method."""
        if threading.get_ident() != self.owner or self.depth:
            return
        images = [x for x in given if isinstance(x, Tensor) and x.is_floating_point() and x.ndim in (4, 5)]
        if images and all(self.tracker.of(x) is None or (part in self.entered and x in self.tracker) for x in images):
            self._begin(given, by_parts=True)
        self.entered.add(part)

    def _begin(self, given: tuple[Any, ...], *, by_parts: bool) -> None:
        self.layer, self.by_parts = 0, by_parts
        self.entered.clear()
        self.forwards += 1
        self.tracker.begin(given)

    def check_seen(self, model: nn.Module) -> None:
        """Raise :class:`InputError` where attention was called and none of it was taken for the model's."""
        if self.missed and not self.forwards:
            raise InputError(
                f"capture saw {self.missed} attention calls, but no forward of {type(model).__name__}: call the model "
                "itself, or give capture the part of it that is called"
            )

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if not self.depth and not (self.by_parts and self._is_followed(args, kwargs)):
            self.missed += func in READERS
            return func(*args, **kwargs)
        if func is Tensor.__iter__ and args[0].ndim:
            return iter(self.__torch_function__(torch.unbind, types, args))
        reader = READERS.get(func)
        if reader is not None and not of_vmap(args):  # there is no map of the whole batch
            return self._called(func, reader, args, kwargs)
        result = func(*args, **kwargs)
        found = self.tracker.follow(func, args, kwargs, result, self.layer)
        if found is not None:
            return self._weighed(found, func, args, kwargs, result)
        if self.inputs:
            self.inputs.passed(func, args, kwargs, result)
        return result

    def _is_followed(self, args: Any, kwargs: dict[str, Any]) -> bool:
        """Whether something that a function is given comes of the images."""
        return any(self.tracker.of(x) is not None for x in tensors_in((*args, *kwargs.values())))

    def _weighed(self, found: Product, func: Callable[..., Any], args: Any, kwargs: dict[str, Any], result: Any) -> Any:
        """Attention that is multiplied by hand."""
        if self.output == "map" and found.weights is not found.factor:  # so that the map is on the way to the output
            result = self._again(found, found.weights, func, args, kwargs, result)
        record = _by_hand(self.layer, found)
        if self.inputs:
            given = (found.factor, found.values)
            record = record._replace(tokens=self.inputs.take((record.q, record.k, record.v), given))
            self.inputs.gave(result)
        self._emit(record, detached=self.output != "map")
        return result

    def _again(
        self, found: Product, weights: Tensor, func: Callable[..., Any], args: Any, kwargs: dict[str, Any], result: Any
    ) -> Any:
        """The product with other weights."""
        back = weights.permute([found.order.index(d) for d in range(weights.ndim)])
        made = func(*(_replaced(x, found.factor, back) for x in args), **kwargs)
        self.tracker.copy(result, made)
        return made

    def _called(
        self, func: Callable[..., Any], reader: Callable[..., AttentionCall], args: Any, kwargs: dict[str, Any]
    ) -> Any:
        if any(isinstance(x, Tensor) and x.is_nested for x in (*args, *kwargs.values())):
            raise InputError(
                "attention over nested tensors has no map of one shape: pad the images of a batch, with a mask"
            )
        made = None
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.output == "map"):
            call = reader(self.layer, *args, **kwargs)
            if self.output != "rows" or call.dropout_p or call.asks_for_map:
                call = call.whole()
        if call.record.a.is_meta:
            made = _OutputOfRows(call)
        elif self.output != "kernel":
            a = F.dropout(call.record.a, call.dropout_p) if call.dropout_p else call.record.a
            result = call.result(a.to(call.record.v.dtype) @ call.record.v)
        else:
            result = self._answer(call, func(*args, **kwargs))
        places, layer = self.tracker.places_of(call.queries, call.keys), self.layer
        record = call.record._replace(places=call.arranged(places) if places else None)
        if self.inputs:
            inside = bound(args, kwargs) if func is F.multi_head_attention_forward else None
            given = (call.queries, call.keys, call.values)
            record = record._replace(tokens=self.inputs.take((record.q, record.k, record.v), given, inside))
        self._emit(record if made is None else record._replace(rows=made.rows), detached=self.output != "map")
        if made is not None:
            result = func(*args, **kwargs) if made.output is None else call.result(made.output)
        output = result[0] if isinstance(result, tuple) else result
        if self.inputs:
            self.inputs.gave(output)
        self.tracker.mark_output(output, call.queries, places, layer)
        return result

    def _answer(self, call: AttentionCall, result: Any) -> Any:
        """What the call gives, where the model's own kernel gave ``result``."""
        return result

    def _emit(self, record: AttentionRecord, *, detached: bool) -> None:
        if detached:
            names = ("q", "k", "v", "sigma", "a")
            record = record._replace(**{n: x.detach() for n in names if (x := getattr(record, n)) is not None})
        self.layer += 1
        self.on_record(record)


class _OutputOfRows:
    """The output of a call, put together while the rows of its map are made."""

    def __init__(self, call: AttentionCall) -> None:
        self.call, self.reached = call, 0
        self.v = call.record.v.detach().contiguous()  # once for all products
        self.made: Tensor | None = None  # at once: pieces that are kept would lie between blocks that are freed

    @torch.no_grad()
    def rows(self, first: int, last: int) -> Tensor:
        """The map's rows from ``first`` to before ``last``."""
        a = self.call.scores.rows(first, last)
        if first == self.reached:
            if self.made is None:
                self.made = self.v.new_empty(*self.call.record.a.shape[:-1], self.v.shape[-1])
            self.made[..., first:last, :] = a.to(self.v.dtype) @ self.v
            self.reached += a.shape[-2]
        return a

    @property
    def output(self) -> Tensor | None:
        """``(B, H, N, Dv)``; None where rows are missing."""
        return self.made if self.reached == self.call.record.a.shape[-2] else None


class _Muted(Tap):
    """One head of one call gives nothing."""

    def __init__(self, layer: int, head: int) -> None:
        super().__init__(lambda record: None, "kernel")
        self.at, self.head = layer, head

    def _weighed(self, found: Product, func: Callable[..., Any], args: Any, kwargs: dict[str, Any], result: Any) -> Any:
        if self.layer == self.at:
            kept = self._kept(found.weights)
            result = self._again(found, found.weights * kept, func, args, kwargs, result)
        self.layer += 1
        return result

    def _answer(self, call: AttentionCall, result: Any) -> Any:
        if self.layer != self.at:
            return result
        a, v = call.record.a, call.record.v
        return call.result(a.to(v.dtype) @ v * self._kept(a))

    def _kept(self, a: Tensor) -> Tensor:
        """Which heads of a map stay, ``(H, 1, 1)``."""
        if a.ndim != 4:
            raise InputError(f"heads can be taken out of maps (B, H, N, N), got {tuple(a.shape)}")
        return (torch.arange(a.shape[1], device=a.device) != self.head)[:, None, None]


def _replaced(given: Any, old: Tensor, new: Tensor) -> Any:
    if isinstance(given, list | tuple):
        return type(given)(_replaced(x, old, new) for x in given)
    return new if given is old else given


def _by_hand(layer: int, found: Product) -> AttentionRecord:
    """The record of attention that is multiplied by hand.

    The map is what weighs the values, before dropout. Where that is none because heads are mixed after the softmax, the
    map is the softmax; where it is none for another reason, the record says why.
    """
    a = found.weights if found.undropped is None else found.undropped
    why = why_no_map(a)
    mixed = bool(why) and found.mixed and found.soft.shape == a.shape
    if mixed:
        a, why = found.soft, ""
    q = k = None
    scale = 1.0
    if found.scores is not None:
        scale, fit = found.scores.scale, (a.shape[:-1], (*a.shape[:-2], a.shape[-1]))
        q, k = (_fitted(x, shape) for x, shape in zip(found.scores[:2], fit, strict=True))
    return AttentionRecord(layer, q, k, found.v, scale, a, None, found.places, mixed, no_map=why)


def _fitted(x: Tensor, shape: tuple[int, ...]) -> Tensor | None:
    """``x (..., N, D)`` with the leading dimensions of the map, where it has as many entries."""
    wanted = (*shape, x.shape[-1])
    return x if x.shape == wanted else x.reshape(wanted) if x.numel() == math.prod(wanted) else None
