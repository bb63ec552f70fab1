"""A segment of a token memory written out for one row without padding: what the models are tested against.

Stock models are run without any hook of ours: decoders with embeddings, positions and a mask made by hand, encoders
block by block.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def seen_by_hand(front: int, length: int, end: int) -> Tensor:
    """Which key each query sees in a causal backbone, bool `[N, N]`, entry by entry."""
    total = front + length + end
    sees = torch.zeros(total, total, dtype=torch.bool)
    for query in range(total):
        for key in range(total):
            sees[query, key] = key < front if query < front else key <= query
    return sees


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
    if family in ("GPT2", "Llama"):
        end = tokens if memory.encoder is None else tokens[:0]
        hidden = naive_decoder(stock_base, inputs, tokens, end)
        text, own = hidden[count : count + len(inputs)], hidden[count + len(inputs) :]
    else:
        hidden = naive_encoder_backbone(family, stock_base, inputs, tokens)
        text, own = hidden[:-count], hidden[-count:]
    return text, own if memory.encoder is None else naive_memory_encoder(memory.encoder, tokens, text)
