"""How a model is measured: the options of :func:`~svda_analysis.analysis.analyze`, checked in one place."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence

from svda_analysis.attention import check_amount
from svda_analysis.errors import InputError, check_fields
from svda_analysis.indicators import Indicator, choose_indicators

BATCH_SIZE = 64  # images per forward, where none is given
_SIZES = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30}
_LEAST_MEMORY, _MOST_MEMORY = 10**6, 2**63  # bytes: below, not even a row of a map is sure to fit
_FORWARD = 64  # what a forward of one image holds at once, in bytes of that image: of a ViT with patches of 16 about 20
_EXAMPLE = 4  # what the example of one image holds, in bytes of its maps: they, copies, those of rollout and relevance


def bytes_of(memory: float | str) -> int:
    """``"2GB"``, ``"500 MB"``, ``"1.5GiB"`` or a number of bytes. Raises :class:`InputError` for anything else."""
    told = re.fullmatch(r"\s*(\d+(?:\.\d*)?)\s*([a-z]*)\s*", str(memory).lower())
    size = _SIZES.get(told[2]) if told else None
    if told is None or size is None or not _LEAST_MEMORY <= (found := float(told[1]) * size) < _MOST_MEMORY:
        raise InputError(f"memory must be at least 1MB and below 2^63 bytes, as in 2GB or 500MB, got {memory!r}")
    return int(found)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """How a model is measured; the fields are explained at :func:`~svda_analysis.analysis.analyze`. Checked when it is
    made."""

    indicators: Sequence[str] | None = None
    images: int | None = None
    precision: float | None = None
    costly_images: int | None = 256
    batch_size: int | None = None
    memory: float | str | None = None
    noise: float = 0.1
    examples: int = 4
    seed: int = 0

    def __post_init__(self) -> None:
        check_fields(self)
        if not self.chosen:
            raise InputError("indicators must name at least one indicator, got none")
        if self.images is not None and self.images < 1:
            raise InputError(f"images must be at least 1, got {self.images}")
        if self.costly_images is not None and self.costly_images < 1:
            raise InputError(f"costly_images must be at least 1 (None: all), got {self.costly_images}")
        if self.precision is not None and not 0 < self.precision < 1:
            raise InputError(f"precision must lie between 0 and 1, got {self.precision}")
        if self.batch_size is not None and self.batch_size < 1:
            raise InputError(f"batch_size must be at least 1, got {self.batch_size}")
        check_amount("noise", self.noise)
        if self.examples < 0:
            raise InputError(f"examples must be at least 0, got {self.examples}")
        if not 0 <= self.seed < 2**63:
            raise InputError(f"seed must lie in [0, 2^63), got {self.seed}")
        if self.memory is not None:
            object.__setattr__(self, "memory", bytes_of(self.memory))

    @property
    def chosen(self) -> list[Indicator]:
        return choose_indicators(self.indicators)

    @property
    def most_bytes(self) -> int | None:
        """``memory`` in bytes; None: no limit."""
        return None if self.memory is None else bytes_of(self.memory)

    def images_at_once(self, image_bytes: int) -> int:
        """How many images, each of so many bytes, go through the model at once: ``batch_size``, where one is given;
        else as many as fit in half of ``memory``, with noisy copies of them."""
        if self.batch_size is not None or self.most_bytes is None:
            return self.batch_size or BATCH_SIZE
        return max(min(self.most_bytes // 2 // (2 * _FORWARD * image_bytes), BATCH_SIZE), 1)

    def fitting_examples(self, map_bytes: int) -> int:
        """How many of ``examples`` fit in ``memory``, where the maps of all layers of an image are so many bytes."""
        most = self.most_bytes
        return self.examples if most is None else min(self.examples, most // (_EXAMPLE * max(map_bytes, 1)))
