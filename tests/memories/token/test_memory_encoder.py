"""The memory encoder against itself written out token by token, and what it must not depend on."""

import pytest
import torch

from hf_memoria.memories.token.encoder import MemoryEncoder, TokenMemory


@pytest.fixture
def encoder():
    torch.manual_seed(0)
    made = MemoryEncoder(8, 2, 2).double()
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return made


def naive(encoder, memory, segment):
    """One row, one token at a time, head by head."""
    rows = []
    for token in memory:
        for layer in encoder.layers:
            normed, query = layer.segment_norm(segment), layer.query_projection(layer.token_norm(token))
            key, value, heads = layer.key_projection(normed), layer.value_projection(normed), []
            for part in (slice(0, 4), slice(4, 8)):
                heads.append(torch.softmax(key[:, part] @ query[part] / 2, dim=0) @ value[:, part])
            token = token + layer.output_projection(torch.cat(heads))
            token = token + layer.contract(torch.nn.functional.gelu(layer.expand(layer.mlp_norm(token))))
        rows.append(encoder.norm(token))
    return torch.stack(rows)


def test_it_is_what_is_written_out_and_so_are_its_gradients(encoder):
    torch.manual_seed(1)
    memory, segment = torch.randn(2, 3, 8).double(), torch.randn(2, 5, 8).double()
    memory.requires_grad_()
    segment.requires_grad_()
    real = torch.tensor([[True] * 5, [False, True, True, True, False]])
    inputs = [memory, segment, *encoder.parameters()]
    ours = encoder(memory, segment, real)
    theirs = torch.stack([naive(encoder, memory[row], segment[row, real[row]]) for row in range(2)])
    torch.testing.assert_close(ours, theirs)
    weight = torch.randn_like(ours)
    for one, other in zip(
        torch.autograd.grad((ours * weight).sum(), inputs),
        torch.autograd.grad((theirs * weight).sum(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(one, other)


def test_it_does_not_depend_on_where_a_position_stands(encoder):
    memory, segment, real = torch.randn(1, 3, 8).double(), torch.randn(1, 6, 8).double(), torch.ones(1, 6) > 0
    shuffled = segment[:, torch.randperm(6)]
    torch.testing.assert_close(encoder(memory, segment, real), encoder(memory, shuffled, real))


def test_a_row_without_positions_keeps_its_tokens(encoder):
    memory, segment = torch.randn(2, 3, 8).double(), torch.randn(2, 4, 8).double()
    real = torch.tensor([[True] * 4, [False] * 4])
    after = encoder(memory, segment, real)
    assert torch.equal(after[1], memory[1])
    assert not torch.equal(after[0], memory[0])
    assert torch.equal(encoder(memory, segment[:, :0], real[:, :0]), memory)
    segment.requires_grad_()
    encoder(memory, segment, real).sum().backward()
    assert segment.grad.isfinite().all()
    assert not segment.grad[1].any()


def test_tokens_do_not_grow_from_segment_to_segment(encoder):
    memory, real = torch.randn(1, 3, 8).double(), torch.ones(1, 5) > 0
    norms = []
    with torch.no_grad():
        for _ in range(200):
            memory = encoder(memory, torch.randn(1, 5, 8).double(), real)
            norms.append(memory.norm().item())
    assert max(norms[100:]) < 2 * max(norms[:10])


def test_dropout_is_for_training_alone():
    encoder = MemoryEncoder(8, 1, 2, dropout=0.5)
    inputs = torch.randn(1, 3, 8), torch.randn(1, 4, 8), torch.ones(1, 4) > 0
    assert not torch.equal(encoder(*inputs), encoder(*inputs))
    encoder.eval()
    assert torch.equal(encoder(*inputs), encoder(*inputs))


def test_heads_have_to_divide_the_hidden_size():
    with pytest.raises(ValueError, match=r"hidden_size must be a multiple of num_heads \(3\); got 8"):
        MemoryEncoder(8, 1, 3)


def test_new_rows_start_from_the_learned_tokens():
    memory = TokenMemory(4, 2, 1, 1)
    held = torch.randn(2, 2, 4)
    started = memory.starting_tokens(held, torch.tensor([0, 3]))
    assert torch.equal(started[0], memory.initial.weight)
    assert torch.equal(started[1], held[1])


def test_tokens_for_recall_are_there_only_if_there_is_recall():
    memory = TokenMemory(4, 2, 1, 1, prompts=False)
    with pytest.raises(ValueError, match="recall_weight must have been above 0"):
        memory.mask_token(torch.device("cpu"))
    with_prompts = TokenMemory(4, 2, 0, 1)
    assert with_prompts.encoder is None
    assert not torch.equal(*(f(torch.device("cpu")) for f in (with_prompts.mask_token, with_prompts.recall_token)))
