"""What each saving brings: the large setting with one piece at a time computed the plain way.

A saving is an exact rearrangement of the paper's arithmetic. For each of them this benchmark puts the plain form into
the model in place of the piece, makes sure that logits and gradients stay the same, and times both, interleaved, in
fp32 training, bf16 training (where the processor multiplies bf16) and fp32 inference. The numbers say how many times
as long a whole step takes without the saving: 1.20 means 20 % longer. Savings overlap, so the factors do not multiply
to the whole.

    python benchmarks/savings.py [--only NAME ...] [--output savings.json]
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F
from large_setting import Run, Setting, large_setting
from measuring import Spread, count_operations, interleave, parser, peak_memory, precisions, ratio, save, show, start
from torch import Tensor

from highmmt.modeling_highmmt import inputs, layers
from highmmt.modeling_highmmt.inputs import Codes, InputSequence
from highmmt.modeling_highmmt.layers import (
    Attention,
    CrossmodalTransformer,
    FeedForward,
    InputAttention,
    LatentAttention,
    LatentTransformer,
    UnimodalEncoder,
)

# The pieces as they are, for plain forms that call them another way.
_encode, _cross, _build, _attend_inputs = (
    UnimodalEncoder.forward,
    CrossmodalTransformer.forward,
    InputSequence.build.__func__,  # type: ignore[attr-defined]  # a class method
    InputAttention.forward,
)
_transform = LatentTransformer.forward


def heads_of(module: Attention, values: Tensor) -> Tensor:
    """`(batch, length, heads * head_dim)` to `(batch, heads, length, head_dim)`."""
    return values.unflatten(-1, (module.num_heads, module.head_dim)).transpose(1, 2)


def attend(
    module: Attention, queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Softmax attention and output projection as in equations 9 to 11: the output and the weights."""
    score = heads_of(module, module.q_proj(queries)) @ keys.transpose(-1, -2) * module.head_dim**-0.5
    if mask is not None:
        score = score.masked_fill(~mask[:, None, None], torch.finfo(score.dtype).min)
    weights = torch.softmax(score, dim=-1)
    return module.o_proj((weights @ values).transpose(1, 2).flatten(2)), weights


def all_columns(x: InputSequence, d_all: int) -> Tensor:
    """`[data | zeros | codes]` of every element, `(batch, elements, d_all)`."""
    codes, _, data = x.values.split([x.num_codes, 1, x.num_channels], dim=-1)
    return torch.cat([F.pad(data, (0, d_all - x.num_channels - x.num_codes)), codes], dim=-1)


def with_zero_columns(
    cls: type[InputSequence], data: Tensor, codes: Codes, mask: Tensor | None, d_all: int, eps: float
) -> InputSequence:
    """An input sequence whose data are padded with zeros to their full width."""
    return _build(cls, F.pad(data, (0, d_all - data.shape[-1] - codes.values.shape[-1])), codes, mask, d_all, eps)


def unfolded_input_attention(
    self: InputAttention, latents: Tensor, sequences: Sequence[InputSequence]
) -> tuple[Tensor, list[Tensor]]:
    """Layer norm of every whole element, then Q, K, V and output projections."""
    outputs, weights = [], []
    normed = self.norm(latents)
    starts = [normed.expand(len(x.values), -1, -1) for x in sequences]
    if latents.dim() == 3:
        starts = list(normed.split([len(x.values) for x in sequences]))
    for start_latents, x in zip(starts, sequences, strict=True):
        context = self.norm_context(all_columns(x, self.k_proj.in_features))
        keys, values = (heads_of(self, projection(context)) for projection in (self.k_proj, self.v_proj))
        output, weight = attend(self, start_latents, keys, values, x.mask)
        outputs.append(output)
        weights.append(weight)
    return torch.cat(outputs), weights


def unfolded_prepare(
    self: LatentAttention, context: Tensor, query_to_key: Tensor, value_to_output: Tensor
) -> tuple[Tensor, Tensor]:
    """Keys and values of every head."""
    return heads_of(self, self.k_proj(context)), heads_of(self, self.v_proj(context))


def unfolded_read(
    self: LatentAttention, queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Attention with its query and output projections."""
    return attend(self, queries, keys, values, mask)


def unfolded_read_last(
    self: LatentAttention, latents: Tensor, last: Tensor, mask: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Attention of the last latent with all four projections."""
    normed = self.norm(latents)
    keys, values = heads_of(self, self.k_proj(normed)), heads_of(self, self.v_proj(normed))
    output, weights = attend(self, self.norm(last)[:, None], keys, values, mask)
    return output[:, 0], weights


def interleaved_feed_forward(self: FeedForward, latents: Tensor, halves: Any) -> Tensor:
    """Value and gate as the halves of every row of one product."""
    value, gate = self.up_proj(self.norm(latents)).chunk(2, dim=-1)
    return self.down_proj(value * F.gelu(gate)) + latents


def all_latents(
    self: LatentTransformer, latents: Tensor, *, last_only: bool = False, mask: Tensor | None = None
) -> Tensor:
    """Every latent transformed, also where only the last is read (inputs without padding)."""
    z = _transform(self, latents, mask=mask)
    return z[:, -1] if last_only else z


def each_sequence_alone(self: UnimodalEncoder, sequences: Sequence[InputSequence]) -> Any:
    """One pass through the encoder for each sequence."""
    results = [_encode(self, [sequence]) for sequence in sequences]
    weights = [[weights[layer][0] for _, weights in results] for layer in range(len(self.layers))]
    return [latents[0] for latents, _ in results], weights


def each_context_alone(
    self: CrossmodalTransformer, contexts: Sequence[Tensor], readers: Sequence[Sequence[Tensor]]
) -> Any:
    """One pass through the crossmodal transformer for each context; its readers still share its keys and values."""
    results = [_cross(self, [context], [group]) for context, group in zip(contexts, readers, strict=True)]
    weights = [[weights[layer][0] for _, weights in results] for layer in range(len(self.layers))]
    return [vectors[0] for vectors, _ in results], weights


def keys_for_each_reader(
    self: CrossmodalTransformer, contexts: Sequence[Tensor], readers: Sequence[Sequence[Tensor]]
) -> Any:
    """Each reader has the keys and values of its context worked out for itself, in one batch with all others."""
    repeated = [context for context, group in zip(contexts, readers, strict=True) for _ in group]
    vectors, weights = _cross(self, repeated, [[reader] for group in readers for reader in group])
    starts = [sum(len(group) for group in readers[:place]) for place in range(len(readers))]
    rows = [slice(first, first + len(group)) for first, group in zip(starts, readers, strict=True)]
    grouped = [[vector[0] for vector in vectors[part]] for part in rows]
    return grouped, [[[weight[0] for weight in layer[part]] for part in rows] for layer in weights]


def query_for_each_sample(self: InputAttention, latents: Tensor, sequences: Sequence[InputSequence]) -> Any:
    """The first layer's queries worked out for every sample, though all start from the same latents."""
    if latents.dim() == 2:
        latents = latents.expand(sum(len(x.values) for x in sequences), -1, -1)
    return _attend_inputs(self, latents, sequences)


@dataclass(frozen=True)
class Saving:
    """A saving and what takes its place.

    Attributes:
        formula: the saving in one line.
        replacements: object, attribute and the plain form that is put there.
    """

    formula: str
    replacements: tuple[tuple[Any, str, Any], ...]

    @contextmanager
    def switched_off(self) -> Iterator[None]:
        """The model computes this piece the plain way."""
        with ExitStack() as stack:
            for owner, name, plain in self.replacements:
                stack.enter_context(patch.object(owner, name, plain))
            yield


SAVINGS = {
    "zero columns": Saving(
        "x W = data W[left] + codes W[right]; the zeros between them are never made",
        ((InputSequence, "build", classmethod(with_zero_columns)),),
    ),
    "folded input attention": Saving(
        "LN(x) W = (x W' - mean(x) sum W') / std(x) + shift W with W' = gain W; projections folded as below; no zeros",
        ((InputAttention, "forward", unfolded_input_attention),),
    ),
    "folded latent attention": Saving(
        "(q Wq) (k Wk)^T = (q Wq Wk^T) k^T and (a (v Wv)) Wo = a (v Wv Wo), for each head",
        (
            (LatentAttention, "prepare", unfolded_prepare),
            (LatentAttention, "read", unfolded_read),
            (LatentAttention, "read_last", unfolded_read_last),
        ),
    ),
    "shared first query": Saving(
        "all samples start from the same latents: one query for all of them",
        ((InputAttention, "forward", query_for_each_sample),),
    ),
    "one batch per unimodal group": Saving(
        "latents of all modalities and tasks go through one feed-forward and one self-attention",
        ((UnimodalEncoder, "forward", each_sequence_alone),),
    ),
    "one batch per crossmodal group": Saving(
        "the same for all ordered pairs", ((CrossmodalTransformer, "forward", each_context_alone),)
    ),
    "keys once per modality": Saving(
        "all readers of a modality share its keys and values",
        ((CrossmodalTransformer, "forward", keys_for_each_reader),),
    ),
    "last latent only": Saving(
        "one row instead of num_latents where only the last latent is read",
        ((LatentTransformer, "forward", all_latents),),
    ),
    "feed-forward in blocks": Saving(
        f"{layers._BLOCK_BYTES >> 20} MiB of its 8 d_latents wide middle at a time, which stay in the cache",
        ((layers, "_BLOCK_BYTES", 1 << 50),),
    ),
    "value and gate apart": Saving(
        "a and b are two products, not the halves of one: each is contiguous, and so are their gradients",
        ((FeedForward, "_transform", interleaved_feed_forward),),
    ),
    "cached codes": Saving(
        "positions, embeddings and their moments are worked out once per size, not once per step",
        (
            (inputs, "_axis_positions", inputs._axis_positions.__wrapped__),
            (inputs, "_constant_codes", inputs._constant_codes.__wrapped__),
        ),
    ),
}


def outcome(run: Run) -> dict[str, Tensor]:
    """Logits of every task and gradients of every parameter."""
    run.model.zero_grad()
    output = run.model(inputs=run.setting.inputs, labels=run.setting.labels)
    output.loss.backward()
    gradients = {name: parameter.grad for name, parameter in run.model.named_parameters()}
    return {**{f"logits of {task}": logits.detach() for task, logits in output.logits.items()}, **gradients}


def check_equal(name: str, saving: Saving, setting: Setting) -> float:
    """The largest difference that the plain form makes, as a share of the largest entry of its tensor.

    Raises:
        SystemExit: it makes more than rounding, or it was never called (then the model has changed and the plain form
            no longer stands for any of its pieces).
    """
    torch.manual_seed(0)
    run = Run(setting)
    expected = {key: value.clone() for key, value in outcome(run).items()}
    calls = 0

    def counted(plain: Any) -> Any:
        if isinstance(plain, classmethod):
            return classmethod(counted(plain.__func__))
        if not callable(plain):
            return plain

        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal calls
            calls += 1
            return plain(*args, **kwargs)

        return call

    watched = Saving(saving.formula, tuple((owner, key, counted(plain)) for owner, key, plain in saving.replacements))
    with watched.switched_off():
        found = outcome(run)
    if not calls and any(callable(plain) or isinstance(plain, classmethod) for _, _, plain in saving.replacements):
        raise SystemExit(f"{name}: the model does not call what this benchmark replaces; adapt benchmarks/savings.py.")
    largest = 0.0
    for key, value in expected.items():
        difference = float((found[key] - value).abs().max() / value.abs().max().clamp_min(1e-6))
        if not difference < 1e-3:
            raise SystemExit(f"{name}: without this saving {key} differs by {difference:.1e} of its largest entry.")
        largest = max(largest, difference)
    return largest


def works(run: Run, chosen: Mapping[str, Saving], kind: str) -> dict[str, Callable[[], object]]:
    """The step or pass as it is, and without each saving."""
    run.model.train(kind != "inference fp32")

    def work() -> None:
        if kind == "inference fp32":
            run.infer()
        else:
            run.train(bf16=kind == "training bf16")

    def without(saving: Saving) -> Callable[[], None]:
        def plain_work() -> None:
            with saving.switched_off():
                work()

        return plain_work

    return {"as it is": work, **{name: without(saving) for name, saving in chosen.items()}}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print a table, write JSON."""
    options = parser(__doc__, repeats=15)
    options.add_argument("--only", nargs="+", choices=list(SAVINGS), default=list(SAVINGS), help="default: all")
    args = options.parse_args(arguments)
    start(args)
    chosen = {name: SAVINGS[name] for name in args.only}
    # Large enough for more than one block of the feed-forward.
    small = large_setting(batch_divisor=4)
    results: dict[str, Any] = {
        "savings": {
            name: {"formula": saving.formula, "largest_relative_difference": check_equal(name, saving, small)}
            for name, saving in chosen.items()
        }
    }
    run = Run(small if args.smoke else large_setting())
    kinds = [*(f"training {precision}" for precision in precisions()), "inference fp32"]
    for kind in kinds:
        contenders = works(run, chosen, kind)
        seconds = interleave(contenders, args.repeats, kind)
        for name in chosen:
            times = asdict(ratio(seconds[name], seconds["as it is"]))
            results["savings"][name][kind] = {"times_as_long_without": times, "seconds": seconds[name]}
        results[kind] = {"seconds": seconds["as it is"]}
    training = works(run, chosen, "training fp32")
    results["operations"] = count_operations(training["as it is"])
    results["peak_bytes"] = peak_memory(training["as it is"])
    for name in chosen:
        results["savings"][name]["operations"] = count_operations(training[name])
        results["savings"][name]["peak_bytes"] = peak_memory(training[name])
    rows = []
    for name, values in results["savings"].items():
        times = [Spread(**values[kind]["times_as_long_without"]).text(decimals=2) for kind in kinds]
        operations = values["operations"] / results["operations"]
        memory = values["peak_bytes"] / results["peak_bytes"]
        rows.append([name, *times, f"{operations:.2f}", f"{memory:.2f}"])
    show("Without this saving, times as much", ["", *kinds, "training GFLOP", "training memory"], rows)
    save(args, results)


if __name__ == "__main__":
    main()
