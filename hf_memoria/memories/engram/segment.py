"""One segment of an engram memory around a backbone's forward: what it may read, and what becomes of it.

`hf_memoria/how_it_works.md` follows a segment through it.
"""

from __future__ import annotations

from torch import Tensor, nn

from hf_memoria.memories.engram.config import EngramMemoryConfig
from hf_memoria.memories.engram.reading import Reading
from hf_memoria.memories.engram.store import EngramState, Reminded, memorize, remind


def prepare_reading(
    state: EngramState, abstractor: nn.Module | None, config: EngramMemoryConfig, attention_mask: Tensor | None
) -> Reading:
    """Prepare what a segment may read: at once, or when block `cue_layer` has run."""

    def make_working(cue: Tensor, cue_mask: Tensor) -> tuple[Tensor, Tensor]:
        if abstractor is None:
            return cue, cue_mask
        working = abstractor(cue, cue_mask)
        return working, cue_mask.any(dim=-1, keepdim=True).expand(working.shape[:2])

    def retrieve(working: Tensor, working_mask: Tensor) -> Reminded:
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

    reading = Reading(attention_mask, make_working, retrieve)
    if config.cue_layer is None:
        reading.take_cue(state.cue, state.cue_mask)
    return reading


def end_segment(state: EngramState, reading: Reading, config: EngramMemoryConfig, final_hidden: Tensor) -> EngramState:
    """Write a segment that one forward has read into memory."""
    return memorize_segment(
        state, reading.contents(), reading.mean_attention(), final_hidden, reading.real_positions(final_hidden), config
    )


def memorize_segment(
    state: EngramState,
    contents: tuple[Tensor, Tensor, Reminded],
    attention: Tensor,
    cue: Tensor,
    cue_mask: Tensor,
    config: EngramMemoryConfig,
) -> EngramState:
    """Write a segment into memory.

    Args:
        state: the state that the segment started from, B rows.
        contents: working memory `[B, W, D]`, its mask `[B, W]`, and the engrams retrieved.
        attention: attention that each of these got, mean over blocks, heads and real positions, `[B, K]`.
        cue: final hidden states of the segment, `[B, T, D]`.
        cue_mask: positions that are real, bool `[B, T]`.
        config: settings of the memory.
    """
    working, working_mask, reminded = contents
    return memorize(
        state,
        working.detach(),
        working_mask,
        reminded,
        attention,
        cue=cue,
        cue_mask=cue_mask,
        initial_lifespan=config.initial_lifespan,
        lifespan_extend_scale=config.lifespan_extend_scale,
        stm_capacity=config.stm_capacity,
        ltm_capacity=config.ltm_capacity,
        graph=config.cofire_graph,
    )
