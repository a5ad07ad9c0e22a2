"""Configuration of HighMMT: modalities, tasks, sizes and parameter groups."""

import difflib
import json
import math
import re
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, get_args

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from .parameter_groups import GroupKind, ParameterGroups, interaction_name

ProblemType = Literal["single_label_classification", "multi_label_classification", "regression", "retrieval"]

_DTYPES = ("float32", "bfloat16", "float16", "float64")

# Names become parameter names, JSON keys and file names, so they are kept to what all three can hold.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


@dataclass
class ModalityConfig:
    """One input kind, with its own channels and axes; it may appear in several tasks.

    Args:
        num_channels: width of one sequence element as the model sees it (for token ids: of its learned vector).
        num_axes: how many axes precede the channels; they are flattened into one sequence.
        num_frequency_bands: sine and cosine bands of the position encoding, for each axis.
        max_frequency: twice the last band's frequency; the first band's frequency is 2 (so 1.0 runs from 2 to 0.5).
        vocab_size: number of token ids, where the input holds ids; the model then learns a vector for each.
        max_length: size of the first axis that spans the positions -1 to 1. Without it each sequence spans them
            by its own length.
        ordered: False for sets: elements get no positions, so that permuting them changes nothing.
        element_dropout: share of the elements that are masked at random while training; at least one always stays.

    Source: Liang et al., TMLR 05/2023, appendix B.1 and tables 8 to 10.
    """

    num_channels: int
    num_axes: int = 1
    num_frequency_bands: int = 6
    max_frequency: float = 1.0
    vocab_size: int | None = None
    max_length: int | None = None
    ordered: bool = True
    element_dropout: float = 0.0

    @property
    def num_position_channels(self) -> int:
        """Width of the position encoding: `num_axes * (2 * num_frequency_bands + 1)`, 0 for sets."""
        return self.num_axes * (2 * self.num_frequency_bands + 1) if self.ordered else 0

    def check(self, name: str) -> None:
        """Refuse impossible values, naming the modality.

        Raises:
            ValueError: a value that no model can be built from.
        """
        for key, low in (("num_channels", 1), ("num_axes", 1), ("num_frequency_bands", 0)):
            _check_whole(f"Modality {name!r}", key, getattr(self, key), low)
        for key in ("vocab_size", "max_length"):
            if getattr(self, key) is not None:
                _check_whole(f"Modality {name!r}", key, getattr(self, key), 1)
        if not isinstance(self.ordered, bool):
            raise ValueError(f"Modality {name!r}: ordered={self.ordered!r} must be true or false.")
        dropout = self.element_dropout
        if isinstance(dropout, bool) or not isinstance(dropout, (int, float)) or not 0 <= dropout < 1:
            raise ValueError(f"Modality {name!r}: element_dropout={dropout!r} must be at least 0 and below 1.")
        frequency = self.max_frequency
        if isinstance(frequency, bool) or not isinstance(frequency, (int, float)):
            raise ValueError(f"Modality {name!r}: max_frequency={frequency!r} must be a number.")
        if not (math.isfinite(frequency) and frequency > 0):
            raise ValueError(f"Modality {name!r}: max_frequency={frequency!r} must be positive and finite.")
        if self.num_axes > 8:
            raise ValueError(f"Modality {name!r}: num_axes={self.num_axes} is more than the 8 that are supported.")


@dataclass
class TaskConfig:
    """One dataset's subset of modalities and its target.

    Args:
        modalities: names of the modalities, in the order their representations are concatenated in.
        problem_type: `"single_label_classification"`, `"multi_label_classification"`, `"regression"` or `"retrieval"`
            (find the second of two modalities by the first, and the other way round).
        num_labels: number of classes, or width of the regression target; for a retrieval the width of the space that
            both modalities are projected into.
        num_steps: one prediction for each of so many steps; None for one prediction in all. Not for a retrieval.
        id2label: name of each class or target, from index to name; a retrieval has none.
        loss_weight: factor of this task's loss in the summed loss.
        evaluation_weight: factor of this task's metric where checkpoints are compared.

    Source: Liang et al., TMLR 05/2023, appendices B.4 to B.5 and D.3 (retrieval).
    """

    modalities: list[str]
    problem_type: ProblemType = "single_label_classification"
    num_labels: int = 2
    id2label: dict[int, str] | None = None
    loss_weight: float = 1.0
    evaluation_weight: float = 1.0
    num_steps: int | None = None

    def __post_init__(self) -> None:
        if isinstance(self.modalities, tuple):
            self.modalities = list(self.modalities)
        if self.id2label is not None:
            # JSON has no whole-number keys.
            self.id2label = {int(index): str(label) for index, label in self.id2label.items()}

    @property
    def fuses(self) -> bool:
        """Whether the modalities meet in the crossmodal transformer; those of a retrieval are only compared."""
        return len(self.modalities) > 1 and self.problem_type != "retrieval"

    def check(self, name: str, modalities: Mapping[str, ModalityConfig]) -> None:
        """Refuse impossible values, naming the task.

        Raises:
            ValueError: a value that no model can be built from.
        """
        if not isinstance(self.modalities, list) or not self.modalities:
            raise ValueError(f"Task {name!r}: modalities={self.modalities!r} must be a list with at least one name.")
        for modality in self.modalities:
            if not isinstance(modality, str) or modality not in modalities:
                raise ValueError(
                    f"Task {name!r}: unknown modality {modality!r}; declared modalities: {', '.join(modalities)}."
                )
        if len(set(self.modalities)) != len(self.modalities):
            raise ValueError(f"Task {name!r}: a modality is listed twice in {self.modalities}.")
        if self.problem_type not in get_args(ProblemType):
            raise ValueError(
                f"Task {name!r}: problem_type={self.problem_type!r} is not one of {', '.join(get_args(ProblemType))}."
            )
        retrieval = self.problem_type == "retrieval"
        smallest = 2 if retrieval or self.problem_type == "single_label_classification" else 1
        _check_whole(f"Task {name!r}", "num_labels", self.num_labels, smallest)
        if self.num_steps is not None:
            _check_whole(f"Task {name!r}", "num_steps", self.num_steps, 1)
        if retrieval and len(self.modalities) != 2:
            raise ValueError(
                f"Task {name!r}: a retrieval finds one modality by another, so it has exactly two, not "
                f"{self.modalities}. Make a task of each pair."
            )
        for key in ("num_steps", "id2label"):
            if retrieval and getattr(self, key) is not None:
                raise ValueError(f"Task {name!r}: {key} is not for a retrieval, which predicts no labels.")
        if self.id2label is not None and (
            len(self.id2label) != self.num_labels or sorted(self.id2label) != list(range(self.num_labels))
        ):
            raise ValueError(
                f"Task {name!r}: id2label must name the labels 0 to {self.num_labels - 1} (num_labels), "
                f"got {_shortened(sorted(self.id2label))}."
            )
        for key in ("loss_weight", "evaluation_weight"):
            value = getattr(self, key)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value) or value < 0:
                raise ValueError(f"Task {name!r}: {key}={value!r} must be a finite number, 0 or more.")


@strict
class HighMMTConfig(PreTrainedConfig):
    """Configuration of a `HighMMTModel`; defaults are the paper's large setting (table 10).

    Args:
        modalities: name to `ModalityConfig` (or a plain dict of its fields). The order fixes the one-hot columns.
        tasks: name to `TaskConfig` (or a plain dict of its fields).
        num_latents, d_latents: shape of the latent array of every modality.
        num_unimodal_layers, num_crossmodal_layers: layers of the unimodal encoder and the crossmodal transformer.
        num_self_attends_per_layer: self-attention blocks that follow the cross-attention of each layer.
        num_cross_attention_heads: heads of the attention from latents to an input.
        num_crossmodal_attention_heads: heads of the attention from one modality's latents to another's.
        num_self_attention_heads: heads of the attention among latents.
        cross_attention_head_dim, self_attention_head_dim: width of one head, free of `d_latents`.
        widening_factor: inner width of the gated feed-forward, in units of `d_latents`.
        modality_embedding: `"one_hot"` (the paper), `"learned"` (the public code) or `"none"` (an ablation).
        modality_embedding_dim: width of a learned embedding; a one-hot embedding is as wide as there are modalities.
        head_norm: norm before each task's linear layer, `"batch_norm"` (the paper) or `"layer_norm"` (public code).
        hidden_dropout_prob: dropout on attention outputs, feed-forward outputs and before each head's linear layer.
        attention_probs_dropout_prob: dropout on attention weights.
        modality_dropout: probability of hiding a whole modality of a sample while training, never all of them;
            those of a retrieval, which needs pairs, are not hidden.
        use_unimodal_encoder, use_crossmodal: False gives the paper's architecture ablations (table 5).
        initializer_range: standard deviation of the initial latents and learned embeddings (public code: 1.0).
        layer_norm_eps: epsilon of every layer norm.
        parameter_groups: the cluster map; None shares everything.
        group_modalities: for each unimodal group the modalities it was made for; its elements are as wide as those
            need, with a one-hot column for each of them. None: every group is made for all modalities. Set where a
            model has grown (`HighMMTModel.add_modality`); groups beyond those of the map wait for a task.
        group_adapter_rank: None gives every group its own copy of the parameters. A rank r lets the groups share one
            base, of which each differs by an update of rank r for every linear layer (scale 1: alpha is r).

    Raises:
        ValueError: an unknown setting close to a known one, or an impossible modality, task or group.
        StrictDataclassError: a field of the wrong type or an impossible size; the message names the field.

    Source: Liang et al., TMLR 05/2023, section 2.2 and appendices B and C.
    """

    model_type = "highmmt"

    modalities: dict[str, Any] = field(default_factory=dict)
    tasks: dict[str, Any] = field(default_factory=dict)
    num_latents: int = 20
    d_latents: int = 64
    num_unimodal_layers: int = 1
    num_crossmodal_layers: int = 1
    num_self_attends_per_layer: int = 1
    num_cross_attention_heads: int = 1
    num_crossmodal_attention_heads: int = 4
    num_self_attention_heads: int = 6
    cross_attention_head_dim: int = 64
    self_attention_head_dim: int = 64
    widening_factor: int = 4
    modality_embedding: Literal["one_hot", "learned", "none"] = "one_hot"
    modality_embedding_dim: int | None = None
    head_norm: Literal["batch_norm", "layer_norm"] = "batch_norm"
    hidden_dropout_prob: float | int = 0.0
    attention_probs_dropout_prob: float | int = 0.0
    modality_dropout: float | int = 0.0
    use_unimodal_encoder: bool = True
    use_crossmodal: bool = True
    initializer_range: float | int = 1.0
    layer_norm_eps: float = 1e-5
    parameter_groups: dict[str, Any] | ParameterGroups | None = None
    group_modalities: list[Any] | None = None
    group_adapter_rank: int | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        known = [field.name for field in fields(type(self))]
        for name in kwargs:
            # Foreign names are kept by PreTrainedConfig as attributes; a typo must not be.
            if near := difflib.get_close_matches(name.strip().lower(), known, n=1, cutoff=0.85):
                raise ValueError(f"HighMMTConfig has no setting {name!r}; did you mean {near[0]!r}?")
            if name in _OWN_NAMES:
                raise ValueError(f"HighMMTConfig has no setting {name!r}, which is the name of something else there.")
        self._check_inherited(kwargs)
        self.modalities = _typed_entries("modalities", "Modality", ModalityConfig, self.modalities)
        self.tasks = _typed_entries("tasks", "Task", TaskConfig, self.tasks)
        for name, modality in self.modalities.items():
            modality.check(name)
        for name, task in self.tasks.items():
            task.check(name, self.modalities)
        if self.modality_embedding == "learned" and self.modality_embedding_dim is None:
            self.modality_embedding_dim = 10  # what the public code trains
        if not self.use_unimodal_encoder:
            if not self.use_crossmodal:
                raise ValueError("use_unimodal_encoder=False and use_crossmodal=False leave nothing to learn with.")
            for name, task in self.tasks.items():
                if len(task.modalities) < 2:
                    raise ValueError(
                        f"Task {name!r}: without a unimodal encoder a task needs at least two modalities, "
                        f"it has {task.modalities}."
                    )
                if not task.fuses:
                    raise ValueError(
                        f"Task {name!r}: a retrieval compares what the unimodal encoder makes of its modalities, so "
                        "it cannot be had with use_unimodal_encoder=False."
                    )
        if self.parameter_groups is not None:
            try:
                groups = self.parameter_groups
                if not isinstance(groups, ParameterGroups):
                    groups = ParameterGroups.from_dict(groups)
                self.parameter_groups = groups.matched_to(self.modality_task_pairs(), self.interactions())
            except ValueError as error:
                raise ValueError(f"parameter_groups, for these tasks and their modalities: {error}") from error
        if self.group_modalities is not None:
            if not self.use_unimodal_encoder:
                raise ValueError(
                    "group_modalities gives unimodal groups widths of their own; with use_unimodal_encoder=False "
                    "there are none, and a model cannot grow a modality."
                )
            self.group_modalities = _checked_group_modalities(self.group_modalities, self.modalities, self.groups())
        super().__post_init__(**kwargs)

    def _check_inherited(self, foreign: Mapping[str, Any]) -> None:
        """Refuse values of `PreTrainedConfig`'s own settings that it would fail on without naming them."""
        if "num_labels" in foreign:
            raise ValueError(
                "HighMMTConfig has no setting 'num_labels': each task has its own, tasks[...].num_labels."
            )
        names = self.id2label
        if names is not None and not (isinstance(names, Mapping) and all(str(index).isdigit() for index in names)):
            raise ValueError(f"id2label={_shortened(names)}: must map whole numbers to names; tasks have their own.")
        for name, dtype in (("dtype", self.dtype), ("torch_dtype", foreign.get("torch_dtype"))):
            if dtype is not None and str(dtype).removeprefix("torch.") not in _DTYPES:
                raise ValueError(f"{name}={_shortened(dtype)} must be one of {', '.join(_DTYPES)}.")

    def validate_sizes(self) -> None:
        """Refuse sizes that no model can have."""
        for key in (
            "num_latents",
            "d_latents",
            "num_unimodal_layers",
            "num_crossmodal_layers",
            "num_self_attends_per_layer",
            "num_cross_attention_heads",
            "num_crossmodal_attention_heads",
            "num_self_attention_heads",
            "cross_attention_head_dim",
            "self_attention_head_dim",
            "widening_factor",
        ):
            _check_whole("HighMMTConfig", key, getattr(self, key), 1)
        for key in ("hidden_dropout_prob", "attention_probs_dropout_prob", "modality_dropout"):
            if not 0 <= getattr(self, key) < 1:
                raise ValueError(f"{key}={getattr(self, key)} must be at least 0 and below 1.")
        if not 0 <= self.initializer_range < math.inf:
            raise ValueError(f"initializer_range={self.initializer_range} must be finite and not negative.")
        if not 0 < self.layer_norm_eps < math.inf:
            raise ValueError(f"layer_norm_eps={self.layer_norm_eps} must be positive and finite.")
        if self.group_adapter_rank is not None:
            _check_whole("HighMMTConfig", "group_adapter_rank", self.group_adapter_rank, 1)
        if self.modality_embedding == "learned":
            _check_whole("HighMMTConfig", "modality_embedding_dim", self.modality_embedding_dim, 1)
        elif self.modality_embedding_dim is not None:
            raise ValueError(
                f"modality_embedding_dim={self.modality_embedding_dim} needs modality_embedding='learned'; "
                f"{self.modality_embedding!r} has a width of its own."
            )

    @property
    def num_modality_channels(self) -> int:
        """Width of the modality embedding within one sequence element of a group that is made for all modalities."""
        return self._embedding_width(self.modalities)

    @property
    def d_all(self) -> int:
        """Width of a standardised sequence element, `max(channels + positions) + modality embedding` (eq. in B.1)."""
        return self._element_width(self.modalities)

    def modalities_of_group(self, group: int) -> list[str]:
        """Names of the modalities that a unimodal group was made for, in the order of its one-hot columns: sorted."""
        # Sorted, so that two configs which list the same modalities in another order mean the same weights.
        return sorted(self.modalities if self.group_modalities is None else self.group_modalities[group])

    def modalities_of_all_groups(self) -> list[str]:
        """Names of the modalities that every unimodal group was made for, sorted: all but those that were grown."""
        if self.group_modalities is None:
            return sorted(self.modalities)
        return sorted(set(self.modalities).intersection(*self.group_modalities))

    def width_of_group(self, group: int) -> int:
        """Width of the elements that a unimodal group reads; `d_all` where it is made for all modalities."""
        return self._element_width(self.modalities_of_group(group))

    def embedding_width_of_group(self, group: int) -> int:
        """Width of the modality embedding within the elements that a unimodal group reads."""
        return self._embedding_width(self.modalities_of_group(group))

    def _element_width(self, names: Collection[str]) -> int:
        modalities = [self.modalities[name] for name in names]
        widths = [modality.num_channels + modality.num_position_channels for modality in modalities]
        return max([0, *widths]) + self._embedding_width(names)

    def _embedding_width(self, names: Collection[str]) -> int:
        if self.modality_embedding == "one_hot":
            return len(names)
        return self.modality_embedding_dim or 0  # set for learned embeddings only

    def modality_task_pairs(self) -> list[str]:
        """Nodes of the unimodal matrix, `"task/modality"`, in the order of the tasks and their modalities."""
        return [f"{name}/{modality}" for name, task in self.tasks.items() for modality in task.modalities]

    def interactions(self) -> list[str]:
        """Nodes of the interaction matrix, `"task/a+b"`, one for each unordered pair of modalities of a task.

        A retrieval has none: its modalities are compared, not fused.
        """
        return [
            interaction_name(name, first, second)
            for name, task in self.tasks.items()
            if task.fuses
            for position, first in enumerate(task.modalities)
            for second in task.modalities[position + 1 :]
        ]

    def groups(self) -> ParameterGroups:
        """The parameter groups in force: `parameter_groups`, or one of each where none are set."""
        if isinstance(self.parameter_groups, ParameterGroups):
            return self.parameter_groups
        return ParameterGroups.share_all(self.modality_task_pairs(), self.interactions())

    def group_map(self, kind: GroupKind) -> dict[str, int]:
        """The unimodal or the crossmodal part of `groups()`."""
        groups = self.groups()
        return groups.unimodal if kind == "unimodal" else groups.crossmodal

    def num_groups(self, kind: GroupKind) -> int:
        """Groups of the cluster map and, of the unimodal ones, those that wait for a task."""
        if kind == "crossmodal":
            return self.groups().num_crossmodal_groups
        return self.groups().num_unimodal_groups if self.group_modalities is None else len(self.group_modalities)

    def group_bases(self, kind: GroupKind) -> list[int]:
        """For each group the place of its parameters among the model's copies of the shared ones.

        Every group has a copy; where groups are adapters, those that are made for the same modalities share one. The
        ablations `use_unimodal_encoder=False` and `use_crossmodal=False` have no copies of what they go without.
        """
        if not (self.use_unimodal_encoder if kind == "unimodal" else self.use_crossmodal):
            return []
        number = self.num_groups(kind)
        if self.group_adapter_rank is None:
            return list(range(number))
        if kind == "crossmodal":
            return [0] * number
        made_for = [tuple(self.modalities_of_group(group)) for group in range(number)]
        distinct = list(dict.fromkeys(made_for))
        return [distinct.index(names) for names in made_for]

    def to_dict(self) -> dict[str, Any]:
        """The configuration as plain data; `HighMMTConfig(**config.to_dict())` equals the original."""
        output = super().to_dict()
        if self._auto_class is None:
            # It names the code files of the folder this was loaded from, which do not go where this is saved.
            output.pop("auto_map", None)
        output["modalities"] = {name: asdict(modality) for name, modality in self.modalities.items()}
        output["tasks"] = {name: asdict(task) for name, task in self.tasks.items()}
        for task in output["tasks"].values():
            if task["id2label"] is not None:
                task["id2label"] = {str(index): label for index, label in task["id2label"].items()}
        if isinstance(self.parameter_groups, ParameterGroups):
            output["parameter_groups"] = self.parameter_groups.to_dict()
        return output

    def to_json_string(self, use_diff: bool = True) -> str:
        """The configuration as JSON text, modalities and tasks in the order they were declared in."""
        values = self._encode_special_floats(self.to_diff_dict() if use_diff else self.to_dict())
        # PreTrainedConfig sorts at every level, which would reorder the tasks of every table made after loading.
        return json.dumps({key: values[key] for key in sorted(values)}, indent=2) + "\n"


def _check_whole(owner: str, key: str, value: object, smallest: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not smallest <= value <= 10**7:
        raise ValueError(f"{owner}: {key}={value!r} must be a whole number from {smallest} to 10,000,000.")


def _checked_group_modalities(
    value: list[Any], modalities: Mapping[str, ModalityConfig], groups: ParameterGroups
) -> list[list[str]]:
    """The modalities of every unimodal group, each list sorted, with errors that name group and modality."""
    checked: list[list[str]] = []
    for group, names in enumerate(value):
        if not isinstance(names, (list, tuple)) or not names or len(set(map(str, names))) != len(names):
            raise ValueError(f"group_modalities: group {group} must list the names of its modalities, got {names!r}.")
        for name in names:
            if not isinstance(name, str) or name not in modalities:
                raise ValueError(
                    f"group_modalities: group {group} has the unknown modality {name!r}; declared modalities: "
                    f"{', '.join(modalities)}."
                )
        checked.append(sorted(names))
    if len(checked) < groups.num_unimodal_groups:
        raise ValueError(
            f"group_modalities lists {len(checked)} groups; parameter_groups has {groups.num_unimodal_groups}."
        )
    for pair, group in groups.unimodal.items():
        if pair.partition("/")[2] not in checked[group]:
            raise ValueError(
                f"{pair} uses unimodal group {group}, which is not made for this modality (group_modalities: "
                f"{', '.join(checked[group])}). Choose a group that is, or add one with HighMMTModel.add_modality."
            )
    return checked


def _shortened(value: object) -> str:
    shown = repr(value)
    return shown if len(shown) <= 60 else f"{shown[:57]}..."


def _typed_entries(setting: str, kind: str, entry_class: type, entries: Mapping[str, Any] | None) -> dict[str, Any]:
    """Plain dicts turned into `entry_class`, with errors that name the entry."""
    typed = {}
    if entries is not None and not isinstance(entries, Mapping):
        raise ValueError(f"{setting}={_shortened(entries)} must map names to descriptions.")
    for name, entry in (entries or {}).items():
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise ValueError(
                f"{setting}: {kind} name {_shortened(name)}: use letters, digits, '_' and '-', starting with a letter "
                "or digit."
            )
        if not isinstance(entry, entry_class):
            if not isinstance(entry, Mapping):
                found = _shortened(entry)
                raise ValueError(
                    f"{setting}: {kind} {name!r} must be described by a mapping of its fields, got {found}."
                )
            allowed = [field.name for field in fields(entry_class)]
            for key in entry:
                if key not in allowed:
                    known = ", ".join(allowed)
                    raise ValueError(
                        f"{setting}: {kind} {name!r} has no field {_shortened(key)}; its fields are {known}."
                    )
            try:
                entry = entry_class(**entry)
            except (TypeError, ValueError, AttributeError) as error:
                raise ValueError(f"{setting}: {kind} {name!r}: {error}") from error
        typed[name] = entry
    return typed


# Foreign settings become attributes, and must not hide a method or a property.
_OWN_NAMES = frozenset(
    name for name, value in vars(HighMMTConfig).items() if callable(value) or hasattr(value, "fget")
)


__all__ = ["HighMMTConfig", "ModalityConfig", "TaskConfig"]
