"""One segment of an engram memory around a backbone's forward: what it may read, and what becomes of it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from hf_memoria.backbones import Reading
from hf_memoria.memory import EngramState, Reminded, memorize, remind
from hf_memoria.memory.room import Claim
from hf_memoria.models.memory_config import EngramMemoryConfig


def starting_state(
    memory: Any, reset_memory: Tensor | None, *, batch_size: int, like: Tensor, hidden_size: int
) -> EngramState:
    """Return the state that a segment starts from: the one given, empty where `reset_memory` says so.

    Raises:
        TypeError: if `memory` is not an `EngramState` or `reset_memory` not a bool tensor.
        ValueError: if rows, hidden size, device or dtype are not those of the batch and the model.
    """
    if memory is None:
        memory = EngramState.empty(batch_size, hidden_size, device=like.device, dtype=like.dtype)
    if not isinstance(memory, EngramState):
        raise TypeError(f"memory must be an EngramState or None; got {type(memory).__name__}.")
    if memory.batch_size != batch_size:
        raise ValueError(
            f"memory must have a row for each of the batch's {batch_size}; got {memory.batch_size}. Take rows with "
            "state[rows] and join states with EngramState.cat."
        )
    if memory.hidden_size != hidden_size:
        raise ValueError(f"memory must have the model's hidden size {hidden_size}; got {memory.hidden_size}.")
    if not torch.compiler.is_compiling() and memory.cue.is_inference() and not torch.is_inference_mode_enabled():
        # What inference_mode made cannot take part in training; copies can.
        memory = memory.with_tensors({name: value.clone() for name, value in memory.tensors().items()}, Claim())
    for name, expected in (("device", like.device), ("dtype", like.dtype)):
        if (got := getattr(memory.data, name)) != expected:
            raise ValueError(f"memory must have the {name} {expected}; got {got}. See EngramState.to.")
    return memory if reset_memory is None else memory.reset(_rows_to_reset(reset_memory, batch_size, like.device))


def _rows_to_reset(reset_memory: Any, batch_size: int, device: torch.device) -> Tensor:
    if not isinstance(reset_memory, Tensor) or reset_memory.dtype != torch.bool:
        got = reset_memory.dtype if isinstance(reset_memory, Tensor) else type(reset_memory).__name__
        raise TypeError(f"reset_memory must be a bool tensor of shape [{batch_size}]; got {got}.")
    if reset_memory.shape != (batch_size,):
        raise ValueError(
            f"reset_memory must have shape [{batch_size}], one entry a row; got {list(reset_memory.shape)}."
        )
    return reset_memory.to(device)


def prepare_reading(
    state: EngramState, abstractor: nn.Module | None, config: EngramMemoryConfig, attention_mask: Tensor | None
) -> Reading:
    """Prepare what a segment may read (the design's steps 1 to 5): at once, or when its block `cue_layer` has run."""

    def make_working(cue: Tensor, cue_mask: Tensor) -> tuple[Tensor, Tensor]:
        if abstractor is None:
            return cue, cue_mask
        working = abstractor(cue, cue_mask)
        return working, cue_mask.any(dim=-1, keepdim=True).expand(working.shape[:2])

    def call_up(working: Tensor, working_mask: Tensor) -> Reminded:
        return remind(
            state,
            working,
            working_mask,
            num_reminded_stm=config.num_reminded_stm,
            num_reminded_ltm=config.num_reminded_ltm,
            ltm_search_depth=config.ltm_search_depth,
            correlation_kind=config.correlation,
            retrieval=config.retrieval,
        )

    reading = Reading(make_working, call_up, attention_mask)
    if config.cue_layer is None:
        reading.take_cue(state.cue, state.cue_mask)
    return reading


def end_segment(state: EngramState, reading: Reading, config: EngramMemoryConfig, final_hidden: Tensor) -> EngramState:
    """Write the segment into memory (the design's steps 6 and 8)."""
    working, working_mask, reminded = reading.contents()
    return memorize(
        state,
        working.detach(),
        working_mask,
        reminded,
        reading.mean_attention(),
        cue=final_hidden,
        cue_mask=reading.real_positions(final_hidden),
        initial_lifespan=config.initial_lifespan,
        lifespan_extend_scale=config.lifespan_extend_scale,
        stm_capacity=config.stm_capacity,
        ltm_capacity=config.ltm_capacity,
        graph=config.cofire_graph,
    )
