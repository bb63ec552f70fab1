"""What a block's attention is replaced by: one call, whatever the mathematics."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

from torch import Tensor


@runtime_checkable
class AttentionUnit(Protocol):
    """Attention from `query` `[B, H, Q, d]` to `key` and `value` `[B, G, K, d]`; any module with this call is one.

    Keyword arguments are `mask`, `causal`, `scaling` and `dropout` as in `lwpf_attention_naive`, and `with_weights`.
    It returns the result `[B, H, Q, d]` and, if asked for, the weights `[B, H, Q, K]`, else None.
    """

    def __call__(
        self, query: Tensor, key: Tensor, value: Tensor, *, with_weights: bool = False, **options: Any
    ) -> tuple[Tensor, Tensor | None]: ...
