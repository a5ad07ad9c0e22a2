"""Speed and memory of one multitask step and one inference pass, against the public code and PerceiverModel.

What runs is the paper's large setting: four tasks with batches 20, 40, 32 and 32 (124 samples), 20 latents of 64, all
parameters shared. A training step is forward, backward and Adam over the four tasks; every contender has the same
Adam. fp32 and, where the processor multiplies it, bf16 autocast, in one process, interleaved: a disturbance of the
machine meets all contenders alike, and the ratios stand where the seconds do not.

  whole model  ours and, with --original, the authors' public code. It gets our weights first, and the benchmark stops
               unless both give the same logits.
  encoders     the part that reads the inputs, without crossmodal transformer: ours (use_crossmodal=False; its heads
               are 0.3 % of the arithmetic) and PerceiverModel of transformers with equal latents, d_model = 387 and
               inputs that were standardised beforehand. 6 heads do not divide its 64 channels, so it has 4 (16 wide,
               where ours are 64). Its feed-forward has no gate; widening factor 6 gives it our arithmetic.

GFLOP are counted, not estimated: matrix products, backward included, a multiply-add is two. "as written" is the same
forward pass with every equation computed as it stands in the paper. "of GEMM peak" divides GFLOP/s by the best rate at
which this process multiplied two square matrices of the same type. Peak memory is tensors alive at once beyond
weights, Adam's state and inputs, from torch's record of allocations.

    python benchmarks/throughput.py [--original FOLDER] [--output results.json]
"""

from __future__ import annotations

import statistics
import sys
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from large_setting import Run, Setting, arithmetic_as_written, large_setting
from measuring import (
    Spread,
    count_operations,
    gemm_peak,
    interleave,
    parser,
    peak_memory,
    precisions,
    ratio,
    save,
    show,
    start,
    time_by_kind,
)
from torch import Tensor, nn
from transformers import PerceiverConfig, PerceiverModel

from highmmt import HighMMTModel
from highmmt.modeling_highmmt.convert_highmmt_original_to_hf import convert_original_state_dict


class PublicRun:
    """The authors' `MultiModalityPerceiver` with one head per task, driven as in their multitask scripts.

    Args:
        setting: what is run.
        folder: checkout of the public code, with `private_test_scripts` and `perceiver_pytorch` in it.

    Raises:
        SystemExit: the folder holds no such code.
    """

    def __init__(self, setting: Setting, folder: Path) -> None:
        sys.path.insert(0, str(folder))
        try:
            from private_test_scripts.perceivers.crossattnperceiver import InputModality, MultiModalityPerceiver
        except ImportError as error:
            raise SystemExit(
                f"--original {folder}: {error}. Give a checkout of https://github.com/pliang279/HighMMT with its "
                "folder perceiver_pytorch beside private_test_scripts; it needs einops."
            ) from error
        finally:
            sys.path.remove(str(folder))
        config = setting.config
        self.setting = setting
        self.arguments = {
            "depth": config.num_unimodal_layers,
            "cross_depth": config.num_crossmodal_layers,
            "num_latents": config.num_latents,
            "latent_dim": config.d_latents,
            "cross_heads": config.num_cross_attention_heads,
            "cross_cross_heads": config.num_crossmodal_attention_heads,
            "latent_heads": config.num_self_attention_heads,
            "cross_dim_head": config.cross_attention_head_dim,
            "latent_dim_head": config.self_attention_head_dim,
            "num_latent_blocks_per_layer": config.num_self_attends_per_layer,
            "weight_tie_layers": True,
        }
        self.modalities = {
            name: {
                "input_channels": modality.num_channels,
                "input_axis": modality.num_axes,
                "num_freq_bands": modality.num_frequency_bands,
                "max_freq": modality.max_frequency,
            }
            for name, modality in config.modalities.items()
        }
        self.model = MultiModalityPerceiver(
            modalities=tuple(InputModality(name=name, **values) for name, values in self.modalities.items()),
            num_classes=1,
            **self.arguments,
        )
        self.heads = nn.ModuleDict()
        for task, description in config.tasks.items():
            count = len(description.modalities)
            width = config.d_latents * count * (count - 1)
            self.heads[task] = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, description.num_labels))
        # What the heads replace is trained by nobody.
        self.model.to_logits = nn.Identity()
        parameters = [*self.model.parameters(), *self.heads.parameters()]
        self.optimizer = torch.optim.Adam(parameters, lr=8e-4, weight_decay=1e-3, fused=True)
        # Its checkpointed pieces have gradients only where their inputs do, so its scripts ask for the inputs' too.
        self.inputs = {
            task: {name: values.clone().requires_grad_() for name, values in modalities.items()}
            for task, modalities in setting.inputs.items()
        }

    def forward(self, inputs: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """Logits of each task, one task after the other."""
        logits = {}
        for task, values in inputs.items():
            self.model.to_logits = self.heads[task]
            logits[task] = self.model(values)
        self.model.to_logits = nn.Identity()
        return logits

    def train(self, *, bf16: bool = False) -> None:
        """Forward, backward and Adam over all tasks at once."""
        self.optimizer.zero_grad()
        for modalities in self.inputs.values():
            for values in modalities.values():
                values.grad = None
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
            logits = self.forward(self.inputs)
            losses = [nn.functional.cross_entropy(logits[task].float(), y) for task, y in self.setting.labels.items()]
        torch.stack(losses).sum().backward()
        self.optimizer.step()

    @torch.no_grad()
    def infer(self, *, bf16: bool = False) -> None:
        """Logits of all tasks."""
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
            self.forward(self.setting.inputs)

    def converted(self) -> HighMMTModel:
        """Our model with these weights."""
        weights = {f"group0.{name}": value for name, value in self.model.state_dict().items()}
        weights |= {f"heads.{name}": value for name, value in self.heads.state_dict().items()}
        tasks = {
            task: {"latent_order": description.modalities, "num_labels": description.num_labels}
            for task, description in self.setting.config.tasks.items()
        }
        description = {
            "modalities": self.modalities,
            "tasks": tasks,
            "perceiver": self.arguments,
            "groups": None,
        }
        config, state = convert_original_state_dict(weights, description)
        model = HighMMTModel(config)
        model.load_state_dict(state)
        return model


class PerceiverRun:
    """`PerceiverModel` of transformers over every modality of every task, one after the other."""

    def __init__(self, setting: Setting) -> None:
        config = setting.config
        self.model = PerceiverModel(
            PerceiverConfig(
                num_latents=config.num_latents,
                d_latents=config.d_latents,
                d_model=config.d_all,
                num_blocks=config.num_unimodal_layers,
                num_self_attends_per_block=config.num_self_attends_per_layer,
                num_self_attention_heads=4,
                num_cross_attention_heads=config.num_cross_attention_heads,
                qk_channels=config.d_latents,
                v_channels=config.d_latents,
                self_attention_widening_factor=6,
                cross_attention_widening_factor=6,
                attention_probs_dropout_prob=0.0,
            )
        )
        # It never sees more than the standardised inputs, so random ones of their width do.
        generator = torch.Generator().manual_seed(0)
        self.inputs = [
            torch.randn(len(values), values[0, ..., 0].numel(), config.d_all, generator=generator)
            for modalities in setting.inputs.values()
            for values in modalities.values()
        ]
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=8e-4, weight_decay=1e-3, fused=True)

    def train(self, *, bf16: bool = False) -> None:
        """Forward, backward and Adam over all inputs; the loss is the mean square of the latents."""
        self.optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
            latents = [self.model(inputs=inputs).last_hidden_state for inputs in self.inputs]
        torch.stack([z.float().square().mean() for z in latents]).sum().backward()
        self.optimizer.step()

    @torch.no_grad()
    def infer(self, *, bf16: bool = False) -> None:
        """Latents of all inputs."""
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
            for inputs in self.inputs:
                self.model(inputs=inputs)


Runs = Mapping[str, Run | PublicRun | PerceiverRun]


def works(runs: Runs, kind: str, names: Iterable[str]) -> dict[str, Callable[[], object]]:
    """What is timed, by "<contender> <precision>"; `kind` is "train" or "infer", `names` are of the precisions."""
    found: dict[str, Callable[[], object]] = {}
    for name, run in runs.items():
        run.model.train(kind == "train")
        for precision in names:
            found[f"{name} {precision}"] = lambda run=run, bf16=precision == "bf16": getattr(run, kind)(bf16=bf16)
    return found


def measure(title: str, runs: Runs, repeats: int, peaks: Mapping[str, float]) -> dict[str, Any]:
    """Time, operations and memory of all contenders, in training and in inference, as plain data."""
    results: dict[str, Any] = {}
    for kind in ("train", "infer"):
        contenders = works(runs, kind, peaks)
        seconds = interleave(contenders, repeats, f"{title}, {kind}")
        results[kind] = {}
        for name, work in contenders.items():
            median = statistics.median(seconds[name])
            operations = count_operations(work)
            results[kind][name] = {
                "seconds": seconds[name],
                "samples_per_second": runs["ours"].setting.num_samples / median,
                "operations": operations,
                "operations_per_second": operations / median,
                "share_of_gemm_peak": operations / median / peaks[name.split()[-1]],
                "peak_bytes": peak_memory(work),
                "times_as_long_as_ours": {
                    precision: asdict(ratio(seconds[name], seconds[f"ours {precision}"])) for precision in peaks
                },
            }
    return results


def print_results(title: str, results: Mapping[str, Any]) -> None:
    """One table for training, one for inference."""
    columns = ["", "ms", "samples/s", "GFLOP", "GFLOP/s", "of GEMM peak", "peak MB"]
    precisions_measured = results["train"]["ours fp32"]["times_as_long_as_ours"]
    columns += [f"ours {precision} is faster by" for precision in precisions_measured]
    for kind, name in (("train", "one training step"), ("infer", "one inference pass")):
        rows = []
        for contender, values in results[kind].items():
            row = [
                contender,
                Spread.of(values["seconds"]).text(1e3, 0),
                f"{values['samples_per_second']:.0f}",
                f"{values['operations'] / 1e9:.1f}",
                f"{values['operations_per_second'] / 1e9:.0f}",
                f"{values['share_of_gemm_peak']:.0%}",
                f"{values['peak_bytes'] / 1e6:.0f}",
            ]
            row += [Spread(**spread).text(decimals=2) for spread in values["times_as_long_as_ours"].values()]
            rows.append(row)
        show(f"{title}: {name}", columns, rows)


def same_numbers(ours: HighMMTModel, public: PublicRun) -> float:
    """The largest difference between our logits and the public code's.

    Raises:
        SystemExit: it is more than rounding.
    """
    ours.eval()
    with torch.no_grad():
        theirs = public.forward(public.setting.inputs)
        logits = ours(inputs=public.setting.inputs).logits
    difference = max(float((logits[task] - theirs[task]).abs().max()) for task in theirs)
    if not difference < 1e-4:
        raise SystemExit(
            f"Ours and the public code disagree: logits differ by up to {difference:.2g}. Nothing was timed."
        )
    return difference


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print tables, write JSON."""
    options = parser(__doc__, repeats=15)
    options.add_argument("--original", type=Path, metavar="FOLDER", help="checkout of the public code to compare with")
    args = options.parse_args(arguments)
    start(args)
    # The public code calls torch.meshgrid and torch.utils.checkpoint in ways that warn.
    warnings.filterwarnings("ignore", message=".*(meshgrid|use_reentrant|requires_grad=True)", category=UserWarning)
    setting = large_setting(batch_divisor=16 if args.smoke else 1)
    sizes = (64, 128) if args.smoke else (512, 1024, 2048)
    peaks = {name: gemm_peak(dtype, sizes) for name, dtype in precisions().items()}
    results: dict[str, Any] = {
        "num_samples": setting.num_samples,
        "gemm_peak": peaks,
        "operations_as_written": arithmetic_as_written(setting.config, setting.inputs),
    }
    whole: dict[str, Run | PublicRun] = {"ours": Run(setting)}
    if args.original is not None:
        public = PublicRun(setting, args.original)
        whole = {"ours": Run(setting, public.converted()), "public": public}
        results["largest_difference_to_public"] = same_numbers(whole["ours"].model, public)
    encoder = large_setting(batch_divisor=16 if args.smoke else 1, use_crossmodal=False)
    for title, runs in (
        ("whole model", whole),
        ("encoders", {"ours": Run(encoder), "PerceiverModel": PerceiverRun(encoder)}),
    ):
        results[title] = measure(title, runs, args.repeats, peaks)
        print_results(title, results[title])
    ours = works({"ours": whole["ours"]}, "train", peaks)
    results["time_by_kind"] = {precision: time_by_kind(ours[f"ours {precision}"]) for precision in peaks}
    rows = [
        [kind, *(f"{shares[kind]:.0%}" for shares in results["time_by_kind"].values())]
        for kind in results["time_by_kind"]["fp32"]
    ]
    show("Where the time of our training step goes", ["", *peaks], rows)
    written = results["operations_as_written"] / 1e9
    print(f"{setting.num_samples} samples per step. The inference pass as written is {written:.1f} GFLOP.")
    print("GEMM peak: " + ", ".join(f"{name} {rate / 1e9:.0f} GFLOP/s" for name, rate in peaks.items()) + ".")
    if "largest_difference_to_public" in results:
        print(f"Logits of ours and the public code differ by at most {results['largest_difference_to_public']:.1e}.")
    save(args, results)


if __name__ == "__main__":
    main()
