"""Every family's model written out row by row with the naive memory: what the models with memory are tested against.

Blocks are called piece by piece, in the order in which their forward does it, and memory is read in between.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from hf_memoria.memories.engram.store import naive


@dataclass(frozen=True)
class NaiveLane:
    """What one row remembers: its engrams, and the final hidden states of its previous segment."""

    row: naive.NaiveRow
    cue: Tensor


def new_lane(hidden_size: int) -> NaiveLane:
    """Return a row that has read nothing."""
    return NaiveLane(naive.NaiveRow(), torch.zeros(0, hidden_size, dtype=torch.float64))


def naive_attention(attention: Any, hidden: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
    """One row, head by head: `[T, D]` reads `[M, D]`; returns what was found and the mean weight of each vector."""
    query, key, value = attention.query(hidden), attention.key(memory), attention.value(memory)
    size = hidden.shape[-1] // attention.num_heads
    found, weights = [], []
    for head in range(attention.num_heads):
        part = slice(head * size, (head + 1) * size)
        probabilities = torch.softmax(query[:, part] @ key[:, part].T / size**0.5, dim=-1)
        found.append(probabilities @ value[:, part])
        weights.append(probabilities)
    return attention.output(torch.cat(found, dim=-1)), torch.stack(weights).mean(dim=(0, 1))


def read_pre_norm(reader: Any, hidden: Tensor, memories: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """h += A(N1(h), W); h += A(N2(h), R)."""
    weights = torch.zeros(0)
    for norm, memory in zip(reader.norms, memories, strict=True):
        weights = torch.zeros(0)
        if len(memory):
            found, weights = naive_attention(reader.lookup, norm(hidden), memory)
            hidden = hidden + found
    return hidden, weights


def read_post_norm(reader: Any, hidden: Tensor, memories: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """h = N(h + A(h, W)); h = N(h + A(h, R))."""
    weights = torch.zeros(0)
    for memory in memories:
        weights = torch.zeros(0)
        if len(memory):
            found, weights = naive_attention(reader.lookup, hidden, memory)
            hidden = reader.norms[0](hidden + found)
    return hidden, weights


def causal_mask(hidden: Tensor) -> Tensor:
    """Return an additive mask `[1, 1, T, T]`."""
    future = torch.ones(len(hidden), len(hidden), dtype=torch.bool).triu(1)
    return torch.zeros(1, 1, len(hidden), len(hidden), dtype=hidden.dtype).masked_fill(future, float("-inf"))


class NaiveGPT2:
    """GPT-2: embeddings, blocks and final norm of one row."""

    read = staticmethod(read_pre_norm)

    def blocks(self, base: Any) -> Any:
        return base.h

    def embed(self, base: Any, inputs: Tensor) -> Tensor:
        return base.wte(inputs) + base.wpe(torch.arange(len(inputs)))

    def attend(self, base: Any, block: Any, hidden: Tensor) -> Tensor:
        return hidden + block.attn(block.ln_1(hidden).unsqueeze(0), attention_mask=causal_mask(hidden))[0][0]

    def feed(self, block: Any, hidden: Tensor) -> Tensor:
        return hidden + block.mlp(block.ln_2(hidden))

    def finish(self, base: Any, hidden: Tensor) -> Tensor:
        return base.ln_f(hidden)


class NaiveLlama(NaiveGPT2):
    """Llama: rotary positions from 0 in every segment, grouped queries, RMS norms."""

    def blocks(self, base: Any) -> Any:
        return base.layers

    def embed(self, base: Any, inputs: Tensor) -> Tensor:
        return base.embed_tokens(inputs)

    def attend(self, base: Any, block: Any, hidden: Tensor) -> Tensor:
        rotation = base.rotary_emb(hidden.unsqueeze(0), position_ids=torch.arange(len(hidden)).unsqueeze(0))
        normed, mask = block.input_layernorm(hidden).unsqueeze(0), causal_mask(hidden)
        return hidden + block.self_attn(normed, position_embeddings=rotation, attention_mask=mask)[0][0]

    def feed(self, block: Any, hidden: Tensor) -> Tensor:
        return hidden + block.mlp(block.post_attention_layernorm(hidden))

    def finish(self, base: Any, hidden: Tensor) -> Tensor:
        return base.norm(hidden)


class NaiveBert(NaiveGPT2):
    """BERT and RoBERTa: post-norm."""

    read = staticmethod(read_post_norm)

    def blocks(self, base: Any) -> Any:
        return base.encoder.layer

    def embed(self, base: Any, inputs: Tensor) -> Tensor:
        return base.embeddings(input_ids=inputs.unsqueeze(0))[0]

    def attend(self, base: Any, block: Any, hidden: Tensor) -> Tensor:
        attended = block.attention.self(hidden.unsqueeze(0))[0]
        return block.attention.output(attended, hidden.unsqueeze(0))[0]

    def feed(self, block: Any, hidden: Tensor) -> Tensor:
        return block.output(block.intermediate(hidden), hidden)

    def finish(self, base: Any, hidden: Tensor) -> Tensor:
        return hidden


class NaiveViT(NaiveGPT2):
    """ViT: pre-norm, and a row is an image."""

    def blocks(self, base: Any) -> Any:
        return base.layers

    def embed(self, base: Any, inputs: Tensor) -> Tensor:
        return base.embeddings(inputs.unsqueeze(0))[0]

    def attend(self, base: Any, block: Any, hidden: Tensor) -> Tensor:
        return hidden + block.attention(block.layernorm_before(hidden).unsqueeze(0))[0][0]

    def feed(self, block: Any, hidden: Tensor) -> Tensor:
        return hidden + block.mlp(block.layernorm_after(hidden))

    def finish(self, base: Any, hidden: Tensor) -> Tensor:
        return base.layernorm(hidden)


NAIVE = {"GPT2": NaiveGPT2(), "Llama": NaiveLlama(), "Bert": NaiveBert(), "Roberta": NaiveBert(), "ViT": NaiveViT()}


def naive_working(base: Any, cue: Tensor) -> Tensor:
    """Working memory `[W, D]` of a cue `[T, D]`."""
    if len(cue) == 0 or base.config.memory.num_memories is None:
        return cue
    abstractor = base.abstractor
    weights = torch.softmax(abstractor.queries.weight @ abstractor.key(cue).T, dim=-1)
    return abstractor.contract(abstractor.expand(weights @ abstractor.value(cue)))


def naive_reminded(base: Any, row: naive.NaiveRow, working: Tensor) -> tuple[list[int], Tensor]:
    """Ids and vectors `[K, D]` of what working memory reminds a row of."""
    settings = base.config.memory
    ids = naive.remind(
        row,
        working.detach(),
        num_reminded_stm=settings.num_reminded_stm,
        num_reminded_ltm=settings.num_reminded_ltm,
        ltm_search_depth=settings.ltm_search_depth,
        correlation_kind=settings.correlation,
        retrieval=settings.retrieval,
    )
    by_id = {engram.id: engram.data for engram in row.engrams}
    return ids, torch.stack([by_id[id_] for id_ in ids]) if ids else working[:0].detach()


def naive_segment(family: str, base: Any, inputs: Tensor, lane: NaiveLane) -> tuple[Tensor, NaiveLane]:
    """Read one segment of one row; return its final hidden states `[T, D]` and the row after it."""
    written, settings = NAIVE[family], base.config.memory
    hidden, cue_layer = written.embed(base, inputs), settings.cue_layer
    working = naive_working(base, lane.cue) if cue_layer is None else None
    ids, reminded = ([], None) if working is None else naive_reminded(base, lane.row, working)
    credits = []
    for index, block in enumerate(written.blocks(base)):
        hidden = written.attend(base, block, hidden)
        if hasattr(block, "memory"):
            hidden, weights = written.read(block.memory, hidden, (working, reminded))
            credits.append(weights)
        hidden = written.feed(block, hidden)
        if index == cue_layer:
            working = naive_working(base, hidden)
            ids, reminded = naive_reminded(base, lane.row, working)
    hidden = written.finish(base, hidden)
    row = naive.memorize(
        lane.row,
        working,
        ids,
        torch.stack(credits).mean(0).tolist(),
        initial_lifespan=settings.initial_lifespan,
        lifespan_extend_scale=settings.lifespan_extend_scale,
        stm_capacity=settings.stm_capacity,
        ltm_capacity=settings.ltm_capacity,
    )
    return hidden, replace(lane, row=row, cue=hidden.detach())
