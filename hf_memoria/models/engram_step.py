"""One segment of an engram memory around a backbone's forward: what it may read, and what becomes of it.

`hf_memoria/how_it_works.md` follows a segment through it.
"""

from __future__ import annotations

from torch import Tensor, nn

from hf_memoria.backbones import Reading
from hf_memoria.memory import EngramState, Reminded, memorize, remind
from hf_memoria.models.memory_config import EngramMemoryConfig


def prepare_reading(
    state: EngramState, abstractor: nn.Module | None, config: EngramMemoryConfig, attention_mask: Tensor | None
) -> Reading:
    """Prepare what a segment may read: at once, or when its block `cue_layer` has run."""

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
    """Write the segment into memory."""
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
