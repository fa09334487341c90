"""A figure as files whose bytes depend on the figure alone. No torch here."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from matplotlib.artist import Artist
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
    with Image.open(pixels) as image:
        small = image.convert("RGB")
        if not _has_photographs(fig) and small.getcolors(_MOST_COLORS):
            small = small.quantize(256, dither=Image.Dither.NONE)
        small.save(png, optimize=True, dpi=(200, 200))
    return pdf, png


def _write_pdf_and_draw(fig: Figure, pdf: Path) -> io.BytesIO:
    """Write the PDF and return the pixels as PNG, with the panels arranged once for both."""
    pixels, dpi = io.BytesIO(), fig.dpi
    with theme():  # the canvases themselves: savefig would arrange and draw the panels five times over
        engine = fig.get_layout_engine()
        if engine is not None:
            engine.execute(fig)
        fig.set_layout_engine("none")
        FigureCanvasPdf(fig).print_pdf(pdf, metadata={"CreationDate": None})
        fig.set_dpi(200)
        FigureCanvasAgg(fig).print_png(pixels, metadata={"Software": None})
        fig.set_dpi(dpi)
        if engine is not None:
            fig.set_layout_engine(engine)
    return pixels


def _has_photographs(fig: Figure) -> bool:
    """Whether an image in colour is drawn, or one through another: a thumbnail has few colours, yet a palette would
    change them."""

    def in_color(artist: Artist) -> bool:
        get_array = getattr(artist, "get_array", None)
        return get_array is not None and (np.ndim(get_array()) == 3 or isinstance(artist.get_alpha(), np.ndarray))

    return bool(fig.findobj(in_color))
