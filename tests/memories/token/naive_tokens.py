"""A segment of a token memory written out for one row without padding: what the models are tested against.

Stock models are run without any hook of ours: decoders with embeddings, positions and a mask made by hand, encoders
block by block.
"""

from __future__ import annotations

from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface


def seen_by_hand(front: int, length: int, end: int) -> Tensor:
    """Which key each query sees in a causal backbone, bool `[N, N]`, entry by entry."""
    total = front + length + end
    sees = torch.zeros(total, total, dtype=torch.bool)
    for query in range(total):
        for key in range(total):
            sees[query, key] = key < front if query < front else key <= query
    return sees


@contextmanager
def naive_gates(model: Any, stock_base: Any, memory: range, text: range):
    """Let a stock model's attention see memory tokens through the gates of ours, head by head, query by query.

    Args:
        model: our model.
        stock_base: the stock base model.
        memory: places of memory tokens.
        text: places of the segment.
    """
    gates = model.base_model.token_memory.gates.gate
    blocks = iter(range(1000))

    def attend(module, query, key, value, attention_mask, scaling=None, dropout=0.0, **kwargs):
        factors, output = gates[next(blocks)].tanh(), torch.zeros_like(query)
        heads, size = query.shape[1], query.shape[-1]
        for head in range(heads):
            keys, values = (each[0, head * each.shape[1] // heads] for each in (key, value))
            for place in range(query.shape[2]):
                seen = [k for k in range(len(keys)) if attention_mask is None or attention_mask[0, 0, place, k] == 0]
                scores = {k: query[0, head, place] @ keys[k] * (scaling or size**-0.5) for k in seen}
                if place not in text:
                    output[0, head, place] = _softmax_of(scores, seen, values)
                    continue
                own, far = [k for k in seen if k in text], [k for k in seen if k in memory]
                read = _softmax_of(scores, own, values)
                output[0, head, place] = read + factors[head] * _softmax_of(scores, far, values)
        return output.transpose(1, 2).contiguous(), None

    AttentionInterface.register("naive_gated_tokens", attend)
    before = stock_base.config._attn_implementation
    stock_base.config._attn_implementation = "naive_gated_tokens"
    try:
        yield
    finally:
        stock_base.config._attn_implementation = before


def _softmax_of(scores: dict[int, Tensor], places: list[int], values: Tensor) -> Tensor:
    weights = torch.softmax(torch.stack([scores[place] for place in places]), dim=0)
    return sum(weight * values[place] for weight, place in zip(weights, places, strict=True))


def naive_decoder(base: Any, ids: Tensor, front: Tensor, end: Tensor) -> Tensor:
    """Final hidden states of `[front, text, end]` from a stock decoder: `[F, D]`, ids `[T]` and `[E, D]`."""
    embeds = torch.cat([front, base.get_input_embeddings()(ids), end])
    positions = [0] * len(front) + list(range(len(ids))) + [len(ids) - 1] * len(end)
    sees = seen_by_hand(len(front), len(ids), len(end))
    mask = torch.zeros(sees.shape).masked_fill(~sees, torch.finfo(torch.float32).min)
    places = torch.tensor([positions])
    output = base(inputs_embeds=embeds[None], position_ids=places, attention_mask=mask[None, None], use_cache=False)
    return output.last_hidden_state[0]


def naive_encoder_backbone(family: str, base: Any, inputs: Tensor, tokens: Tensor) -> Tensor:
    """Final hidden states of `[segment, tokens]`, from the modules of a stock BERT, RoBERTa or ViT."""
    hidden = torch.cat([base.embeddings(inputs[None])[0], tokens])[None]
    for block in base.layers if family == "ViT" else base.encoder.layer:
        output = block(hidden)
        hidden = output[0] if isinstance(output, tuple) else output
    return (base.layernorm(hidden) if family == "ViT" else hidden)[0]


def naive_attention(layer: Any, token: Tensor, segment: Tensor) -> Tensor:
    """One memory token `[D]` reads a segment `[T, D]`, head by head."""
    size = len(token) // layer.num_heads
    query, normed = layer.query_projection(layer.token_norm(token)), layer.segment_norm(segment)
    key, value = layer.key_projection(normed), layer.value_projection(normed)
    heads = []
    for head in range(layer.num_heads):
        part = slice(head * size, (head + 1) * size)
        weights = torch.softmax(key[:, part] @ query[part] / size**0.5, dim=0)
        heads.append(weights @ value[:, part])
    return layer.output_projection(torch.cat(heads))


def naive_memory_encoder(encoder: Any, memory: Tensor, segment: Tensor) -> Tensor:
    """Memory tokens `[M, D]` after a segment `[T, D]`, token by token."""
    written = []
    for token in memory:
        for layer in encoder.layers:
            token = token + naive_attention(layer, token, segment)
            token = token + layer.contract(torch.nn.functional.gelu(layer.expand(layer.mlp_norm(token))))
        written.append(encoder.norm(token))
    return torch.stack(written)


def naive_segment(family: str, model: Any, stock_base: Any, inputs: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Return final hidden states `[T, D]` and the memory tokens `[M, D]` after a segment of one row."""
    memory, count = model.base_model.token_memory, len(tokens)
    tokens = tokens + memory.slots.weight
    causal, length = family in ("GPT2", "Llama"), 10 if family == "ViT" else len(inputs)  # 9 patches and their summary
    places = (range(count), range(count, count + length)) if causal else (range(length, length + count), range(length))
    gated = nullcontext() if memory.gates is None else naive_gates(model, stock_base, *places)
    if causal:
        end = tokens if memory.encoder is None else tokens[:0]
        with gated:
            hidden = naive_decoder(stock_base, inputs, tokens, end)
        text, own = hidden[count : count + len(inputs)], hidden[count + len(inputs) :]
    else:
        with gated:
            hidden = naive_encoder_backbone(family, stock_base, inputs, tokens)
        text, own = hidden[:-count], hidden[-count:]
    return text, own if memory.encoder is None else naive_memory_encoder(memory.encoder, tokens, text)
