"""The separate read, slow and obviously right: one row, one position, one head, one engram at a time."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from hf_memoria.memories.episodic.id_windows import Embed, WindowMix
from hf_memoria.memories.episodic.reader import EpisodicReader
from hf_memoria.memories.episodic.searched import OwnIds
from hf_memoria.memories.episodic.spread_read import SPREADS_TO
from hf_memoria.memories.episodic.store.state import NO_ID, EpisodicState


def read_naively(
    reader: EpisodicReader,
    hidden: Tensor,
    state: EpisodicState,
    embed: Embed,
    graph: str = "segment",
    own: OwnIds | None = None,
) -> Tensor:
    """Return the residual stream with what was read; equations in `EpisodicReader`.

    Args:
        reader: the reader whose parameters are used.
        hidden: the residual stream, `[B, T, D]`.
        state: the state, with what each row has read.
        embed: the model's embeddings of ids.
        graph: the graph that the second read goes by, see `EpisodicMemoryConfig.association_graph`.
        own: the windows of the positions' own ids, where queries are made of them.
    """
    rows = []
    for row, stream in enumerate(hidden):
        engrams = [m for m in range(int(state.count[row])) if _may_be_read(reader, state, row, m)]
        if not engrams:
            rows.append(stream)
            continue
        keys = [_made(reader, state, embed, row, m, value=False) for m in engrams]
        values = [_made(reader, state, embed, row, m, value=True) for m in engrams]
        ages = [float(state.step[row] - state.segment[row, m]) for m in engrams]
        associated = [[_associated(state, row, m, n, graph) for n in engrams] for m in engrams]
        asked = [_asked(reader, h, embed, own, row, t) for t, h in enumerate(stream)]
        read = [_read_at(reader, h, q, keys, values, ages, associated) for h, q in zip(stream, asked, strict=True)]
        rows.append(torch.stack(read))
    return torch.stack(rows)


def _may_be_read(reader: EpisodicReader, state: EpisodicState, row: int, m: int) -> bool:
    last = int(state.position[row, m]) == int(state.positions[row]) - 1
    waits = int(state.ids[row, m, 0]) != NO_ID and int(state.ids[row, m, -1]) == NO_ID
    return not (reader.value_ahead and last and waits)


def _asked(reader: EpisodicReader, stream: Tensor, embed: Embed, own: OwnIds | None, row: int, t: int) -> Tensor:
    asked: Tensor = reader.query(reader.norm(stream))
    if reader.query_ids:
        assert own is not None
        embeds = None if own.embeds is None else own.embeds[row, t]
        asked = asked + reader.id_query(_mixed(reader, reader.query_mix, own.ids[row, t], embeds, embed, 0))
    return asked


def _mixed(
    reader: EpisodicReader, mix: WindowMix, window: Tensor, embeds: Tensor | None, embed: Embed, ahead: int
) -> Tensor:
    mixed = mix.weight.new_zeros(mix.weight.shape[1])
    if embeds is not None and bool(embeds.any()):
        mixed = mixed + mix.weight[0] * reader.store_norm(embeds)
    for place in range(len(mix.weight) if reader.has_ids else 0):
        back = place - ahead
        token = int(window[-1] if back < 0 else window[back])
        if token != NO_ID:
            mixed = mixed + mix.weight[place] * reader.store_norm(embed(torch.tensor(token)))
    return mixed


def _made(reader: EpisodicReader, state: EpisodicState, embed: Embed, row: int, m: int, value: bool) -> Tensor:
    """Return the key or the value of one engram, `[D]`."""
    of_tokens, of_hidden = ("value", "hidden_value") if value else ("key", "hidden_key")
    made = torch.zeros(reader.query.out_features)
    if reader.reads_tokens:
        mix, ahead = (reader.value_mix, reader.value_ahead) if value else (reader.key_mix, 0)
        embeds = state.embeds[row, m] if state.embeds.shape[1] else None
        made = made + getattr(reader, of_tokens)(_mixed(reader, mix, state.ids[row, m], embeds, embed, ahead))
    if reader.reads_hidden:
        made = made + getattr(reader, of_hidden)(reader.hidden_norm(state.hidden[row, m, reader.place]))
    return made


def _read_at(
    reader: EpisodicReader,
    stream: Tensor,
    query: Tensor,
    keys: list[Tensor],
    values: list[Tensor],
    ages: list[float],
    associated: list[list[float]],
) -> Tensor:
    heads = range(reader.num_heads)
    first = [
        _attend(reader, head, query, keys, values, [_forgotten(reader, head, age) for age in ages]) for head in heads
    ]
    read = reader.output(torch.cat([found for found, _ in first]))
    if reader.spread is not None:
        drawn = [_drawn_to(strengths, [weights for _, weights in first]) for strengths in associated]
        bias = [reader.spread.pull[0] * pull for pull in drawn]
        again = [reader.spread.key(_unit_heads(reader, key)) for key in keys]
        other = [reader.spread.value(value) for value in values]
        asked = reader.spread.query(reader.norm(stream))
        second = [_attend(reader, head, asked, again, other, bias)[0] for head in heads]
        read = read + reader.spread.output(torch.cat(second))
    factor = reader.openness()
    into: Tensor = stream + (read if factor is None else read * factor)
    return into


def _unit_heads(reader: EpisodicReader, key: Tensor) -> Tensor:
    heads: Tensor = torch.cat([F.normalize(part, dim=-1) for part in key.chunk(reader.num_heads)])
    return heads


def _forgotten(reader: EpisodicReader, head: int, age: float) -> Tensor:
    if reader.forgetting is None:
        return torch.zeros(())
    return -F.softplus(reader.forgetting[head, 0, 0]) * torch.log(torch.tensor(1.0 + age))


def _associated(state: EpisodicState, row: int, m: int, n: int, graph: str) -> float:
    strength = 0.0
    if graph in ("segment", "both") and state.segment[row, m] == state.segment[row, n]:
        strength += 1.0
    if graph in ("cofire", "both"):
        for partner, of_link in zip(state.partner[row, m].tolist(), state.strength[row, m].tolist(), strict=True):
            if of_link > 0 and partner == int(state.position[row, n]):
                strength += of_link
    return strength


def _drawn_to(strengths: list[float], weights: list[list[Tensor]]) -> Tensor:
    found = torch.zeros(())
    for of_head in weights:
        for strength, weight in zip(strengths, of_head, strict=True):
            found = found + strength * weight / len(weights)
    return (found + SPREADS_TO).log()


def _attend(
    reader: EpisodicReader, head: int, asked: Tensor, keys: list[Tensor], values: list[Tensor], bias: list[Tensor]
) -> tuple[Tensor, list[Tensor]]:
    size = len(asked) // reader.num_heads
    part = slice(head * size, (head + 1) * size)
    sharp, null = reader.log_sharpness[head, 0, 0].exp(), reader.null[head, 0, 0]
    scores = [
        F.cosine_similarity(asked[part], key[part], dim=0) * sharp + more for key, more in zip(keys, bias, strict=True)
    ]
    worth = [float(score.detach() - null.detach()) for score in scores]
    if reader.breaks:
        worth = [min(one, 0.0) for one in worth]  # of those that take half or more, the youngest come first
    number = len(scores) if reader.top_k is None or len(scores) <= reader.read_all_up_to else reader.top_k
    best = sorted(range(len(scores)), key=lambda m: (-worth[m], -m))[:number]
    weights = _broken_weights(scores, null, best) if reader.breaks else _softmax_weights(scores, null, best)
    found = asked.new_zeros(size)
    for m in best:
        found = found + weights[m] * values[m][part]
    return found, weights


def _softmax_weights(scores: list[Tensor], null: Tensor, best: list[int]) -> list[Tensor]:
    total = null.exp() + sum(scores[m].exp() for m in best)
    return [scores[m].exp() / total if m in best else torch.zeros(()) for m in range(len(scores))]


def _broken_weights(scores: list[Tensor], null: Tensor, best: list[int]) -> list[Tensor]:
    """Return the weights where each engram, the youngest first, takes its part of what is left."""
    weights, left = [torch.zeros(()) for _ in scores], torch.ones(())
    for m in sorted(best, reverse=True):
        part = 1 / (1 + (null - scores[m]).exp())
        weights[m] = part * left
        left = left * (1 - part)
    return weights
