"""Where things are in the blocks of a model that nobody declared, by its module tree and by forwards that are watched.

What is found here is believed only after the proof (`models/proving.py`).
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from hf_memoria.backbones.around import Around
from hf_memoria.backbones.attending import can_gate_tokens
from hf_memoria.backbones.spec import BackboneSpec
from hf_memoria.backbones.stages import blocks_in_shape, heads_of, last_stage
from hf_memoria.backbones.tree import NotFoundError, attention_paths, find_blocks, said
from hf_memoria.backbones.watching import are_same, at_rest, ran_of, run_hooked, watch

ATTENTION_DROPOUT = ("attention_probs_dropout_prob", "attention_dropout", "attn_pdrop", "attn_dropout")
OUTPUT_DROPOUT = ("hidden_dropout_prob", "resid_pdrop", "resid_dropout", "hidden_dropout", "dropout", "dropout_rate")
WIDTHS = ("intermediate_size", "ffn_dim", "n_inner", "ffn_hidden_size", "hidden_dim", "encoder_ffn_dim", "d_ff")
"""Names under which configs have a rate, or the width of the MLP."""


def find_spec(model: Any, inputs: Mapping[str, Any]) -> BackboneSpec:
    """Return where things are in a model's blocks.

    Args:
        model: a model of Transformers, with head or without.
        inputs: the inputs of a forward, of one row or more and some positions.

    Raises:
        NotFoundError: saying what was tried.
    """
    start = _running_base(model, inputs)
    base = model.base_model if start is None else model.base_model.get_submodule(start)
    path, blocks = find_blocks(base, ran_of(model, base, inputs))
    if "pixel_values" in inputs:
        path = last_stage(model, base, path, inputs)
        blocks = base.get_submodule(path)
    having = [index for index, block in enumerate(blocks) if attention_paths(block)]
    tried: list[str] = []
    rest = having if "pixel_values" in inputs else ()  # in SAM few blocks see the whole image
    for index in dict.fromkeys((having[len(having) // 2], having[0], *rest)):
        found = _in_block(model, blocks[index], inputs, tried)
        if found is not None:
            return _with_rest(replace(found, base=start, blocks=path), model, base, inputs)
    raise NotFoundError("; ".join(dict.fromkeys(tried)))


def _running_base(model: Any, inputs: Mapping[str, Any]) -> str | None:
    """Return the path of what a head runs in place of the base model, or None where it runs that.

    Some heads take themselves for their base model (Llama 4): then it is the outermost model in them that ran.
    """
    base, ran = model.base_model, []
    inner = {path: module for path, module in base.named_modules() if hasattr(module, "main_input_name")}
    handles = [
        module.register_forward_pre_hook(lambda module, args, path=path: ran.append(path))
        for path, module in inner.items()
    ]
    output = run_hooked(model, {**inputs, "return_dict": True}, handles)[0]
    is_head = base is model and output.shape[-1] != said(model.config, "hidden_size")
    return next((path for path in ran if path or not is_head), None) or None


def _in_block(model: Any, block: nn.Module, inputs: Mapping[str, Any], tried: list[str]) -> BackboneSpec | None:
    seen = watch(model, block, inputs)
    for path in attention_paths(block):
        if seen.first("out", path) is None:
            tried.append(f"{path} does not run by itself")
            continue
        found = Around(model, block, inputs, seen, path).form()
        if isinstance(found, BackboneSpec):
            return found
        tried.append(f"{path}: {found}")
    return None


def _with_rest(spec: BackboneSpec, model: Any, base: Any, inputs: Mapping[str, Any]) -> BackboneSpec:
    config, blocks = model.config, base.get_submodule(spec.blocks)
    reads = tuple(index for index, block in enumerate(blocks) if spec.attention in attention_paths(block))
    if "pixel_values" in inputs:
        fitting = blocks_in_shape(model, base, spec.blocks, spec.joins, inputs)
        reads = tuple(index for index in reads if index in fitting)
    causal = _is_causal(base, inputs)
    pads_first = any(hasattr(module, "create_position_ids_from_input_ids") for module in base.modules())
    spec = replace(spec, reads=None if len(reads) == len(blocks) else reads)
    told = all(type(said(config, name)) is int for name in ("hidden_size", "num_attention_heads"))
    sizes = {} if told and "input_ids" in inputs else _sizes(model, base, spec, inputs, blocks[reads[-1]])
    return replace(
        spec,
        **sizes,
        causal=causal,
        gates_tokens=can_gate_tokens(base, spec, causal),
        num_blocks=None if len(blocks) == said(config, "num_hidden_layers") else len(blocks),
        attention_dropout=_named(config, ATTENTION_DROPOUT, float),
        output_dropout=None if spec.post_norm is None else _named(config, OUTPUT_DROPOUT, float),
        intermediate_size=_named(config, WIDTHS, int),
        embeddings=None if causal or _takes_positions(base) else _embeddings(model, base, spec.blocks, inputs),
        positions_after_padding=pads_first,
    )


def _sizes(model: Any, base: Any, spec: BackboneSpec, inputs: Mapping[str, Any], block: nn.Module) -> dict[str, Any]:
    """Return what an entry says where config or output do not: of models with stages, or of maps of features."""
    stream, config = watch(model, block, inputs).tensor("in", ""), model.config
    assert stream is not None  # both have run
    output = watch(model, base, inputs).tensor("out", "")
    assert output is not None
    width, heads = said(config, "hidden_size"), said(config, "num_attention_heads")
    final = output.dim() == 3 and output.shape[-1] == stream.shape[-1]
    return {
        "width": None if width == stream.shape[-1] else stream.shape[-1],
        "num_heads": None if type(heads) is int else _heads(config, block.get_submodule(spec.attention)),
        "final": None if final else f"{spec.blocks}.{len(base.get_submodule(spec.blocks)) - 1}",
    }


def _heads(config: Any, attention: nn.Module) -> int | None:
    """Return how many heads an attention has, by its own word or by what the config's part for text says."""
    of_text = said(config.get_text_config(), "num_attention_heads")
    return heads_of(attention) or (of_text if type(of_text) is int else None)


def _named(config: Any, names: tuple[str, ...], kind: type) -> str | None:
    return next((name for name in names if type(said(config, name)) is kind), None)


def _is_causal(base: Any, inputs: Mapping[str, Any]) -> bool:
    """Whether what comes last changes nothing of what stands before it; images are seen as a whole."""
    ids = inputs.get("input_ids")
    if ids is None:
        return False
    other = ids.clone()
    other[:, -1] = ids[:, 0]
    with torch.no_grad(), at_rest(base):
        one, two = (base(**{**inputs, "input_ids": each}, return_dict=True)[0][:, :-1] for each in (ids, other))
    return are_same(one, two)


def _takes_positions(base: Any) -> bool:
    """Whether a base model turns queries and keys by positions that it is given beside its embeddings."""
    taken = inspect.signature(base.forward).parameters
    turns = any("Rotary" in type(module).__name__ for module in base.modules())
    return turns and "inputs_embeds" in taken and "position_ids" in taken


def _embeddings(model: Any, base: nn.Module, blocks: str, inputs: Mapping[str, Any]) -> str | None:
    """Return the path of the last module whose output is what the first block gets."""
    seen = watch(model, base, inputs)
    first, begin = seen.tensor("in", f"{blocks}.0"), seen.first("in", f"{blocks}.0") or 0
    found = [path for kind, path, value in seen.events[:begin] if kind == "out" and path and are_same(value, first)]
    return next(reversed(found), None)
