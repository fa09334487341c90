"""README's picture of a terminal: ``python benchmarks/terminal_picture.py`` measures a committed checkpoint, and keeps
what ``svda-analyze`` prints of it, as an SVG that needs no font from elsewhere."""

from __future__ import annotations

import io
import re
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import MONOKAI

import svda_analysis as sa
from svda_analysis.render.terminal import print_document
from svda_analysis.sections import terminal_document

ROOT = Path(__file__).resolve().parents[1]
CHECKPOINT, IMAGES = "checkpoints/fashion_mnist/svda_s0.pt", 1000
OUT = ROOT / "reports" / "pictures" / "terminal.svg"


def picture(analysis: sa.Analysis, command: str) -> str:
    """What the command prints of an analysis, as SVG."""
    console = Console(record=True, width=80, file=io.StringIO(), force_terminal=True, highlight=False)
    console.print(f"$ {command}", style="bold", markup=False)
    print_document(terminal_document(analysis), console)
    drawn = console.export_svg(title="svda-analyze", theme=MONOKAI, unique_id="terminal")
    return re.sub(r"\s*@font-face \{.*?\}", "", drawn, flags=re.DOTALL).replace("Fira Code", "monospace")


def main() -> None:
    analysis = sa.analyze_runs(str(ROOT / CHECKPOINT), images=IMAGES, examples=0)
    OUT.write_text(picture(analysis, f"svda-analyze {CHECKPOINT} --images {IMAGES}"), encoding="utf-8")
    print(OUT)


if __name__ == "__main__":
    main()
