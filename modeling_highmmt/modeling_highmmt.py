"""HighMMT: one small model for many modalities and tasks."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.utils import ModelOutput

from ..configuration import GroupKind, HighMMTConfig, ModalityConfig, TaskConfig, interaction_name
from .adapters import GroupAdapter, LowRankUpdate
from .checks import NonFiniteInputError, check_labels, check_mask, check_names, check_values
from .growth import KINDS, GrowingModel
from .heads import INITIAL_LOG_SCALE, RetrievalHead, build_head, complete_pairs, task_loss
from .inputs import (
    Codes,
    InputSequence,
    autocast_where_faster,
    compute_dtype,
    constant_codes,
    grid_positions,
    one_hot_code,
    ragged_positions,
)
from .layers import CrossmodalTransformer, ElementCrossmodalTransformer, UnimodalEncoder
from .model_size import check_model_size


@dataclass
class HighMMTOutput(ModelOutput):
    """What one forward pass over several tasks gives.

    Args:
        loss: weighted sum of the tasks' losses, `()`; None without labels.
        losses: task to its unweighted loss, the mean over its labelled samples or steps.
        logits: task to `(batch, num_labels)`; with `num_steps` `(batch, num_steps, num_labels)`; for a retrieval
            `(batch, batch)`, the scaled similarity of row i's first modality with row j's second.
        multimodal_states: task to the concatenated vectors of its ordered pairs, `(batch, pairs * d_latents)`; tasks
            with one modality have their flattened latents here, `(batch, num_latents * d_latents)`, and retrievals
            both modalities' embeddings side by side, `(batch, 2 * num_labels)`, each of length 1, or 0 where a sample
            lacks the modality.
        unimodal_states: task and modality to `(batch, num_latents, d_latents)`.
        attentions: `{"unimodal": {task: {modality: [per layer]}}, "crossmodal": {task: {"a<-b": [per layer]}}}` with
            weights `(batch, num_heads, num_latents, elements)`.
    """

    loss: Tensor | None = None
    losses: dict[str, Tensor] | None = None
    logits: dict[str, Tensor] | None = None
    multimodal_states: dict[str, Tensor] | None = None
    unimodal_states: dict[str, dict[str, Tensor]] | None = None
    attentions: dict[str, dict[str, dict[str, list[Tensor]]]] | None = None


@dataclass(frozen=True)
class _Layout:
    """What every forward pass asks of a config, worked out once: attributes of a config are slow to read."""

    config: HighMMTConfig
    tasks: dict[str, TaskConfig]
    modalities: dict[str, ModalityConfig]
    groups: dict[GroupKind, dict[str, int]]
    bases: dict[GroupKind, list[int]]
    widths: list[int]
    columns: list[list[str]]
    learned_rows: dict[str, int]

    @classmethod
    def of(cls, config: HighMMTConfig) -> _Layout:
        """The layout of a config."""
        unimodal_groups = range(config.num_groups("unimodal"))
        return cls(
            config=config,
            tasks=config.tasks,
            modalities=config.modalities,
            groups={kind: config.group_map(kind) for kind in KINDS},
            bases={kind: config.group_bases(kind) for kind in KINDS},
            widths=[config.width_of_group(group) for group in unimodal_groups],
            columns=[config.modalities_of_group(group) for group in unimodal_groups],
            learned_rows={name: row for row, name in enumerate(config.modalities_of_all_groups())},
        )


class HighMMTPreTrainedModel(PreTrainedModel):
    """Weight initialisation and loading shared by HighMMT models."""

    config: HighMMTConfig
    config_class = HighMMTConfig
    base_model_prefix = "highmmt"
    main_input_name = "inputs"
    supports_gradient_checkpointing = True
    # Small, and its parts read each other's weights, so that it stays on one device.
    _no_split_modules = ["HighMMTModel"]

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
        """The model of a folder or of the Hub; see `PreTrainedModel.from_pretrained`.

        Every automatic `device_map` ("auto", "balanced", ...) puts all of it on the first accelerator or, without one,
        on the CPU.

        Raises:
            ValueError: `device_map` names several devices, or the disk.
        """
        devices = kwargs.get("device_map")
        if devices in ("auto", "balanced", "balanced_low_0", "sequential"):
            # Not left to transformers, of which not every version keeps a whole model together.
            accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
            kwargs["device_map"] = {"": f"{accelerator.type}:0" if accelerator else "cpu"}
        if isinstance(devices, Mapping) and (len(set(devices.values())) > 1 or "disk" in devices.values()):
            raise ValueError(
                f"device_map={dict(devices)}: HighMMT is one small model that works on one device; give "
                "device_map='auto' or the name of the device."
            )
        return super().from_pretrained(*args, **kwargs)

    def _set_gradient_checkpointing(self, enable: bool = True, *args: Any, **kwargs: Any) -> None:
        function = args[0] if args else kwargs.get("gradient_checkpointing_func")
        if enable and getattr(function, "keywords", {}).get("use_reentrant"):
            # Layers take lists of tensors, whose gradients that way of checkpointing loses without a word.
            raise ValueError("HighMMT's layers take lists of tensors: checkpoint them with use_reentrant=False.")
        super()._set_gradient_checkpointing(enable, *args, **kwargs)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            # torch's own default, which the public code trains from: uniform in +-1 / sqrt(inputs).
            bound = module.in_features**-0.5
            init.uniform_(module.weight, -bound, bound)
            if module.bias is not None:
                init.uniform_(module.bias, -bound, bound)
        elif isinstance(module, (nn.LayerNorm, nn.BatchNorm1d)):
            init.ones_(module.weight)
            init.zeros_(module.bias)
            for name, buffer in module.named_buffers(recurse=False):
                (init.ones_ if name == "running_var" else init.zeros_)(buffer)
        elif isinstance(module, RetrievalHead):
            init.constant_(module.log_scale, INITIAL_LOG_SCALE)
        elif isinstance(module, nn.Embedding):
            init.normal_(module.weight, std=self.config.initializer_range)
        elif isinstance(module, UnimodalEncoder):
            init.normal_(module.latents, std=self.config.initializer_range)
        elif isinstance(module, HighMMTModel) and module.modality_embeddings is not None:
            init.normal_(module.modality_embeddings, std=self.config.initializer_range)
            for embedding in module.grown_modality_embeddings.values():
                init.normal_(embedding, std=self.config.initializer_range)
        elif isinstance(module, LowRankUpdate):
            bound = module.down.shape[1] ** -0.5
            init.uniform_(module.down, -bound, bound)
            init.zeros_(module.up)


class HighMMTModel(HighMMTPreTrainedModel, GrowingModel):
    """Backbone and task heads together: inputs of several tasks in, logits and losses out.

    Args:
        config: modalities, tasks, sizes and parameter groups.

    Attributes:
        max_parameters: a config that asks for more is refused before memory is taken, as it is more likely to be
            broken than meant: the paper's largest model has 4.2 million. Set it on the class for larger models.
        checks_values: whether `forward` refuses inputs that are not finite. Inside `torch.func.vmap`, where no
            question about values can be asked, it must be False.

    Raises:
        ValueError: the config has no task, or one whose name torch's modules use, or asks for more parameters than
            `max_parameters`.

    Source: Liang et al., TMLR 05/2023, section 2.2.
    """

    max_parameters = 100_000_000
    checks_values = True

    def __init__(self, config: HighMMTConfig) -> None:
        super().__init__(config)
        if not config.tasks:
            raise ValueError("HighMMTModel needs a config with at least one task; this one has none.")
        check_model_size(config, self.max_parameters)
        self._known_layout = _Layout.of(config)
        vocabularies = {name: entry for name, entry in config.modalities.items() if entry.vocab_size is not None}
        learned = config.modality_embedding == "learned"
        first = config.modalities_of_all_groups()
        grown = [name for name in sorted(config.modalities) if learned and name not in first]
        _check_module_names("Task", config.tasks)
        _check_module_names("Modality", [*vocabularies, *grown])
        self.token_embeddings = nn.ModuleDict(
            {name: nn.Embedding(entry.vocab_size, entry.num_channels) for name, entry in sorted(vocabularies.items())}
        )
        shape = len(first), config.num_modality_channels
        self.modality_embeddings = nn.Parameter(torch.empty(shape)) if learned else None
        # Apart, so that a modality more does not change the parameter above.
        self.grown_modality_embeddings = nn.ParameterDict(
            {name: nn.Parameter(torch.empty(config.num_modality_channels)) for name in grown}
        )
        bases = config.group_bases("unimodal")
        widths = [config.width_of_group(bases.index(base)) for base in range(max(bases, default=-1) + 1)]
        self.unimodal_groups = nn.ModuleList(UnimodalEncoder(config, width) for width in widths)
        copies = range(max(config.group_bases("crossmodal"), default=-1) + 1)
        crossmodal_class = CrossmodalTransformer if config.use_unimodal_encoder else ElementCrossmodalTransformer
        self.crossmodal_groups = nn.ModuleList(crossmodal_class(config) for _ in copies)
        # Where groups are adapters, the two lists above hold what groups share, and these what each has to itself.
        self.unimodal_adapters = _group_adapters(config, "unimodal", self.unimodal_groups)
        self.crossmodal_adapters = _group_adapters(config, "crossmodal", self.crossmodal_groups)
        self.heads = nn.ModuleDict({name: build_head(config, task) for name, task in config.tasks.items()})
        self.post_init()

    @property
    def _layout(self) -> _Layout:
        if self._known_layout.config is not self.config:
            self._known_layout = _Layout.of(self.config)
        return self._known_layout

    def forward(
        self,
        inputs: Mapping[str, Mapping[str, Tensor]],
        attention_mask: Mapping[str, Mapping[str, Tensor]] | None = None,
        labels: Mapping[str, Tensor] | None = None,
        output_attentions: bool = False,
        output_unimodal_states: bool = True,
        return_dict: bool = True,
    ) -> HighMMTOutput | tuple[Any, ...]:
        """Run any subset of the tasks in one pass.

        Args:
            inputs: task and modality to `(batch, *axes, channels)`, or token ids `(batch, *axes)` where the modality
                has a vocabulary. Batch sizes may differ between tasks. A modality left out is absent in all samples.
            attention_mask: task and modality to `(batch, *axes)`, True where an element is real. All-False for a
                sample means that it lacks this modality.
            labels: task to class indices `(batch,)` (-100: unlabelled), or `(batch, num_labels)` for regression and
                multi-label tasks (NaN: unlabelled); with `num_steps` `(batch, num_steps)` or `(batch, num_steps,
                num_labels)`. For a retrieval the items' ids, whole numbers `(batch,)`: rows with equal ids match each
                other, and -100, like a missing modality, leaves a row out.
            output_attentions: also return attention weights.
            output_unimodal_states: also return each modality's latents.
            return_dict: False gives a tuple.

        Raises:
            ValueError: unknown task or modality, wrong shape, a sample without any modality, labels out of range;
                the message names task and modality.
        """
        with autocast_where_faster(self.device):
            sequences = self._standardise(inputs, attention_mask or {})
            unimodal, unimodal_weights = self._encode(sequences)
            multimodal, crossmodal_weights = self._fuse(unimodal, sequences)
            logits = {task: self.heads[task](states) for task, states in multimodal.items()}
            loss, losses = self._loss(logits, labels, sequences, multimodal)
        output = HighMMTOutput(
            loss=loss,
            losses=losses,
            logits=logits,
            multimodal_states=multimodal,
            unimodal_states=unimodal if output_unimodal_states else None,
            attentions={"unimodal": unimodal_weights, "crossmodal": crossmodal_weights} if output_attentions else None,
        )
        return output if return_dict else output.to_tuple()

    def _standardise(
        self, inputs: Mapping[str, Mapping[str, Tensor]], masks: Mapping[str, Mapping[str, Tensor]]
    ) -> dict[str, dict[str, InputSequence]]:
        """Inputs as sequences of standard width, tasks and modalities in the config's order."""
        check_names("inputs: task", inputs, self.config.tasks)
        if not inputs:
            raise ValueError("inputs is empty: give at least one task, as {task: {modality: tensor}}.")
        check_names("attention_mask: task", masks, inputs)
        groups = self._layout.groups["unimodal"]
        sequences: dict[str, dict[str, InputSequence]] = {}
        device, dtype = self.device, self.dtype
        for task, task_config in self._layout.tasks.items():
            if task not in inputs:
                continue
            given, task_masks = inputs[task], masks.get(task, {})
            check_names(f"Task {task!r}: modality", given, task_config.modalities)
            check_names(f"Task {task!r}: mask of modality", task_masks, given)
            sequences[task] = {
                modality: self._sequence(
                    task,
                    modality,
                    given[modality],
                    task_masks.get(modality),
                    groups[f"{task}/{modality}"],
                    device,
                    dtype,
                )
                for modality in task_config.modalities
                if modality in given
            }
            _check_batch(task, sequences[task])
            # Of a retrieval it would only leave pairs out.
            if self.training and self.config.modality_dropout and task_config.problem_type != "retrieval":
                drop_modalities(sequences[task], self.config.modality_dropout)
        if self.checks_values:
            _check_finite(sequences)
        return sequences

    def _sequence(
        self,
        task: str,
        modality: str,
        values: Tensor,
        mask: Tensor | None,
        group: int,
        device: torch.device,
        dtype: torch.dtype,
    ) -> InputSequence:
        description = self._layout.modalities[modality]
        where = f"Task {task!r}, modality {modality!r}"
        check_values(where, values, description, device)
        if description.vocab_size is not None:
            values = self.token_embeddings[modality](values)
        else:
            values = values.to(dtype)
        shape = values.shape[1:-1]
        if mask is not None:
            check_mask(where, mask, values, device)
            mask = mask.to(torch.bool)
        codes = self._codes(modality, shape, mask, group, values)
        data = values.flatten(1, -2)
        flat_mask = mask.flatten(1) if mask is not None else None
        if self.training and description.element_dropout:
            flat_mask = drop_elements(flat_mask, data, description.element_dropout)
        return InputSequence.build(data, codes, flat_mask, self._layout.widths[group], self.config.layer_norm_eps)

    def _codes(self, modality: str, shape: torch.Size, mask: Tensor | None, group: int, like: Tensor) -> Codes:
        """Positions and modality embedding, of each sample its own where samples of unequal length span -1 to 1."""
        description, d_all = self._layout.modalities[modality], self._layout.widths[group]
        column = None
        if self.config.modality_embedding == "one_hot":
            names = self._layout.columns[group]
            column = names.index(modality), len(names)
        absolute = description.max_length is not None and len(shape) == 1
        if mask is not None and description.ordered and not absolute:
            positions = ragged_positions(axis_extents(mask), shape, description)
        elif self.modality_embeddings is None:
            return constant_codes(shape, description, column, d_all, like)
        else:
            positions = grid_positions(shape, description, like.device)
        embedding = one_hot_code(*column, like.device) if column else self._learned_embedding(modality)
        if embedding is not None:
            positions = torch.cat([positions, embedding.expand(*positions.shape[:-1], -1)], dim=-1)
        return Codes.of(positions.to(like.dtype), d_all, compute_dtype(like))

    def _learned_embedding(self, modality: str) -> Tensor | None:
        if modality in self.grown_modality_embeddings:
            return self.grown_modality_embeddings[modality]
        if self.modality_embeddings is None:
            return None
        return self.modality_embeddings[self._layout.learned_rows[modality]]

    def _encode(
        self, sequences: dict[str, dict[str, InputSequence]]
    ) -> tuple[dict[str, dict[str, Tensor]], dict[str, dict[str, list[Tensor]]]]:
        """Latents of every modality of every task, one batch per unimodal group."""
        groups = self._layout.groups["unimodal"]
        latents: dict[str, dict[str, Tensor]] = {task: {} for task in sequences}
        weights: dict[str, dict[str, list[Tensor]]] = {task: {} for task in sequences}
        for index, encoder in enumerate(self._groups("unimodal")):
            nodes = [
                (task, modality)
                for task, modalities in sequences.items()
                for modality in modalities
                if groups[f"{task}/{modality}"] == index
            ]
            if not nodes:
                continue
            encoded, attention = encoder([sequences[task][modality] for task, modality in nodes])
            for position, (task, modality) in enumerate(nodes):
                latents[task][modality] = encoded[position]
                weights[task][modality] = [layer[position] for layer in attention]
        # Back in the config's order, whatever order the groups were visited in.
        ordered = {
            task: {name: latents[task][name] for name in names if name in latents[task]}
            for task, names in sequences.items()
        }
        return ordered, weights

    def _fuse(
        self, latents: dict[str, dict[str, Tensor]], sequences: dict[str, dict[str, InputSequence]]
    ) -> tuple[dict[str, Tensor], dict[str, dict[str, list[Tensor]]]]:
        """What each head makes logits of, with zeros for pairs of which one modality is absent."""
        config = self.config
        pairs, weights = self._pair_vectors(latents if config.use_unimodal_encoder else sequences)
        use_crossmodal, d_latents = config.use_crossmodal, config.d_latents
        states = {}
        for task, modalities in sequences.items():
            description = self._layout.tasks[task]
            present = {name: sequence.present for name, sequence in modalities.items()}
            slots = []
            if not (description.fuses and use_crossmodal):
                for name in description.modalities:
                    slot = latents[task][name].flatten(1) if name in modalities else None
                    slots.append((slot, [present.get(name)], config.num_latents * d_latents))
            else:
                for first, second in itertools.permutations(description.modalities, 2):
                    slot = pairs.get((task, first, second))
                    slots.append((slot, [present.get(first), present.get(second)], d_latents))
            like = next(iter(modalities.values())).values
            filled = [_zero_where_absent(slot, masks, like, width) for slot, masks, width in slots]
            states[task] = torch.cat(filled, dim=1)
            head = self.heads[task]
            if isinstance(head, RetrievalHead):
                states[task] = head.embed(states[task])
        return states, weights

    def _pair_vectors(
        self, streams: Mapping[str, Mapping[str, Any]]
    ) -> tuple[dict[tuple[str, str, str], Tensor], dict[str, dict[str, list[Tensor]]]]:
        """Last latent of every ordered pair (query, context), one batch per crossmodal group.

        Args:
            streams: task and modality to latents, or to inputs where there is no unimodal encoder.
        """
        vectors: dict[tuple[str, str, str], Tensor] = {}
        weights: dict[str, dict[str, list[Tensor]]] = {task: {} for task in streams}
        group_of = self._layout.groups["crossmodal"]
        for index, transformer in enumerate(self._groups("crossmodal")):
            plan = []  # (task, context, its readers)
            for task, modalities in streams.items():
                if not self._layout.tasks[task].fuses:
                    continue
                for context in modalities:
                    readers = [
                        name
                        for name in modalities
                        if name != context and group_of[self._interaction(task, name, context)] == index
                    ]
                    if readers:
                        plan.append((task, context, readers))
            if not plan:
                continue
            results, attention = transformer(
                [streams[task][context] for task, context, _ in plan],
                [[streams[task][name] for name in readers] for task, _, readers in plan],
            )
            for place, (task, context, readers) in enumerate(plan):
                for position, reader in enumerate(readers):
                    vectors[task, reader, context] = results[place][position]
                    weights[task][f"{reader}<-{context}"] = [layer[place][position] for layer in attention]
        return vectors, weights

    def _groups(self, kind: GroupKind) -> list[Callable[..., Any]]:
        """The network of every group."""
        if kind == "unimodal":
            shared, adapters = self.unimodal_groups, self.unimodal_adapters
        else:
            shared, adapters = self.crossmodal_groups, self.crossmodal_adapters
        bases: list[Callable[..., Any]] = [shared[base] for base in self._layout.bases[kind]]
        if self.config.group_adapter_rank is None:
            return bases
        return [partial(adapter, base) for adapter, base in zip(adapters, bases, strict=True)]

    def _interaction(self, task: str, first: str, second: str) -> str:
        order = self._layout.tasks[task].modalities
        if order.index(first) > order.index(second):
            first, second = second, first
        return interaction_name(task, first, second)

    def _loss(
        self,
        logits: dict[str, Tensor],
        labels: Mapping[str, Tensor] | None,
        sequences: Mapping[str, Mapping[str, InputSequence]],
        states: dict[str, Tensor],
    ) -> tuple[Tensor | None, dict[str, Tensor] | None]:
        if labels is None:
            return None, None
        check_names("labels: task", labels, logits)
        tasks, device, losses = self._layout.tasks, self.device, {}
        for task, target in labels.items():
            check_labels(task, tasks[task], target, device)
            if tasks[task].problem_type == "retrieval" and target.shape[:1] == states[task].shape[:1]:
                target = target.masked_fill(~complete_pairs(states[task]), -100)
            losses[task] = task_loss(task, tasks[task], logits[task], target)
        if losses and self.training and torch.is_grad_enabled():
            idle = self.idle_parameters({task: list(sequences[task]) for task in losses})
            first = next(iter(losses))
            if idle:
                losses[first] = _TakePart.apply(losses[first], *idle)
        loss = sum((tasks[task].loss_weight * value for task, value in losses.items()), torch.zeros((), device=device))
        return loss, losses

    def idle_parameters(self, modalities: Mapping[str, Sequence[str]]) -> list[nn.Parameter]:
        """Trainable parameters that a step does not use: those of other tasks' heads, groups and vocabularies.

        While training they have a gradient of zeros rather than none, so that data-parallel training need not search
        for them. An optimizer with momentum or weight decay would move them all the same; who does not want that sets
        their gradients to None before its step.

        Args:
            modalities: each task with a loss in the step, to its modalities there.
        """
        active = set()
        groups, bases = self._layout.groups, self._layout.bases
        for task, names in modalities.items():
            active.add(f"heads.{task}")
            active |= {
                f"{part}.{name}" for part in ("token_embeddings", "grown_modality_embeddings") for name in names
            }
            if any(name in self._layout.learned_rows for name in names):
                active.add("modality_embeddings")
            nodes = {"unimodal": [f"{task}/{name}" for name in names]}
            nodes["crossmodal"] = [self._interaction(task, *pair) for pair in itertools.combinations(names, 2)]
            for kind in KINDS:
                for group in {groups[kind][node] for node in nodes[kind] if bases[kind] and node in groups[kind]}:
                    active |= {f"{kind}_groups.{bases[kind][group]}", f"{kind}_adapters.{group}"}
        idle: list[nn.Parameter] = []
        for part, module in self.named_children():
            # What an adapter has wrapped as a whole is taken for used.
            if isinstance(module, (nn.ModuleList, nn.ModuleDict)):
                for name, child in module.named_children():
                    if f"{part}.{name}" not in active:
                        idle += child.parameters()
        grown = self.grown_modality_embeddings
        idle += [grown[name] for name in grown if f"grown_modality_embeddings.{name}" not in active]
        if self.modality_embeddings is not None and "modality_embeddings" not in active:
            idle.append(self.modality_embeddings)
        return [parameter for parameter in idle if parameter.requires_grad]

    def num_parameters_by_component(self) -> dict[str, int]:
        """Parameters of the unimodal groups, the crossmodal groups, the heads, the embeddings, and in total.

        Where groups are adapters, a group's part is the shared base and all adapters.
        """
        parts: dict[str, Iterable[nn.Parameter]] = {
            "unimodal": [*self.unimodal_groups.parameters(), *self.unimodal_adapters.parameters()],
            "crossmodal": [*self.crossmodal_groups.parameters(), *self.crossmodal_adapters.parameters()],
            "heads": self.heads.parameters(),
        }
        counts = {name: sum(parameter.numel() for parameter in values) for name, values in parts.items()}
        total = sum(parameter.numel() for parameter in self.parameters())
        return {**counts, "embeddings": total - sum(counts.values()), "total": total}


class _TakePart(torch.autograd.Function):
    """A loss as it is, with zeros as the gradient of parameters that it does not depend on."""

    @staticmethod
    def forward(loss: Tensor, *parameters: nn.Parameter) -> Tensor:
        """The loss."""
        return loss.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        """Keep what the zeros look like."""
        ctx.idle = [(value.shape, value.dtype, value.device) for value in inputs[1:]]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, ...]:
        """The loss's gradient, and zeros."""
        return gradient, *(torch.zeros(shape, dtype=dtype, device=device) for shape, dtype, device in ctx.idle)


def drop_modalities(sequences: Mapping[str, InputSequence], share: float) -> None:
    """Mark a random share of one task's modalities as absent, sample by sample, never all that a sample has.

    Args:
        sequences: modality to input; `present` is replaced.
        share: probability of hiding a modality.
    """
    whole = torch.ones(len(next(iter(sequences.values())).values), dtype=torch.bool)
    present = torch.stack(
        [
            whole.to(sequence.values.device) if sequence.present is None else sequence.present
            for sequence in sequences.values()
        ]
    )
    kept = present & (torch.rand(present.shape, device=present.device) >= share)
    kept = torch.where(kept.any(dim=0), kept, present)
    for sequence, is_present in zip(sequences.values(), kept, strict=True):
        sequence.present = is_present


def _group_adapters(config: HighMMTConfig, kind: GroupKind, shared: nn.ModuleList) -> nn.ModuleList:
    """One adapter for each group; none where every group has a copy of all parameters."""
    rank = config.group_adapter_rank
    return nn.ModuleList(GroupAdapter(shared[base], rank) for base in config.group_bases(kind) if rank is not None)


def _check_module_names(kind: str, names: Iterable[str]) -> None:
    taken = nn.ModuleDict(), nn.ParameterDict()
    for name in names:
        if any(hasattr(module, name) for module in taken):
            raise ValueError(
                f"{kind} {name!r}: the model keeps parameters under this name, and torch's modules have an attribute "
                "that is called so. Choose another name."
            )


def axis_extents(mask: Tensor) -> Tensor:
    """How far each sample's real elements reach along each axis, `(batch, axes)`, at least 1.

    Args:
        mask: `(batch, *axes)`, True where an element is real.
    """
    extents = []
    for axis, size in enumerate(mask.shape[1:], start=1):
        others = [other for other in range(1, mask.dim()) if other != axis]
        occupied = mask.any(dim=others) if others else mask
        extents.append((occupied * torch.arange(1, size + 1, device=mask.device)).amax(dim=1).clamp_min(1))
    return torch.stack(extents, dim=1)


def drop_elements(mask: Tensor | None, data: Tensor, share: float) -> Tensor:
    """A mask `(batch, elements)` that leaves out a random share of the real elements, never all of a sample's.

    Args:
        mask: `(batch, elements)`, True where an element is real; None where all are.
        data: `(batch, elements, channels)`.
        share: probability of leaving an element out.
    """
    shape = data.shape[:2]
    real = mask if mask is not None else torch.ones(shape, dtype=torch.bool, device=data.device)
    kept = real & (torch.rand(shape, device=data.device) >= share)
    return torch.where(kept.any(dim=1, keepdim=True), kept, real)


def _zero_where_absent(slot: Tensor | None, masks: list[Tensor | None], like: Tensor, width: int) -> Tensor:
    if slot is None:
        return like.new_zeros(like.shape[0], width)
    for mask in masks:
        if mask is not None:
            slot = slot.masked_fill(~mask[:, None], 0.0)
    return slot


def _check_finite(sequences: Mapping[str, Mapping[str, InputSequence]]) -> None:
    """Every element has a deviation; asked once for all inputs, as each question waits for the device."""
    if torch.compiler.is_compiling():
        return
    # The reciprocal is NaN where a value is no finite number, and 0 where its square is none.
    smallest = [sequence.inverse_std.amin() for modalities in sequences.values() for sequence in modalities.values()]
    if bool((torch.stack(smallest) > 0).all()):
        return
    for task, modalities in sequences.items():
        for modality, sequence in modalities.items():
            bad = (~(sequence.inverse_std > 0)).any(dim=(1, 2)).nonzero().flatten().tolist()
            if bad:
                finite = bool(torch.isfinite(sequence.values).all())
                what = "values too large to be squared" if finite else "NaN or infinite values"
                where = f"Task {task!r}, modality {modality!r}"
                message = f"{where}: {what} in sample {bad[0]} of the batch ({len(bad)} in all)."
                raise NonFiniteInputError(message, task, bad)


def _check_batch(task: str, sequences: Mapping[str, InputSequence]) -> None:
    """Same batch size for every modality of a task, and no sample without any modality."""
    if not sequences:
        raise ValueError(f"Task {task!r}: no modality was given.")
    sizes = {name: sequence.values.shape[0] for name, sequence in sequences.items()}
    if any(size != next(iter(sizes.values())) for size in sizes.values()):
        listed = ", ".join(f"{name} {size}" for name, size in sizes.items())
        raise ValueError(f"Task {task!r}: batch sizes differ between modalities: {listed}.")
    present = [sequence.present for sequence in sequences.values()]
    if torch.compiler.is_compiling() or any(mask is None for mask in present):
        return
    anything = torch.stack([mask for mask in present if mask is not None]).any(dim=0)
    if not bool(anything.all()):
        index = int((~anything).nonzero()[0])
        raise ValueError(f"Task {task!r}: sample {index} of the batch has no modality at all.")


__all__ = ["HighMMTModel", "HighMMTOutput", "HighMMTPreTrainedModel"]
