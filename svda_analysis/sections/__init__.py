"""What the reports of an analysis say: functions ``Analysis -> Section``, registered in the order of reading.

Importing the package fills the registry. No torch here.
"""

from svda_analysis.sections import analysis, terminal

__all__ = ["analysis", "terminal"]
