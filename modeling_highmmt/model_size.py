"""How many parameters a configuration asks for, worked out before anything is made."""

from __future__ import annotations

from dataclasses import dataclass

from ..configuration import GroupKind, HighMMTConfig, TaskConfig
from .heads import head_width

# What the modules of a layer or a block take as Python objects (measured: 41 kB), in parameters of four bytes.
LAYER_OVERHEAD = 12_000

# The settings that the size of each part follows from.
_LATENTS = ("d_latents", "widening_factor", "num_self_attends_per_layer", "num_self_attention_heads")
_WIDTHS = ("self_attention_head_dim", "cross_attention_head_dim")
_INPUT = ("d_all", "modality_embedding_dim", "group_adapter_rank")
_SETTINGS = {
    "unimodal": ("num_unimodal_layers", "num_latents", "num_cross_attention_heads", *_LATENTS, *_WIDTHS, *_INPUT),
    "crossmodal": ("num_crossmodal_layers", "num_crossmodal_attention_heads", *_LATENTS, *_WIDTHS, *_INPUT),
    "heads": ("num_latents", "d_latents"),
    "embeddings": _INPUT,
}


def check_model_size(config: HighMMTConfig, limit: int) -> None:
    """Refuse a model that takes more memory than `limit` parameters do.

    Raises:
        ValueError: the model is too large; the message names the part that is largest, and what it follows from.
    """
    sizes = parameters_by_component(config)
    total = sum(sizes.values()) + LAYER_OVERHEAD * _num_layers(config)
    if total <= limit:
        return
    if sum(sizes.values()) <= limit:
        part = "unimodal" if config.num_unimodal_layers >= config.num_crossmodal_layers else "crossmodal"
    else:
        part = max(sizes, key=lambda name: sizes[name])
    found = [f"{name}={getattr(config, name)}" for name in _SETTINGS[part]]
    if part == "heads":
        name = max(config.tasks, key=lambda task: _head(config, config.tasks[task]))
        task = config.tasks[name]
        found += [f"task {name!r}: num_labels={task.num_labels}, num_steps={task.num_steps}"]
    else:
        name = max(config.modalities, key=lambda modality: _width(config, modality))
        modality = config.modalities[name]
        found += [
            f"modality {name!r}: num_channels={modality.num_channels}, "
            f"num_frequency_bands={modality.num_frequency_bands}, vocab_size={modality.vocab_size}"
        ]
    raise ValueError(
        f"This configuration asks for the memory of {total:,} parameters, more than the {limit:,} that are allowed. "
        f"Most is for its {part} part: {', '.join(found)}. If that is meant, raise HighMMTModel.max_parameters."
    )


def parameters_by_component(config: HighMMTConfig) -> dict[str, int]:
    """Parameters of the unimodal groups, the crossmodal groups, the heads and the embeddings of a model to be made."""
    sizes = dict.fromkeys(_SETTINGS, 0)
    latents = config.num_latents * config.d_latents
    bases = config.group_bases("unimodal")
    for group, base in enumerate(bases):
        layers = config.num_unimodal_layers * _Size.of_layer(
            config, config.d_latents, config.width_of_group(group), config.num_cross_attention_heads
        )
        sizes["unimodal"] += layers.of_adapter(config)
        if bases.index(base) == group:
            sizes["unimodal"] += latents + layers.parameters
    # Without a unimodal encoder the first layer's queries and every context are elements of the input.
    d_context = config.d_latents if config.use_unimodal_encoder else config.d_all
    heads, bases = config.num_crossmodal_attention_heads, config.group_bases("crossmodal")
    later = (config.num_crossmodal_layers - 1) * _Size.of_layer(config, config.d_latents, d_context, heads)
    layers = _Size.of_layer(config, d_context, d_context, heads) + later
    sizes["crossmodal"] = len(set(bases)) * layers.parameters + len(bases) * layers.of_adapter(config)
    sizes["heads"] = sum(_head(config, task) for task in config.tasks.values())
    vocabularies = [entry.vocab_size * entry.num_channels for entry in config.modalities.values() if entry.vocab_size]
    learned = config.modality_embedding == "learned"
    sizes["embeddings"] = sum(vocabularies) + (len(config.modalities) * config.num_modality_channels if learned else 0)
    return sizes


def _num_layers(config: HighMMTConfig) -> int:
    """Layers and blocks; an adapter has a module for each of those of what it adapts."""
    layers: dict[GroupKind, int] = {
        "unimodal": config.num_unimodal_layers,
        "crossmodal": config.num_crossmodal_layers,
    }
    total = 0
    for kind, count in layers.items():
        bases = config.group_bases(kind)
        copies = len(set(bases)) + (0 if config.group_adapter_rank is None else len(bases))
        total += copies * count * (1 + config.num_self_attends_per_layer)
    return total


@dataclass(frozen=True)
class _Size:
    """Parameters of some modules, and the inputs and outputs of their linear layers: an adapter's of rank 1."""

    parameters: int
    ends: int

    def __add__(self, other: _Size) -> _Size:
        return _Size(self.parameters + other.parameters, self.ends + other.ends)

    def __rmul__(self, times: int) -> _Size:
        return _Size(times * self.parameters, times * self.ends)

    def of_adapter(self, config: HighMMTConfig) -> int:
        """Parameters that one group has to itself."""
        return (config.group_adapter_rank or 0) * self.ends

    @classmethod
    def of_layer(cls, config: HighMMTConfig, d_query: int, d_context: int, num_heads: int) -> _Size:
        """An attention with norms of both streams, a feed-forward, and the blocks over latents."""
        d, inner = config.d_latents, config.widening_factor * config.d_latents
        feed_forward = cls(2 * d + (d + 1) * 2 * inner + (inner + 1) * d, 2 * d + 3 * inner)
        reading = cls.of_attention(d_query, d_context, d, num_heads * config.cross_attention_head_dim)
        block = cls.of_attention(d, d, d, config.num_self_attention_heads * config.self_attention_head_dim)
        blocks = config.num_self_attends_per_layer * (block + feed_forward)
        return reading + cls(2 * d_context, 0) + feed_forward + blocks

    @classmethod
    def of_attention(cls, d_query: int, d_context: int, d_output: int, inner: int) -> _Size:
        """Norm of the queries, projections, bias of the output."""
        ends = d_query + 2 * d_context + d_output
        return cls(2 * d_query + inner * ends + d_output, ends + 4 * inner)


def _head(config: HighMMTConfig, task: TaskConfig) -> int:
    width, num_outputs = head_width(config, task), (task.num_steps or 1) * task.num_labels
    if task.problem_type == "retrieval":  # each modality has a norm and a projection; both share a scale
        return 2 * width + width * task.num_labels + 2 * task.num_labels + 1
    return 2 * width + width * num_outputs + num_outputs


def _width(config: HighMMTConfig, name: str) -> int:
    modality = config.modalities[name]
    width: int = modality.num_channels * (modality.vocab_size or 1) + modality.num_position_channels
    return width
