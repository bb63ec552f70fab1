"""Settings of an engram memory, as they stand in `config.memory`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from hf_memoria.memories.engram.store.checks import RETRIEVALS
from hf_memoria.memories.engram.store.lifespans import MOST
from hf_memoria.memories.engram.store.room import GRAPHS
from hf_memoria.memories.engram.store.similarity import CORRELATIONS
from hf_memoria.memories.shared.settings import AUTO, GatedSettings
from hf_memoria.settings import (
    MOST_COUNTED,
    MOST_STEPS,
    MOST_VECTORS,
    check_count,
    check_list_of_counts,
    check_number,
    check_one_of,
)

GATES = (None, "tanh", "normed", AUTO)


@dataclass
class EngramMemoryConfig(GatedSettings):
    """An engram memory (Memoria, Park & Bak, ICML 2024). The defaults are the paper's for GPT-2.

    Args:
        num_memories: working-memory vectors that the abstractor makes of a segment, at most 65536; None keeps every
            position.
        stm_capacity: short-term engrams of a row before the oldest become long-term.
        num_reminded_stm: short-term engrams retrieved for a segment; all of them if there are fewer.
        num_reminded_ltm: long-term engrams retrieved for a segment, likewise.
        ltm_search_depth: steps of each walk on the co-fire graph, at most 1024.
        initial_lifespan: steps that an engram lives if it is never retrieved, at most 2^40; 1e9 is for good. Lifespans
            are float32, and with more they would not stay finite.
        lifespan_extend_scale: steps of life that a retrieved engram earns on average, likewise.
        ltm_capacity: long-term engrams of a row at most; None leaves it to their lifespans.
        layers: blocks that read memory, counted from 0; None is all of them (all after `cue_layer`).
        cue_layer: block of the same segment whose output makes the working memory, for backbones that are not causal;
            None takes the final hidden states of the previous segment.
        correlation: `"logsumexp"`, the paper's ranking, or `"mean_l2"`, that of memoria-pytorch 1.1.0.
        retrieval: the way engrams are retrieved: `"graph"`, the paper's way, or one to compare it with, which reads at
            most as many, `num_reminded_stm + num_reminded_ltm`. `"similarity"` searches all of long-term memory for
            the engrams nearest to working memory, without the graph; `"random"` draws the short-term and the long-term
            ones at random, each among its tier; `"fifo"` takes the youngest of all. What a graph's walks find may be
            fewer. Draws are mixed from what the state holds, so that resuming draws the same. Lifespans, tiers and
            co-fire counts go on as ever.
        gate: `"tanh"` multiplies each read by tanh of a learned scalar that starts at zero, which Trainer's
            weight decay leaves alone; `"normed"` is the same for pretrained weights, with gradients of the size of
            theirs (see `MemoryReader`) and vectors that differ (see `Abstractor`); None is the paper's form. `"auto"`
            becomes `"normed"` where memory is put on weights that were trained without it (`wrap`,
            `from_pretrained`), which would be of no use under reads of random weights, and None in a model from
            nothing; the model's config says which.
        segment_length: tokens of a segment; None is all the positions that the backbone has.
        cofire_graph: the form of the co-fire graph: `"dense"` is a table of all pairs, `"sparse"` the events
            themselves, `"auto"` chooses by the number of engrams. What is remembered is the same.

    Raises:
        TypeError: if a field has the wrong type.
        ValueError: if its value makes no sense.
    """

    kind: ClassVar[str] = "engram"
    gate_of_trained: ClassVar[str] = "normed"
    not_of_state: ClassVar[tuple[str, ...]] = ("cofire_graph",)

    num_memories: int | None = 50
    stm_capacity: int = 400
    num_reminded_stm: int = 50
    num_reminded_ltm: int = 50
    ltm_search_depth: int = 10
    initial_lifespan: int | float = 9
    lifespan_extend_scale: float = 8.0
    ltm_capacity: int | None = None
    layers: list[int] | None = None
    cue_layer: int | None = None
    correlation: str = "logsumexp"
    retrieval: str = "graph"
    gate: str | None = AUTO
    segment_length: int | None = None
    cofire_graph: str = "auto"

    def __post_init__(self) -> None:
        self.layers = None if self.layers is None else check_list_of_counts("layers", self.layers)
        check_count("num_memories", self.num_memories, least=1, optional=True, most=MOST_VECTORS)
        for name in ("stm_capacity", "num_reminded_stm", "num_reminded_ltm"):
            check_count(name, getattr(self, name), most=MOST_COUNTED)
        check_count("ltm_search_depth", self.ltm_search_depth, most=MOST_STEPS)
        check_count("ltm_capacity", self.ltm_capacity, optional=True, most=MOST_COUNTED)
        check_count("cue_layer", self.cue_layer, optional=True)
        check_count("segment_length", self.segment_length, least=1, optional=True)
        most = f"and at most {MOST:.0f}"
        check_number("initial_lifespan", self.initial_lifespan, lambda value: 0 < value <= MOST, f"above 0 {most}")
        check_number(
            "lifespan_extend_scale", self.lifespan_extend_scale, lambda value: 0 <= value <= MOST, f"0 or above {most}"
        )
        check_one_of("correlation", self.correlation, CORRELATIONS)
        check_one_of("retrieval", self.retrieval, RETRIEVALS)
        check_one_of("gate", self.gate, GATES)
        check_one_of("cofire_graph", self.cofire_graph, GRAPHS)
