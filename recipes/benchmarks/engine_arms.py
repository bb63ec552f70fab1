"""What the engine benchmark takes turns with: this engine in its forms, and memoria-pytorch, on one state."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from hf_memoria.memories.engram.store import EngramState, compact, memorize, native, remind
from hf_memoria.memories.engram.store.compaction import form_for


@dataclass(frozen=True)
class Setting:
    """Sizes of a memory, as the paper's experiments have them."""

    hidden: int
    working: int
    short_term: int
    remind: int
    depth: int = 10


SETTINGS = {"gpt2": Setting(768, 50, 400, 50), "enwik8": Setting(512, 128, 1536, 192)}


def clustered(setting: Setting, batch: int, seed: int, clusters: int = 64) -> Iterator[Tensor]:
    """Working memories `[B, W, D]` around cluster centres, so that engrams are reminded again."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(clusters, setting.hidden, generator=generator)
    while True:
        picked = torch.randint(clusters, (batch, setting.working), generator=generator)
        yield centres[picked] + 0.5 * torch.randn(batch, setting.working, setting.hidden, generator=generator)


def step(
    state: EngramState, working: Tensor, setting: Setting, how: str = "mean_l2", graph: str = "auto"
) -> EngramState:
    """Remind and memorize one segment in which nothing dies."""
    mask = torch.ones(working.shape[:2], dtype=torch.bool, device=working.device)
    reminded = remind(
        state,
        working,
        mask,
        num_reminded_stm=setting.remind,
        num_reminded_ltm=setting.remind,
        ltm_search_depth=setting.depth,
        correlation_kind=how,
    )
    return memorize(
        state,
        working,
        mask,
        reminded,
        torch.ones(reminded.index.shape, device=working.device),
        cue=working,
        cue_mask=mask,
        initial_lifespan=1e6,
        lifespan_extend_scale=8.0,
        stm_capacity=setting.short_term,
        graph=graph,
    )


def grown(
    setting: Setting, batch: int, long_term: int, seed: int, one_lane: bool = False, device: str = "cpu"
) -> EngramState:
    """Return a state with full short-term memory and about `long_term` long-term engrams, made by the engine.

    With `one_lane` a single row lives, and the others are copies of it: large stores are there in a `batch`-th of the
    time, and a step costs what it costs, because rows are independent and read segments of their own from there on.
    """
    lanes = 1 if one_lane else batch
    state = EngramState.empty(lanes, setting.hidden, device=device)
    segments = clustered(setting, lanes, seed)
    for _ in range(-(-(setting.short_term + long_term) // setting.working)):
        state = step(state, next(segments).to(device), setting)
    return state[[0] * batch] if lanes < batch else state


def megabytes(tensors: Iterable[Tensor]) -> float:
    """Return what tensors take."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors) / 2**20


@dataclass
class Ours:
    """Steps of this package from a state; the state moves on."""

    state: EngramState
    setting: Setting
    how: str = "mean_l2"
    native: bool = False
    compiled: Callable[..., EngramState] | None = None
    graph: str = "auto"

    @classmethod
    def start(cls, state: EngramState, setting: Setting, **kwargs: Any) -> Ours:
        """Begin from a copy of a state, with its graph in the form asked for."""
        # As if it had grown without kernels: a graph stays a table up to a size, and does not become one soon.
        form = "sparse" if kwargs.get("native") else form_for(kwargs.get("graph", "auto"), state.capacity, "dense")
        room = replace(state.room, graph=form)
        native.use_native_kernels(kwargs.get("native", False))
        own = compact(replace(state, room=room), working=setting.working, fired=setting.working + 2 * setting.remind)
        native.use_native_kernels(False)
        return cls(own, setting, **kwargs)

    def state_mb(self) -> float:
        """Return what the state takes, its graph and the room in its buffers included."""
        return megabytes(self.state.tensors().values())

    def prepare(self) -> None:
        """Nothing has to be done before a step."""

    def run(self, working: Tensor) -> None:
        """Take one step."""
        native.use_native_kernels(self.native)
        take = self.compiled or step
        self.state = take(self.state, working, self.setting, self.how, self.graph)
        native.use_native_kernels(False)


class Reference:
    """Steps of memoria-pytorch, each from a copy of one state."""

    def __init__(self, state: EngramState, setting: Setting) -> None:
        import memoria

        self.start = memoria.Memoria(
            num_reminded_stm=setting.remind,
            stm_capacity=setting.short_term,
            ltm_search_depth=setting.depth,
            initial_lifespan=1_000_000,
            num_final_ltms=setting.remind,
        )
        packed = compact(state, segments=0)
        self.start.engrams = memoria.Engrams(
            packed.data, packed.cofire_counts, packed.kind.to(torch.uint8), packed.lifespan
        )
        self.memory: Any = None

    def state_mb(self) -> float:
        """Return what its engrams take, with their table of counts."""
        held = vars(self.start.engrams).values()
        return megabytes(value for value in held if isinstance(value, Tensor))

    def prepare(self) -> None:
        """Copy the state, which a step changes."""
        self.memory = None
        self.memory = copy.deepcopy(self.start)

    def run(self, working: Tensor) -> None:
        """Take one step."""
        self.memory.add_working_memory(working.clone())
        _, index = self.memory.remind()
        self.memory.adjust_lifespan_and_memories(index, torch.ones(index.shape))


def bytes_touched(state: EngramState, setting: Setting, found: float) -> float:
    """Bytes that any engine has to read or write in a step: vectors compared, handed out and added, each once."""
    vectors = setting.short_term + found + 2 * 2 * setting.remind + 2 * setting.working
    return state.batch_size * vectors * setting.hidden * 4.0
