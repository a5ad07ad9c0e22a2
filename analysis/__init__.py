"""Analysis: the comparison of parameter sharing on a suite, its tables, pictures and report."""

from .model_card import model_card
from .report import write_pictures, write_report
from .run_folder import load_model, load_model_folder, open_run_folder
from .study import KINDS, METHODS, Study, StudySettings, measure_matrices, run_study, select_tasks, with_excluded

__all__ = [
    "KINDS",
    "METHODS",
    "Study",
    "StudySettings",
    "load_model",
    "load_model_folder",
    "measure_matrices",
    "model_card",
    "open_run_folder",
    "run_study",
    "select_tasks",
    "with_excluded",
    "write_pictures",
    "write_report",
]
