"""Analysis: the comparison of parameter sharing on a suite, its tables, pictures and report."""

from .model_card import model_card
from .report import write_pictures, write_report
from .study import METHODS, Study, StudySettings, run_study

__all__ = ["METHODS", "Study", "StudySettings", "model_card", "run_study", "write_pictures", "write_report"]
