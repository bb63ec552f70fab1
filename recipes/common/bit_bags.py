"""Bags of bit patterns, as the demonstration of hflayers has them (Ramsauer et al., ICLR 2021)."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Bags:
    """Bits `[bags, instances, bits]`, zeros and ones as floats, and labels `[bags]`, 1 where a signal is."""

    bits: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, rows: Any) -> "Bags":
        return Bags(self.bits[rows], self.labels[rows])


def make_bags(num_bags: int, num_instances: int, num_signals: int, num_bits: int, seeds: tuple[int, int]) -> Bags:
    """Return bags, the positive half first, with one signal each.

    Numbers are drawn in the order in which hflayers' data set draws them: with its seeds, 43 for the signals and 44
    for the bags, these are its bags. No pattern is all zeros, and outside of positive bags none is a signal.
    """
    signals = _draw_signals(num_signals, num_bits, torch.Generator().manual_seed(seeds[0]))
    generator = torch.Generator().manual_seed(seeds[1])
    bits = torch.randint(2, (num_bags, num_instances, num_bits), generator=generator)
    taken = torch.cat([_codes(signals), torch.zeros(1, dtype=torch.long)])
    while (wrong := torch.isin(_codes(bits), taken)).any():
        bits[wrong] = torch.randint(2, (int(wrong.sum()), num_bits), generator=generator)
    positive = (num_bags + 1) // 2
    for bag in range(positive):
        place = torch.randint(num_instances, (1,), generator=generator)
        bits[bag, place] = signals[torch.randint(num_signals, (1,), generator=generator)]
    return Bags(bits.float(), (torch.arange(num_bags) < positive).float())


def _draw_signals(count: int, num_bits: int, generator: torch.Generator) -> Tensor:
    signals = torch.empty(0, num_bits, dtype=torch.long)
    while len(signals) < count:
        drawn = torch.randint(2, (count - len(signals), num_bits), generator=generator)
        signals = torch.unique(torch.cat([signals, drawn]), dim=0)
        signals = signals[signals.any(dim=1)]
    return signals


def _codes(bits: Tensor) -> Tensor:
    return (bits << torch.arange(bits.shape[-1])).sum(dim=-1)
