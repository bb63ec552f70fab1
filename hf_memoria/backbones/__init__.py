"""Where things are in a backbone, and what hooks on it know of the forward that is under way."""

from hf_memoria.backbones.attending import (
    attention_modules,
    blocks_by_interface,
    can_gate_tokens,
    check_attends_by_interface,
    leaves_positions,
)
from hf_memoria.backbones.blocks import (
    attention_heads,
    blocks_of,
    cached_length,
    check_layers_exist,
    cross_attention_heads,
    head_size,
    inner_width,
    joins_of,
    key_heads,
    key_size,
    norm_of,
    num_blocks,
    reading_blocks,
    submodule,
)
from hf_memoria.backbones.calls import Call, call_of, current_call, reading_of, run_segment
from hf_memoria.backbones.holders import HookHolder
from hf_memoria.backbones.spec import SPECS, BackboneSpec
from hf_memoria.backbones.undecayed import leave_undecayed

__all__ = [
    "SPECS",
    "BackboneSpec",
    "Call",
    "HookHolder",
    "attention_heads",
    "attention_modules",
    "blocks_by_interface",
    "blocks_of",
    "cached_length",
    "call_of",
    "can_gate_tokens",
    "check_attends_by_interface",
    "check_layers_exist",
    "cross_attention_heads",
    "current_call",
    "head_size",
    "inner_width",
    "joins_of",
    "key_heads",
    "key_size",
    "leave_undecayed",
    "leaves_positions",
    "norm_of",
    "num_blocks",
    "reading_blocks",
    "reading_of",
    "run_segment",
    "submodule",
]
