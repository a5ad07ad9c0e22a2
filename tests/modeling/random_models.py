"""Small models of any shape, drawn from a seed, and inputs for them."""

from __future__ import annotations

import random

import torch
from torch import Tensor

from highmmt.configuration import HighMMTConfig
from highmmt.modeling_highmmt import HighMMTModel

SIZES = {
    "num_latents": 3,
    "d_latents": 8,
    "num_cross_attention_heads": 2,
    "num_crossmodal_attention_heads": 2,
    "num_self_attention_heads": 2,
    "cross_attention_head_dim": 4,
    "self_attention_head_dim": 3,
    "widening_factor": 2,
}
Inputs = dict[str, dict[str, Tensor]]


def random_modality(seed: int) -> dict[str, object]:
    """A modality of up to two axes, ordered or not, of numbers or of token ids."""
    rng = random.Random(seed)
    return {
        "num_channels": rng.randint(1, 6),
        "num_axes": rng.randint(1, 2),
        "num_frequency_bands": rng.randint(0, 3),
        "max_frequency": rng.choice([1.0, 8.0]),
        "ordered": rng.random() < 0.8,
        "vocab_size": rng.choice([None, None, 7]),
    }


def random_task(rng: random.Random, names: list[str]) -> dict[str, object]:
    """A task over up to three of the named modalities; a retrieval has two."""
    chosen = rng.sample(names, rng.randint(1, min(3, len(names))))
    kinds = ["single_label_classification", "regression", *(["retrieval"] if len(chosen) == 2 else [])]
    return {"modalities": chosen, "problem_type": rng.choice(kinds), "num_labels": rng.randint(2, 3)}


def random_config(seed: int, **changes: object) -> HighMMTConfig:
    """Up to four modalities, three tasks and any groups."""
    rng = random.Random(seed)
    names = rng.sample(["touch", "image", "sound", "events"], rng.randint(1, 4))
    values = {
        **SIZES,
        "modalities": {name: random_modality(rng.randrange(10**6)) for name in names},
        "tasks": {
            task: random_task(rng, names) for task in rng.sample(["first", "second", "third"], rng.randint(1, 3))
        },
        "num_unimodal_layers": rng.randint(1, 2),
        "modality_embedding": rng.choice(["one_hot", "learned", "none"]),
        "head_norm": rng.choice(["batch_norm", "layer_norm"]),
        "use_crossmodal": rng.random() < 0.8,
        **changes,
    }
    config = HighMMTConfig(**values)
    if "parameter_groups" in changes or rng.random() < 0.3:
        return config
    groups = {}
    for kind, nodes in (("unimodal", config.modality_task_pairs()), ("crossmodal", config.interactions())):
        drawn = [rng.randrange(3) for _ in nodes]
        numbers = {group: number for number, group in enumerate(dict.fromkeys(drawn))}
        groups[kind] = {node: numbers[group] for node, group in zip(nodes, drawn, strict=True)}
    adapters = {"group_adapter_rank": rng.choice([None, 2])} if "group_adapter_rank" not in changes else {}
    return HighMMTConfig(**{**values, **adapters, "parameter_groups": groups})


def random_model(seed: int, **changes: object) -> HighMMTModel:
    """A model of `random_config` that looks trained: no parameter and no running statistic is what it was at first."""
    torch.manual_seed(seed)
    model = HighMMTModel(random_config(seed, **changes))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    model.train()(inputs=random_inputs(model.config, size=5, seed=seed))
    return model.eval()


def random_inputs(config: HighMMTConfig, size: int = 2, seed: int = 0) -> Inputs:
    """Inputs for every task, with all of its modalities."""
    generator = torch.Generator().manual_seed(seed)
    inputs: Inputs = {}
    for task, entry in config.tasks.items():
        inputs[task] = {}
        for name in entry.modalities:
            modality = config.modalities[name]
            shape = (size, 4, 3)[: 1 + modality.num_axes]
            if modality.vocab_size is None:
                inputs[task][name] = torch.randn(*shape, modality.num_channels, generator=generator)
            else:
                inputs[task][name] = torch.randint(modality.vocab_size, shape, generator=generator)
    return inputs
