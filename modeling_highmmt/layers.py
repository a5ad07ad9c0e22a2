"""The pieces of HighMMT: the two attentions, feed-forward, and the two shared networks.

Everything here equals the paper's equations exactly (up to rounding) but is computed with fewer operations:

- A standardised element is `[data | zeros | positions | modality embedding]`. Its layer norm and its projections are
  affine in these parts, so the zeros never exist and the constant parts are worked out once, not once per sample.
- Key projections are folded into the queries, output projections into the values: for one head
  `(q Wq) (k Wk)^T = (q Wq Wk^T) k^T` and `(a (v Wv)) Wo = a (v Wv Wo)`. What is projected is the smaller side.
- Where only the last latent of a result is read, only its row is computed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

from ..configuration import HighMMTConfig
from .inputs import InputSequence, compute_dtype, rows_of_each, rows_of_values

# Size of one block of the feed-forward's inner values on a CPU: what stays in the cache until it is read again.
_BLOCK_BYTES = 2**23


def _weight(linear: nn.Module) -> Tensor:
    """The matrix `(out, in)` of a linear layer without its bias, adapters wrapped around it included.

    Dropout in an adapter leaves out columns of this matrix: features of the input, the same for every element of a
    step.
    """
    if type(linear) is nn.Linear:
        return linear.weight
    if any(getattr(linear, "lora_bias", {}).values()) and linear.bias is None:
        raise ValueError(
            "An adapter with lora_bias=True is around an attention projection, which has no bias. Leave it False, "
            "or name as target_modules what has a bias: o_proj, up_proj, down_proj, classifier."
        )
    weight: Tensor = linear.weight  # type: ignore[assignment]  # adapters show the weight they wrap
    rows: Tensor = linear(torch.eye(weight.shape[1], device=weight.device, dtype=weight.dtype))
    return (rows if linear.bias is None else rows - _bias(linear)).t()


def _bias(linear: nn.Module) -> Tensor:
    """What a linear layer with a bias adds, adapters wrapped around it included, `(out,)`."""
    if type(linear) is nn.Linear:
        return linear.bias
    weight: Tensor = linear.weight  # type: ignore[assignment]  # adapters show the weight they wrap
    result: Tensor = linear(weight.new_zeros(1, weight.shape[1]))
    return result[0]


class Attention(nn.Module):
    """Multi-head attention whose key and output projections are folded into queries and values.

    Args:
        d_query, d_context: width of the query stream and of what it attends to.
        num_heads, head_dim: heads and the width of each; free of the stream widths.
        config: dropouts and epsilon.

    Source: Liang et al., TMLR 05/2023, equations 9 to 11, with the public code's norms, heads and projections.
    """

    def __init__(self, d_query: int, d_context: int, num_heads: int, head_dim: int, config: HighMMTConfig) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.head_dim = head_dim
        self.attention_dropout = config.attention_probs_dropout_prob
        self.hidden_dropout = config.hidden_dropout_prob
        self.norm = nn.LayerNorm(d_query, eps=config.layer_norm_eps)
        self.q_proj = nn.Linear(d_query, num_heads * head_dim, bias=False)
        self.k_proj = nn.Linear(d_context, num_heads * head_dim, bias=False)
        self.v_proj = nn.Linear(d_context, num_heads * head_dim, bias=False)
        self.o_proj = nn.Linear(num_heads * head_dim, d_query)

    def query_to_key(self) -> Tensor:
        """`Wq Wk^T / sqrt(head_dim)` of every head, `(num_heads, d_query, d_context)`."""
        heads = self.num_heads, self.head_dim
        queries, keys = (_weight(projection).unflatten(0, heads) for projection in (self.q_proj, self.k_proj))
        return torch.bmm(queries.transpose(1, 2) * self.head_dim**-0.5, keys)

    def value_to_output(self) -> Tensor:
        """`Wv Wo` of every head, `(num_heads, d_context, d_query)`."""
        heads = self.num_heads, self.head_dim
        values, output = _weight(self.v_proj).unflatten(0, heads), _weight(self.o_proj).unflatten(1, heads)
        return torch.bmm(values.transpose(1, 2), output.permute(1, 2, 0))

    def output_bias(self) -> Tensor:
        """The bias of the output projection, `(d_query,)`."""
        return _bias(self.o_proj)

    def drop_attention(self, weights: Tensor) -> Tensor:
        """Attention weights with dropout while training."""
        return F.dropout(weights, self.attention_dropout, self.training) if self.attention_dropout else weights

    def drop_output(self, output: Tensor) -> Tensor:
        """Attention output with dropout while training."""
        return F.dropout(output, self.hidden_dropout, self.training) if self.hidden_dropout else output


class InputAttention(Attention):
    """Attention from latents to standardised input sequences, whose elements have width `d_all` (equation 9)."""

    def __init__(self, config: HighMMTConfig, d_all: int) -> None:
        super().__init__(
            config.d_latents,
            d_all,
            config.num_cross_attention_heads,
            config.cross_attention_head_dim,
            config,
        )
        self.norm_context = nn.LayerNorm(d_all, eps=config.layer_norm_eps)

    def forward(self, latents: Tensor, sequences: Sequence[InputSequence]) -> tuple[Tensor, list[Tensor]]:
        """What the latents read from each sequence.

        Args:
            latents: those of all sequences one after the other, `(batches, num_latents, d_latents)`, or
                `(num_latents, d_latents)` where all samples start from the same ones.
            sequences: the inputs.

        Returns:
            The outputs of all sequences one after the other, `(batches, num_latents, d_latents)`, and for each
            sequence the attention weights `(batch, num_heads, num_latents, elements)`.
        """
        value_to_output = self.value_to_output()
        gain, shift = self.norm_context.weight, self.norm_context.bias
        # The shift adds the same to every element's score, so keys need none.
        keys = rows_of_values(self.query_to_key() * gain, sequences, 2)  # (heads, d_latents, rows)
        values = rows_of_values(value_to_output * gain[:, None], sequences, 1)  # (heads, rows, d_latents)
        values = values.to(compute_dtype(values))
        constant = torch.matmul(shift, value_to_output).sum(0) + self.output_bias()
        normed = self.norm(latents)
        if latents.dim() == 2:
            queries = rows_of_each(self._queries(normed, keys), sequences, 0)
        else:
            parts = normed.split([sequence.values.shape[0] for sequence in sequences])
            own_keys = rows_of_each(keys, sequences, 2)
            queries = [self._queries(part, own) for part, own in zip(parts, own_keys, strict=True)]
        own_values = rows_of_each(values, sequences, 1)
        read = [self._read(*parts) for parts in zip(queries, own_values, sequences, strict=True)]
        output = torch.cat([part for part, _ in read])
        return self.drop_output(output + constant), [weights for _, weights in read]

    def _queries(self, latents: Tensor, keys: Tensor) -> Tensor:
        """What each column of an element adds to each latent's score, `(..., rows, heads * num_latents)`."""
        return torch.einsum("...ld,hdc->...chl", latents, keys).flatten(-2)

    def _read(self, query: Tensor, values: Tensor, x: InputSequence) -> tuple[Tensor, Tensor]:
        score = torch.matmul(x.values, query) * x.inverse_std  # (batch, elements, heads * num_latents)
        if x.mask is not None:
            score = score.masked_fill(~x.mask[..., None], torch.finfo(score.dtype).min)
        attention = torch.softmax(score, dim=1)
        weighted = (self.drop_attention(attention) * x.inverse_std).to(x.values.dtype)
        read = torch.bmm(weighted.transpose(1, 2), x.values)
        read = read.unflatten(1, (self.num_heads, -1)).transpose(1, 2).flatten(2)  # (batch, latents, heads * columns)
        output = torch.matmul(read, values.flatten(0, 1))
        return output, attention.unflatten(2, (self.num_heads, -1)).permute(0, 2, 3, 1)


class LatentAttention(Attention):
    """Attention from latents to latents: of another modality (equation 11) or of the same stream (equation 10)."""

    def __init__(self, config: HighMMTConfig, num_heads: int, head_dim: int, *, has_context: bool) -> None:
        super().__init__(config.d_latents, config.d_latents, num_heads, head_dim, config)
        norm = nn.LayerNorm(config.d_latents, eps=config.layer_norm_eps) if has_context else nn.Identity()
        self.norm_context = norm

    def normed(self, norm: nn.Module, latents: Tensor) -> Tensor:
        """Normed latents as matrix products take them; autocast would cast them for each of several products."""
        normed: Tensor = norm(latents)
        return normed.to(compute_dtype(normed))

    def read(self, queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Attend from `queries` `(batch, num_queries, d)` to prepared keys and values `(batch, latents * heads, d)`.

        Returns:
            The output `(batch, num_queries, d)` and the weights `(batch, heads, num_queries, latents)`; latents
            outside the `mask` `(batch, latents)` have weight 0.
        """
        score = torch.bmm(keys, queries.transpose(1, 2))  # (batch, latents * heads, num_queries)
        by_latent = score.view(score.shape[0], -1, self.num_heads * score.shape[2])
        if mask is not None:
            by_latent = by_latent.masked_fill(~mask[..., None], torch.finfo(score.dtype).min)
        attention = torch.softmax(by_latent, dim=1)
        output = torch.bmm(self.drop_attention(attention).view_as(score).transpose(1, 2), values)
        weights = attention.view(score.shape[0], -1, self.num_heads, score.shape[2]).permute(0, 2, 3, 1)
        return self.drop_output(output + self.output_bias()), weights

    def prepare(self, context: Tensor, query_to_key: Tensor, value_to_output: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of normed latents `(batch, latents, d)`, each `(batch, latents * heads, d)`."""
        batch, _, d = context.shape
        flat = context.flatten(0, 1)
        keys = torch.mm(flat, query_to_key.permute(2, 0, 1).reshape(d, -1)).view(batch, -1, d)
        values = torch.mm(flat, value_to_output.transpose(0, 1).reshape(d, -1)).view(batch, -1, d)
        return keys, values

    def forward(self, latents: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Self-attention of `(batch, num_latents, d)`."""
        normed = self.normed(self.norm, latents)
        keys, values = self.prepare(normed, self.query_to_key(), self.value_to_output())
        return self.read(normed, keys, values, mask)

    def read_last(self, latents: Tensor, last: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Self-attention of the last latent alone, `(batch, d)`, given all of them, `(batch, num_latents, d)`."""
        normed = self.normed(self.norm, latents)
        d = normed.shape[-1]
        # Normed again, as its row of `normed` would cost a gradient of all rows.
        query = torch.matmul(self.norm(last), self.query_to_key().transpose(0, 1).reshape(d, -1))
        score = torch.bmm(query.view(-1, self.num_heads, d), normed.transpose(1, 2))  # (batch, heads, latents)
        if mask is not None:
            score = score.masked_fill(~mask[:, None], torch.finfo(score.dtype).min)
        attention = torch.softmax(score, dim=-1)
        read = torch.bmm(self.drop_attention(attention), normed).flatten(1)
        output = torch.matmul(read, self.value_to_output().flatten(0, 1)) + self.output_bias()
        return self.drop_output(output), attention[:, :, None]


class FeedForward(nn.Module):
    """Gated feed-forward `z + Linear(4d -> d)(a * gelu(b))` with `[a | b] = Linear(d -> 8d)(norm(z))`."""

    def __init__(self, config: HighMMTConfig) -> None:
        super().__init__()
        inner = config.widening_factor * config.d_latents
        self.norm = nn.LayerNorm(config.d_latents, eps=config.layer_norm_eps)
        self.up_proj = nn.Linear(config.d_latents, 2 * inner)
        self.down_proj = nn.Linear(inner, config.d_latents)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, latents: Tensor) -> Tensor:
        """`(..., d_latents)` to `(..., d_latents)`, the residual included."""
        dtype = compute_dtype(latents)
        halves = None
        if type(self.up_proj) is nn.Linear:
            weights, biases = (part.to(dtype).chunk(2) for part in (self.up_proj.weight, self.up_proj.bias))
            halves = list(zip(weights, biases, strict=True))
        flat = latents.flatten(0, -2)
        rows = _BLOCK_BYTES // (self.up_proj.out_features * dtype.itemsize)
        if latents.device.type != "cpu" or torch.compiler.is_compiling() or len(flat) <= rows:
            return self._transform(flat, halves).view_as(latents)
        # The inner width is 8 d_latents: whole, it would travel to memory and back; in blocks it stays in the cache.
        blocks = flat.chunk(-(-len(flat) // rows))  # of equal size: a small last one would be slow
        return torch.cat([self._transform(block, halves) for block in blocks]).view_as(latents)

    def _transform(self, latents: Tensor, halves: Sequence[tuple[Tensor, Tensor]] | None) -> Tensor:
        normed = self.norm(latents)
        if halves is None:  # an adapter is around the projection
            value, gate = self.up_proj(normed).chunk(2, dim=-1)
        else:
            # Two products, since what follows is half as fast on the interleaved rows of one.
            normed = normed.to(halves[0][0].dtype)
            value, gate = (F.linear(normed, weight, bias) for weight, bias in halves)
        return self.dropout(self.down_proj(value * F.gelu(gate))) + latents


class LatentBlock(nn.Module):
    """Self-attention and feed-forward over latents, each with its residual."""

    def __init__(self, config: HighMMTConfig) -> None:
        super().__init__()
        heads, width = config.num_self_attention_heads, config.self_attention_head_dim
        self.attention = LatentAttention(config, heads, width, has_context=False)
        self.feed_forward = FeedForward(config)

    def forward(
        self, latents: Tensor, last: Tensor | None = None, mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """`(batch, num_latents, d)` to the same, given its `last` latents `(batch, d)` to these; and the weights."""
        if last is not None:
            attended, weights = self.attention.read_last(latents, last, mask)
            return self.feed_forward(attended + last), weights
        attended, weights = self.attention(latents, mask)
        return self.feed_forward(attended + latents), weights


class LatentTransformer(nn.Module):
    """Self-attention blocks over latents; residuals inside, and one around the whole (public code)."""

    def __init__(self, config: HighMMTConfig) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(LatentBlock(config) for _ in range(config.num_self_attends_per_layer))

    def forward(self, latents: Tensor, *, last_only: bool = False, mask: Tensor | None = None) -> Tensor:
        """Transform `(batch, num_latents, d)`; with `last_only` the result is its last latent, `(batch, d)`.

        Latents outside the `mask` `(batch, num_latents)` are not read; the last is the last within it.
        """
        z = latents
        for block in self.blocks[:-1]:
            z, _ = block(z, mask=mask)
        if not last_only:
            return self.blocks[-1](z, mask=mask)[0] + latents
        last = _last(latents, mask)
        return self.blocks[-1](z, last if z is latents else _last(z, mask), mask)[0] + last


def _last(latents: Tensor, mask: Tensor | None) -> Tensor:
    """The last latent of each sample that its mask keeps, `(batch, d)`."""
    if mask is None:
        return latents[:, -1]
    places = torch.arange(mask.shape[1], device=mask.device).expand_as(mask).masked_fill(~mask, 0).amax(dim=1)
    return latents[torch.arange(latents.shape[0], device=latents.device), places]


class UnimodalLayer(GradientCheckpointingLayer):
    """One layer of the unimodal encoder: read the input, feed-forward, transform the latents."""

    def __init__(self, config: HighMMTConfig, d_all: int) -> None:
        super().__init__()
        self.cross_attention = InputAttention(config, d_all)
        self.feed_forward = FeedForward(config)
        self.latent_transformer = LatentTransformer(config)

    def forward(self, latents: Tensor, sequences: Sequence[InputSequence]) -> tuple[Tensor, list[Tensor]]:
        """All latents after this layer, and the weights of each sequence's reading; see `InputAttention`."""
        read, weights = self.cross_attention(latents, sequences)
        return self.latent_transformer(self.feed_forward(read + latents)), weights


class UnimodalEncoder(nn.Module):
    """Parameters U: one latent array and the layers that fill it from any modality (equations 9 and 10).

    Args:
        config: sizes.
        d_all: width of the standardised elements that it reads.
    """

    def __init__(self, config: HighMMTConfig, d_all: int) -> None:
        super().__init__()
        self.latents = nn.Parameter(torch.empty(config.num_latents, config.d_latents))
        self.layers = nn.ModuleList(UnimodalLayer(config, d_all) for _ in range(config.num_unimodal_layers))

    def forward(self, sequences: Sequence[InputSequence]) -> tuple[list[Tensor], list[list[Tensor]]]:
        """Encode any number of sequences as one batch: what follows the reading does not know where latents come from.

        Returns:
            For each sequence its latents `(batch, num_latents, d_latents)`, and for each layer and sequence the
            attention weights `(batch, num_heads, num_latents, elements)`.
        """
        latents: Tensor = self.latents
        weights = []
        for layer in self.layers:
            latents, attention = layer(latents, sequences)
            weights.append(attention)
        return list(latents.split([sequence.values.shape[0] for sequence in sequences])), weights


class CrossmodalLayer(GradientCheckpointingLayer):
    """One layer of the crossmodal transformer: read another modality's latents, feed-forward, transform."""

    def __init__(self, config: HighMMTConfig) -> None:
        super().__init__()
        self.cross_attention = LatentAttention(
            config, config.num_crossmodal_attention_heads, config.cross_attention_head_dim, has_context=True
        )
        self.feed_forward = FeedForward(config)
        self.latent_transformer = LatentTransformer(config)

    def forward(
        self, contexts: Sequence[Tensor], streams: Sequence[Tensor], *, last_only: bool
    ) -> tuple[Tensor, list[Tensor]]:
        """Let each stream read its context.

        Args:
            contexts: each `(batch, num_latents, d)`.
            streams: for each context the latents of all its readers side by side, `(batch, readers * num_latents, d)`.
            last_only: give the last latent of each reader alone.

        Returns:
            All results as one batch, `(batches * readers, num_latents, d)` or without the middle axis; and the weights
            of each context.
        """
        attention, norm_context, shape = self.cross_attention, self.cross_attention.norm_context, contexts[0].shape[1:]
        query_to_key, value_to_output = attention.query_to_key(), attention.value_to_output()
        read, weights = [], []
        for context, stream in zip(contexts, streams, strict=True):
            keys, values = attention.prepare(attention.normed(norm_context, context), query_to_key, value_to_output)
            output, weight = attention.read(attention.norm(stream), keys, values)
            read.append((output + stream).view(-1, *shape))
            weights.append(weight)
        z = self.feed_forward(torch.cat(read))
        return self.latent_transformer(z, last_only=last_only), weights


class CrossmodalTransformer(nn.Module):
    """Parameters C: what one modality's latents learn from another's (equation 11)."""

    def __init__(self, config: HighMMTConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(CrossmodalLayer(config) for _ in range(config.num_crossmodal_layers))

    def forward(
        self, contexts: Sequence[Tensor], readers: Sequence[Sequence[Tensor]]
    ) -> tuple[list[list[Tensor]], list[list[list[Tensor]]]]:
        """Let every reader attend to its context; all of them as one batch after each attention.

        Args:
            contexts: latents that are read, each `(batch, num_latents, d_latents)`.
            readers: for each context the latents that read it, each of the context's shape.

        Returns:
            For each context and reader the last latent of the result, `(batch, d_latents)`; and for each layer,
            context and reader the weights `(batch, num_heads, num_latents, num_latents)`.
        """
        # Contexts with equally many readers become one batch; the readers of a context lie side by side, so that its
        # keys and values serve them all.
        places: dict[int, list[int]] = {}
        for place, group in enumerate(readers):
            places.setdefault(len(group), []).append(place)
        batches = [torch.cat([contexts[place] for place in of_count]) for of_count in places.values()]
        streams = [
            torch.cat([torch.cat([readers[place][slot] for place in of_count]) for slot in range(count)], dim=1)
            for count, of_count in places.items()
        ]
        sizes = [batch.shape[0] * count for batch, count in zip(batches, places, strict=True)]
        weights = []
        for index, layer in enumerate(self.layers):
            z, attention = layer(batches, streams, last_only=index == len(self.layers) - 1)
            # After the last layer a reader has one latent left.
            parts = zip(z.split(sizes), batches, strict=True)
            streams = [part.view(batch.shape[0], -1, z.shape[-1]) for part, batch in parts]
            by_place = _by_place(attention, contexts, places)
            weights.append([list(joint.split(contexts[0].shape[1], dim=2)) for joint in by_place])
        vectors = _by_place(streams, contexts, places)
        return [list(vector.unbind(1)) for vector in vectors], weights


def _by_place(
    batches: Sequence[Tensor], contexts: Sequence[Tensor], places: Mapping[int, Sequence[int]]
) -> list[Tensor]:
    """Each context's part of joint batches, in the order of the contexts."""
    parts: list[Tensor] = list(contexts)
    for batch, of_count in zip(batches, places.values(), strict=True):
        for place, part in zip(of_count, batch.split([contexts[place].shape[0] for place in of_count]), strict=True):
            parts[place] = part
    return parts


class ElementCrossmodalLayer(nn.Module):
    """One layer of the crossmodal transformer without a unimodal encoder: elements read another modality's elements.

    Args:
        config: sizes and dropouts.
        is_first: the queries are standardised inputs, of width `d_all`; later ones are of width `d_latents`.
    """

    def __init__(self, config: HighMMTConfig, *, is_first: bool) -> None:
        super().__init__()
        d_query = config.d_all if is_first else config.d_latents
        heads, width = config.num_crossmodal_attention_heads, config.cross_attention_head_dim
        self.is_first = is_first
        self.num_heads = heads
        self.head_dim = width
        self.attention_dropout = config.attention_probs_dropout_prob
        self.norm = nn.LayerNorm(d_query, eps=config.layer_norm_eps)
        self.norm_context = nn.LayerNorm(config.d_all, eps=config.layer_norm_eps)
        self.q_proj = nn.Linear(d_query, heads * width, bias=False)
        self.k_proj = nn.Linear(config.d_all, heads * width, bias=False)
        self.v_proj = nn.Linear(config.d_all, heads * width, bias=False)
        self.o_proj = nn.Linear(heads * width, config.d_latents)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.feed_forward = FeedForward(config)
        self.latent_transformer = LatentTransformer(config)

    def forward(
        self, stream: Tensor | None, reader: InputSequence, context: InputSequence, *, last_only: bool
    ) -> tuple[Tensor, Tensor]:
        """Let the elements of one modality read those of another.

        Args:
            stream: the reader after earlier layers, `(batch, elements, d_latents)`; None in the first layer.
            reader, context: the inputs.
            last_only: give the reader's last element alone.

        Returns:
            `(batch, elements, d_latents)`, or `(batch, d_latents)` with `last_only`; and the weights
            `(batch, num_heads, elements, context elements)`.
        """
        if stream is None:
            queries = self._by_head(reader.project(self.norm, _weight(self.q_proj).t()))
        else:
            queries = self._by_head(self.q_proj(self.norm(stream)))
        keys = self._by_head(context.project(self.norm_context, _weight(self.k_proj).t()))
        values = self._by_head(context.project(self.norm_context, _weight(self.v_proj).t()))
        score = torch.matmul(queries * self.head_dim**-0.5, keys.transpose(2, 3))
        if context.mask is not None:
            score = score.masked_fill(~context.mask[:, None, None], torch.finfo(score.dtype).min)
        weights = torch.softmax(score, dim=-1)
        read = torch.matmul(F.dropout(weights, self.attention_dropout, self.training), values)
        z = self.dropout(self.o_proj(read.transpose(1, 2).flatten(2)))
        # The first layer has no residual: its queries are as wide as an input.
        z = self.feed_forward(z if stream is None else z + stream)
        return self.latent_transformer(z, last_only=last_only, mask=reader.mask), weights

    def _by_head(self, projected: Tensor) -> Tensor:
        return projected.unflatten(2, (self.num_heads, self.head_dim)).transpose(1, 2)


class ElementCrossmodalTransformer(nn.Module):
    """Parameters C of the ablation without unimodal encoder (table 5): attention straight on the processed inputs."""

    def __init__(self, config: HighMMTConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            ElementCrossmodalLayer(config, is_first=index == 0) for index in range(config.num_crossmodal_layers)
        )

    def forward(
        self, contexts: Sequence[InputSequence], readers: Sequence[Sequence[InputSequence]]
    ) -> tuple[list[list[Tensor]], list[list[list[Tensor]]]]:
        """Let every reader attend to its context.

        Args:
            contexts: inputs that are read.
            readers: for each context the inputs that read it.

        Returns:
            For each context and reader the last element of the result, `(batch, d_latents)`; and for each layer,
            context and reader the weights `(batch, num_heads, reader's elements, context's elements)`.
        """
        vectors: list[list[Tensor]] = [[] for _ in contexts]
        weights: list[list[list[Tensor]]] = [[[] for _ in contexts] for _ in self.layers]
        for place, context in enumerate(contexts):
            for reader in readers[place]:
                stream: Tensor | None = None
                for index, layer in enumerate(self.layers):
                    z, attention = layer(stream, reader, context, last_only=index == len(self.layers) - 1)
                    weights[index][place].append(attention)
                    stream = z
                vectors[place].append(z)
        return vectors, weights
