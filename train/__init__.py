"""Training: samplers, metrics, the multitask loop on Accelerate, and the paper's recipes."""

from .loading import StepBatch, TrainingBatches
from .metrics import METRICS, Metric, MetricModule, gather_rows, get_metric, load_metric
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
from .sampling import SAMPLERS, RandomTaskSampler, StaggeredSchedule, TaskSampler, make_sampler
from .settings import TrainingSettings
from .tracking import TRACKERS, EpochLog, Trackers, own_bests, result_table
from .trainer import EpochRecord, MultitaskTrainer, TrainingResult, progress_bar
from .weighting import WEIGHTINGS, FixedWeights, UncertaintyWeights, make_weighting

__all__ = [
    "METRICS",
    "SAMPLERS",
    "TRACKERS",
    "WEIGHTINGS",
    "EpochLog",
    "EpochRecord",
    "FixedWeights",
    "Metric",
    "MetricModule",
    "MultitaskTrainer",
    "RandomTaskSampler",
    "StaggeredSchedule",
    "StepBatch",
    "TaskSampler",
    "Trackers",
    "TrainingBatches",
    "TrainingResult",
    "TrainingSettings",
    "UncertaintyWeights",
    "build_config",
    "build_model",
    "encode_suite",
    "finetune",
    "gather_rows",
    "get_metric",
    "load_metric",
    "make_sampler",
    "make_weighting",
    "metric_names",
    "own_bests",
    "pretrain",
    "result_table",
    "progress_bar",
    "save_model_folder",
    "single_task",
    "train_model",
]
