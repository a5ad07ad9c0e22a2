"""Heterogeneity: transfer between modalities and between interactions, and the parameter groups that follow."""

from .clustering import (
    cluster_nodes,
    cluster_parameter_groups,
    dendrogram_cut,
    random_parameter_groups,
    silhouette_curve,
)
from .completion import CompletedMatrix, PairSampler, complete_matrix, estimate_missing
from .distances import (
    DistanceEstimate,
    HeterogeneityMatrix,
    heterogeneity_distance,
    modality_transfer,
    scale_losses,
    singular_value_shares,
    triangle_inequality_rate,
)
from .estimate import SweepEstimate, estimate_sweep
from .measure import finished_steps, measure_heterogeneity
from .settings import MEASURING_VERSION, HeterogeneitySettings
from .stability import GroupStability, co_membership, group_stability
from .transfer import TransferMeasurement

__all__ = [
    "CompletedMatrix",
    "DistanceEstimate",
    "GroupStability",
    "HeterogeneityMatrix",
    "HeterogeneitySettings",
    "MEASURING_VERSION",
    "TransferMeasurement",
    "PairSampler",
    "SweepEstimate",
    "cluster_nodes",
    "cluster_parameter_groups",
    "co_membership",
    "complete_matrix",
    "dendrogram_cut",
    "estimate_missing",
    "estimate_sweep",
    "finished_steps",
    "group_stability",
    "heterogeneity_distance",
    "measure_heterogeneity",
    "modality_transfer",
    "random_parameter_groups",
    "scale_losses",
    "silhouette_curve",
    "singular_value_shares",
    "triangle_inequality_rate",
]
