"""Sequences of symbols whose frequencies drift, and the symbols in the order of their frequencies.

The task of Martins et al. (infinity-former, ACL 2022): what has to be sorted lies all along the sequence, so whoever
sees only its end sorts by the frequencies of the end.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from .documents import score_last_tokens, token_segments


@dataclass(frozen=True)
class SortingTask:
    """Documents of `num_segments` segments: a prompt, a separator, and the symbols from the most frequent on.

    Ids 0 to `symbols` - 1 are the symbols, the next one is the separator. The answer ends the last segment.
    """

    symbols: int
    num_segments: int
    segment_length: int

    def __post_init__(self) -> None:
        if self.symbols + 1 >= self.segment_length:
            raise ValueError(
                f"segment_length must be above symbols + 1 = {self.symbols + 1}, so that the answer and some of the "
                f"prompt fit into the last segment; got {self.segment_length}."
            )

    @property
    def vocabulary(self) -> int:
        """Number of ids."""
        return self.symbols + 1

    @property
    def prompt_length(self) -> int:
        """Symbols that are to be counted."""
        return self.num_segments * self.segment_length - self.symbols - 1

    def draw(self, count: int, generator: torch.Generator, test: bool = False) -> Tensor:
        """Return new documents, int64 `[count, num_segments * segment_length]`."""
        prompts = draw_prompts(count, self.prompt_length, self.symbols, generator)
        separator = torch.full((count, 1), self.symbols)
        return torch.cat([prompts, separator, by_frequency(prompts, self.symbols)], dim=1)

    def segments(self, documents: Tensor) -> list[dict[str, Tensor]]:
        """Cut documents into the inputs of forwards."""
        return token_segments(documents, self.segment_length)

    def score(self, logits: Tensor, documents: Tensor) -> tuple[Tensor, Tensor]:
        """Return the loss of the answers and the share of each that is right."""
        return score_last_tokens(logits, documents[:, -self.symbols :])


def draw_prompts(count: int, length: int, symbols: int, generator: torch.Generator) -> Tensor:
    """Draw symbol j of `length` from (1 - r) p0 + r p1 with r = (j + 1) / length.

    p0 and p1 are integers from 1 to 9 for each symbol, normalised, new for every sequence.
    """
    start, end = torch.randint(1, 10, (2, count, 1, symbols), generator=generator).double()
    start, end = start / start.sum(-1, keepdim=True), end / end.sum(-1, keepdim=True)
    along = (torch.arange(1, length + 1, dtype=torch.float64) / length).unsqueeze(-1)
    up_to = ((1 - along) * start + along * end).cumsum(-1)
    chance = torch.rand(count, length, 1, generator=generator, dtype=torch.float64)
    # The last sum may miss 1 by a rounding.
    return (chance >= up_to).sum(-1).clamp(max=symbols - 1)


def by_frequency(prompts: Tensor, symbols: int) -> Tensor:
    """Return the symbols of each row `[N, L]` from the most frequent on, `[N, symbols]`.

    Of equally frequent ones that which occurs first goes first, and what does not occur goes last in its own order:
    `Counter.most_common`, as in the original.
    """
    length = prompts.shape[1]
    counts = torch.nn.functional.one_hot(prompts, symbols).sum(1)
    places = torch.arange(length).expand_as(prompts)
    first = torch.full_like(counts, length).scatter_reduce(1, prompts, places, "amin")
    return (counts * (length + 1) - first).argsort(dim=1, descending=True, stable=True)
