"""Training: samplers, batches, metrics, the multitask loop on Accelerate, checkpoints, and the paper's recipes."""

from .batch_norm import SynchronisedBatchNorms
from .checkpoints import CheckpointFolder
from .interruption import TrainingInterrupted
from .loading import StepBatch, TrainingBatches, WorkerDiedError
from .metrics import METRICS, Metric, MetricModule, gather_rows, get_metric, load_metric
from .progress import progress_bar
from .recipes import (
    Resumable,
    bad_rows,
    build_config,
    build_model,
    encode_suite,
    few_shot,
    finetune,
    metric_names,
    pretrain,
    save_model_folder,
    single_task,
    train_model,
    transfer,
    with_retrieval,
)
from .records import EpochRecord, SkippedStep, TrainingResult
from .sampling import SAMPLERS, RandomTaskSampler, StaggeredSchedule, TaskSampler, make_sampler
from .settings import TrainingSettings
from .tracking import TRACKERS, EpochLog, Report, Trackers, own_bests, result_table
from .trainer import MultitaskTrainer
from .weighting import WEIGHTINGS, FixedWeights, UncertaintyWeights, make_weighting

__all__ = [
    "METRICS",
    "SAMPLERS",
    "TRACKERS",
    "WEIGHTINGS",
    "CheckpointFolder",
    "EpochLog",
    "EpochRecord",
    "FixedWeights",
    "Metric",
    "MetricModule",
    "MultitaskTrainer",
    "RandomTaskSampler",
    "Report",
    "Resumable",
    "SkippedStep",
    "StaggeredSchedule",
    "StepBatch",
    "SynchronisedBatchNorms",
    "TaskSampler",
    "Trackers",
    "TrainingBatches",
    "TrainingInterrupted",
    "TrainingResult",
    "TrainingSettings",
    "UncertaintyWeights",
    "WorkerDiedError",
    "bad_rows",
    "build_config",
    "build_model",
    "encode_suite",
    "few_shot",
    "finetune",
    "gather_rows",
    "get_metric",
    "load_metric",
    "make_sampler",
    "make_weighting",
    "metric_names",
    "own_bests",
    "pretrain",
    "progress_bar",
    "result_table",
    "save_model_folder",
    "single_task",
    "train_model",
    "transfer",
    "with_retrieval",
]
