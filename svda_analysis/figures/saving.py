"""A figure as files whose bytes depend on the figure alone. No torch here."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_pdf import FigureCanvasPdf
from matplotlib.figure import Figure
from PIL import Image

from svda_analysis.errors import InputError
from svda_analysis.figures.style import theme

_MOST_COLORS = 20_000  # more than lines, type and colour maps make: what has more would lose by a palette


def save_figure(fig: Figure, folder: str | Path, name: str) -> tuple[Path, Path]:
    """Write ``folder/name.pdf`` (vector) and ``folder/name.png`` (200 dpi, 256 colours unless it shows photographs).

    Returns both paths. The bytes depend on the figure and the versions of the libraries alone: no dates.
    """
    if not name or Path(name).name != name:
        raise InputError(f"name must be a file name without folders, got {name!r}")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    pdf, png = folder / f"{name}.pdf", folder / f"{name}.png"
    pixels = _write_pdf_and_draw(fig, pdf)
    image = Image.fromarray(pixels).convert("RGB")
    found = None if _has_photographs(fig) else image.getcolors(_MOST_COLORS)
    if found:
        image = _with_palette(pixels, *(np.array(part) for part in zip(*found, strict=True)))
    image.save(png, dpi=(200, 200))
    return pdf, png


def _write_pdf_and_draw(fig: Figure, pdf: Path) -> np.ndarray:
    """Write the PDF and return the pixels ``(H, W, 4) uint8``, with the panels arranged once for both."""
    dpi = fig.dpi
    with theme(), _no_place_for_no_label(fig):
        # the canvases themselves: savefig would arrange and draw the panels five times over
        engine = fig.get_layout_engine()
        if engine is not None:
            engine.execute(fig)
        fig.set_layout_engine("none")
        FigureCanvasPdf(fig).print_pdf(pdf, metadata={"CreationDate": None})
        fig.set_dpi(200)
        canvas = FigureCanvasAgg(fig)
        canvas.draw()
        fig.set_dpi(dpi)
        if engine is not None:
            fig.set_layout_engine(engine)
    return np.asarray(canvas.buffer_rgba())


@contextlib.contextmanager
def _no_place_for_no_label(fig: Figure) -> Iterator[None]:
    """matplotlib looks for the place of each axis's label by all ticks, in every pass over the panels, of an empty one
    too: a quarter of the time."""
    axes = (artist for artist in _artists(fig) if isinstance(artist, Axis))
    empty = [vars(axis) for axis in axes if not axis.label.get_text() and vars(axis).get("_autolabelpos")]
    for axis in empty:
        axis["_autolabelpos"] = False
    try:
        yield
    finally:
        for axis in empty:
            axis["_autolabelpos"] = True


def _with_palette(pixels: np.ndarray, counts: np.ndarray, colors: np.ndarray) -> Image.Image:
    """An image of at most 256 colours of ``pixels (H, W, 4) uint8``, whose ``colors (n, 3)`` have ``counts (n,)``
    pixels: the nearest that median cut (Heckbert 1982) leaves of them, where each counts as the root of its pixels, so
    that what is rare is kept."""
    palette = colors
    if len(colors) > 256:
        weighed = np.repeat(colors.astype(np.uint8), np.sqrt(counts).astype(int), axis=0)
        cut = Image.fromarray(weighed[None]).quantize(256, dither=Image.Dither.NONE)
        palette = np.array(cut.getpalette()).reshape(-1, 3)
    nearest = np.argmin(np.square(palette).sum(1) - 2 * colors @ palette.T, axis=1)
    places = np.zeros(2**24, np.uint8)  # of each colour
    places[colors @ (1, 2**8, 2**16)] = nearest
    image = Image.fromarray(places[pixels.view("<u4")[..., 0] & 0xFFFFFF])
    image.putpalette(palette.astype(np.uint8).tobytes())
    return image


def _has_photographs(fig: Figure) -> bool:
    """Whether an image in colour is drawn, or one through another: a thumbnail has few colours, yet a palette would
    change them."""

    def in_color(artist: Artist) -> bool:
        get_array = getattr(artist, "get_array", None)
        return get_array is not None and (np.ndim(get_array()) == 3 or isinstance(artist.get_alpha(), np.ndarray))

    return any(map(in_color, _artists(fig)))


def _artists(artist: Artist) -> Iterator[Artist]:
    """An artist and all within it, but what axes hold: their ticks are many, and are made when they are asked for."""
    yield artist
    if not isinstance(artist, Axis):
        for child in artist.get_children():
            yield from _artists(child)
