"""Where things are in the blocks of a backbone: one declarative entry a family."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class BackboneSpec:
    """What has to be known of a family to read memory inside its blocks.

    Paths are dotted names of submodules.

    Attributes:
        blocks: from the base model to its list of blocks.
        attention: from a block to its self-attention, which returns a tuple that starts with its output.
        norm: from a block to one of its norms, of whose type the norms of the reads are.
        residual_norm: from a block to the norm whose input is the residual stream that the attention's output is
            added to; None in a post-norm backbone, where the attention's output is that stream already.
        causal: whether a position sees only what stands before it.
        attention_dropout: name of the config's dropout on attention weights.
        output_dropout: name of the config's dropout on the output of a layer.
        intermediate_size: name of the config's width of the MLP; where that is None, four times the hidden size.
    """

    blocks: str
    attention: str
    norm: str
    residual_norm: str | None
    causal: bool
    attention_dropout: str
    output_dropout: str
    intermediate_size: str


SPECS: dict[str, BackboneSpec] = {
    "gpt2": BackboneSpec(
        blocks="h",
        attention="attn",
        norm="ln_1",
        residual_norm="ln_1",
        causal=True,
        attention_dropout="attn_pdrop",
        output_dropout="resid_pdrop",
        intermediate_size="n_inner",
    ),
}
"""Entries by `model_type` of the backbone."""
