"""What became of each engram in one step, from the state before it, what was read, and the state after it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from hf_memoria.memories.engram.reading import Reading
from hf_memoria.memories.engram.store import EngramKind, EngramState
from hf_memoria.memories.engram.store.plasticity import lifespan_credit
from hf_memoria.memories.interface import EVENTS

Columns = dict[str, np.ndarray]


@dataclass(frozen=True)
class Engrams:
    """The valid engrams of all rows, one entry each."""

    row: np.ndarray
    id: np.ndarray
    kind: np.ndarray
    created: np.ndarray
    lifespan: np.ndarray

    @classmethod
    def of(cls, state: EngramState) -> Engrams:
        """Take them out of a state."""
        row, slot = state.valid.nonzero(as_tuple=True)
        taken = (getattr(state, name)[row, slot] for name in ("id", "kind", "created", "lifespan"))
        return cls(*(value.cpu().numpy() for value in (row, *taken)))

    def at(self, row: np.ndarray, id_: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return where engrams stand, and which of them are there; they stand by row and id, oldest first."""
        keys = _key(self.row, self.id)
        place = np.searchsorted(keys, _key(row, id_))
        inside = place < len(keys)
        place = np.where(inside, place, 0)
        return place, inside & (keys[place] == _key(row, id_)) if len(keys) else inside

    def only(self, chosen: np.ndarray) -> Engrams:
        """Return some of them."""
        return Engrams(*(getattr(self, name)[chosen] for name in self.__dataclass_fields__))


def _key(row: np.ndarray, id_: np.ndarray) -> np.ndarray:
    return row.astype(np.int64) << 40 | id_.astype(np.int64)


def events_of(before: EngramState, reading: Reading, after: EngramState, scale: float) -> Columns:
    """Return the events of a step, columns `row`, `event`, `id`, `tier`, `created`, `credit` and `lifespan`.

    Args:
        before: the state that the segment started from, reset rows emptied.
        reading: the reading of that segment.
        after: the state after it.
        scale: `lifespan_extend_scale`.
    """
    old, new = Engrams.of(before), Engrams.of(after)
    made = _made(before, after)
    parts = [
        _event("created", made),
        _reminded(before, reading, old, scale, after.step != before.step),
        _event("promoted", new.only(_newly_long_term(old, new))),
        _event("forgotten", _missing(old, new)),
        _event("forgotten", _missing(made, new)),
    ]
    events = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    place, there = new.at(events["row"], events["id"])
    lifespan = new.lifespan[place] if len(new.lifespan) else np.zeros(len(place))
    return events | {"lifespan": np.where(there, lifespan, np.nan)}


def _event(name: str, engrams: Engrams, credit: np.ndarray | None = None) -> Columns:
    return {
        "row": engrams.row,
        "event": np.full(len(engrams.row), EVENTS.index(name), dtype=np.int8),
        "id": engrams.id,
        "tier": engrams.kind.astype(np.int8),
        "created": engrams.created,
        "credit": np.full(len(engrams.row), np.nan) if credit is None else credit,
    }


def _made(before: EngramState, after: EngramState) -> Engrams:
    first, count = before.next_id.cpu().numpy(), (after.next_id - before.next_id).cpu().numpy()
    row = np.repeat(np.arange(len(count)), count)
    number = np.arange(len(row)) - np.repeat(count.cumsum() - count, count)
    created = before.step.cpu().numpy()[row]
    kind = np.full(len(row), int(EngramKind.WORKING))
    return Engrams(row, first[row] + number, kind, created, np.zeros(len(row)))


def _reminded(before: EngramState, reading: Reading, old: Engrams, scale: float, active: Tensor) -> Columns:
    _, _, reminded = reading.contents()
    mask = reminded.mask & active.to(reminded.mask.device).unsqueeze(1)
    credit = lifespan_credit(reading.mean_attention(), mask, scale)[mask].cpu().numpy()
    row, column = mask.nonzero(as_tuple=True)
    ids = before.id[row, reminded.index[row, column]].cpu().numpy()
    place, _ = old.at(row.cpu().numpy(), ids)
    return _event("reminded", old.only(place), credit)


def _newly_long_term(old: Engrams, new: Engrams) -> np.ndarray:
    place, there = old.at(new.row, new.id)
    was = there & (old.kind[place] == int(EngramKind.LONG_TERM)) if len(old.kind) else there
    newly: np.ndarray = (new.kind == int(EngramKind.LONG_TERM)) & ~was
    return newly


def _missing(old: Engrams, new: Engrams) -> Engrams:
    return old.only(~new.at(old.row, old.id)[1])
