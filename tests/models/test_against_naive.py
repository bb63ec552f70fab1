"""A whole model against one written out row by row with the naive memory: logits, states and gradients."""

import copy

import pytest
import torch
from torch.nn import functional as F

from hf_memoria.memory import naive


def naive_attention(attention, hidden, memory):
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


def naive_block(block, hidden, working, reminded):
    attended, _ = block.attn(block.ln_1(hidden).unsqueeze(0), attention_mask=causal_mask(hidden))
    hidden = hidden + attended[0]
    weights = None
    for norm, memory in zip(block.memory.norms, (working, reminded), strict=True):
        if len(memory):
            found, weights = naive_attention(block.memory.lookup, norm(hidden), memory)
            hidden = hidden + found
    weights = weights if len(reminded) else torch.zeros(0)
    return hidden + block.mlp(block.ln_2(hidden)), weights


def causal_mask(hidden):
    future = torch.ones(len(hidden), len(hidden), dtype=torch.bool).triu(1)
    return torch.zeros(1, 1, len(hidden), len(hidden), dtype=hidden.dtype).masked_fill(future, float("-inf"))


def naive_working(base, cue):
    if len(cue) == 0 or base.config.memory.num_memories is None:
        return cue
    abstractor = base.abstractor
    weights = torch.softmax(abstractor.queries.weight @ abstractor.key(cue).T, dim=-1)
    return abstractor.contract(abstractor.expand(weights @ abstractor.value(cue)))


def naive_segment(model, ids, row, cue):
    """Read one segment of one row; return its logits, the row after it and its cue."""
    base, settings = model.transformer, model.config.memory
    working = naive_working(base, cue)
    reminded = naive.remind(
        row,
        working.detach(),
        num_reminded_stm=settings.num_reminded_stm,
        num_reminded_ltm=settings.num_reminded_ltm,
        ltm_search_depth=settings.ltm_search_depth,
        correlation_kind=settings.correlation,
    )
    by_id = {engram.id: engram.data for engram in row.engrams}
    vectors = torch.stack([by_id[id_] for id_ in reminded]) if reminded else cue[:0]
    hidden = base.wte(ids) + base.wpe(torch.arange(len(ids)))
    credits = []
    for block in base.h:
        hidden, weights = naive_block(block, hidden, working, vectors)
        credits.append(weights)
    hidden = base.ln_f(hidden)
    after = naive.memorize(
        row,
        working,
        reminded,
        torch.stack(credits).mean(0).tolist(),
        initial_lifespan=settings.initial_lifespan,
        lifespan_extend_scale=settings.lifespan_extend_scale,
        stm_capacity=settings.stm_capacity,
        ltm_capacity=settings.ltm_capacity,
    )
    return model.lm_head(hidden), after, hidden.detach()


@pytest.mark.parametrize("settings", [{}, {"correlation": "mean_l2", "ltm_capacity": 4}, {"num_memories": None}])
def test_model_equals_the_naive_one_in_values_and_gradients(settings, build, segments):
    model = build(memory=settings, attn_implementation="eager").double().train()
    twin, ids = copy.deepcopy(model), segments(steps=9, batch=2, length=7)
    lengths = torch.tensor([[7, 7], [7, 5], [7, 0], [3, 7], [7, 7], [1, 2], [7, 7], [0, 7], [7, 7]])
    resets = torch.tensor([[False, False]] * 6 + [[True, False]] + [[False, False]] * 2)
    rows, cues = [naive.NaiveRow()] * 2, [torch.zeros(0, 32, dtype=torch.float64)] * 2
    loss, expected_loss, memory = 0.0, 0.0, None
    for segment, length, reset in zip(ids, lengths, resets, strict=True):
        mask = torch.arange(7) < length.unsqueeze(1)
        output = model(segment, attention_mask=mask.long(), memory=memory, reset_memory=reset)
        memory = output.memory
        loss = loss + F.cross_entropy(output.logits[mask], segment[mask], reduction="sum")
        for i in range(2):
            if reset[i]:
                rows[i], cues[i] = naive.NaiveRow(), cues[i][:0]
            if length[i] == 0:
                continue
            logits, rows[i], cues[i] = naive_segment(twin, segment[i, : length[i]], rows[i], cues[i])
            expected_loss = expected_loss + F.cross_entropy(logits, segment[i, : length[i]], reduction="sum")
            assert torch.allclose(output.logits[i, : length[i]], logits, atol=1e-9)
            check_row(memory, i, rows[i], cues[i])
    assert int(memory.num_long_term.sum()) > 0
    loss.backward()
    expected_loss.backward()
    for (name, one), other in zip(model.named_parameters(), twin.named_parameters(), strict=True):
        assert torch.allclose(one.grad, other[1].grad, atol=1e-8), name


def check_row(memory, i, row, cue):
    got = naive.row_of(memory, i)
    assert [(e.id, e.kind, e.age, e.created) for e in got.engrams] == [
        (e.id, e.kind, e.age, e.created) for e in row.engrams
    ]
    assert [e.lifespan for e in got.engrams] == pytest.approx([e.lifespan for e in row.engrams], abs=1e-4)
    assert got.cofire == row.cofire
    assert torch.allclose(memory.cue[i][memory.cue_mask[i]], cue, atol=1e-9)
