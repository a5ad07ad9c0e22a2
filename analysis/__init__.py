"""Analysis: the comparison of parameter sharing on a suite, its tables, pictures and report."""

from .figures import write_figures
from .grouping import (
    KINDS,
    GroupSizes,
    check_matrices,
    choose_groups,
    groups_by_hand,
    save_stability,
    stability_file,
    with_excluded,
    write_changed,
)
from .model_card import model_card
from .report import write_pictures, write_report
from .run_folder import load_model, load_model_folder, open_run_folder
from .sample_picture import draw_sample
from .study import (
    METHODS,
    Prepared,
    Study,
    StudySettings,
    measure_matrices,
    measuring_costs,
    run_study,
    select_tasks,
    versions,
)

__all__ = [
    "GroupSizes",
    "KINDS",
    "METHODS",
    "Prepared",
    "Study",
    "StudySettings",
    "check_matrices",
    "choose_groups",
    "draw_sample",
    "groups_by_hand",
    "load_model",
    "load_model_folder",
    "measure_matrices",
    "measuring_costs",
    "model_card",
    "open_run_folder",
    "run_study",
    "save_stability",
    "select_tasks",
    "stability_file",
    "versions",
    "with_excluded",
    "write_changed",
    "write_figures",
    "write_pictures",
    "write_report",
]
