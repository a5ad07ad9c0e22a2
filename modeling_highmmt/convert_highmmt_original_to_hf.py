"""Weights and checkpoints of the authors' public code as weights and folders of `HighMMTModel`."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..configuration import HighMMTConfig, ParameterGroups, interaction_name
from ..configuration.files import read_json, whole_folder
from .modeling_highmmt import HighMMTModel
from .original_checkpoint import read_original_checkpoint

# Public name within one attention or feed-forward block -> ours. Keys and values come stacked and are split.
_ATTENTION = {
    "norm.weight": "norm.weight",
    "norm.bias": "norm.bias",
    "norm_context.weight": "norm_context.weight",
    "norm_context.bias": "norm_context.bias",
    "fn.to_q.weight": "q_proj.weight",
    "fn.to_out.0.weight": "o_proj.weight",
    "fn.to_out.0.bias": "o_proj.bias",
}
_FEED_FORWARD = {
    "norm.weight": "norm.weight",
    "norm.bias": "norm.bias",
    "fn.net.0.weight": "up_proj.weight",
    "fn.net.0.bias": "up_proj.bias",
    "fn.net.3.weight": "down_proj.weight",
    "fn.net.3.bias": "down_proj.bias",
}
_LAYER = re.compile(r"(layers|cross_layers)\.(\d+)\.(.+)")
_LATENT_BLOCK = re.compile(r"2\.latent_blocks\.(\d+)\.([01])\.(.+)")


def convert_original_state_dict(
    weights: Mapping[str, Tensor], description: Mapping[str, Any]
) -> tuple[HighMMTConfig, dict[str, Tensor]]:
    """Configuration and state dict of `HighMMTModel` for a model of the authors' public code.

    Args:
        weights: tensors under their original names, each copy of the network prefixed `group<number>.`, heads
            `heads.<task>.<0: norm, 1: linear>.`.
        description: what the weights do not say: `modalities` (`input_channels`, `input_axis`, `num_freq_bands`,
            `max_freq`; in the order their embedding was numbered in), `tasks` (`latent_order`, `num_labels`),
            `perceiver` (the public constructor's arguments) and `groups` (`unimodal` by modality, `crossmodal` by
            pair; None where everything is shared).

    Raises:
        KeyError: a weight that the description calls for is not there; the message names it.
        ValueError: a weight that has no place in the model.
    """
    unimodal, crossmodal, groups = _read_groups(description)
    config = _read_config(description, groups)
    weights = _untied(weights, description["perceiver"])
    state: dict[str, Tensor] = {}
    for index, original in enumerate(unimodal):
        prefix = f"unimodal_groups.{index}."
        state[f"{prefix}latents"] = _take(weights, f"group{original}.latents")
        for name, value in _network(weights, f"group{original}.", "layers"):
            state[prefix + name] = _sort_one_hot(name, value, description, config)
    for index, original in enumerate(crossmodal):
        for name, value in _network(weights, f"group{original}.", "cross_layers"):
            state[f"crossmodal_groups.{index}.{name}"] = value
    if config.modality_embedding == "learned":
        state["modality_embeddings"] = _embeddings(weights, description)
    for name, value in weights.items():
        if name.startswith("heads."):
            _, task, position, rest = name.split(".", 3)
            state[f"heads.{task}.{'norm' if position == '0' else 'classifier'}.{rest}"] = value.clone()
    return config, state


def convert_original_checkpoint(
    path: str | Path, output_dir: str | Path, tasks: Mapping[str, Mapping[str, Any]] | None = None
) -> HighMMTModel:
    """Turn a checkpoint of the authors' public code into a model folder that `AutoModel.from_pretrained` loads.

    The file is a pickle; it is read as data and nothing in it is run.

    Args:
        path: a file in which the public code has saved a whole module with `torch.save`.
        output_dir: folder of the model, made if need be; written whole or not at all. An empty folder and an earlier
            model of ours are replaced.
        tasks: for each head in order the task's name and a mapping with its `modalities` and, where it is no
            single-label classification, its `problem_type`. None for the public four-task script's tasks.

    Returns:
        The model, in evaluation mode.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is no such checkpoint, or names something that none needs (the message says what); or
            `output_dir` holds something else.
    """
    path, output_dir = Path(path), Path(output_dir)
    _check_output(path, output_dir)
    weights, description = read_original_checkpoint(path, tasks)
    try:
        config, state = convert_original_state_dict(weights, description)
        # No memory and no random numbers for weights that are about to be replaced.
        with torch.device("meta"):
            model = HighMMTModel(config)
        model.load_state_dict(state, strict=True, assign=True)
    except (LookupError, RuntimeError, ValueError) as error:
        raise ValueError(f"{path}: {str(error.args[0]) if error.args else error}") from error
    model.eval()
    with whole_folder(output_dir) as folder:
        model.save_pretrained(folder)
        (folder / "README.md").write_text(_card(path, model), encoding="utf-8")
    return model


def _check_output(path: Path, output_dir: Path) -> None:
    if output_dir.resolve() in path.resolve().parents:
        # Inside a folder that is to be replaced, the checkpoint would go with it.
        raise ValueError(f"{output_dir} holds the checkpoint itself; choose another folder for the model.")
    if output_dir.exists() and not output_dir.is_dir():
        raise ValueError(f"{output_dir} is a file; choose a folder for the model.")
    if output_dir.is_dir() and any(output_dir.iterdir()):
        config = output_dir / "config.json"
        values = read_json(config) if config.is_file() else None
        if not isinstance(values, dict) or values.get("model_type") != HighMMTConfig.model_type:
            raise ValueError(f"{output_dir} is not empty and holds no HighMMT model; choose another folder.")


def _card(path: Path, model: HighMMTModel) -> str:
    """Text of `README.md`: where the weights come from and what the model reads."""
    config = model.config
    tasks = "; ".join(
        f"`{name}` ({task.num_labels} labels) from {', '.join(f'`{modality}`' for modality in task.modalities)}"
        for name, task in config.tasks.items()
    )
    names = "\n".join(f"- {name}" for name in ("highmmt", "multimodal", "multitask"))
    return (
        f"---\nlibrary_name: highmmt\ntags:\n{names}\n---\n\n# HighMMT, converted from the authors' checkpoint\n\n"
        f"These are the weights of `{path.name}` (SHA-256 `{hashlib.sha256(path.read_bytes()).hexdigest()}`), a "
        "checkpoint of the public code of Liang et al., *High-Modality Multimodal Transformer*, Transactions on "
        f"Machine Learning Research, 05/2023, under the names of `HighMMTModel`: {model.num_parameters():,} "
        f"parameters, {config.num_latents} latents of width {config.d_latents}, all of them shared by the tasks, "
        f"which are {tasks}. Inputs are those of the public code, prepared as it prepares them, and the logits are "
        "equal up to rounding; nothing was trained. `AutoModel.from_pretrained` loads this folder after "
        "`import highmmt`; it has no processor, because the checkpoint does not say how its data was made. The names "
        "of the tasks are not in the checkpoint either: they follow from the order and the sizes of its heads. No "
        "results are given and no licence is set; those of the checkpoint and of its data apply. For research, not "
        "for decisions about people.\n"
    )


def _untied(weights: Mapping[str, Tensor], perceiver: Mapping[str, Any]) -> Mapping[str, Tensor]:
    """The weights with the later layers of a network that ties them, which its parameters name only once."""
    if not perceiver.get("weight_tie_layers"):
        return weights
    named = dict(weights)
    for name, value in weights.items():
        # The public code ties from its second layer on.
        if second := re.fullmatch(r"(group\d+\.)(layers|cross_layers)\.1\.(.+)", name):
            copy, part, rest = second.groups()
            for layer in range(2, perceiver["depth" if part == "layers" else "cross_depth"]):
                named.setdefault(f"{copy}{part}.{layer}.{rest}", value)
    return named


def _take(weights: Mapping[str, Tensor], name: str) -> Tensor:
    if name not in weights:
        raise KeyError(f"The original weights have no {name!r}, which the description calls for.")
    return weights[name].clone()


def _read_groups(description: Mapping[str, Any]) -> tuple[list[int], list[int], ParameterGroups]:
    """Original numbers of the copies in use, for each of our group numbers, and the cluster map."""
    tasks = description["tasks"]
    shared = description.get("groups")
    unimodal, crossmodal = {}, {}
    for task, entry in tasks.items():
        order = entry["latent_order"]
        for position, modality in enumerate(order):
            unimodal[f"{task}/{modality}"] = shared["unimodal"][modality] if shared else 0
            for other in order[position + 1 :]:
                pairs = [f"{modality}+{other}", f"{other}+{modality}"]
                found = (
                    [shared["crossmodal"][pair] for pair in pairs if pair in shared["crossmodal"]] if shared else [0]
                )
                if not found:
                    raise KeyError(f"The description has no group for the pair {pairs[0]!r} of task {task!r}.")
                crossmodal[interaction_name(task, modality, other)] = found[0]
    used = [sorted(set(groups.values())) for groups in (unimodal, crossmodal)]
    renumbered = [
        {node: numbers.index(group) for node, group in groups.items()}
        for numbers, groups in zip(used, (unimodal, crossmodal), strict=True)
    ]
    return used[0], used[1], ParameterGroups(*renumbered)


def _read_config(description: Mapping[str, Any], groups: ParameterGroups) -> HighMMTConfig:
    perceiver = description["perceiver"]
    modalities = {
        name: {
            "num_channels": entry["input_channels"],
            "num_axes": entry["input_axis"],
            "num_frequency_bands": entry["num_freq_bands"],
            "max_frequency": float(entry["max_freq"]),
        }
        for name, entry in description["modalities"].items()
    }
    tasks = {
        name: {
            "modalities": list(entry["latent_order"]),
            "problem_type": entry.get("problem_type", "single_label_classification"),
            "num_labels": entry["num_labels"],
        }
        for name, entry in description["tasks"].items()
    }
    learned = bool(perceiver.get("embed", False))
    return HighMMTConfig(
        modalities=modalities,
        tasks=tasks,
        num_latents=perceiver["num_latents"],
        d_latents=perceiver["latent_dim"],
        num_unimodal_layers=perceiver["depth"],
        num_crossmodal_layers=perceiver["cross_depth"],
        num_self_attends_per_layer=perceiver["num_latent_blocks_per_layer"],
        num_cross_attention_heads=perceiver["cross_heads"],
        num_crossmodal_attention_heads=perceiver["cross_cross_heads"],
        num_self_attention_heads=perceiver["latent_heads"],
        cross_attention_head_dim=perceiver["cross_dim_head"],
        self_attention_head_dim=perceiver["latent_dim_head"],
        modality_embedding="learned" if learned else "one_hot",
        modality_embedding_dim=perceiver["embed_size"] if learned else None,
        head_norm="batch_norm" if "BatchNorm" in description.get("head", "") else "layer_norm",
        parameter_groups=groups,
    )


def _network(weights: Mapping[str, Tensor], prefix: str, part: str) -> list[tuple[str, Tensor]]:
    """Our names and values for one copy of the encoder (`layers`) or of the crossmodal part (`cross_layers`)."""
    converted: list[tuple[str, Tensor]] = []
    for name, value in weights.items():
        match = _LAYER.fullmatch(name[len(prefix) :]) if name.startswith(prefix) else None
        if match is None or match.group(1) != part:
            continue
        layer, rest = f"layers.{match.group(2)}.", match.group(3)
        if block := _LATENT_BLOCK.fullmatch(rest):
            kind = "attention" if block.group(2) == "0" else "feed_forward"
            place, rest = f"{layer}latent_transformer.blocks.{block.group(1)}.{kind}.", block.group(3)
            names = _ATTENTION if kind == "attention" else _FEED_FORWARD
        elif rest[:2] in ("0.", "1."):
            place = layer + ("cross_attention." if rest[0] == "0" else "feed_forward.")
            names, rest = (_ATTENTION if rest[0] == "0" else _FEED_FORWARD), rest[2:]
        else:
            raise ValueError(f"The original weight {name!r} has no place in HighMMTModel.")
        if rest == "fn.to_kv.weight":
            key, value_matrix = value.chunk(2, dim=0)
            converted += [(f"{place}k_proj.weight", key.clone()), (f"{place}v_proj.weight", value_matrix.clone())]
        elif rest in names:
            converted.append((place + names[rest], value.clone()))
        else:
            raise ValueError(f"The original weight {name!r} has no place in HighMMTModel.")
    if not converted:
        raise KeyError(f"The original weights have no {prefix}{part}, which the description calls for.")
    return converted


def _sort_one_hot(name: str, value: Tensor, description: Mapping[str, Any], config: HighMMTConfig) -> Tensor:
    """The last input columns in the order of sorted modality names, which ours are in."""
    last = name.rpartition("cross_attention.")[2]
    reads_input = last in ("k_proj.weight", "v_proj.weight", "norm_context.weight", "norm_context.bias")
    if "latent_transformer" in name or not reads_input or config.modality_embedding != "one_hot":
        return value
    declared = list(description["modalities"])
    order = torch.tensor([declared.index(modality) for modality in sorted(declared)])
    start = value.shape[-1] - len(declared)
    return torch.cat([value[..., :start], value[..., start:].index_select(-1, order)], dim=-1)


def _embeddings(weights: Mapping[str, Tensor], description: Mapping[str, Any]) -> Tensor:
    """One row for each modality in sorted order, from the copy of the network that encodes it."""
    declared = list(description["modalities"])
    shared = description.get("groups")
    rows = []
    for modality in sorted(declared):
        copy = shared["unimodal"].get(modality, 0) if shared else 0
        rows.append(_take(weights, f"group{copy}.embed")[declared.index(modality)])
    return torch.stack(rows)


__all__ = ["convert_original_checkpoint", "convert_original_state_dict"]
