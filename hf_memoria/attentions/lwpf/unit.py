"""Attention with partial forgetting as one attention module uses it."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from hf_memoria.attentions.lwpf.attention import lwpf_attention
from hf_memoria.attentions.lwpf.forgetting import ForgettingFunction
from hf_memoria.attentions.lwpf.naive import lwpf_attention_naive


class LwpfUnit(nn.Module):
    """Attention with partial forgetting.

    Args:
        forgetting: the forgetting, which gives D and D'.
    """

    def __init__(self, forgetting: ForgettingFunction) -> None:
        super().__init__()
        self.forgetting = forgetting

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, *, with_weights: bool = False, **options: Any
    ) -> tuple[Tensor, Tensor | None]:
        """Attend; weights are made only if they are asked for."""
        if with_weights:
            return lwpf_attention_naive(query, key, value, self.forgetting, **options)
        return lwpf_attention(query, key, value, self.forgetting, **options), None
