"""How a model changes its shape and keeps what it has learned: parameter groups, new tasks, new modalities."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from ..configuration import GroupKind, HighMMTConfig, ModalityConfig, ParameterGroups, TaskConfig

KINDS: tuple[GroupKind, GroupKind] = ("unimodal", "crossmodal")
# For each group of a new model the group of the old one that it continues, None for a new group.
Continued = Mapping[GroupKind, Sequence[int | None]]
# Columns of a new group's elements, and the columns that mean the same in an old one's.
Columns = tuple[Tensor, Tensor]

# Weights of an encoder whose last axis runs over the columns of a standardised element.
_OVER_COLUMNS = re.compile(r"cross_attention[.-](norm_context\.(weight|bias)|[kv]_proj\.(weight|down))$")

GrowingT = TypeVar("GrowingT", bound="GrowingModel")


class GrowingModel(PreTrainedModel):
    """Splitting and growing a `HighMMTModel`; in each case old parameters keep their values and old tasks theirs.

    A grown or split model is a new model of the changed config that has inherited: each of its groups says which group
    of the old model it continues. Growing then takes what is new over into the old model, in place.
    """

    config: HighMMTConfig

    def split_parameter_groups(
        self: GrowingT,
        groups: ParameterGroups | Mapping[str, Mapping[str, int]],
        adapter_rank: int | None = None,
    ) -> GrowingT:
        """A model with parameters of its own for every group, and this model's outputs until trained on.

        Args:
            groups: the cluster map; every modality-task pair and interaction exactly once. A model that is split
                already can be split further: each new group then lies within one group that there is.
            adapter_rank: None clones the shared parameters for every group. A rank r leaves one base to all groups,
                and gives each an update `up @ down` of rank r for every linear layer of the base, zero at first
                (LoRA with alpha = r, so that its scale is 1); latents, norms and biases stay shared. The base can be
                trained on or frozen. A model whose groups are adapters keeps their rank where None is given.

        Raises:
            ValueError: the map does not fit the tasks, or joins groups that are split already.

        Source: Liang et al., TMLR 05/2023, section 2.2, "Heterogeneity-aware fine-tuning"; adapters are our own.
        """
        self._refuse_wrapped("split")
        old = self.config
        if not isinstance(groups, ParameterGroups):
            groups = ParameterGroups.from_dict(groups)
        groups = groups.matched_to(old.modality_task_pairs(), old.interactions())
        continued = {kind: _refined(old.group_map(kind), getattr(groups, kind)) for kind in KINDS}
        # Groups that wait for a task stay as they are.
        continued["unimodal"] += range(old.groups().num_unimodal_groups, old.num_groups("unimodal"))
        rank = _checked_rank(old, adapter_rank)
        config = _continuing(old, continued, parameter_groups=groups.to_dict(), group_adapter_rank=rank)
        return self._successor(config, continued)

    def add_modality(self, name: str, modality: ModalityConfig | Mapping[str, Any], *, like: str) -> list[str]:
        """Get ready for a new modality: a unimodal group of its own width, which `add_task` then gives to tasks.

        The new group continues the group of `like` where columns of an element mean the same: data and zeros from the
        left, positions by axis and band from the last, modality embeddings by name. The column of the new modality,
        and what else has no counterpart, is new. Old groups stay as wide as they are, so that old tasks give the same
        bits as before. A new vocabulary and a new learned embedding are drawn from torch's random numbers.

        Args:
            name: of the new modality.
            modality: its description.
            like: modality-task pair `"task/modality"` that the new modality resembles most.

        Returns:
            Names of the new parameters.

        Raises:
            ValueError: the name is taken, the description is impossible, or `like` is not a modality-task pair.
        """
        self._refuse_wrapped("grown")
        old, pairs = self.config, self.config.group_map("unimodal")
        if name in old.modalities:
            raise ValueError(f"There is a modality {name!r} already; choose another name.")
        if like not in pairs:
            raise ValueError(f"like={like!r} is not a modality-task pair; there are {', '.join(pairs)}.")
        continued: dict[GroupKind, list[int | None]] = {kind: list(range(old.num_groups(kind))) for kind in KINDS}
        source, new = pairs[like], len(continued["unimodal"])
        made_for = [old.modalities_of_group(group) for group in range(new)]
        continued["unimodal"].append(source)
        config = _changed(
            old,
            modalities={**old.modalities, name: modality},
            group_modalities=[*made_for, [*made_for[source], name]],
        )
        columns = corresponding_columns(old, source, like.partition("/")[2], config, new, name)
        return self._grow(config, continued, columns)

    def add_task(
        self,
        name: str,
        task: TaskConfig | Mapping[str, Any],
        *,
        like: str | None = None,
        groups: Mapping[str, Mapping[str, int]] | None = None,
        own_groups: bool = False,
    ) -> list[str]:
        """Add a task with a new head; old tasks give the same bits as before.

        Its modality-task pairs and interactions use groups that there are. For each, the first of these rules that
        leaves one group decides:

        1. `groups` names it;
        2. `like` has this modality, or this pair of modalities; or all interactions of `like` share one group;
        3. other tasks have this modality, or this pair, all in one group;
        4. one group is made for this modality (that of a modality which was just added), or there is one crossmodal
           group. The first interaction of a model that has had none gets a new group.

        Args:
            name: of the new task.
            task: its description; its modalities must be known (see `add_modality`).
            like: an old task whose groups are used.
            groups: `{"unimodal": {"name/modality": 0}, "crossmodal": {"name/a+b": 0}}`, for any part of the new nodes.
            own_groups: clone the groups that old tasks use, so that training the new parameters alone trains the task
                and leaves old tasks as they are. In a model whose groups are adapters, the adapters are cloned.

        Returns:
            Names of the new parameters: the head, and clones.

        Raises:
            ValueError: the name is taken, the description is impossible, a modality or group is unknown, or the rules
                leave several groups; the message lists them.
        """
        self._refuse_wrapped("grown")
        old = self.config
        if name in old.tasks:
            raise ValueError(f"There is a task {name!r} already; choose another name.")
        if like is not None and like not in old.tasks:
            raise ValueError(f"like={like!r} is not a task; there are {', '.join(old.tasks)}.")
        tasks = {**old.tasks, name: task}
        # Checks the description, and knows the new nodes.
        nodes = _changed(old, tasks=tasks, parameter_groups=None, group_modalities=None)
        new: dict[GroupKind, list[str]] = {
            "unimodal": [pair for pair in nodes.modality_task_pairs() if pair.startswith(f"{name}/")],
            "crossmodal": [pair for pair in nodes.interactions() if pair.startswith(f"{name}/")],
        }
        given = _checked_choice(groups or {}, new, old)
        maps: dict[GroupKind, dict[str, int]] = {}
        continued: dict[GroupKind, list[int | None]] = {}
        for kind in KINDS:
            known = old.group_map(kind)
            chosen = {node: _choose(old, kind, node, given[kind], like) for node in new[kind]}
            continued[kind] = list(range(old.num_groups(kind)))
            if chosen and not continued[kind]:
                continued[kind].append(None)
            elif own_groups:
                for group in sorted(set(chosen.values()) & set(known.values())):
                    clone = len(continued[kind])
                    chosen = {node: clone if other == group else other for node, other in chosen.items()}
                    continued[kind].append(group)
            maps[kind] = {**known, **chosen}
        # Groups that still wait for a task come last, since the groups of a map have no gaps.
        used = set(maps["unimodal"].values())
        order = sorted(range(len(continued["unimodal"])), key=lambda group: (group not in used, group))
        maps["unimodal"] = {pair: order.index(group) for pair, group in maps["unimodal"].items()}
        continued["unimodal"] = [continued["unimodal"][group] for group in order]
        return self._grow(_continuing(old, continued, tasks=tasks, parameter_groups=maps), continued)

    def _grow(self, config: HighMMTConfig, continued: Continued, columns: Columns | None = None) -> list[str]:
        """Take over what is new in the model's successor; returns the names of the new parameters."""
        known = {id(parameter) for parameter in self.parameters()}
        sources = _module_sources(self.config, config, continued)
        grown = self._successor(config, continued, columns)
        for part, module in grown.named_children():
            mine = getattr(self, part)
            if part in sources:
                kept: list[nn.Module] = []
                for source, new in zip(sources[part], module.children(), strict=True):
                    # A group is continued in place once; what else continues it is a clone.
                    again = source is None or any(mine[source] is other for other in kept)
                    kept.append(new if again else mine[source])
                setattr(self, part, nn.ModuleList(kept))
            elif isinstance(module, (nn.ModuleDict, nn.ParameterDict)):
                for key in module:
                    if key not in mine:
                        mine[key] = module[key]
        self.config = config
        return [name for name, parameter in self.named_parameters() if id(parameter) not in known]

    def _successor(
        self: GrowingT, config: HighMMTConfig, continued: Continued, columns: Columns | None = None
    ) -> GrowingT:
        """A model of `config` whose groups continue groups of this model, and which has all else that this one has.

        Args:
            config: of the successor.
            continued: for each of its groups the group of this model that it continues; None for a new one.
            columns: of the last unimodal group, where its elements are laid out in another way: its columns, and the
                columns of the group that it continues.
        """
        sources = _module_sources(self.config, config, continued)
        successor = type(self)(config)
        mine, state = self.state_dict(), successor.state_dict()
        for name, value in state.items():
            part, _, rest = name.partition(".")
            place, _, rest = rest.partition(".")
            if part not in sources:
                state[name] = mine.get(name, value)
            elif (source := sources[part][int(place)]) is not None:
                old = mine[f"{part}.{source}.{rest}"]
                is_last = part.startswith("unimodal") and int(place) == len(sources[part]) - 1
                if columns is not None and is_last and _OVER_COLUMNS.search(rest):
                    here, there = columns
                    state[name] = value.to(old).index_copy(-1, here, old.index_select(-1, there))
                else:
                    state[name] = old
        successor.load_state_dict(state)
        successor.train(self.training)
        nn.Module.to(successor, device=self.device, dtype=self.dtype)
        return successor

    def _refuse_wrapped(self, verb: str) -> None:
        for name, module in self.named_modules():
            if hasattr(module, "base_layer"):
                raise ValueError(
                    f"{name} is wrapped by an adapter of PEFT, and the model cannot be {verb} around it; merge the "
                    "adapter (PeftModel.merge_and_unload) or unload it first, and wrap the model again afterwards."
                )


def corresponding_columns(
    old: HighMMTConfig, old_group: int, resembled: str, new: HighMMTConfig, new_group: int, modality: str
) -> Columns:
    """Columns of a new group's elements, and the columns of an old group's elements that mean the same.

    Data and the zeros behind them correspond from the left, positions by axis and band from the last, learned modality
    embeddings as they are, one-hot columns by the modality's name.

    Args:
        old, old_group: whose columns are known.
        resembled: a modality of the old group; where it has positions, there are no data.
        new, new_group, modality: whose columns are sought, for elements of this modality.

    Returns:
        Two index tensors of one length: columns of the new group, columns of the old group.
    """
    end, old_end = (
        config.width_of_group(group) - config.embedding_width_of_group(group)
        for config, group in ((new, new_group), (old, old_group))
    )
    positions = _position_columns(new.modalities[modality], end)
    old_positions = _position_columns(old.modalities[resembled], old_end)
    pairs = [(column, column) for column in range(min(end - len(positions), old_end - len(old_positions)))]
    pairs += [(column, old_positions[key]) for key, column in positions.items() if key in old_positions]
    if new.modality_embedding == "one_hot":
        names, old_names = new.modalities_of_group(new_group), old.modalities_of_group(old_group)
        pairs += [(end + names.index(name), old_end + old_names.index(name)) for name in old_names]
    else:
        pairs += [(end + column, old_end + column) for column in range(new.embedding_width_of_group(new_group))]
    here, there = zip(*pairs, strict=True) if pairs else ((), ())
    return torch.tensor(here, dtype=torch.long), torch.tensor(there, dtype=torch.long)


def _position_columns(modality: ModalityConfig, end: int) -> dict[tuple[str, int, int], int]:
    """Where each position channel stands if they end before column `end`; axes and bands count from the last."""
    columns: dict[tuple[str, int, int], int] = {}
    if not modality.ordered:
        return columns
    bands = modality.num_frequency_bands
    for axis in range(modality.num_axes):
        point = end - 1 - axis * (2 * bands + 1)
        columns["point", axis, 0] = point
        for band in range(bands):
            columns["cos", axis, band] = point - 1 - band
            columns["sin", axis, band] = point - 1 - bands - band
    return columns


def _changed(config: HighMMTConfig, **changes: Any) -> HighMMTConfig:
    """A config with some values replaced, checked as a whole."""
    return type(config).from_dict({**config.to_dict(), **changes})


def _continuing(old: HighMMTConfig, continued: Continued, **changes: Any) -> HighMMTConfig:
    """The config with each unimodal group made for the modalities of the group that it continues."""
    if old.group_modalities is None:
        return _changed(old, **changes)
    made_for = [old.group_modalities[group] for group in continued["unimodal"] if group is not None]
    return _changed(old, group_modalities=made_for, **changes)


def _module_sources(old: HighMMTConfig, new: HighMMTConfig, continued: Continued) -> dict[str, list[int | None]]:
    """For every entry of the four lists of modules the entry of the same list that it continues."""
    sources: dict[str, list[int | None]] = {}
    for kind in KINDS:
        bases, old_bases = new.group_bases(kind), old.group_bases(kind)
        groups = continued[kind] if bases else []
        first = [groups[bases.index(base)] for base in range(max(bases, default=-1) + 1)]
        sources[f"{kind}_groups"] = [None if group is None else old_bases[group] for group in first]
        adapters = groups if new.group_adapter_rank is not None else []
        sources[f"{kind}_adapters"] = list(adapters) if old.group_adapter_rank is not None else [None] * len(adapters)
    return sources


def _refined(old: Mapping[str, int], new: Mapping[str, int]) -> list[int | None]:
    """For each new group the old group that its nodes are in."""
    continued: dict[int, int] = {}
    for node, group in new.items():
        if continued.setdefault(group, old[node]) != old[node]:
            other = next(name for name in new if new[name] == group)
            raise ValueError(
                f"This model is split into parameter groups already: group {group} would join {other} and {node}, "
                "which have parameters of their own. Split the pretrained, shared model."
            )
    return [continued[group] for group in range(len(continued))]


def _checked_rank(config: HighMMTConfig, rank: int | None) -> int | None:
    """The rank of the groups' adapters after a split."""
    if config.group_adapter_rank is not None:
        if rank not in (None, config.group_adapter_rank):
            raise ValueError(
                f"adapter_rank={rank}: the groups of this model are adapters of rank {config.group_adapter_rank}."
            )
        return config.group_adapter_rank
    number = config.num_groups("unimodal")
    made_for = {tuple(config.modalities_of_group(group)) for group in range(number)}
    if rank is not None and (number > len(made_for) or config.num_groups("crossmodal") > 1):
        raise ValueError(
            f"adapter_rank={rank}: the groups of this model have parameters of their own already, and adapters need a "
            "base that all share. Split the pretrained, shared model."
        )
    return rank


def _checked_choice(
    groups: Mapping[str, Mapping[str, int]], nodes: Mapping[GroupKind, Sequence[str]], config: HighMMTConfig
) -> dict[GroupKind, dict[str, int]]:
    """The groups that a caller chose for some of the new nodes, `a+b` spelled as the task does."""
    if unknown := sorted(set(groups) - set(KINDS)):
        raise ValueError(f"groups has no part {unknown[0]!r}; the parts are 'unimodal' and 'crossmodal'.")
    checked: dict[GroupKind, dict[str, int]] = {kind: {} for kind in KINDS}
    for kind in KINDS:
        spelling = {_canonical(node): node for node in nodes[kind]}
        for node, group in groups.get(kind, {}).items():
            if _canonical(node) not in spelling:
                listed = ", ".join(nodes[kind]) or "none"
                raise ValueError(f"groups: {kind} node {node!r} is not of the new task; its nodes are {listed}.")
            number = config.num_groups(kind)
            if isinstance(group, bool) or not isinstance(group, int) or not 0 <= group < number:
                raise ValueError(f"groups: {node} cannot use {kind} group {group!r}; there are {number}, from 0.")
            checked[kind][spelling[_canonical(node)]] = group
    return checked


def _canonical(node: str) -> tuple[str, frozenset[str]]:
    """A node without the order of its modalities."""
    task, _, modalities = node.partition("/")
    return task, frozenset(modalities.split("+"))


def _choose(config: HighMMTConfig, kind: GroupKind, node: str, given: Mapping[str, int], like: str | None) -> int:
    """The group of a new task's node, by the rules that `add_task` lists."""
    if node in given:
        return given[node]
    known = config.group_map(kind)
    of_like = [group for other, group in known.items() if _canonical(other)[0] == like]
    same = {other: group for other, group in known.items() if _canonical(other)[1] == _canonical(node)[1]}
    same_of_like = [group for other, group in same.items() if _canonical(other)[0] == like]
    if kind == "unimodal":
        modality = node.partition("/")[2]
        numbers = range(config.num_groups(kind))
        rules = [same_of_like, same.values(), [n for n in numbers if modality in config.modalities_of_group(n)]]
    else:
        rules = [same_of_like, of_like, same.values(), known.values()]
        if not known:
            return 0
    for rule in rules:
        if len(set(rule)) == 1:
            return next(iter(rule))
    if not rules[-1]:
        raise ValueError(f"{node}: no unimodal group is made for this modality; add a new one with add_modality.")
    users = {group: [other for other in known if known[other] == group] for group in sorted(set(rules[-1]))}
    listed = "; ".join(f"{group} ({', '.join(others) or 'no task yet'})" for group, others in users.items())
    raise ValueError(
        f"{node} could use several {kind} groups: {listed}. Name one in groups={{{kind!r}: {{{node!r}: ...}}}}, or a "
        "task to follow in like=."
    )


__all__ = ["GrowingModel", "corresponding_columns"]
