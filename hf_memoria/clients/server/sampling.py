"""Answers drawn by a request's own random numbers.

torch's are one stream for the whole process: with several requests at a time, a seed would mean nothing. Here every
request has a generator. Of scores with Gumbel noise added, the greatest is at the place that sampling would draw.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)


class GumbelNoise(LogitsProcessor):
    """Adds noise to scores, so that a greedy choice is a sample of their softmax.

    Args:
        seed: the start of its random numbers; None starts anywhere.
        device: the device of the scores.
    """

    def __init__(self, seed: int | None, device: torch.device | str) -> None:
        self.generator = torch.Generator(device)
        if seed is None:
            self.generator.seed()
        else:
            self.generator.manual_seed(seed)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Return scores `[B, V]` with noise."""
        noise = torch.empty_like(scores, dtype=torch.float32).exponential_(generator=self.generator)
        return scores.float() - noise.log()


def sampling_of(
    config: Any, temperature: float | None, top_p: float | None, seed: int | None, device: torch.device | str
) -> LogitsProcessorList:
    """Return what makes greedy decoding sample as it is asked for; nothing where the likeliest token is.

    Args:
        config: the model's generation config, which says what a request leaves open.
        temperature: the request's; 0 takes the likeliest token.
        top_p: share of probability that is drawn from.
        seed: the start of the random numbers.
        device: the device of the scores.
    """
    if temperature == 0 or (temperature is None and not config.do_sample):
        return LogitsProcessorList()
    temperature, top_p = temperature or config.temperature or 1.0, top_p or config.top_p or 1.0
    steps: list[LogitsProcessor] = []
    if temperature != 1:
        steps.append(TemperatureLogitsWarper(float(temperature)))
    if config.top_k:
        steps.append(TopKLogitsWarper(config.top_k))
    if top_p < 1:
        steps.append(TopPLogitsWarper(float(top_p)))
    return LogitsProcessorList([*steps, GumbelNoise(seed, device)])
