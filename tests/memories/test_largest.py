"""The largest of many scores in two looks: those of `topk`."""

import pytest
import torch

from hf_memoria.memories.shared import largest
from hf_memoria.memories.shared.largest import largest_columns, least_of_largest

WIDTHS = [3, 31, 32, 33, 95, 96, 97, 103, 500]
"""Around where blocks begin to be used for three (96), with and without columns that no block holds."""


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("order", ["random", "rising", "falling"])
def test_they_are_those_of_topk(width, order):
    scores = torch.randn(2, 4, 5, width, generator=torch.Generator().manual_seed(width))
    if order != "random":
        scores = scores.sort(dim=-1, descending=order == "falling").values
    expected = scores.topk(3, dim=-1)
    found = largest_columns(scores, 3)
    assert torch.equal(found.sort(dim=-1).values, expected.indices.sort(dim=-1).values)
    assert torch.equal(least_of_largest(scores, 3), expected.values[..., -1:])


def test_blocks_are_used_for_long_rows(monkeypatch):
    widths = []
    real = torch.Tensor.topk

    def counted(scores, *args, **kwargs):
        widths.append(scores.shape[-1])
        return real(scores, *args, **kwargs)

    monkeypatch.setattr(torch.Tensor, "topk", counted)
    largest_columns(torch.randn(1003), 3)
    assert widths == [1003 // largest.BLOCK, 3 * largest.BLOCK + 1003 % largest.BLOCK]


@pytest.mark.parametrize("width", WIDTHS)
def test_of_equal_scores_each_column_is_taken_once(width):
    scores = torch.zeros(2, width)
    scores[1] = -torch.inf
    found = largest_columns(scores, 3).sort(dim=-1).values
    assert bool((found.diff(dim=-1) > 0).all())
    assert int(found.min()) >= 0
    assert int(found.max()) < width


def test_minus_infinity_comes_last():
    scores = torch.full((1, 400), -torch.inf)
    scores[0, [7, 399]] = torch.tensor([1.0, -3.0])
    assert {7, 399} <= set(largest_columns(scores, 3)[0].tolist())
    assert least_of_largest(scores, 2).item() == -3.0
