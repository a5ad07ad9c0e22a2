"""Heterogeneity: transfer between modalities and between interactions, and the parameter groups that follow."""

from .completion import CompletedMatrix, complete_matrix
from .distances import HeterogeneityMatrix, heterogeneity_distance, modality_transfer, scale_losses
from .transfer import HeterogeneitySettings, TransferMeasurement, measure_heterogeneity

__all__ = [
    "CompletedMatrix",
    "HeterogeneityMatrix",
    "HeterogeneitySettings",
    "TransferMeasurement",
    "complete_matrix",
    "heterogeneity_distance",
    "measure_heterogeneity",
    "modality_transfer",
    "scale_losses",
]
