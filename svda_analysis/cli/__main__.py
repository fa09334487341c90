"""``python -m svda_analysis.cli``: the command ``svda``."""

from svda_analysis.cli import main

main()
