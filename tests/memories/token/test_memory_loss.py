"""The memory loss, written out: chunks, composition, and VICReg's two terms."""

import pytest
import torch

from hf_memoria.memories.token import memory_loss
from hf_memoria.memories.token.encoder import MemoryEncoder
from hf_memoria.memories.token.memory_loss import random_chunks, spread_losses


@pytest.mark.parametrize(("length", "max_chunks"), [(1, 2), (2, 8), (5, 2), (12, 4), (40, 8)])
def test_chunks_are_a_segment_cut_in_two_or_more(length, max_chunks):
    counts = set()
    for seed in range(60):
        torch.manual_seed(seed)
        chunks = random_chunks(length, max_chunks, torch.device("cpu"))
        assert chunks.shape == (max_chunks, length)
        assert chunks.sum(dim=0).tolist() == [1] * length
        places = chunks.int().argmax(dim=0)
        assert (places.diff() >= 0).all()
        counts.add(len(places.unique()))
    assert counts == {1} if length == 1 else min(counts) >= 2
    assert max(counts) == min(max_chunks, length)


def test_composition_is_reading_chunk_by_chunk():
    """With an encoder that adds up what it reads and forgets a part, in plain numbers."""

    def encode(memory, real):
        lengths = real.sum(dim=-1)[:, None, None]
        return torch.where(lengths > 0, 0.5 * memory + lengths, memory)

    memory, real = torch.ones(2, 1, 3), torch.tensor([[True] * 8, [True] * 3 + [False] * 5])
    torch.manual_seed(3)
    loss = memory_loss(encode, memory, real, max_chunks=3)
    torch.manual_seed(3)
    chunks = random_chunks(8, 3, torch.device("cpu"))
    total = 0.0
    for row in range(2):
        pieces, whole = 1.0, 0.5 + int(real[row].sum())
        for chunk in chunks:
            if length := int((chunk & real[row]).sum()):
                pieces = 0.5 * pieces + length
        total += (pieces - whole) ** 2 / 2
    assert loss.composition.item() == pytest.approx(total)
    assert total > 0


def test_an_encoder_that_does_not_care_how_it_is_read_has_no_composition_loss():
    loss = memory_loss(
        lambda memory, real: memory + real.sum(-1)[:, None, None], torch.randn(2, 2, 3), torch.ones(2, 9) > 0, 4
    )
    assert loss.composition.item() == pytest.approx(0, abs=1e-9)


def by_hand(samples, target):
    """VICReg's terms from its paper, sample by sample and coordinate by coordinate."""
    count, size = len(samples), len(samples[0])
    mean = [sum(sample[j] for sample in samples) / count for j in range(size)]
    covariance = [
        [sum((s[i] - mean[i]) * (s[j] - mean[j]) for s in samples) / (count - 1) for j in range(size)]
        for i in range(size)
    ]
    variance = sum(max(0.0, target - (covariance[j][j] + 1e-4) ** 0.5) for j in range(size)) / size
    apart = sum(covariance[i][j] ** 2 for i in range(size) for j in range(size) if i != j) / size
    return variance, apart


def test_spread_is_vicregs():
    torch.manual_seed(0)
    tokens, counts = torch.randn(4, 3, 5) * torch.linspace(0.1, 2, 5), torch.tensor([True, True, False, True])
    variance, covariance = spread_losses(tokens, counts, 1.0)
    expected = by_hand(tokens[counts].flatten(0, 1).tolist(), 1.0)
    assert (variance.item(), covariance.item()) == pytest.approx(expected, rel=1e-5)
    assert min(expected) > 0


def test_tokens_that_are_all_the_same_are_pushed_apart():
    tokens = torch.ones(2, 3, 4)
    variance, covariance = spread_losses(tokens, torch.ones(2) > 0, 1.0)
    assert variance.item() == pytest.approx(0.99)
    assert covariance.item() == 0


def test_rows_of_padding_count_for_nothing():
    torch.manual_seed(0)
    encoder = MemoryEncoder(8, 2, 2)
    segment, memory = torch.randn(3, 6, 8), torch.randn(3, 2, 8)
    real = torch.tensor([[True] * 6, [True] * 4 + [False] * 2, [False] * 6])

    def loss_of(rows):
        torch.manual_seed(7)
        projected = encoder.project(segment[rows])
        return memory_loss(lambda tokens, where: encoder.read(tokens, projected, where), memory[rows], real[rows], 3)

    for one, other in zip(vars(loss_of([0, 1, 2])).values(), vars(loss_of([0, 1])).values(), strict=True):
        torch.testing.assert_close(one, other)
    nothing = loss_of([2])
    assert nothing.composition == nothing.variance == nothing.covariance == 0


def test_gradients_are_finite_where_a_coordinate_does_not_vary():
    tokens = torch.zeros(2, 3, 4, requires_grad=True)
    sum(spread_losses(tokens, torch.ones(2) > 0, 1.0)).backward()
    assert tokens.grad.isfinite().all()
