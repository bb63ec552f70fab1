"""Another attention in somebody else's model, through Transformers' AttentionInterface.

A kind of attention is a name in the interface and a unit (`AttentionUnit`) on each attention module that is to have
it. All kinds share one function, which does what every attention has to do with a backbone's masks. Masks are bool,
as scaled_dot_product_attention's, and absent where a causal rule says it all. Both the function and its mask have to
be registered: without the mask's entry Transformers makes none, and a causal model sees the future.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from hf_memoria.attentions.lwpf.naive import lwpf_attention_naive
from hf_memoria.backbones import BackboneSpec, attention_modules, blocks_of, current_call
from hf_memoria.backbones.brought import own_name
from hf_memoria.backbones.tree import NotTakenError

UNIT = "attention_unit"
"""Name of the unit on an attention module."""

NOT_DONE = ("position_bias", "softcap", "s_aux", "cache")
"""Arguments by which some backbones change their attention, which a unit knows nothing of."""


def register_attention(kind: str) -> None:
    """Make Transformers know a kind of attention; calling it again changes nothing."""
    AttentionInterface.register(implementation_of(kind), attend)
    AttentionMaskInterface.register(implementation_of(kind), sdpa_mask)


def implementation_of(kind: str) -> str:
    """Return the attention implementation, as Transformers calls it, of a kind of attention."""
    return own_name(kind)


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    """Attend as the unit of `module` does, as softmax attention where it has none; for AttentionInterface.

    Returns:
        the result `[B, Q, H, d]`, and the weights `[B, H, Q, K]` if the forward asks for attentions.

    Raises:
        NotTakenError: if the backbone wants something that a unit does not do.
    """
    unit, call = getattr(module, UNIT, None), current_call()
    with_weights = call is not None and call.with_attentions
    if unit is None and not with_weights:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout, scaling, is_causal=is_causal, **kwargs
        )
    wanted = [name for name in NOT_DONE if kwargs.get(name) is not None]
    if wanted:
        raise NotTakenError(f"attention must be None for {type(module).__name__}, which attends with {wanted}.")
    queries = query.shape[2]
    if is_causal is None:
        is_causal = getattr(module, "is_causal", True)
    causal = queries > 1 and attention_mask is None and is_causal
    if causal:
        # A static cache has room behind what was read so far; the first queries are the first keys.
        key, value = key[:, :, :queries], value[:, :, :queries]
    settings: Any = {"mask": attention_mask, "causal": causal, "scaling": scaling, "dropout": dropout}
    if unit is None:
        output, weights = lwpf_attention_naive(query, key, value, None, **settings)
    else:
        output, weights = unit(query, key, value, with_weights=with_weights, **settings)
    return output.transpose(1, 2).contiguous(), weights


def install_attention(
    base_model: nn.Module, spec: BackboneSpec, make_unit: Callable[[], nn.Module], layers: list[int] | None = None
) -> None:
    """Give attention modules of a base model, in place, a unit each: self-attention and cross-attention.

    Args:
        base_model: the model without head.
        spec: the spec of the backbone, which says where its blocks are.
        make_unit: the function that makes an `AttentionUnit`.
        layers: blocks that get one, counted from 0; None is all of them.
    """
    blocks = blocks_of(base_model, spec)
    with_attention = range(len(blocks)) if spec.reads is None else spec.reads
    for index in with_attention if layers is None else layers:
        for module in attention_modules(blocks[index]):
            setattr(module, UNIT, make_unit())
