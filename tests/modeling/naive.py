"""Equations 9 to 11 written as in the paper, one modality and one pair at a time: what the model must equal."""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from highmmt.modeling_highmmt import HighMMTModel


def fourier(size: int, bands: int, max_frequency: float) -> Tensor:
    p = torch.linspace(-1, 1, size)
    rows = []
    for x in p:
        f = torch.logspace(1.0, torch.log2(torch.tensor(max_frequency / 2)).item(), bands, base=2.0)
        rows.append(torch.cat([torch.sin(torch.pi * f * x), torch.cos(torch.pi * f * x), x[None]]))
    return torch.stack(rows)


def standardise(model: HighMMTModel, modality: str, values: Tensor, group: int = 0) -> Tensor:
    """`(elements, width)` with data left, zeros, positions and modality embedding right, for one unimodal group."""
    config = model.config
    description = config.modalities[modality]
    codes = []
    for axis, size in enumerate(values.shape[:-1]):
        code = fourier(size, description.num_frequency_bands, description.max_frequency)
        shape = [1] * (values.dim() - 1) + [-1]
        shape[axis] = size
        codes.append(code.view(shape).expand(*values.shape[:-1], -1))
    position = torch.cat(codes, -1) if description.ordered else values.new_zeros(*values.shape[:-1], 0)
    made_for = config.group_modalities or {group: config.modalities}
    names = sorted(made_for[group])
    if config.modality_embedding == "one_hot":
        embedding = F.one_hot(torch.tensor(names.index(modality)), len(names)).float()
    elif config.modality_embedding == "learned":
        grown = model.grown_modality_embeddings
        first = sorted(set(config.modalities) - set(grown.keys()))
        embedding = grown[modality] if modality in grown else model.modality_embeddings[first.index(modality)]
    else:
        embedding = values.new_zeros(0)
    embedding = embedding.expand(*values.shape[:-1], -1)
    parts = [
        (entry.num_channels, entry.num_axes * (2 * entry.num_frequency_bands + 1) * entry.ordered)
        for entry in (config.modalities[name] for name in names)
    ]
    zeros = max(map(sum, parts)) - values.shape[-1] - position.shape[-1]
    row = torch.cat([values, values.new_zeros(*values.shape[:-1], zeros), position, embedding], -1)
    return row.flatten(0, -2)


def attention(module: nn.Module, query: Tensor, context: Tensor) -> Tensor:
    """softmax(Q K^T / sqrt(d)) V of every head, then the output projection."""
    heads, width = module.num_heads, module.head_dim
    q, k, v = module.q_proj(query), module.k_proj(context), module.v_proj(context)
    outputs = []
    for head in range(heads):
        part = slice(head * width, (head + 1) * width)
        weights = torch.softmax(q[:, part] @ k[:, part].T / width**0.5, dim=-1)
        outputs.append(weights @ v[:, part])
    return module.o_proj(torch.cat(outputs, -1))


def feed_forward(module: nn.Module, z: Tensor) -> Tensor:
    a, b = module.up_proj(module.norm(z)).chunk(2, -1)
    return module.down_proj(a * F.gelu(b))


def layer(module: nn.Module, z: Tensor, context: Tensor) -> Tensor:
    cross = module.cross_attention
    z = attention(cross, cross.norm(z), cross.norm_context(context)) + z
    z = feed_forward(module.feed_forward, z) + z
    inner = z
    for block in module.latent_transformer.blocks:
        normed = block.attention.norm(inner)
        inner = attention(block.attention, normed, normed) + inner
        inner = feed_forward(block.feed_forward, inner) + inner
    return inner + z


def element_layer(module: nn.Module, z: Tensor, x: Tensor, context: Tensor, is_first: bool) -> Tensor:
    """One layer of the crossmodal transformer without a unimodal encoder."""
    attended = attention(module, module.norm(x if is_first else z), module.norm_context(context))
    z = attended if is_first else attended + z
    z = feed_forward(module.feed_forward, z) + z
    inner = z
    for block in module.latent_transformer.blocks:
        normed = block.attention.norm(inner)
        inner = attention(block.attention, normed, normed) + inner
        inner = feed_forward(block.feed_forward, inner) + inner
    return inner + z


def effective(model: HighMMTModel, kind: str, group: int) -> nn.Module:
    """The network of one group; where groups are adapters, a copy whose weights are `W + up down`."""
    base = getattr(model, f"{kind}_groups")[model.config.group_bases(kind)[group]]
    if model.config.group_adapter_rank is None:
        return base
    network = copy.deepcopy(base, {id(parameter): parameter for parameter in base.parameters()})
    for key, update in getattr(model, f"{kind}_adapters")[group].updates.items():
        linear = network.get_submodule(key.replace("-", "."))
        weight = linear.weight
        del linear.weight
        linear.weight = weight + update.up @ update.down
    return network


def logits(model: HighMMTModel, task: str, sample: dict[str, Tensor]) -> Tensor:
    """Logits of one sample, whose tensors have neither batch axis nor padding; absent modalities are left out."""
    config, groups = model.config, model.config.groups()
    names = config.tasks[task].modalities
    latents = {}
    for name in names:
        if name not in sample:
            continue
        group = groups.unimodal[f"{task}/{name}"]
        x = standardise(model, name, sample[name], group)
        if not config.use_unimodal_encoder:
            latents[name] = x
            continue
        encoder = effective(model, "unimodal", group)
        z = encoder.latents
        for module in encoder.layers:
            z = layer(module, z, x)
        latents[name] = z
    if len(names) == 1 or not config.use_crossmodal:
        width = config.num_latents * config.d_latents
        slots = [latents[name].flatten() if name in latents else torch.zeros(width) for name in names]
    else:
        slots = []
        for i, first in enumerate(names):
            for j, second in enumerate(names):
                if i == j:
                    continue
                if first not in latents or second not in latents:
                    slots.append(torch.zeros(config.d_latents))
                    continue
                a, b = (first, second) if i < j else (second, first)
                z = latents[first]
                transformer = effective(model, "crossmodal", groups.crossmodal[f"{task}/{a}+{b}"])
                for index, module in enumerate(transformer.layers):
                    if config.use_unimodal_encoder:
                        z = layer(module, z, latents[second])
                    else:
                        z = element_layer(module, z, latents[first], latents[second], index == 0)
                slots.append(z[-1])
    return model.heads[task](torch.cat(slots)[None])[0]
