"""What a separate read searches for before anything is learned."""

from __future__ import annotations

import torch
from torch import nn

SHARE_OF_HIDDEN = 0.1
"""What the projection of the hidden state keeps, where queries are made of ids: enough to get gradient."""


@torch.no_grad()
def start_by_words(
    query: nn.Linear, key: nn.Linear, value: nn.Linear, output: nn.Linear, by_hidden: nn.Linear | None
) -> None:
    """Let keys start as queries, and the output as the values' transpose, where their sizes allow it.

    So an engram is found by its own words, and read as the words behind it, before anything is learned. From keys at
    random, a word whose engram is not among the best at first gets no gradient, and may stay unfound.

    Args:
        query: the projection of what is asked with.
        key: the projection of what is found.
        value: the projection of what is read.
        output: the projection of what was read into the residual stream.
        by_hidden: the projection of hidden states into queries where `query` is that of ids; None where it is not.
    """
    if by_hidden is not None and by_hidden.weight.is_floating_point():  # packed in four bits it is not
        by_hidden.weight.mul_(SHARE_OF_HIDDEN)
    if key.weight.shape != query.weight.shape:
        return
    key.load_state_dict(query.state_dict())
    if output.weight.shape == value.weight.T.shape:  # packed in four bits they are not
        output.weight.copy_(value.weight.T)
