"""What the reports of an analysis say: functions ``Analysis -> Section``, registered in the order of reading.

Importing the package fills the registry. No torch here.
"""

from svda_analysis.sections.analysis import analysis_document
from svda_analysis.sections.registry import SECTIONS, section, sections_of
from svda_analysis.sections.report import REPORT_FILES, render_again, write_report
from svda_analysis.sections.terminal import terminal_document

__all__ = [
    "REPORT_FILES",
    "SECTIONS",
    "analysis_document",
    "render_again",
    "section",
    "sections_of",
    "terminal_document",
    "write_report",
]
