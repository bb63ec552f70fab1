"""Softmax weights over the best engrams: which are among them, up to what a processor rounds."""

import pytest
import torch

from hf_memoria.memories.episodic.heads import weights_of_best
from hf_memoria.memories.episodic.selection import Selection


@pytest.mark.parametrize("score", [6.0, 0.3, -2.0, 1e-6])
def test_engrams_that_are_alike_are_read_together_however_a_kernel_rounds(score):
    last = torch.tensor(score)
    rounded = last + torch.tensor([0.0, 2.0**-22, -(2.0**-22)]) * last.abs().clamp(min=1)
    scores = torch.cat([torch.tensor([8.0]), rounded, torch.tensor([score - 1e-3])]).view(1, 1, 1, -1)
    read = weights_of_best(scores, torch.zeros(1, 1, 1), Selection(2))[0, 0, 0]
    assert (read > 0).tolist() == [True, True, True, True, False]
    torch.testing.assert_close(read[1:4], read[1].expand(3), rtol=1e-5, atol=0)


def test_those_that_may_not_be_read_stay_unread_where_too_few_may():
    scores = torch.tensor([1.0, -torch.inf, -torch.inf, -torch.inf]).view(1, 1, 1, -1)
    read = weights_of_best(scores, torch.zeros(1, 1, 1), Selection(2))[0, 0, 0]
    torch.testing.assert_close(read, torch.tensor([1.0, 0, 0, 0]).mul(torch.tensor(1.0).sigmoid()))
