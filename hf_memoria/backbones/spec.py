"""Where things are in the blocks of a backbone: one declarative entry a family."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True, kw_only=True)
class BackboneSpec:
    """What has to be known of a family to read memory inside its blocks.

    Paths are dotted names of submodules. A block has a norm before its self-attention, behind the sum of that and the
    residual stream, or before that sum alone, so one of `pre_norm`, `post_norm` and `output_norm` is given; the norms
    of the reads are of the same type.

    Attributes:
        base: path from the base model to the module that a head runs in its place, at which the other paths begin (the
            decoder of BART); None is the base model itself.
        blocks: path from the base model to its list of blocks.
        attention: path from a block to its self-attention, which returns its output or a tuple that starts with it.
        causal: whether a position sees only what stands before it, or the name of the config's field that says so.
        pre_norm: path from a block to the norm whose input is the residual stream that the attention's output is added
            to.
        post_norm: path from a block to the norm whose output is the residual stream with the attention in it.
        output_norm: path from a block without a norm before its attention to the norm of the attention's output, which
            is added to the residual stream then (OLMo 2).
        joined: path from a block to the module whose output is added to the residual stream, where that is not the
            attention itself or `output_norm`: a norm, a scale or a dropout behind the attention. What is read joins
            the stream behind it.
        multiplier: the block's factor before the sum, a number or the name of the config's field.
        adds_residual: whether the attention adds its output to the residual stream by itself and returns the sum
            (BLOOM).
        attention_dropout: name of the config's dropout on attention weights; None drops nothing.
        output_dropout: name of the config's dropout on the output of a layer; None drops nothing.
        intermediate_size: name of the config's width of the MLP; None, or a field that is None, is four
            times the hidden size.
        positions_after_padding: whether positions are counted from `pad_token_id + 1` on, as RoBERTa does.
        embeddings: path from the base model to the module whose output goes into its first block, where memory tokens
            join the segment; None puts them into `inputs_embeds`, and their positions into `position_ids`.
        reads: numbers of the blocks that have a self-attention, in which alone memory is read; None is all.
        num_blocks: blocks in the list, where the config's `num_hidden_layers` says something else (ALBERT).
        in_windows: whether the attention gets and returns the stream cut into windows (Swin), so that the stream is
            found at the block itself where no norm reads it.
        width: width of the stream, where the config's `hidden_size` does not say it; of stages, the last one's.
        num_heads: heads of the attention, where the config's `num_attention_heads` is no number.
        gates_tokens: whether memory tokens can be put behind a gate: the self-attention of the blocks goes through
            Transformers' AttentionInterface, and tokens before the text leave its positions.
        final: path from the base model to the module whose output counts as the final hidden states, where the base
            model returns something else than rows, positions and the stream's width.

    Raises:
        ValueError: if not exactly one of `pre_norm`, `post_norm` and `output_norm` is given.
    """

    base: str | None = None
    blocks: str
    attention: str
    causal: bool | str
    pre_norm: str | None = None
    post_norm: str | None = None
    output_norm: str | None = None
    joined: str | None = None
    multiplier: float | str = 1.0
    adds_residual: bool = False
    attention_dropout: str | None = None
    output_dropout: str | None = None
    intermediate_size: str | None = "intermediate_size"
    positions_after_padding: bool = False
    embeddings: str | None = None
    reads: tuple[int, ...] | None = None
    num_blocks: int | None = None
    in_windows: bool = False
    width: int | None = None
    num_heads: int | None = None
    gates_tokens: bool = True
    final: str | None = None

    def __post_init__(self) -> None:
        norms = (self.pre_norm, self.post_norm, self.output_norm)
        if sum(norm is not None for norm in norms) != 1:
            raise ValueError(
                "exactly one of pre_norm, post_norm and output_norm must be the path of a norm; "
                f"got {', '.join(map(repr, norms))}."
            )

    @property
    def norm(self) -> str:
        """Path from a block to the norm beside its self-attention."""
        return next(norm for norm in (self.pre_norm, self.post_norm, self.output_norm) if norm is not None)

    @property
    def joins(self) -> str:
        """Path from a block to the module whose output is added to the residual stream, but for `multiplier`."""
        return self.joined or self.output_norm or self.attention

    def multiplier_of(self, config: Any) -> float:
        """Return what that output is multiplied with in a model with this config."""
        return float(getattr(config, self.multiplier) if isinstance(self.multiplier, str) else self.multiplier)

    def is_causal(self, config: Any) -> bool:
        """Whether a model with this config is causal."""
        return bool(getattr(config, self.causal) if isinstance(self.causal, str) else self.causal)


_BERT = BackboneSpec(
    blocks="encoder.layer",
    embeddings="embeddings",
    attention="attention",
    post_norm="attention.output.LayerNorm",
    causal="is_decoder",
    attention_dropout="attention_probs_dropout_prob",
    output_dropout="hidden_dropout_prob",
)

SPECS: dict[str, BackboneSpec] = {
    "gpt2": BackboneSpec(
        blocks="h",
        attention="attn",
        pre_norm="ln_1",
        causal=True,
        attention_dropout="attn_pdrop",
        output_dropout="resid_pdrop",
        intermediate_size="n_inner",
    ),
    "llama": BackboneSpec(
        blocks="layers",
        attention="self_attn",
        pre_norm="input_layernorm",
        causal=True,
        attention_dropout="attention_dropout",
    ),
    "bert": _BERT,
    "roberta": replace(_BERT, positions_after_padding=True),
    # A block of ViT drops out what its attention returns, and with it what was read: no dropout of our own.
    "vit": BackboneSpec(
        blocks="layers",
        embeddings="embeddings",
        attention="attention",
        pre_norm="layernorm_before",
        causal=False,
        attention_dropout="attention_probs_dropout_prob",
    ),
}
"""Entries by `model_type` of the backbone; `register_family` adds to them."""
