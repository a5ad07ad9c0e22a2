"""Weights under the public code's names: every number of theirs after conversion, for any description."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from highmmt.modeling_highmmt import HighMMTModel
from highmmt.modeling_highmmt.convert_highmmt_original_to_hf import convert_original_state_dict


def converted(weights: dict[str, Tensor], description: dict[str, Any]) -> HighMMTModel:
    config, state = convert_original_state_dict(weights, description)
    model = HighMMTModel(config)
    model.load_state_dict(state, strict=True)
    return model


def assert_gradients_are(model: HighMMTModel, gradients: dict[str, Tensor], description: dict[str, Any]) -> None:
    """Every gradient equals the one under the original name, to 1e-4 of its norm."""
    _, expected = convert_original_state_dict(gradients, description)
    for name, parameter in model.named_parameters():
        found = parameter.grad if parameter.grad is not None else torch.zeros_like(parameter)
        wanted = expected.pop(name)
        # Some are zero in exact arithmetic, such as a query's where there is one element to attend to.
        assert (found - wanted).norm() < 1e-4 * wanted.norm() + 1e-5, name
    assert not expected


@pytest.mark.parametrize("folder", ["large", "deep", "grouped"])
def test_golden_weights_give_every_number_of_the_public_code(reference_dir: Path, folder: str) -> None:
    place = reference_dir / "parity" / folder
    description = json.loads((place / "config.json").read_text())
    model = converted(load_file(place / "weights.safetensors"), description)
    raw, expected = load_file(place / "inputs.safetensors"), load_file(place / "expected.safetensors")
    inputs = {t: {m: raw[f"{t}.{m}"] for m in d["modalities"]} for t, d in description["tasks"].items()}
    output = model.train()(inputs=inputs, labels={task: raw[f"labels.{task}"] for task in inputs})
    for task in inputs:
        torch.testing.assert_close(output.logits[task], expected[f"logits.{task}"], atol=1e-5, rtol=0)
        torch.testing.assert_close(output.multimodal_states[task], expected[f"multimodal.{task}"], atol=1e-5, rtol=0)
        for modality, latents in output.unimodal_states[task].items():
            torch.testing.assert_close(latents, expected[f"latents.{task}.{modality}"], atol=1e-5, rtol=0)
    total = sum(output.losses.values())
    torch.testing.assert_close(total, expected["loss"][0], atol=1e-5, rtol=0)
    total.backward()
    gradients = {name.removeprefix("grad."): value for name, value in expected.items() if name.startswith("grad.")}
    assert_gradients_are(model, gradients, description)


# --- Random descriptions, and weights of the original shapes for them -----------------------------------------------


def random_description(seed: int) -> dict[str, Any]:
    """What the public code could have been trained with: sizes, depths, axes, embeddings, groups, all at random."""
    rng = random.Random(seed)
    modalities = {}
    for name in rng.sample(["touch", "Audio", "m2", "image-1", "video", "a_table"], rng.randint(2, 5)):
        axes = rng.randint(1, 3)
        modalities[name] = {
            "input_channels": rng.randint(1, 7),
            "input_axis": axes,
            "num_freq_bands": rng.randint(1, 4),
            "max_freq": rng.choice([1, 2.0, 5.0, 16]),
            "shape": [rng.randint(1, 4) for _ in range(axes)],
        }
    tasks = {}
    for name in rng.sample(["z", "drive", "b-2", "care"], rng.randint(1, 3)):
        order = rng.sample(list(modalities), rng.randint(1, min(4, len(modalities))))
        tasks[name] = {"modalities": sorted(order), "latent_order": order, "num_labels": rng.randint(2, 5)}
    perceiver = {
        "depth": rng.randint(1, 3),
        "cross_depth": rng.randint(1, 3),
        "num_latent_blocks_per_layer": rng.randint(1, 2),
        "num_latents": rng.randint(1, 6),
        "latent_dim": rng.randint(4, 11),
        "cross_heads": rng.randint(1, 3),
        "cross_cross_heads": rng.randint(1, 3),
        "latent_heads": rng.randint(1, 3),
        "cross_dim_head": rng.randint(1, 6),
        "latent_dim_head": rng.randint(1, 6),
        "weight_tie_layers": False,
    }
    if rng.random() < 0.5:
        perceiver.update(embed=True, embed_size=rng.randint(1, 6))
    groups = None
    if rng.random() < 0.7:
        # Numbers are those of whole copies of the network, so that some parts of some copies serve nobody.
        pairs = [rng.choice([(a, b), (b, a)]) for i, a in enumerate(modalities) for b in list(modalities)[:i]]
        groups = {
            "unimodal": {name: rng.randrange(4) for name in modalities},
            "crossmodal": {f"{a}+{b}": rng.randrange(4) for a, b in pairs},
        }
    return {"modalities": modalities, "tasks": tasks, "perceiver": perceiver, "groups": groups}


def element_width(description: dict[str, Any]) -> int:
    perceiver, modalities = description["perceiver"], description["modalities"]
    widths = [m["input_channels"] + m["input_axis"] * (2 * m["num_freq_bands"] + 1) for m in modalities.values()]
    return max(widths) + (perceiver["embed_size"] if perceiver.get("embed") else len(modalities))


def random_weights(description: dict[str, Any]) -> dict[str, Tensor]:
    """Tensors of the original shapes under the original names, for four whole copies of the network."""
    p = description["perceiver"]
    d, width = p["latent_dim"], element_width(description)
    shapes: dict[str, tuple[int, ...]] = {}

    def attention(place: str, context: int, heads: int, head_width: int, *, own_norm: bool) -> None:
        shapes[f"{place}.fn.to_q.weight"] = heads * head_width, d
        shapes[f"{place}.fn.to_kv.weight"] = 2 * heads * head_width, context
        shapes[f"{place}.fn.to_out.0.weight"] = d, heads * head_width
        shapes[f"{place}.fn.to_out.0.bias"] = (d,)
        for norm, size in (("norm", d), ("norm_context", context))[: 1 + own_norm]:
            shapes[f"{place}.{norm}.weight"] = shapes[f"{place}.{norm}.bias"] = (size,)

    def feed_forward(place: str) -> None:
        shapes.update({f"{place}.fn.net.0.weight": (8 * d, d), f"{place}.fn.net.0.bias": (8 * d,)})
        shapes.update({f"{place}.fn.net.3.weight": (d, 4 * d), f"{place}.fn.net.3.bias": (d,)})
        shapes[f"{place}.norm.weight"] = shapes[f"{place}.norm.bias"] = (d,)

    for copy in range(4 if description["groups"] else 1):
        shapes[f"group{copy}.latents"] = p["num_latents"], d
        if p.get("embed"):
            shapes[f"group{copy}.embed"] = len(description["modalities"]), p["embed_size"]
        for part, depth, context, heads in (
            ("layers", p["depth"], width, p["cross_heads"]),
            ("cross_layers", p["cross_depth"], d, p["cross_cross_heads"]),
        ):
            for layer in range(depth):
                place = f"group{copy}.{part}.{layer}"
                attention(f"{place}.0", context, heads, p["cross_dim_head"], own_norm=True)
                feed_forward(f"{place}.1")
                for block in range(p["num_latent_blocks_per_layer"]):
                    inner = f"{place}.2.latent_blocks.{block}"
                    attention(f"{inner}.0", d, p["latent_heads"], p["latent_dim_head"], own_norm=False)
                    feed_forward(f"{inner}.1")
    for task, entry in description["tasks"].items():
        count = len(entry["latent_order"])
        size = p["num_latents"] * d if count == 1 else count * (count - 1) * d
        shapes[f"heads.{task}.0.weight"] = shapes[f"heads.{task}.0.bias"] = (size,)
        shapes[f"heads.{task}.1.weight"] = entry["num_labels"], size
        shapes[f"heads.{task}.1.bias"] = (entry["num_labels"],)
    torch.manual_seed(0)
    weights = {}
    for name, shape in shapes.items():
        # Of the size that training starts from: larger ones saturate softmax, and rounding errors grow.
        value = torch.randn(shape) * (shape[1] ** -0.5 if len(shape) == 2 and "fn." in name else 0.5)
        weights[name] = (value + 1 if "norm.weight" in name else value).requires_grad_()
    return weights


# --- The public code's arithmetic, from section 4 of the blueprint, on weights by name ------------------------------


class Original:
    """The original network as its equations, on a flat mapping of weights."""

    def __init__(self, weights: dict[str, Tensor], description: dict[str, Any]) -> None:
        self.weights, self.description, self.perceiver = weights, description, description["perceiver"]

    def norm(self, place: str, x: Tensor) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], self.weights[f"{place}.weight"], self.weights[f"{place}.bias"])

    def attend(self, place: str, x: Tensor, context: Tensor, heads: int) -> Tensor:
        w = self.weights
        key, value = (context @ w[f"{place}.fn.to_kv.weight"].T).chunk(2, dim=-1)
        parts = x @ w[f"{place}.fn.to_q.weight"].T, key, value
        query, key, value = (part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in parts)
        read = torch.softmax(query @ key.mT / query.shape[-1] ** 0.5, dim=-1) @ value
        joined = read.transpose(1, 2).flatten(2)
        return joined @ w[f"{place}.fn.to_out.0.weight"].T + w[f"{place}.fn.to_out.0.bias"]

    def feed(self, place: str, x: Tensor) -> Tensor:
        w = self.weights
        hidden = F.linear(self.norm(f"{place}.norm", x), w[f"{place}.fn.net.0.weight"], w[f"{place}.fn.net.0.bias"])
        value, gate = hidden.chunk(2, dim=-1)
        return F.linear(value * F.gelu(gate), w[f"{place}.fn.net.3.weight"], w[f"{place}.fn.net.3.bias"])

    def run(self, part: str, depth: int, heads: int, z: Tensor, context: Tensor) -> Tensor:
        for layer in range(depth):
            place = f"{part}.{layer}"
            normed = self.norm(f"{place}.0.norm", z), self.norm(f"{place}.0.norm_context", context)
            z = self.attend(f"{place}.0", *normed, heads) + z
            z = self.feed(f"{place}.1", z) + z
            inner = z
            for block in range(self.perceiver["num_latent_blocks_per_layer"]):
                deeper = f"{place}.2.latent_blocks.{block}"
                x = self.norm(f"{deeper}.0.norm", inner)
                inner = self.attend(f"{deeper}.0", x, x, self.perceiver["latent_heads"]) + inner
                inner = self.feed(f"{deeper}.1", inner) + inner
            z = inner + z
        return z

    def element(self, copy: str, name: str, data: Tensor) -> Tensor:
        """`[data | zeros | positions | modality embedding]`, axes flattened."""
        modalities = self.description["modalities"]
        entry, index = modalities[name], list(modalities).index(name)
        last = torch.log2(torch.tensor(entry["max_freq"] / 2)).item()
        bands = torch.logspace(1, last, entry["num_freq_bands"], base=2)
        right = []
        for grid in torch.meshgrid(*(torch.linspace(-1, 1, size) for size in data.shape[1:-1]), indexing="ij"):
            angle = grid[..., None] * bands * torch.pi
            right += [angle.sin(), angle.cos(), grid[..., None]]
        learned = self.perceiver.get("embed")
        row = self.weights[f"{copy}.embed"][index] if learned else torch.eye(len(modalities))[index]
        codes = torch.cat([*right, row.expand(*data.shape[1:-1], -1)], dim=-1).expand(*data.shape[:-1], -1)
        width = element_width(self.description) - data.shape[-1] - codes.shape[-1]
        return torch.cat([data, data.new_zeros(*data.shape[:-1], width), codes], dim=-1).flatten(1, -2)

    def logits(self, task: str, inputs: dict[str, Tensor]) -> Tensor:
        p, groups = self.perceiver, self.description["groups"]
        latents = {}
        for name in self.description["tasks"][task]["latent_order"]:
            copy = f"group{groups['unimodal'][name] if groups else 0}"
            start = self.weights[f"{copy}.latents"].expand(len(inputs[name]), -1, -1)
            x = self.element(copy, name, inputs[name])
            latents[name] = self.run(f"{copy}.layers", p["depth"], p["cross_heads"], start, x)
        if len(latents) == 1:
            states = next(iter(latents.values())).flatten(1)
        else:
            vectors = []
            for first in latents:
                for second in latents:
                    if first != second:
                        shared = groups["crossmodal"] if groups else {f"{first}+{second}": 0}
                        both = f"{first}+{second}", f"{second}+{first}"
                        part = f"group{next(shared[pair] for pair in both if pair in shared)}.cross_layers"
                        z = self.run(part, p["cross_depth"], p["cross_cross_heads"], latents[first], latents[second])
                        vectors.append(z[:, -1])
            states = torch.cat(vectors, dim=-1)
        head = f"heads.{task}"
        states = self.norm(f"{head}.0", states)
        return F.linear(states, self.weights[f"{head}.1.weight"], self.weights[f"{head}.1.bias"])


def random_inputs(description: dict[str, Any]) -> dict[str, dict[str, Tensor]]:
    modalities = description["modalities"]
    return {
        task: {
            name: torch.randn(size, *modalities[name]["shape"], modalities[name]["input_channels"])
            for name in entry["modalities"]
        }
        for size, (task, entry) in enumerate(description["tasks"].items(), start=2)
    }


@pytest.mark.parametrize("seed", range(30))
def test_any_description_gives_the_logits_and_gradients_of_the_original_equations(seed: int) -> None:
    description = random_description(seed)
    weights = random_weights(description)
    original = Original(weights, description)
    model = converted({name: value.detach() for name, value in weights.items()}, description).eval()
    inputs = random_inputs(description)
    ours = model(inputs=inputs).logits
    theirs = {task: original.logits(task, values) for task, values in inputs.items()}
    for task in inputs:
        scale = theirs[task].abs().max().item()
        torch.testing.assert_close(ours[task] / scale, theirs[task] / scale, atol=1e-5, rtol=0)
    for logits in (ours, theirs):
        sum(value.square().sum() for value in logits.values()).backward()
    gradients = {name: torch.zeros_like(w) if w.grad is None else w.grad for name, w in weights.items()}
    assert_gradients_are(model, gradients, description)


def test_the_random_descriptions_are_of_every_kind() -> None:
    found = [random_description(seed) for seed in range(30)]
    assert {bool(d["groups"]) for d in found} == {bool(d["perceiver"].get("embed")) for d in found} == {True, False}
    assert {d["perceiver"]["depth"] for d in found} == {d["perceiver"]["cross_depth"] for d in found} == {1, 2, 3}
    assert {m["input_axis"] for d in found for m in d["modalities"].values()} == {1, 2, 3}
    assert {len(task["latent_order"]) for d in found for task in d["tasks"].values()} == {1, 2, 3, 4}


def test_tied_layers_may_be_named_once_or_each_time() -> None:
    description = random_description(0)
    description["perceiver"].update(depth=4, cross_depth=3, weight_tie_layers=True)
    weights = {name: value.detach() for name, value in random_weights(description).items()}
    second = {name: re.sub(r"layers\.[23]\.", "layers.1.", name) for name in weights}
    every = {name: weights[second[name]] for name in weights}
    once = {name: weights[name] for name in second.values()}
    assert len(once) < len(every)
    inputs = random_inputs(description)
    for given in (every, once):
        logits = converted(given, description).eval()(inputs=inputs).logits
        for task, values in inputs.items():
            expected = Original(every, description).logits(task, values)
            torch.testing.assert_close(logits[task], expected, atol=1e-5, rtol=1e-5)
