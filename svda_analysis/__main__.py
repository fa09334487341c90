"""``python -m svda_analysis``: the command ``svda``."""

from svda_analysis.cli import main

main()
