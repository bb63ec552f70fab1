"""What a kind of memory is: the protocols, and the one call that makes a kind known.

Axes: B rows (lanes), T positions of a segment, N positions that are written, D hidden size, H heads.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor
from transformers.utils import ModelOutput

from hf_memoria.memories.shared.settings import MemorySettings
from hf_memoria.memories.state import State as State

if TYPE_CHECKING:
    from typing_extensions import Self

Forward = Callable[..., ModelOutput]
"""The forward of a stock model, bound."""

EVENTS = ("created", "reminded", "promoted", "forgotten")
"""What can become of something remembered, in traces. A document that ends is no event: what it left goes with it."""

KeysAndValues = tuple[Tensor, Tensor]
"""Of one block, `[B, H, N, D / H]` each."""


class Reading(Protocol):
    """Memory on its way through one forward.

    Attributes:
        final_hidden: final hidden states of the segment, `[B, T, D]`, once the forward has run.
    """

    final_hidden: Tensor | None

    def left(self) -> dict[str, Tensor]:
        """Return what each position leaves for the write, detached, `[B, T, ...]` by name."""


StateT = TypeVar("StateT", bound=State)
ReadingT = TypeVar("ReadingT", bound=Reading)


class Recall(Protocol[StateT, ReadingT]):
    """What each row reads while its segment is read in pieces, with a KV cache. A value, as states are."""

    @property
    def prefix(self) -> tuple[KeysAndValues, ...]:
        """By block, keys and values to put before those of the segment; empty for none."""

    @property
    def num_prefix(self) -> int:
        """Columns of the KV cache that stand before the segment's."""

    @property
    def reads_cache(self) -> bool:
        """Whether a segment is written from its keys and values, and not from its hidden states alone."""

    def reading(self, real: Tensor) -> ReadingT:
        """Return what a forward over a piece reads; bool `real` `[B, T]` are its positions that are not padding."""

    def after(self, reading: ReadingT) -> Self:
        """Return it with what a forward left in its reading."""

    def memorize(
        self, state: StateT, left: Mapping[str, Tensor], real: Tensor, cached: list[KeysAndValues] | None = None
    ) -> StateT:
        """Return the state after segments that started from `state`.

        Args:
            state: the state that the segments started from, B rows.
            left: the values that `Reading.left` gave for the positions, `[B, N, ...]` by name; zeros where it gave
                nothing.
            real: positions that count, bool `[B, N]`.
            cached: the keys and values of prefix and segment, by block, where `reads_cache`.
        """

    def take(self, rows: Tensor) -> Self:
        """Return some rows, in the order asked for; int64 `[R]`."""

    def put(self, rows: Tensor, other: Self) -> Self:
        """Return it with rows `rows` `[R]` replaced by those of `other`."""


class Statistics(Protocol):
    """What `MemoriaCallback` logs of a kind of memory, added up over training steps."""

    def observe(self, before: Any, inputs: Mapping[str, Any], output: Any) -> None:
        """Count one training forward: the state that it started from (None is empty), arguments, and output."""

    def sums(self, state: Any) -> Tensor:
        """Return what this process has counted since the last call, float64 `[S]`; processes add theirs up."""

    def logged(self, totals: Tensor) -> dict[str, float]:
        """Return numbers by their names in the log, of the sums over all processes, float64 `[S]`."""


class MemorySystem(Protocol[StateT, ReadingT]):
    """A kind of memory. `register_memory` makes it known; nothing else has to be told of it."""

    @property
    def settings_class(self) -> type[MemorySettings]:
        """Dataclass of the settings; its `kind` is what config.json says."""

    @property
    def state_class(self) -> type[Any]:
        """Class of the states."""

    @property
    def file_format(self) -> str:
        """Name of the format of its files."""

    def check_fits(self, config: Any) -> None:
        """Check `config.memory` against the backbone that is to have it.

        Raises:
            ValueError: naming the field.
        """

    def install(self, model: Any) -> None:
        """Add modules and hooks to a model that was just built.

        Parameters stand in modules of the base model with `memory` or `abstractor` in their names. A module with
        parameters beside those of torch's layers has `reset_memory_parameters()`, for what a checkpoint does not give,
        and `copy_memory_parameters()` where some start as copies of others.
        Hooks keep nothing on modules: what they need is in `reading_of(model.base_model)`. They look modules up at
        each call, because PEFT puts trained copies in their places.
        `backbones.leave_undecayed` keeps weight decay off gates, scales and norms that are no `torch.nn.LayerNorm`.
        """

    def sizes(self, config: Any) -> dict[str, int]:
        """Return sizes that a state of such a model has, by attribute of the state."""

    def empty(self, config: Any, rows: int, like: Tensor) -> StateT:
        """Return the state of `rows` new lanes, of the device and dtype of `like`."""

    def read(self, model: Any, stock_forward: Forward, state: StateT, kwargs: dict[str, Any]) -> ModelOutput:
        """Run a forward over one segment and write it.

        A forward that goes on in a filled KV cache (`cached_length`) writes nothing. The state is detached, and rows
        whose segment is all padding keep theirs.

        Returns: the output of `run` with the state after the segment, see `with_memory`.
        """

    def run(self, model: Any, stock_forward: Forward, reading: ReadingT, kwargs: dict[str, Any]) -> ModelOutput:
        """Run a forward that reads what `reading` says, see `run_segment`."""

    def recall(self, model: Any, stock_forward: Forward, state: StateT) -> Recall[StateT, ReadingT]:
        """Return what a segment that starts from `state` reads while it is read in pieces."""

    def join(self, states: Sequence[StateT]) -> StateT:
        """Return what all of these have read, row by row; a ValueError if they or this kind cannot be joined."""

    def write_file(self, state: StateT, path: str | Path, description: Mapping[str, Any] | None) -> None:
        """Write a state and the settings that it was made with; see `write_tensors` for what is raised."""

    def read_file(
        self, path: str | Path, device: torch.device | str | None = None
    ) -> tuple[StateT, dict[str, Any] | None]:
        """Read a state and the settings that it was made with; see `read_tensors` for what is raised."""

    def fixed(self, config: Any, state: StateT, after: StateT) -> StateT:
        """Return an equal state in the form that an exported segment takes and gives back, see `export_segment`.

        Shapes are those of any state that it may become, and a segment under `torch.compiler.is_exporting()` keeps
        them.

        Args:
            config: the model's.
            state: any state of such a model.
            after: a state after one of the segments that are to be read.

        Raises:
            ValueError: naming the setting, if no shape is enough for every such state, or for this one.
        """

    def new_statistics(self) -> Statistics:
        """Return what counts a training run."""

    def summary(self, state: StateT, row: int) -> dict[str, Any]:
        """Return what a row holds, as plain JSON by column of the table that `hf-memoria inspect` prints."""

    @property
    def records_events(self) -> bool:
        """Whether traces can be recorded of it."""

    def events(self, before: StateT, reading: ReadingT, after: StateT, settings: Any) -> dict[str, np.ndarray]:
        """Return what became of everything remembered in one step, where `records_events`.

        Columns: `row`, `event`, `id`, `tier`, `created`, `credit`, `lifespan`; in `before` reset rows are empty.
        """

    def describe(self) -> str:
        """Return what it is in words that go on after "a model with", with its source."""

    @property
    def holds(self) -> str:
        """What a state, its file and a pushed memory give away of what was read, as the object of "it holds"."""

    def bound_to_weights(self, state: StateT) -> bool:
        """Return whether a state means something only to the weights that made it, as vectors do and ids do not."""

    def never_carried(self, settings: Any) -> str:
        """Return what a training leaves out in which every segment starts empty, as a clause."""

    def warn_untrained(self, settings: Any) -> None:
        """Warn of settings with which training would leave some of the memory untrained."""


OWN_MODULE = "memoria_own_"
"""How the file's name begins in which a checkpoint brings a kind of memory from outside of the package."""

SYSTEMS: dict[str, MemorySystem[Any, Any]] = {}
"""Kinds of memory that are known, by `kind`."""

SystemT = TypeVar("SystemT", bound=MemorySystem[Any, Any])


def register_memory(system: SystemT) -> SystemT:
    """Make a kind of memory known: to configs, models, Trainer's callback, generation, files, cards and commands.

    Calling it again for the same class changes nothing, nor does the copy of it that a checkpoint brings along.

    Args:
        system: the kind of memory, which is returned.

    Raises:
        TypeError: if its `settings_class` is no `MemorySettings`.
        ValueError: if another memory of that kind is known already.
    """
    settings = system.settings_class
    if not (isinstance(settings, type) and issubclass(settings, MemorySettings)):
        raise TypeError(f"settings_class must be a subclass of MemorySettings; got {settings!r}.")
    there = SYSTEMS.get(settings.kind)
    if there is not None and _identity(there) != _identity(system):
        told = f"got {settings.kind!r}, which {type(there).__module__}.{type(there).__qualname__} has"
        raise ValueError(f"kind must be one that no other memory has; {told}.")
    if there is None or not _came_with_checkpoint(system):
        SYSTEMS[settings.kind] = system
    return system


def _identity(system: Any) -> tuple[str, str]:
    # A checkpoint may bring a copy of a module that is there already, in a file that is called after it.
    module = type(system).__module__
    if _came_with_checkpoint(system):
        module = module.rpartition(".")[2].removeprefix(OWN_MODULE)
    return module.replace(".", "_"), type(system).__qualname__


def _came_with_checkpoint(system: Any) -> bool:
    return type(system).__module__.rpartition(".")[2].startswith(OWN_MODULE)


def system_of(settings: MemorySettings) -> MemorySystem[Any, Any]:
    """Return the kind of memory that has these settings; a ValueError if it is not registered."""
    if settings.kind not in SYSTEMS:
        raise ValueError(f"memory must be of a registered kind, one of {sorted(SYSTEMS)}; got {settings.kind!r}.")
    return SYSTEMS[settings.kind]


def system_of_state(state: Any) -> MemorySystem[Any, Any]:
    """Return the kind of memory that a state is of.

    Raises:
        TypeError: if it is no state of a registered memory.
    """
    for system in SYSTEMS.values():
        if isinstance(state, system.state_class):
            return system
    known = ", ".join(system.state_class.__name__ for system in SYSTEMS.values())
    raise TypeError(f"state must be one of {known}; got {type(state).__name__}.")
