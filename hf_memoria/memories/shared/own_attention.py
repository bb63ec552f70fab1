"""An attention of a memory's own in somebody else's blocks, through Transformers' AttentionInterface.

Axes: B rows, Q queries, K keys, H heads of queries, G heads of keys, d size of a head.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from hf_memoria.backbones import blocks_of, submodule
from hf_memoria.backbones.brought import own_name
from hf_memoria.backbones.tree import NotTakenError

NOT_DONE = ("position_bias", "softcap", "s_aux", "cache")
"""Arguments by which some backbones change their attention, which an attention of our own knows nothing of."""

STOCK = (None, "sdpa", "eager")
"""Implementations that a memory's own attention stands for."""

OWN_IMPLEMENTATIONS: set[str] = set()
"""Names in `config._attn_implementation` of the attentions that memories bring."""


def register_own_attention(name: str, attend: Callable[..., Any]) -> str:
    """Make Transformers know an attention; return its name in `config._attn_implementation`."""
    implementation = own_name(name)
    AttentionInterface.register(implementation, attend)
    AttentionMaskInterface.register(implementation, sdpa_mask)
    OWN_IMPLEMENTATIONS.add(implementation)
    return implementation


def check_can_attend(config: Any, implementation: str, field: str, off: str) -> None:
    """Refuse an attention that a memory's own cannot stand for.

    Args:
        config: the config of the model.
        implementation: the name of the memory's own attention.
        field: the setting that asks for it, as `memory.share_attention is True`.
        off: the setting without it, as `without share_attention`.

    Raises:
        ValueError: naming it.
    """
    if config.attention is not None:
        raise ValueError(f"attention must be None where {field}; got both. wrap(model, memory=...) {off} takes one.")
    found = config._attn_implementation
    if found not in (*STOCK, implementation):
        raise ValueError(
            f"attn_implementation must be None, 'sdpa' or 'eager' where {field}; got {found!r}. A memory {off} "
            "takes it."
        )


def check_still_attends(config: Any, implementation: str, field: str, off: str) -> None:
    """Refuse a forward whose attention was replaced after the model was built; see `check_can_attend`.

    Raises:
        ValueError: saying how the memory is read no longer.
    """
    if config._attn_implementation != implementation:
        raise ValueError(
            f"attn_implementation must stay {implementation!r} where {field}; got {config._attn_implementation!r}. "
            f"wrap(model, memory=...) {off} gives it back."
        )


def mark_attention(model: Any, index: int, attribute: str) -> list[nn.Module]:
    """Put the number of a block on the modules of its attention, for the function that attends; return them."""
    spec = model.config.backbone_spec
    modules = list(submodule(blocks_of(model.base_model, spec)[index], spec, "attention").modules())
    for module in modules:
        setattr(module, attribute, index)
    return modules


def check_done(module: nn.Module, kwargs: dict[str, Any], setting: str, names: Sequence[str] = NOT_DONE) -> None:
    """Refuse a backbone that changes its attention by what our own does not know.

    Args:
        module: the attention module.
        kwargs: the arguments that it attends with.
        setting: the setting to change, as `share_attention must be False`.
        names: the arguments that are not known.

    Raises:
        NotTakenError: naming them.
    """
    wanted = [name for name in names if kwargs.get(name) is not None]
    if wanted:
        raise NotTakenError(f"{setting} for {type(module).__name__}, which attends with {wanted}.")


def mask_of_keys(module: nn.Module, query: Tensor, key: Tensor, mask: Tensor | None, is_causal: bool | None) -> Tensor:
    """Return which keys each query may see, bool `[B or 1, 1 or H, Q, K]`, from what an attention is called with.

    A mask of floats, as of a backbone with biases of relative positions (Swin), stays as it is: it is added to scores.

    Args:
        module: the attention module, which says whether it is causal unless the call does.
        query: the queries, `[B, H, Q, d]`.
        key: the keys, `[B, G, K, d]`.
        mask: bool or added to the scores, or None.
        is_causal: the flag of the call; None leaves it to the module.
    """
    if mask is not None:
        return mask if mask.dtype == torch.bool else mask.to(query.dtype)
    queries, keys = query.shape[2], key.shape[2]
    causal = bool(getattr(module, "is_causal", True) if is_causal is None else is_causal)
    if not causal or queries == 1:
        return torch.ones(1, 1, queries, keys, dtype=torch.bool, device=query.device)
    own = torch.ones(queries, keys, dtype=torch.bool, device=query.device).tril(keys - queries)
    return own[None, None]


def masked_scores(scores: Tensor, mask: Tensor) -> Tensor:
    """Return scores `[B, H, Q, K]`, -inf where a mask of `mask_of_keys` hides a key."""
    if mask.dtype == torch.bool:
        return scores.masked_fill(~mask, -torch.inf)
    return (scores + mask).masked_fill(mask <= torch.finfo(mask.dtype).min / 2, -torch.inf)


def added_mask(mask: Tensor, like: Tensor) -> Tensor:
    """Return a mask of `mask_of_keys` as what is added to scores, in the dtype of `like`."""
    if mask.dtype != torch.bool:
        return mask
    added = torch.zeros(mask.shape, dtype=like.dtype, device=like.device)
    return added.masked_fill(~mask, torch.finfo(like.dtype).min)


def scores_of(query: Tensor, key: Tensor, scaling: float | None) -> Tensor:
    """Return the scores `[B, H, Q, K]`, float32."""
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    scores = products_of(query, key).float()
    return scores if scale == 1 else scores * scale


def products_of(query: Tensor, key: Tensor) -> Tensor:
    """Return the inner products of queries and keys `[B, H, Q, K]`, in the dtype of the queries."""
    return query @ _by_head(key, query).transpose(-1, -2)


def attended(query: Tensor, scores: Tensor, value: Tensor, dropout: float) -> tuple[Tensor, Tensor]:
    """Return softmax attention `[B, Q, H, d]` by scores `[B, H, Q, K]`, -inf where hidden, and its weights."""
    weights = weights_of(scores, query.dtype)
    return weighted(query, F.dropout(weights, dropout, dropout > 0), value), weights


def weights_of(scores: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the softmax of scores `[B, H, Q, K]`, -inf where hidden."""
    weights = scores.softmax(dim=-1).to(dtype)
    # A row that is all padding sees nothing; what it gives is never used, but NaN would reach gradients.
    return weights.masked_fill(scores.detach().amax(dim=-1, keepdim=True).isneginf(), 0.0)


def weighted(query: Tensor, weights: Tensor, value: Tensor) -> Tensor:
    """Return the sums `[B, Q, H, d]` of values `[B, G, K, d]` by weights `[B, H, Q, K]`."""
    return (weights @ _by_head(value, query)).transpose(1, 2).contiguous()


def _by_head(keys: Tensor, query: Tensor) -> Tensor:
    return keys.repeat_interleave(query.shape[1] // keys.shape[1], dim=1)
