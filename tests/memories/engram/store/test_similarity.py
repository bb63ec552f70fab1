"""Correlations in low precision rank as float64 does, also where vectors have much in common."""

import pytest
import torch

from hf_memoria.memories.engram.store.similarity import CORRELATIONS, correlation


def spread_out(offset, generator, dtype, width=7, engrams=60, hidden=96):
    """Working memory and engrams that are near each other and all far from zero."""
    common = offset * torch.randn(1, 1, hidden, generator=generator, dtype=torch.float64)
    working = common + 0.1 * torch.randn(2, width, hidden, generator=generator, dtype=torch.float64)
    others = common + 0.1 * torch.randn(2, engrams, hidden, generator=generator, dtype=torch.float64)
    return working.to(dtype), others.to(dtype)


def by_the_book(working, mask, engrams, how):
    """The definition, with every pair's difference, in float64."""
    distance = (working.double().unsqueeze(2) - engrams.double().unsqueeze(1)).square().sum(-1)
    if how == "logsumexp":
        return (-distance).masked_fill(~mask.unsqueeze(-1), float("-inf")).logsumexp(dim=1)
    return -(distance * mask.unsqueeze(-1)).sum(1) / mask.sum(1, keepdim=True)


@pytest.mark.parametrize("how", CORRELATIONS)
@pytest.mark.parametrize("offset", [0.0, 1.0, 30.0])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_the_ranking_is_that_of_float64(how, offset, dtype):
    generator = torch.Generator().manual_seed(0)
    working, engrams = spread_out(offset, generator, dtype)
    mask = torch.arange(7) < torch.tensor([[7], [4]])
    expected, got = by_the_book(working, mask, engrams, how), correlation(working, mask, engrams, how).double()
    # Up to a constant of the row.
    shift = (got - expected).mean(dim=1, keepdim=True)
    scale = (expected.amax(1) - expected.amin(1)).max()
    torch.testing.assert_close(
        got - shift, expected, rtol=0, atol=float(scale) * (1e-12 if dtype == torch.float64 else 2e-5)
    )
    if offset <= 1 or dtype != torch.bfloat16:  # bfloat16 at 30 keeps a few values only, which tie
        assert (got.argsort(dim=1) == expected.argsort(dim=1)).float().mean() > 0.95
    for k in (1, 10):
        best, wanted = got.topk(k, dim=1).indices, expected.topk(k, dim=1).values[:, -1:]
        assert bool((expected.gather(1, best) >= wanted - 2e-5 * scale).all())


@pytest.mark.parametrize("how", CORRELATIONS)
def test_the_same_vector_twice_correlates_the_same(how):
    generator = torch.Generator().manual_seed(1)
    working, engrams = spread_out(3.0, generator, torch.float32)
    mask = torch.ones(2, 7, dtype=torch.bool)
    got = correlation(working, mask, torch.cat([engrams, engrams], dim=1), how)
    if how == "mean_l2":
        assert torch.equal(got[:, :60], got[:, 60:])
    else:  # a matrix product may round one column differently from another
        torch.testing.assert_close(got[:, :60], got[:, 60:], rtol=0, atol=1e-5)


def test_an_engram_that_is_a_working_memory_is_not_lost_among_large_numbers():
    generator = torch.Generator().manual_seed(2)
    working, engrams = spread_out(1000.0, generator, torch.float32)
    engrams[0, 17] = working[0, 3]
    got = correlation(working, torch.ones(2, 7, dtype=torch.bool), engrams)
    assert int(got[0].argmax()) == 17
