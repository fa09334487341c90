"""The kinds of attention, each registered once: what it is called, its part in a comparison, where its rule lives.

A kind of one's own is one registration, and then a choice everywhere (``ViTConfig``, specs, manifests, the commands)::

    register_attention(AttentionKind(name="keys", model="keys", role="studied", layer=RULE, about="unit keys alone"))

``RULE`` is an :class:`svda_analysis.attention.Rule`. No torch here: rules are resolved when a layer is built.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from importlib import import_module
from typing import Any

from svda_analysis.errors import InputError

ROLES = ("baseline", "studied", "control")  # in the order in which a study shows them


@dataclasses.dataclass(frozen=True, kw_only=True)
class AttentionKind:
    """One kind of attention.

    ``model`` names a model of this kind where none is given; ``role`` is one of :data:`ROLES`; ``layer`` is its rule
    (:class:`~svda_analysis.attention.Rule`) or where that lives, as ``"module:attribute"``; ``about`` a line for help.
    """

    name: str
    model: str
    role: str
    layer: Any
    about: str

    def __post_init__(self) -> None:
        if self.role not in ROLES:
            raise InputError(f"role must be one of {', '.join(ROLES)}, got {self.role!r}")

    @property
    def place(self) -> int:
        """Where a study shows it: baselines first, controls last."""
        return ROLES.index(self.role)

    @property
    def rule(self) -> Any:
        """What ``layer`` names, or is."""
        if not isinstance(self.layer, str):
            return self.layer
        module, _, attribute = self.layer.partition(":")
        return getattr(import_module(module), attribute)


ATTENTIONS: dict[str, AttentionKind] = {}


def register_attention(kind: AttentionKind) -> AttentionKind:
    """Add ``kind`` to :data:`ATTENTIONS`. Raises :class:`InputError` for a name, or a model's name, that is taken."""
    for other in ATTENTIONS.values():
        if kind.name == other.name or kind.model == other.model:
            raise InputError(f"name and model must be new, got {kind.name!r} and {kind.model!r} beside {other.name!r}")
    ATTENTIONS[kind.name] = kind
    return kind


def attention_kind(name: str) -> AttentionKind:
    """The kind called ``name``. Raises :class:`InputError` for any other name."""
    if not isinstance(name, str) or name not in ATTENTIONS:
        raise InputError(f"attention must be one of {', '.join(ATTENTIONS)}, got {name!r}")
    return ATTENTIONS[name]


def baseline_among(kinds: Mapping[str, str | None]) -> str:
    """The model to compare others with, of models with their kinds: the only one of a baseline's, else the first."""
    plain = [model for model, name in kinds.items() if name in ATTENTIONS and ATTENTIONS[name].role == "baseline"]
    return plain[0] if len(plain) == 1 else next(iter(kinds))


register_attention(
    AttentionKind(
        name="dot",
        model="vit",  # the baseline is a plain Vision Transformer
        role="baseline",
        layer="svda_analysis.attention:DOT",
        about="scaled dot product (Vaswani et al. 2017)",
    )
)
register_attention(
    AttentionKind(
        name="svda",
        model="svda",
        role="studied",
        layer="svda_analysis.attention:SVDA",
        about="unit rows and a learned diagonal per head (arXiv 2602.10994)",
    )
)
register_attention(
    AttentionKind(
        name="cosine",
        model="cosine",
        role="control",
        layer="svda_analysis.attention:COSINE",
        about="unit rows and one temperature per head, no spectrum",
    )
)
