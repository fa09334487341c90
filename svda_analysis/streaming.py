"""Stream images through a model's attention and reduce them to moments, layer by layer, in constant memory."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, NamedTuple, Unpack

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from svda_analysis.answers import class_scores
from svda_analysis.calls import AttentionRecord
from svda_analysis.draws import draws_of_images
from svda_analysis.errors import InputError
from svda_analysis.formatting import in_bytes
from svda_analysis.forward import call_model
from svda_analysis.indicators import Indicator, score_spectrum, sigma_spectrum, widen
from svda_analysis.indicators.blocks import OfQueries
from svda_analysis.indicators.numerics import sharing
from svda_analysis.indicators.weights import ov_eigenvalues_of, ov_spectrum, qk_eigenvalues_of, qk_spectrum
from svda_analysis.layer_inputs import HeadWeights, LayerInputs
from svda_analysis.layer_map import Batch, LayerMap
from svda_analysis.map_reader import MapReader
from svda_analysis.maps import ImageMap, check_any_maps
from svda_analysis.soundness import NotFiniteError, is_finite, not_finite
from svda_analysis.source_indicators import source_noise
from svda_analysis.stats import Moments
from svda_analysis.tallies import Tally
from svda_analysis.tap import capture, check_captured, without_head
from svda_analysis.tokens import GivenLayout, TokensGiven, says_class_token

MOST_DECOMPOSED = 2048  # of maps whose singular values are taken: the time grows with the cube of their number


class Stream(Tally):
    """Running count, mean and spread over images of every indicator at every layer and head of one model.

    ``update`` runs one batch through the model and keeps only its moments; a record is dropped before the next layer
    begins. Each batch runs together with the noisy copies that indicators need: ``noise`` on the input as it is
    (``a_noisy``), the source's noise on its pixels (``a_pixel_noisy``), for which ``normalisation`` is the mean and
    deviation per channel that the images were brought to (None: not known).
    ``memory`` bounds the bytes that are held of a layer's map (None: none is): what is made of its rows takes a block
    of queries at a time, and what needs the whole map is left out where it does not fit (:attr:`unfitted`).
    ``classes``: how many outputs a classifier of these images has (0: it is not known). ``spectra_of``: the sources
    whose spectra are computed (None: all that indicators ask for). ``tokens`` says how tokens lie, where the model does
    not show it (:class:`~svda_analysis.tokens.GivenLayout`).
    """

    def __init__(
        self,
        model: nn.Module,
        indicators: Sequence[Indicator],
        *,
        noise: float = 0.1,
        seed: int = 0,
        classes: int = 0,
        normalisation: tuple[Sequence[float], Sequence[float]] | None = None,
        spectra_of: Collection[str] | None = None,
        memory: int | None = None,
        **tokens: Unpack[TokensGiven],
    ) -> None:
        super().__init__(indicators)
        self.model, self.noise, self.seed = model, noise, seed
        self.given, self.class_token = GivenLayout(**tokens).checked(), says_class_token(model)
        self.classes, self.normalisation = classes, normalisation
        self.memory = memory
        self.position_maps: dict[int, Tensor] = {}  # by layer: the mean map of the images of the first batch of all
        self._batch = Batch(0, 0)  # that runs
        self._first = 0  # the number of its first image
        self._seen = 0  # its maps so far
        self._reader = MapReader()
        self._calls: list[_Layer] = []  # of each layer
        needed = {need for indicator in indicators for need in indicator.needs}
        self._few: Tensor | None = None  # images of the batch that costly indicators see (None: all)
        self._noisy: list[str] = []  # copies of the batch that runs
        self.needed = needed
        self._of_weights = [one for one in indicators if set(one.sources) & {"qk", "ov"}]
        self._spectra_of = spectra_of

    @property
    def _of_few(self) -> int:
        """How many images of the batch costly indicators see."""
        return self._batch.images if self._few is None else len(self._few)

    @property
    def _sources(self) -> set[str]:
        """The sources whose spectra are asked for."""
        sources = {source for one in self.active if "spectrum" in one.needs for source in one.sources}
        return sources if self._spectra_of is None else sources & set(self._spectra_of)

    def update(
        self, images: Tensor, labels: Tensor | None = None, *, costly: Tensor | None = None, first: int | None = None
    ) -> None:
        """Add one batch, ``images (B, C, H, W)`` and, where known, ``labels (B,)``.

        ``costly`` = the places in the batch of those images that spectra of scores and maps and noisy copies are made
        of (None: all). ``first`` = the number of the batch's first image among all that are measured (None: they come
        one after another); the noise on an image follows from its number, and with image 0 comes what is read off the
        weights once.
        Raises :class:`InputError` for images, maps or outputs that are not finite numbers; of the latter two it names
        where they begin (:class:`~svda_analysis.soundness.NotFiniteError`).
        """
        if not is_finite(images):
            raise InputError("images must be finite numbers, got NaN or inf")
        B, self._few = len(images), None if costly is None else costly.to(images.device)
        self._first = self.images if first is None else first
        needed = {need for one in self.active for need in one.needs}
        chosen = images if self._few is None else images[self._few]
        self._noisy = [name for name in ("a_noisy", "a_pixel_noisy") if name in needed and len(chosen)]
        numbers = range(B) if costly is None else costly.tolist()
        noisy = self._noisy_copies(chosen, [self._first + at for at in numbers]) if self._noisy else []
        batch = torch.cat([images, *noisy]) if noisy else images
        inputs, before = self.begin(B, len(batch)), [one.at for one in self._calls]
        try:
            with capture(self.model, self.on_record, output="rows", inputs=inputs) as hidden:
                output = call_model(self.model, batch)
            self.hidden = list(hidden)
            self.end(inputs)
            self._check_same_calls(before)
            logits = None if labels is None else class_scores(output, self.model, self.classes)
        except NotFiniteError:
            raise not_finite(self.model, batch) from None
        if logits is not None and logits.shape[1] == 1:  # a regression or a sigmoid: its largest is no prediction
            logits = None
        if labels is not None and logits is not None:
            self._predicted(images, labels.to(logits.device), logits[:B])
        self.images += B
        self.costly_images += len(chosen)
        self.spent = not len(chosen)

    def _predicted(self, images: Tensor, labels: Tensor, logits: Tensor) -> None:
        """Accuracy and loss over the images that have a label (-1: none); of labels that the model has no outputs for
        there is neither, for no image."""
        if int(labels.max()) >= logits.shape[1]:
            self.beyond = f"label {int(labels.max())} and the model {logits.shape[1]} outputs"
            self.drop_labelled()
        known = labels >= 0
        if self.beyond or not bool(known.any()):
            return
        labels, logits = labels[known], logits[known]
        self._add("accuracy", "test", -1, (logits.argmax(-1) == labels).float()[:, None])
        loss = F.cross_entropy(widen(logits), labels, reduction="none")
        self._add("loss", "test", -1, loss[:, None])
        if any("ablated_loss" in one.needs for one in self.active):
            self._ablate(images[known], labels, loss)

    def begin(self, images: int, in_forward: int) -> LayerInputs | None:
        """A forward of so many images, with their noisy copies so many, is about to run, whose records go to
        :meth:`on_record`; returns what is to see the calls between, where indicators need it."""
        self.left_out, self.calls, self.starts = [], 0, 0
        self._batch = Batch(images, in_forward, self._few, tuple(self._noisy))
        self._seen = self.map_bytes = 0
        weighs = not self._first and bool(self._of_weights)
        return LayerInputs(weights=weighs) if weighs or "tokens" in self.needed else None

    def on_record(self, record: AttentionRecord) -> None:
        """Add one record of the forward that runs. Raises :class:`~svda_analysis.soundness.NotFiniteError`."""
        self.calls += 1
        found = self._reader.map_of_image(record, self._batch.in_forward, self.given)
        if isinstance(found, str):
            self.left_out.append(found)
            return
        self.starts += record.places is None or record.places.after < 0
        call = _Layer(record.layer, record.a.shape[1] if found.plain else 0, record.sigma)
        self._calls[self._seen :] = [call]
        self.map_bytes += record.a.numel() * 4 // self._batch.in_forward
        with sharing():
            self._measure(found, self._seen)
        self._seen += 1

    def end(self, inputs: LayerInputs | None) -> None:
        """The forward is over; ``inputs`` is what :meth:`begin` returned. Raises :class:`InputError` where it showed no
        map of the images."""
        check_captured(self.calls, self.model)
        check_any_maps(range(self._seen), self.left_out, self.model)
        self.layers = len(self._calls)
        if inputs and not self._first and self._of_weights:
            for layer, call in enumerate(self._calls):
                self._weigh(layer, call, inputs.weights[call.at])

    def _check_same_calls(self, before: list[int]) -> None:
        """Raise :class:`InputError` where other attention calls are maps than ``before``, in the last batch: layers are
        numbered by them."""
        calls = [one.at for one in self._calls]
        if before and calls != before:
            came = f"calls {', '.join(map(str, before))}, then {', '.join(map(str, calls))}"
            raise InputError(
                f"{type(self.model).__name__} must have the same attention calls as maps for all images, got {came}"
            )

    def _noisy_copies(self, images: Tensor, numbers: Sequence[int]) -> list[Tensor]:
        """The copies that :attr:`_noisy` names, of images of these numbers; they share one draw, so that each is the
        same without the other."""
        shape, copies = tuple(images.shape[1:]), list[Tensor]()
        drawn = draws_of_images("input noise", numbers, shape, self.seed, torch.randn).to(images)
        if "a_noisy" in self._noisy:
            copies.append(images + self.noise * drawn)
        if "a_pixel_noisy" in self._noisy:
            known = self.normalisation if self.normalisation and len(self.normalisation[0]) == images.shape[1] else None
            self.pixels_unknown = known is None
            copies.append(source_noise(images, drawn, known))
        return copies

    def _ablate(self, images: Tensor, labels: Tensor, loss: Tensor) -> None:
        """Run the batch without each head in turn."""
        for layer, call in enumerate(self._calls):
            ablated = []
            for head in range(call.heads):
                with without_head(self.model, call.at, head):
                    logits = class_scores(call_model(self.model, images), self.model, self.classes)
                if logits is not None:  # what it was with the head
                    ablated.append(F.cross_entropy(widen(logits), labels, reduction="none"))
            if ablated:
                self._evaluate(self.active, {"loss": loss, "ablated_loss": torch.stack(ablated, dim=1)}, {}, layer)

    def _weigh(self, layer: int, call: _Layer, weights: HeadWeights) -> None:
        """What can be read off the weights of a layer, once for all images."""
        w_q, w_k, w_v, w_o = weights
        if w_q is not None and w_k is not None:
            sigma = w_q.new_ones(w_q.shape[:2]) if call.sigma is None else call.sigma
            values = {"qk_eigenvalues": qk_eigenvalues_of(w_q, w_k, sigma)}
            self._spectral("qk", qk_spectrum(w_q, w_k, sigma), values, layer)
        if w_o is not None and w_v is not None:
            values = {"ov_eigenvalues": ov_eigenvalues_of(w_o, w_v)}
            self._spectral("ov", ov_spectrum(w_o, w_v), values, layer)

    def _spectral(self, source: str, spectrum: Tensor, values: dict[str, Tensor], layer: int) -> None:
        self.spectrum_moments.setdefault((source, layer), Moments()).update(_as_numbers(spectrum))
        self._evaluate(self.active, values, {source: spectrum}, layer, {"D": spectrum.shape[-1]})

    def _measure(self, found: ImageMap, layer: int) -> None:
        """Add what one layer's map gives, and its rows of q and k."""
        one = LayerMap(found, self._batch, self.memory, class_token=self.class_token)
        self.views = self.views or found.views
        self.windows = self.windows or (found.windows > 1 and not found.views)
        at_hand, sizes = one.at_hand, one.sizes
        of_whole, of_spectrum = self._wholes(one, layer)
        if of_whole or (of_spectrum and one.fits()):
            one.whole()
        self._evaluate(self.active, at_hand, {}, layer, sizes)
        for name, block in one.over_rows(self.active).items():
            self._add_block(self.named[name], block, layer, sizes)
        if of_whole:
            at_hand = {**at_hand, "a": one.whole()[: one.part]}
            if "position_map" in self.needed and found.windows == 1:
                at_hand["position_map"] = self._position_map(layer, at_hand["a"])
            self._evaluate(of_whole, at_hand, {}, layer, sizes)
        self._measure_spectra(one, bool(of_spectrum), layer)

    def _wholes(self, one: LayerMap, layer: int) -> tuple[list[Indicator], list[Indicator]]:
        """The indicators of whole maps that can be had, and those of their singular values; what they are too large for
        is noted."""
        N, memory = one.shape[-1], in_bytes(self.memory or 0)
        wanted = [x for x in self.active if any(x.needs_whole(source) for source in x.sources)]
        spectral = [x for x in wanted if "spectrum" in x.needs and self._of_few and "attention" in self._sources]
        others = [x for x in wanted if "spectrum" not in x.needs]
        if others and not one.fits():
            self._note(others, layer, f"its whole maps of {N} tokens need more memory than {memory}")
            others = []
        if spectral and N > MOST_DECOMPOSED:
            self._note(spectral, layer, f"singular values of {N} tokens (over {MOST_DECOMPOSED}) take too long")
            spectral = []
        if spectral and not one.fits(1):
            self._note(spectral, layer, f"a whole map of {N} tokens needs more memory than {memory}")
            spectral = []
        return others, spectral

    def _note(self, left_out: Sequence[Indicator], layer: int, why: str) -> None:
        for one in left_out:
            self.unfitted.setdefault((one.name, why), set()).add(layer)

    def _add_block(self, indicator: Indicator, block: OfQueries, layer: int, sizes: dict[str, Any]) -> None:
        """Add what an indicator comes to over the rows of a layer's map."""
        images = self._of_few if indicator.is_costly else self._batch.images
        for source in indicator.sources:
            low, high = self.bounds[indicator.name, source, layer] = indicator.bounds(source, **sizes)
            values = indicator.finish(block.value()) if indicator.finish else block.value()
            self._add(indicator.name, source, layer, _mean_over_windows(values.clamp(low, high), images))

    def _measure_spectra(self, one: LayerMap, of_map: bool, layer: int) -> None:
        """What takes spectra, of the images that these are made of; ``of_map``: also those of the map."""
        spectra, sources, record, images = dict[str, Tensor](), self._sources, one.found.record, self._of_few
        if "scores" in sources and "q" in one.at_hand and images:
            q, k = one.of_few("q"), one.of_few("k")
            spectra["scores"] = score_spectrum(q, k, record.scale, record.sigma)
        if of_map:
            spectra["attention"] = one.spectrum()
        if record.sigma is not None:
            self.kind = "svda"
            if "sigma" in sources and not self._first:
                spectra["sigma"] = sigma_spectrum(record.sigma)[None]
        for source, spectrum in spectra.items():
            moments = self.spectrum_moments.setdefault((source, layer), Moments())
            moments.update(_as_numbers(_mean_over_windows(spectrum, max(images, 1))))  # sigma is of none
        if spectra:
            of_spectra = [x for x in self.active if "spectrum" in x.needs]
            self._evaluate(of_spectra, {}, spectra, layer, one.sizes, images=images)

    def _position_map(self, layer: int, a: Tensor) -> Tensor | None:
        """The mean map of the first batch's images, for each of these that of the others; None for the first alone."""
        if layer in self.position_maps:
            return self.position_maps[layer].to(a.device)
        self.position_maps[layer] = a.mean(0, keepdim=True)  # (1, H, N, N)
        return (a.sum(0) - a) / (len(a) - 1) if len(a) > 1 else None

    def _evaluate(
        self,
        indicators: Sequence[Indicator],
        at_hand: dict[str, Any],
        spectra: dict[str, Tensor],
        layer: int,
        sizes: dict[str, Any] | None = None,
        *,
        images: int | None = None,
    ) -> None:
        """Add each of some indicators that has what it needs, for each of its sources; one of a layer counts for each
        head. ``images``: how many were measured (None: the batch)."""
        for indicator in indicators:
            for source in indicator.sources:
                given = {**at_hand, "spectrum": spectra.get(source)}
                if any(given.get(need) is None for need in indicator.needs):
                    continue
                values = indicator.function(**{need: given[need] for need in indicator.needs})
                if values is None:  # not defined for this layer
                    continue
                if values.ndim == 1:
                    values = values[:, None].expand(-1, self._calls[layer].heads or 1)
                self._add(indicator.name, source, layer, _mean_over_windows(values, images or self._batch.images))
                self.bounds[indicator.name, source, layer] = indicator.bounds(source, **sizes or {})

    def _add(self, indicator: str, source: str, layer: int, values: Tensor) -> None:
        self.moments.setdefault((indicator, source, layer), Moments()).update(_as_numbers(values))


def costly_of_batch(batch: int, seen: int, total: int, few: int | None, *, first: bool) -> Tensor | None:
    """Which images of a batch, behind ``seen`` of ``total``, costly indicators are measured on: ``few`` of all evenly,
    or the ``first`` few. None: all."""
    if few is None or few >= total:
        return None
    at = torch.arange(seen, seen + batch)
    chosen = at < few if first else (at + 1) * few // total > at * few // total
    return chosen.nonzero()[:, 0]


class _Layer(NamedTuple):
    """A layer that is measured: which attention call of a forward it is, its heads, and its sigma ``(H, D)``."""

    at: int
    heads: int
    sigma: Tensor | None


def _mean_over_windows(values: Tensor, images: int) -> Tensor:
    """``(images * windows, ...) -> (images, ...)`` where attention stays inside windows."""
    return values if len(values) <= images else values.unflatten(0, (images, -1)).mean(1)


def _as_numbers(values: Tensor) -> np.ndarray:
    return values.cpu().double().numpy()  # on the CPU first: not every device knows float64
