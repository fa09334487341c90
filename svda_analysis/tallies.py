"""What a stream of images has come to: moments, what was left out of them, and the tables of both."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pandas as pd

from svda_analysis.frames import SPECTRA_COLUMNS, TABLE_COLUMNS, make_frame
from svda_analysis.indicators import Indicator
from svda_analysis.stats import Moments, proportion_interval
from svda_analysis.team import Team
from svda_analysis.vocabulary import known_bounds, quantity

_NO_WEIGHTS = (
    "its rows of q, k and v are not those that the weights give (rotary embeddings, norms, adapters, other layouts), "
    "or more is done to what its heads give than one projection (gates, adapters)"
)
_NEEDED = {  # why what an indicator needs may be lacking
    "tokens": "the calls before its attention do not tell which tokens it reads",
    "spectrum": _NO_WEIGHTS,
    "qk_eigenvalues": _NO_WEIGHTS,
    "ov_eigenvalues": _NO_WEIGHTS,
    "ablated_loss": "it takes labelled images and a classifier of them",
    "position_map": "it takes maps of whole images, and two images or more in the first batch",
}


class Tally:
    """What ``indicators`` came to over some images, by source and layer."""

    def __init__(self, indicators: Sequence[Indicator]) -> None:
        self.indicators = indicators
        self.named = {one.name: one for one in indicators}
        self.images = 0
        self.costly_images = 0  # which indicators that cost most have seen
        self.kind = "dot"
        self.moments: dict[tuple[str, str, int], Moments] = {}
        self.spectrum_moments: dict[tuple[str, int], Moments] = {}
        self.bounds: dict[tuple[str, str, int], tuple[float, float]] = {}
        self.windows = self.views = self.pixels_unknown = False
        self.left_out: list[str] = []  # of the last batch, why attention calls are no maps of the image
        self.hidden: list[str] = []  # of the last batch, what is attention, or may be, and shows no map
        self.unfitted: dict[tuple[str, str], set[int]] = {}  # by indicator and reason: layers without it
        self.map_bytes = 0  # of all layers of one image, of the last batch
        self.beyond = ""  # which labels are none of the model's outputs
        self.calls = 0  # attention calls of the last batch
        self.starts = 0  # maps of the last batch that come of no other
        self.layers = 0  # whose maps are of the image
        self.spent = False  # whether a batch came without images for what costs most
        self.settled: set[str] = set()  # what is known well enough

    @property
    def active(self) -> list[Indicator]:
        """What is still measured."""
        return [one for one in self.indicators if one.name not in self.settled]

    # --- of several processes -----------------------------------------------------------------------------------------

    def joined(self, team: Team) -> Tally:
        """What all processes of a team have come to together, each process's images behind those of the one before."""
        if team.world == 1:
            return self
        whole = Tally(self.indicators)
        own = {name: vars(self)[name] for name in vars(whole) if name not in ("indicators", "named")}
        for part in team.gather(own):
            if part["images"]:  # there may be fewer batches than processes
                whole._add_part(part)
        return whole

    def _add_part(self, part: dict[str, Any]) -> None:
        if not self.images:  # what is of the last batch alone is told of one process
            vars(self).update(part, moments={}, spectrum_moments={}, unfitted={})
        else:
            for name in ("images", "costly_images"):
                vars(self)[name] += part[name]
            for name in ("windows", "views", "pixels_unknown", "beyond", "spent"):
                vars(self)[name] = vars(self)[name] or part[name]
            self.bounds = {**part["bounds"], **self.bounds}
        for name in ("moments", "spectrum_moments"):
            for key, found in part[name].items():
                vars(self)[name].setdefault(key, Moments()).merge(found)
        for reason, layers in part["unfitted"].items():
            self.unfitted[reason] = self.unfitted.get(reason, set()) | layers
        if self.beyond:
            self.drop_labelled()

    def drop_labelled(self) -> None:
        """Forget what needs labels."""
        of_labels = {"accuracy", "loss", *(one.name for one in self.indicators if "ablated_loss" in one.needs)}
        self.moments = {key: found for key, found in self.moments.items() if key[0] not in of_labels}
        self.bounds = {key: ends for key, ends in self.bounds.items() if key[0] not in of_labels}

    # --- how far it is ------------------------------------------------------------------------------------------------

    def settle(self, precision: float, fewest: int) -> bool:
        """Leave out from now on each indicator whose 95 % intervals have half-widths below this share of its range, on
        so many images at least; returns whether nothing is left to measure, the accuracy known as well."""
        if self.images < fewest:
            return False
        todo = {one.name for one in self.active if not (self.spent and one.is_costly)}
        wide = set()
        for key, (low, high) in self.bounds.items():
            found = self.moments[key]
            if found.n > 1 and high > low:
                narrow = found.n >= fewest and float(found.half_width().max()) / (high - low) < precision
                wide |= set() if narrow else {key[0]}
        self.settled |= {one.name for one in self.indicators} - (todo & wide)
        return not todo & wide and self._accuracy_within(precision)

    def _accuracy_within(self, precision: float) -> bool:
        """Whether the accuracy, if there is one, has an interval with a half-width below this."""
        found = self.moments.get(("accuracy", "test", -1))
        if found is None:
            return True
        ends = proportion_interval(float(found.mean[0]), found.n)
        return (ends.high - ends.low) / 2 < precision

    # --- as tables and words -----------------------------------------------------------------------------------------

    def table(self, identity: dict[str, Any]) -> pd.DataFrame:
        """The moments as a frame with :data:`~svda_analysis.frames.TABLE_COLUMNS`."""
        rows = []
        for (indicator, source, layer), moments in sorted(self.moments.items(), key=self._place):
            std, share = moments.std(), quantity(indicator).is_share
            low, high = self.bounds.get((indicator, source, layer), known_bounds(indicator))
            for head, mean in enumerate(moments.mean.tolist()):
                place = {"layer": layer, "head": head} if layer >= 0 else {}
                ends = proportion_interval(mean, moments.n) if share else moments.interval(low, high, index=head)
                numbers = {"mean": mean, "std": float(std[head]), "n": moments.n, "low": low, "high": high}
                about = {"indicator": indicator, "source": source, "ci_low": ends.low, "ci_high": ends.high}
                rows.append({**identity, **place, **about, **numbers})
        return make_frame(rows, TABLE_COLUMNS)

    def _place(self, found: tuple[tuple[str, str, int], Moments]) -> tuple[int, bool, int]:
        """Where it stands in the table: by layer, what costs most last, in the order of the registry."""
        name, _, layer = found[0]
        order = list(self.named)
        at = order.index(name) if name in order else len(order)
        return layer if layer >= 0 else self.layers, at < len(order) and self.named[name].is_costly, at

    def spectra(self, identity: dict[str, Any]) -> pd.DataFrame:
        """Mean singular values as a frame with :data:`~svda_analysis.frames.SPECTRA_COLUMNS`."""
        rows = [
            {**identity, "layer": layer, "head": head, "source": source, "rank": rank, "value": value}
            for (source, layer), moments in self.spectrum_moments.items()
            for head, values in enumerate(moments.mean.tolist())
            for rank, value in enumerate(values, start=1)
        ]
        return make_frame(rows, SPECTRA_COLUMNS)

    def lacking(self) -> Iterator[tuple[Indicator, str]]:
        """The indicators that nothing was found for, and why: what they need cannot be told of this model and data."""
        measured, unfitted = {name for name, _, _ in self.moments}, {name for name, _ in self.unfitted}
        for one in self.indicators:
            if one.name in measured | unfitted or one.sources == ("sigma",):  # which only one kind of attention has
                continue
            if need := next((need for need in one.needs if need in _NEEDED), None):
                yield one, _NEEDED[need]

    def too_large(self) -> Iterator[str]:
        """A line for all that was left out of layers because their whole maps are too large."""
        reasons: dict[tuple[str, int], list[str]] = {}
        for (name, why), layers in self.unfitted.items():
            reasons.setdefault((why, len(layers)), []).append(name)
        for (why, count), names in reasons.items():
            yield f"{', '.join(names)} of maps left out in {count} of {self.layers} layers: {why}"
