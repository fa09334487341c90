"""What each torch function does to the places of its input: one rule for each of :data:`RULES`.

A function that has none keeps the places of its input if the shape stays, mixes them if the last dimension alone
changes (a linear layer in another form), and loses them else.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from svda_analysis.places import NOWHERE, along, mixed, padded, tried


class Scores(NamedTuple):
    """The factors of ``q k^T * scale``, ``q (..., N, D)`` and ``k (..., M, D)``."""

    q: Tensor
    k: Tensor
    scale: float


@dataclasses.dataclass(frozen=True)
class Trail:
    """What is known of a tensor that comes of the images. ``rows`` = places of its shape (None: they were lost),
    ``columns`` those of the keys in scores. ``after`` = the last attention on the way here (-1: none). ``scores`` where
    it is a product of queries and keys, ``soft`` where it is, or came of, a softmax over the last dimension: ``mixed``
    says that heads were mixed since, ``undropped`` is what dropout made it of, if that came last. ``pooled`` where it
    is a product that sums over tokens, as ``k^T v``."""

    rows: Tensor | None
    columns: Tensor | None = None
    after: int = -1
    scores: Scores | None = None
    soft: Tensor | None = None
    mixed: bool = False
    undropped: Tensor | None = None
    pooled: bool = False

    def over(self, change: Callable[[Tensor], Tensor], shape: Sequence[int]) -> Trail:
        """The places changed; lost where that does not lead to ``shape``."""
        rows, columns = (None if x is None else tried(change, x, shape) for x in (self.rows, self.columns))
        return dataclasses.replace(self, rows=rows, columns=columns, undropped=None)

    def behind_weights(self) -> Trail:
        """The same behind a product with weights: of a map they mix the heads."""
        return dataclasses.replace(self, mixed=self.soft is not None, pooled=False)


class Call(NamedTuple):
    """A call of a torch function, and the trails of what it was given."""

    of: Callable[[Any], Trail | None]
    func: Callable[..., Any]
    name: str
    args: Sequence[Any]
    kwargs: dict[str, Any]
    known: list[Trail]

    @property
    def given(self) -> Any:
        """Its first argument."""
        return self.args[0] if self.args else next(iter(self.kwargs.values()))

    @property
    def trail(self) -> Trail:
        """Of its first argument; where that does not come of the images, nowhere in them."""
        return self.of(self.given) or Trail(nowhere(self.given))

    def argument(self, position: int, name: str, otherwise: Any = None) -> Any:
        return self.args[position] if len(self.args) > position else self.kwargs.get(name, otherwise)

    def again(self, x: Any) -> Any:
        """The same call with another first argument."""
        if self.args:
            return self.func(x, *self.args[1:], **self.kwargs)
        return self.func(**{**self.kwargs, next(iter(self.kwargs)): x})


Marked = list[tuple[Any, Trail]]


def name_of(func: Callable[..., Any]) -> str:
    """``view`` for ``Tensor.view``, ``torch.view`` and ``aten.view.default``; a property has its own name."""
    name = getattr(func, "__name__", "")
    if name in ("__get__", "__set__"):
        return str(getattr(getattr(func, "__self__", None), "__name__", "")) + ("" if name == "__get__" else "=")
    return str(name).split(".")[0].removesuffix("_copy")


def tensors_in(given: Iterable[Any]) -> list[Tensor]:
    """The tensors among arguments, and in the lists among them."""
    found = []
    for x in given:
        if isinstance(x, Tensor):
            found.append(x)
        elif isinstance(x, list | tuple):
            found += [each for each in x if isinstance(each, Tensor)]
    return found


def nowhere(x: Tensor) -> Tensor:
    return torch.full((1,) * x.ndim, NOWHERE, device=x.device).expand(x.shape)


# --- rules: the trails of what a function returns ---------------------------------------------------------------------


def by_shape(call: Call, result: Any) -> Marked:
    """Elementwise, or a linear layer in a form of its own; what is neither loses the places."""
    if not isinstance(result, Tensor):
        return [(x, Trail(None)) for x in tensors_in([result])]
    spread = [x for x in call.known if x.columns is not None and x.columns.shape[-1:] != result.shape[-1:]]
    most = max(
        [x for x in call.known if not any(x is y for y in spread)]
        or spread,  # one number for a query is no row of scores
        key=lambda trail: (trail.soft is not None, trail.columns is not None, trail.rows is not None),
    )
    if call.name not in SAME_NUMBERS:
        most = dataclasses.replace(most, undropped=None)
    if most.rows is None and most.columns is None:
        return [(result, most)]
    like = most.columns if most.rows is None else most.rows
    shape = torch.Size() if like is None else like.shape
    if shape == result.shape:
        return [(result, most)]
    other_features = len(shape) == result.ndim > 0 and shape[:-1] == result.shape[:-1] and shape[-1:] != (1,)
    if other_features:
        return [(result, most.over(lambda x: mixed(x, [-1]).expand(result.shape), result.shape))]
    return [(result, most.over(lambda x: torch.broadcast_to(x, result.shape), result.shape))]


def _times(call: Call, result: Any) -> Marked:
    """Multiplied or divided: the scale of scores."""
    marked = by_shape(call, result)
    factor = next((x for x in call.args[:2] if isinstance(x, int | float)), None)
    if factor is None:
        small = [x for x in tensors_in(call.args[:2]) if x.numel() == 1]
        factor = float(small[0].detach()) if small else None
    divided = "div" in call.name
    return [(x, _rescaled(trail, factor, divided=divided)) for x, trail in marked]


def _rescaled(trail: Trail, factor: float | None, *, divided: bool) -> Trail:
    if trail.scores is None or trail.soft is not None:
        return trail
    if factor is None or (divided and not factor):  # each head its own: what is left is not q k^T * scale
        return dataclasses.replace(trail, scores=None)
    scale = trail.scores.scale / factor if divided else trail.scores.scale * factor
    return dataclasses.replace(trail, scores=trail.scores._replace(scale=scale))


def _softmax(call: Call, result: Any) -> Marked:
    dim = call.argument(1, "dim", -1)
    trail = call.trail
    if isinstance(dim, int) and dim % result.ndim == result.ndim - 1 and result.ndim > 2:
        return [(result, dataclasses.replace(trail, soft=result, mixed=False, undropped=None, pooled=False))]
    return [(result, dataclasses.replace(trail, scores=None, pooled=False))]


def _dropped(call: Call, result: Any) -> Marked:
    """Dropout: a map is what it was before."""
    marked = by_shape(call, result)
    if result is call.given:
        return marked
    return [
        (x, dataclasses.replace(trail, undropped=call.given if trail.soft is not None else None)) for x, trail in marked
    ]


def _moved(call: Call, result: Any) -> Marked:
    """Numbers are moved: their places alike."""
    return [(result, call.trail.over(call.again, result.shape))]


def _reshaped(call: Call, result: Any) -> Marked:
    return [(result, call.trail.over(lambda x: x.reshape(result.shape), result.shape))]


def _parted(call: Call, result: Any) -> Marked:
    """Several results, each a part of the input."""
    trail = call.trail
    sides = [[None] * len(result) if x is None else list(call.again(x)) for x in (trail.rows, trail.columns)]
    return [
        (part, dataclasses.replace(trail, rows=rows, columns=columns))
        for part, rows, columns in zip(result, *sides, strict=True)
    ]


def _joined(call: Call, result: Any) -> Marked:
    parts = list(call.given)
    trails = [call.of(part) or Trail(nowhere(part)) for part in parts]
    if any(trail.columns is not None for trail in trails) or any(trail.rows is None for trail in trails):
        return [(result, Trail(None))]
    rows = tried(lambda _: call.again([trail.rows for trail in trails]), nowhere(result), result.shape)
    if rows is not None and rows.ndim and bool((rows == rows[..., :1]).all()):  # features are one place again
        rows = rows[..., :1].expand(rows.shape)
    return [(result, Trail(rows))]


def _reduced(call: Call, result: Any) -> Marked:
    dims = call.argument(1, "dim", call.kwargs.get("axis"))
    if dims is None or not isinstance(result, Tensor):
        return [(x, Trail(None)) for x in tensors_in(result if isinstance(result, tuple) else [result])]
    over = [dims] if isinstance(dims, int) else list(dims)
    trail = call.trail.over(lambda x: mixed(x, over).expand_as(_kept(x, over)).reshape(result.shape), result.shape)
    return [(result, dataclasses.replace(trail, scores=None, soft=None, pooled=False))]


def _kept(x: Tensor, dims: Sequence[int]) -> Tensor:
    for dim in dims:
        x = x.narrow(dim, 0, 1)
    return x


def _linear(call: Call, result: Any) -> Marked:
    found = call.trail.over(lambda x: mixed(x, [-1]).expand(result.shape), result.shape)
    return [(result, found.behind_weights())]


def _resampled(call: Call, result: Any) -> Marked:
    """Convolution, pooling, interpolation: each entry lies where the middle of its window lies."""
    if not isinstance(result, Tensor):
        return [(x, Trail(None)) for x in tensors_in(result)]
    given = call.given
    count = next((int(d) for d in "123" if f"{d}d" in call.name), given.ndim - 2)
    centres = [
        _centres(call, axis, given.shape[axis - count], result.shape[axis - count], count) for axis in range(count)
    ]

    def change(places: Tensor) -> Tensor:
        if places.ndim == count + 2:
            places = mixed(places, [1])
        for axis, line in enumerate(centres):
            if line is not None:
                places = along(places, axis - count + places.ndim, line)
        return places.expand(result.shape)

    found = call.trail.over(change, result.shape)
    return [(result, found.behind_weights() if "conv" in call.name else found)]


def _centres(call: Call, axis: int, size: int, made: int, count: int) -> Tensor | None:
    """Where along an axis the windows of a function have their middles; None where it keeps every place."""
    line = torch.arange(made, dtype=torch.float64)
    window = _window(call, axis, count)
    if window is None:
        return None if size == made else (line + 0.5) * size / made - 0.5
    kernel, stride, padding, dilation = window
    start = dilation * (kernel - 1) / 2 - padding
    return None if (stride, start, made) == (1, 0, size) else line * stride + start


def _window(call: Call, axis: int, count: int) -> tuple[int, int, float, int] | None:
    """Kernel, stride, padding and dilation along an axis, of a convolution or a pool; None for other functions."""

    def one(value: Any) -> Any:
        return value if isinstance(value, int) else value[axis if len(value) == count else 0]

    if call.name in ("conv1d", "conv2d", "conv3d"):
        kernel = call.argument(1, "weight").shape[2 + axis]
        stride, padding, dilation = (
            call.argument(at, name, otherwise)
            for at, name, otherwise in ((3, "stride", 1), (4, "padding", 0), (5, "dilation", 1))
        )
        dilation = one(dilation)
        if isinstance(padding, str):
            return kernel, one(stride), dilation * (kernel - 1) // 2 if padding == "same" else 0, dilation
        return kernel, one(stride), one(padding), dilation
    if "pool" in call.name and "adaptive" not in call.name:
        kernel, stride = call.argument(1, "kernel_size"), call.argument(2, "stride")
        dilation = call.argument(4, "dilation", 1) if "max" in call.name else 1
        return one(kernel), one(stride or kernel), one(call.argument(3, "padding", 0)), one(dilation)
    return None


def _padded(call: Call, result: Any) -> Marked:
    """What is added lies beyond the edge, in a straight line."""
    pad = list(call.argument(1, "pad"))
    if call.argument(2, "mode", "constant") in ("reflect", "circular"):
        return [(result, Trail(None))]

    def change(places: Tensor) -> Tensor:
        for at, (low, high) in enumerate(zip(pad[::2], pad[1::2], strict=True)):
            if low or high:
                places = padded(places, places.ndim - 1 - at, low, high)
        return places

    return [(result, call.trail.over(change, result.shape))]


def _put(call: Call, result: Any) -> Marked:
    """``x[index] = value``."""
    target, index, value = call.args
    held, trail = call.of(target) or Trail(nowhere(target)), call.of(value)
    rows = trail.rows if trail is not None else torch.tensor(NOWHERE, device=target.device)
    if held.columns is not None or held.rows is None or rows is None:
        return [(target, Trail(None))] if held.columns is None else []

    def change(places: Tensor) -> Tensor:
        changed = places.clone(memory_format=torch.contiguous_format)
        changed[index] = rows
        return changed

    return [(target, held.over(change, target.shape))]


def _lost(call: Call, result: Any) -> Marked:
    return [(x, Trail(None)) for x in tensors_in(result if isinstance(result, list | tuple) else [result])]


def _unfolded(call: Call, result: Any) -> Marked:
    """``F.unfold``: ``(B, C, H, W) -> (B, C * kernel, places of the kernel)``; ``Tensor.unfold`` moves numbers."""
    if call.func is not F.unfold:
        return _moved(call, result)
    whole = call.trail.over(lambda x: F.unfold(_index_of(x), *call.args[1:], **call.kwargs).long(), result.shape)
    if whole.rows is None or call.trail.rows is None:
        return [(result, Trail(None))]
    flat = call.trail.rows.reshape(-1)
    return [(result, Trail(torch.where(whole.rows > 0, flat[(whole.rows - 1).clamp_min(0)], NOWHERE)))]


def _index_of(x: Tensor) -> Tensor:
    """The number of each entry, from 1, as floats that hold it exactly; what is padded has 0."""
    return torch.arange(1, x.numel() + 1, dtype=torch.float64, device=x.device).view(x.shape)


RESHAPING = "view reshape view_as reshape_as _unsafe_view flatten unflatten squeeze unsqueeze ravel"
MOVING = (
    "permute transpose t T mT H mH adjoint movedim moveaxis swapaxes swapdims expand expand_as broadcast_to repeat "
    "tile repeat_interleave __getitem__ select narrow slice index_select gather take_along_dim diagonal "
    "roll flip fliplr flipud rot90 pixel_unshuffle pixel_shuffle channel_shuffle"
)
PARTING = "split chunk unbind tensor_split split_with_sizes unsafe_chunk unsafe_split"
JOINING = "cat concat concatenate stack hstack vstack"


def _rules() -> dict[str, Callable[[Call, Any], Marked]]:
    resampling = (
        "conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d interpolate upsample "
        "max_pool1d max_pool2d max_pool3d avg_pool1d avg_pool2d avg_pool3d adaptive_max_pool2d "
        "adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d"
    )
    losing = "sort topk cumsum as_strided fold col2im grid_sample fft fft2 rfft2 index_put index_put_ scatter scatter_"
    words: dict[Callable[[Call, Any], Marked], str] = {
        _reshaped: RESHAPING,
        _moved: MOVING,
        _parted: PARTING,
        _joined: JOINING,
        _reduced: "mean sum amax amin max min norm logsumexp prod var std median argmax argmin nanmean",
        _linear: "linear",
        _resampled: resampling,
        _padded: "pad constant_pad_nd",
        _softmax: "softmax _softmax",
        _dropped: "dropout dropout1d dropout2d dropout3d alpha_dropout feature_dropout",
        _times: "mul __mul__ __rmul__ __imul__ mul_ multiply div __truediv__ __itruediv__ div_ true_divide divide",
        _put: "__setitem__",
        _unfolded: "unfold",
        _lost: losing,
    }
    return {name: rule for rule, names in words.items() for name in names.split()}


RULES = _rules()
ESCAPES = {"numpy", "__array__", "tolist", "__dlpack__"}  # numbers go where torch does not see what becomes of them
MADE_OF_DATA = {"tensor", "as_tensor", "asarray", "from_numpy", "from_dlpack"}
SUMS = {"add", "add_", "__add__", "__radd__", "__iadd__"}
SAME_NUMBERS = {"to", "type", "type_as", "float", "double", "half", "bfloat16", "contiguous", "clone"}
NO_NUMBERS = {
    *("shape", "ndim", "device", "dtype", "is_cuda", "requires_grad", "grad", "grad_fn", "is_sparse", "is_quantized"),
    *("size", "dim", "numel", "stride", "is_floating_point", "is_contiguous", "data_ptr", "item", "layout", "is_leaf"),
    *(
        "is_nested",
        "names",
        "__len__",
        "__hash__",
        "is_meta",
        "is_mps",
        "storage_offset",
        "backward",
        "__bool__",
        "tolist",
    ),
    *(
        "isfinite",
        "isnan",
        "isinf",
        "__eq__",
        "__ne__",
        "__lt__",
        "__gt__",
        "eq",
        "ne",
        "lt",
        "gt",
        "get_device",
        "is_cpu",
    ),
}
