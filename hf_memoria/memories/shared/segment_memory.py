"""A kind of memory in its simplest form: blocks read a state, and a segment's final hidden states make the next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np
import torch
from torch import Tensor
from transformers.utils import ModelOutput

from hf_memoria.backbones import cached_length, run_segment
from hf_memoria.memories.interface import Forward, KeysAndValues, Statistics
from hf_memoria.memories.shared.file_checks import FileFormat, check, check_finite
from hf_memoria.memories.shared.files import read_tensors, write_tensors
from hf_memoria.memories.shared.masks import real_positions, token_mask
from hf_memoria.memories.shared.outputs import with_memory
from hf_memoria.memories.shared.reading import LeavesHidden
from hf_memoria.memories.shared.row_state import RowState, rows_where
from hf_memoria.memories.shared.settings import MemorySettings
from hf_memoria.memories.shared.spread import spread

RowStateT = TypeVar("RowStateT", bound=RowState)


@dataclass
class StateReading(LeavesHidden, Generic[RowStateT]):
    """What the hooks of a `SegmentMemory` find in `reading_of(base_model)`.

    Attributes:
        state: the state that the segment starts from.
        final_hidden: final hidden states of the segment, `[B, T, D]`, once the forward has run.
    """

    state: RowStateT
    final_hidden: Tensor | None = None


class SegmentMemory(Generic[RowStateT]):
    """Base of a kind of memory whose state is a `RowState`.

    A subclass names `settings_class` and `state_class`, adds in `install` the modules and hooks that read
    `reading_of(model.base_model).state`, makes the state of new lanes in `empty`, and in `written` the state after a
    segment. `register_memory` then makes it known. Everything else a kind of memory has (`MemorySystem`) is here, and
    may be overridden.
    """

    settings_class: ClassVar[type[MemorySettings]]
    state_class: ClassVar[type[RowState]]
    records_events: ClassVar[bool] = False

    @property
    def file_format(self) -> str:
        """Name of the format of its files."""
        return f"hf_memoria.{self.settings_class.kind}_state"

    def install(self, model: Any) -> None:
        """Add modules and hooks to a model that was just built; see `MemorySystem.install`."""
        raise TypeError(f"{type(self).__name__} must define install(model); it does not.")

    def empty(self, config: Any, rows: int, like: Tensor) -> RowStateT:
        """Return the state of `rows` new lanes, of the device and dtype of `like`."""
        raise TypeError(f"{type(self).__name__} must define empty(config, rows, like); it does not.")

    def written(self, model: Any, state: RowStateT, hidden: Tensor, real: Tensor) -> RowStateT:
        """Return the state after a segment. Rows without a real position are put back as they were.

        Args:
            model: the model that read it.
            state: the state that the segment started from, B rows.
            hidden: its final hidden states, detached, `[B, T, D]`.
            real: its positions that are not padding, bool `[B, T]`.
        """
        raise TypeError(f"{type(self).__name__} must define written(model, state, hidden, real); it does not.")

    def check_fits(self, config: Any) -> None:
        """Accept every backbone."""

    def sizes(self, config: Any) -> dict[str, int]:
        """Return the hidden size."""
        return {"hidden_size": config.hidden_size}

    def read(self, model: Any, stock_forward: Forward, state: RowStateT, kwargs: dict[str, Any]) -> ModelOutput:
        """Run a forward over one segment and write it; a forward that goes on in a segment writes nothing."""
        reading = StateReading(state)
        continues = cached_length(kwargs.get("past_key_values")) > 0
        mask = token_mask(kwargs.get("attention_mask"))
        output = self.run(model, stock_forward, reading, kwargs)
        if not continues:
            assert reading.final_hidden is not None
            state = self.after(model, state, reading.final_hidden, real_positions(mask, reading.final_hidden))
        return with_memory(output, state)

    def run(
        self, model: Any, stock_forward: Forward, reading: StateReading[RowStateT], kwargs: dict[str, Any]
    ) -> ModelOutput:
        """Run a forward whose hooks find `reading`."""
        output: ModelOutput = run_segment(model, stock_forward, reading, kwargs)
        return output

    @torch.no_grad()
    def after(self, model: Any, state: RowStateT, hidden: Tensor, real: Tensor) -> RowStateT:
        """Return what `written` says, and rows that are all padding as they were."""
        written = self.written(model, state, hidden.detach(), real)
        kept: RowStateT = rows_where(real.any(dim=-1), written, state).detach()
        return kept

    def recall(self, model: Any, stock_forward: Forward, state: RowStateT) -> StateRecall[RowStateT]:
        """Return what a segment that starts from `state` reads while it is read in pieces."""
        return StateRecall(self, model, state)

    def join(self, states: Sequence[RowStateT]) -> RowStateT:
        """Refuse it: what several memories of a kind are together, only the kind knows."""
        raise ValueError(
            f"states must be of a kind that can be joined; {self.settings_class.kind!r} cannot: its class "
            f"{type(self).__name__} defines no join(states)."
        )

    def write_file(self, state: RowStateT, path: str | Path, description: Mapping[str, Any] | None) -> None:
        """Write a state and the settings that it was made with, if `read_file` would accept it."""
        write_tensors(state.clone().tensors(), path, self._files(), description)

    def read_file(
        self, path: str | Path, device: torch.device | str | None = None
    ) -> tuple[RowStateT, dict[str, Any] | None]:
        """Read a state and the settings that it was made with."""
        tensors, description, _ = read_tensors(path, self._files())
        state: Any = self.state_class.from_tensors(tensors)
        return state.to(device), description

    def _files(self) -> FileFormat:
        return FileFormat(self.file_format, "1", self._check_fields, self._check_tensors)

    def _check_fields(self, path: Path, header: Mapping[str, str], names: list[str]) -> None:
        expected = sorted(part.name for part in fields(self.state_class))  # type: ignore[arg-type]
        check(path, "fields", expected, names)

    def _check_tensors(self, path: Path, header: Mapping[str, str], tensors: Mapping[str, Tensor]) -> None:
        rows = self.state_class.from_tensors(tensors).batch_size
        for name, value in tensors.items():
            check(path, f"rows of {name}", rows, len(value) if value.dim() else None)
            if value.is_floating_point():
                check_finite(path, name, value)

    def fixed(self, config: Any, state: RowStateT, after: RowStateT) -> RowStateT:
        """Return the state as it is: its shapes do not change from segment to segment."""
        return state

    def new_statistics(self) -> Statistics:
        """Return what counts nothing."""
        return NoStatistics()

    def summary(self, state: RowStateT, row: int) -> dict[str, Any]:
        """Return by field the number of a row, or the norms of its vectors."""
        shown: dict[str, Any] = {"row": row}
        for name, value in state.tensors().items():
            one = value[row]
            shown[name] = one.item() if one.dim() == 0 else spread(_norms(one))
        return shown

    def events(self, before: Any, reading: Any, after: Any, settings: Any) -> dict[str, np.ndarray]:
        """Return no events."""
        return {}

    def describe(self) -> str:
        """Return the kind and where it is defined."""
        cls = type(self)
        return f"a memory of kind {self.settings_class.kind!r} ({cls.__module__}.{cls.__qualname__})"

    @property
    def holds(self) -> str:
        """What it gives away of what was read."""
        return "representations of what was read, the training data among it"

    def bound_to_weights(self, state: Any) -> bool:
        """Return that it is: what is remembered are vectors of the model's."""
        return True

    def never_carried(self, settings: Any) -> str:
        """Return that nothing was read of what is remembered."""
        return "nothing was read of what is remembered"

    def warn_untrained(self, settings: Any) -> None:
        """Warn of nothing."""


@dataclass(frozen=True)
class StateRecall(Generic[RowStateT]):
    """What rows of a `SegmentMemory` read while segments are read in pieces: the states that these started from."""

    memory: SegmentMemory[RowStateT]
    model: Any
    state: RowStateT
    prefix: tuple[KeysAndValues, ...] = ()
    num_prefix: int = 0
    reads_cache: bool = False

    def __deepcopy__(self, memo: dict[int, Any]) -> StateRecall[RowStateT]:
        return self  # a copy of a KV cache is of the same model

    def reading(self, real: Tensor) -> StateReading[RowStateT]:
        """Return what a forward over a piece reads."""
        return StateReading(self.state)

    def after(self, reading: StateReading[RowStateT]) -> StateRecall[RowStateT]:
        """Return it as it is."""
        return self

    def memorize(
        self, state: RowStateT, left: Mapping[str, Tensor], real: Tensor, cached: list[KeysAndValues] | None = None
    ) -> RowStateT:
        """Return the state after the segments."""
        return self.memory.after(self.model, state, left["hidden"], real)

    def take(self, rows: Tensor) -> StateRecall[RowStateT]:
        """Return some rows, in the order asked for."""
        return replace(self, state=self.state[rows])

    def put(self, rows: Tensor, other: StateRecall[RowStateT]) -> StateRecall[RowStateT]:
        """Return it with some rows replaced."""
        theirs = other.state.tensors()
        merged = {name: value.clone() for name, value in self.state.tensors().items()}
        for name, value in merged.items():
            value[rows.to(value.device)] = theirs[name]
        return replace(self, state=self.state.from_tensors(merged))


class NoStatistics:
    """Nothing to log."""

    def observe(self, before: Any, inputs: Mapping[str, Any], output: Any) -> None:
        """Count nothing."""

    def sums(self, state: RowState) -> Tensor:
        """Return no numbers."""
        return torch.zeros(0, dtype=torch.float64, device=state.data.device)

    def logged(self, totals: Tensor) -> dict[str, float]:
        """Return no numbers."""
        return {}


def _norms(value: Tensor) -> list[float]:
    vectors: list[float] = value.double().reshape(-1, value.shape[-1]).norm(dim=-1).tolist()
    return vectors
