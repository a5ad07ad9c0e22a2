"""Training: schedule, metrics, the multitask loop on Accelerate, and the paper's recipes."""

from .metrics import METRICS, Metric, get_metric
from .recipes import (
    build_config,
    build_model,
    encode_suite,
    finetune,
    metric_names,
    pretrain,
    save_model_folder,
    single_task,
    train_model,
)
from .schedule import StaggeredSchedule
from .settings import TrainingSettings
from .trainer import EpochRecord, MultitaskTrainer, TrainingResult, progress_bar

__all__ = [
    "METRICS",
    "EpochRecord",
    "Metric",
    "MultitaskTrainer",
    "StaggeredSchedule",
    "TrainingResult",
    "TrainingSettings",
    "build_config",
    "build_model",
    "encode_suite",
    "finetune",
    "get_metric",
    "metric_names",
    "pretrain",
    "progress_bar",
    "save_model_folder",
    "single_task",
    "train_model",
]
