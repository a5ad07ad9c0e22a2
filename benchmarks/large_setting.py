"""What every benchmark runs: the paper's large setting, with random inputs of its shapes and batch sizes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from highmmt import HighMMTConfig, HighMMTModel

# Liang et al., TMLR 05/2023, table 10 and appendix B.2, with the batches of the public four-task script.
CHANNELS_AND_BANDS = {  # modality: channels, axes, frequency bands
    "image": (16, 2, 6),
    "mosei_audio": (74, 1, 3),
    "mosei_video": (35, 1, 3),
    "spectrogram": (256, 2, 6),
    "table": (1, 1, 6),
    "text": (300, 1, 3),
    "time_series": (1, 2, 6),
    "urfunny_audio": (81, 1, 3),
    "urfunny_video": (371, 1, 3),
}
TASKS = {  # task: modalities with their axes, classes, batch; names in the order in which the public code sorts them
    "mimic": ({"table": (5,), "time_series": (24, 12)}, 2, 20),
    "avmnist": ({"image": (7, 7), "spectrogram": (7, 7)}, 10, 40),
    "mosei": ({"mosei_audio": (50,), "mosei_video": (50,), "text": (50,)}, 2, 32),
    "urfunny": ({"text": (50,), "urfunny_audio": (20,), "urfunny_video": (20,)}, 2, 32),
}

Inputs = dict[str, dict[str, Tensor]]


@dataclass(frozen=True)
class Setting:
    """A config with inputs and labels for it.

    Attributes:
        config: modalities and tasks.
        inputs: task and modality to `(batch, *axes, channels)`.
        labels: task to class indices `(batch,)`.
    """

    config: HighMMTConfig
    inputs: Inputs
    labels: dict[str, Tensor]

    @property
    def num_samples(self) -> int:
        """Samples of all tasks in one step."""
        return sum(len(labels) for labels in self.labels.values())


def large_setting(*, batch_divisor: int = 1, **changes: Any) -> Setting:
    """The four tasks with batches 20, 40, 32 and 32.

    Args:
        batch_divisor: makes the batches smaller, at least 2 samples each.
        changes: other settings of the config.
    """
    modalities = {
        name: {"num_channels": channels, "num_axes": axes, "num_frequency_bands": bands, "max_frequency": 1.0}
        for name, (channels, axes, bands) in CHANNELS_AND_BANDS.items()
    }
    tasks = {
        task: {
            "modalities": list(shapes),
            "problem_type": "single_label_classification",
            "num_labels": classes,
        }
        for task, (shapes, classes, _) in TASKS.items()
    }
    # The public code normalises what its heads read with LayerNorm.
    settings = {"num_self_attention_heads": 6, "head_norm": "layer_norm", **changes}
    config = HighMMTConfig(modalities=modalities, tasks=tasks, **settings)
    shapes = {task: shapes for task, (shapes, _, _) in TASKS.items()}
    batches = {task: max(2, batch // batch_divisor) for task, (_, _, batch) in TASKS.items()}
    return draw(config, shapes, batches)


def draw(
    config: HighMMTConfig, shapes: Mapping[str, Mapping[str, tuple[int, ...]]], batches: Mapping[str, int]
) -> Setting:
    """Random inputs and labels, the same for every call.

    Args:
        config: modalities and tasks; all tasks are single-label classifications.
        shapes: task and modality to the size of each axis.
        batches: task to its number of samples.
    """
    generator = torch.Generator().manual_seed(0)
    inputs: Inputs = {}
    labels = {}
    for task, description in config.tasks.items():
        inputs[task] = {
            name: torch.randn(
                batches[task], *shapes[task][name], config.modalities[name].num_channels, generator=generator
            )
            for name in description.modalities
        }
        labels[task] = torch.randint(0, description.num_labels, (batches[task],), generator=generator)
    return Setting(config, inputs, labels)


class Run:
    """A model with its optimizer: steps of training and passes of inference over one setting.

    Args:
        setting: what is run.
        model: what runs it; a fresh one with random weights if left out.
    """

    def __init__(self, setting: Setting, model: HighMMTModel | None = None) -> None:
        self.setting = setting
        self.model = HighMMTModel(setting.config) if model is None else model
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=8e-4, weight_decay=1e-3, fused=True)

    def train(self, *, bf16: bool = False) -> None:
        """Forward, backward and Adam over all tasks at once."""
        self.optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
            loss = self.model(inputs=self.setting.inputs, labels=self.setting.labels).loss
        loss.backward()
        self.optimizer.step()

    @torch.no_grad()
    def infer(self, *, bf16: bool = False) -> None:
        """Logits of all tasks at once."""
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
            self.model(inputs=self.setting.inputs)


def arithmetic_as_written(config: HighMMTConfig, inputs: Inputs) -> float:
    """Floating-point operations of one forward pass with every equation computed as it stands in the paper.

    Standardised sequences with their zeros, one projection for each of Q, K, V and the output, every ordered pair on
    its own, all latents of the last layer. A multiply-add counts as two; norms, softmax and activations as none.

    Source: Liang et al., TMLR 05/2023, equations 9 to 11, with the public code's projections and feed-forward.
    """
    latents, d = config.num_latents, config.d_latents

    def attention(queries: int, keys: int, d_context: int, heads: int, head_dim: int) -> int:
        inner = heads * head_dim
        return 2 * (
            queries * d * inner + 2 * keys * d_context * inner + 2 * queries * keys * inner + queries * inner * d
        )

    feed_forward = 2 * latents * 3 * config.widening_factor * d * d
    own = attention(latents, latents, d, config.num_self_attention_heads, config.self_attention_head_dim)
    latent_transformer = config.num_self_attends_per_layer * (own + feed_forward)
    total = 0.0
    for task, modalities in inputs.items():
        batch = len(next(iter(modalities.values())))
        for values in modalities.values():
            elements = values[0, ..., 0].numel()
            heads, head_dim = config.num_cross_attention_heads, config.cross_attention_head_dim
            reading = attention(latents, elements, config.d_all, heads, head_dim)
            total += batch * config.num_unimodal_layers * (reading + feed_forward + latent_transformer)
        count = len(modalities)
        width = count * latents * d
        if count > 1 and config.use_crossmodal:
            pairs = count * (count - 1)
            heads, head_dim = config.num_crossmodal_attention_heads, config.cross_attention_head_dim
            reading = attention(latents, latents, d, heads, head_dim)
            total += batch * pairs * config.num_crossmodal_layers * (reading + feed_forward + latent_transformer)
            width = pairs * d
        total += 2 * batch * width * config.tasks[task].num_labels
    return total
