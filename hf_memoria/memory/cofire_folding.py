"""Compacting a log of events: who died leaves it, recent events join it, long lists are folded.

This looks at values and makes shapes of them, so it runs between steps, row by row.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from hf_memoria.memory.cofire_events import LONGEST_LIST, EventGraph
from hf_memoria.memory.slots import pad_slots


@dataclass(frozen=True)
class _Log:
    """Events of one row: `slots` and `weights` `[N, F]`, and who lists which (`owner`, `event`, both `[P]`)."""

    slots: Tensor
    weights: Tensor
    owner: Tensor
    event: Tensor


def compact_events(graph: EventGraph, index: Tensor, exists: Tensor, recent: Tensor, capacity: int) -> EventGraph:
    """Move slots `index` `[B, K]` to the front, and take the recent events into the log; see `DenseGraph.compact`."""
    width = max(graph.events.shape[2], recent.shape[2])
    joined = EventGraph(
        torch.cat([_widen(graph.events, width), _widen(recent, width)], dim=1),
        torch.cat([_widen(graph.weights, width), torch.ones_like(_widen(recent, width))], dim=1),
        graph.lists,
    )
    first_recent = graph.events.shape[1]
    logs = []
    for row in range(index.shape[0]):
        log = _move(_read(joined, row, first_recent), index[row][exists[row]], graph.capacity)
        logs.append(_fold(_drop_useless(log), capacity))
    return _pack(logs, capacity, width, index.device)


def events_from_counts(counts: Tensor, width: int) -> EventGraph:
    """Return the log that says the same as a table of counts `[B, C, C]`."""
    capacity = counts.shape[1]
    logs = [_private_events(row.fill_diagonal_(0), width) for row in counts.clone()]
    return _pack(logs, capacity, width, counts.device)


def _widen(events: Tensor, width: int) -> Tensor:
    return F.pad(events, (0, width - events.shape[2]), value=-1)


def _read(graph: EventGraph, row: int, first_recent: int) -> _Log:
    slots, lists = graph.events[row], graph.lists[row]
    owner, place = (lists >= 0).nonzero(as_tuple=True)
    event, column = (slots[first_recent:] >= 0).nonzero(as_tuple=True)
    return _Log(
        slots,
        graph.weights[row],
        torch.cat([owner, slots[first_recent:][event, column].to(torch.int64)]),
        torch.cat([lists[owner, place].to(torch.int64), event + first_recent]),
    )


def _move(log: _Log, kept: Tensor, capacity: int) -> _Log:
    """Rename slots to their places in `kept`; the others are nobody."""
    place = torch.full((capacity + 1,), -1, dtype=torch.int64, device=kept.device)
    place[kept] = torch.arange(kept.numel(), device=kept.device)
    # -1 picks the last entry, which stays nobody.
    owner = place[log.owner]
    alive = owner >= 0
    return _Log(place[log.slots.to(torch.int64)].to(torch.int32), log.weights, owner[alive], log.event[alive])


def _drop_useless(log: _Log) -> _Log:
    """Take out of the lists the events in which nobody else is left."""
    took_part = (log.slots[log.event] == log.owner.unsqueeze(1)).any(dim=1)
    others = (log.slots >= 0).sum(dim=1)[log.event] - took_part.to(torch.int64)
    return _Log(log.slots, log.weights, log.owner[others > 0], log.event[others > 0])


def _fold(log: _Log, capacity: int) -> _Log:
    """Replace lists that have grown too long by private events with the same counts, where those are fewer."""
    listed = torch.bincount(log.owner, minlength=capacity)
    long = (listed > LONGEST_LIST).nonzero().flatten()
    if not long.numel():
        return log
    counts = torch.stack([_counts_of(log, int(owner), capacity) for owner in long])
    fewer = -(-(counts > 0).sum(dim=1) // log.slots.shape[1]) < listed[long]
    long, folded = long[fewer], _private_events(counts[fewer], log.slots.shape[1])
    kept = ~torch.isin(log.owner, long)
    return _Log(
        torch.cat([log.slots, folded.slots]),
        torch.cat([log.weights, folded.weights]),
        torch.cat([log.owner[kept], long[folded.owner]]),
        torch.cat([log.event[kept], folded.event + log.slots.shape[0]]),
    )


def _counts_of(log: _Log, owner: int, capacity: int) -> Tensor:
    events = log.event[log.owner == owner]
    slots, weights = log.slots[events].flatten().to(torch.int64), log.weights[events].flatten()
    counts = torch.zeros(capacity + 1, dtype=torch.int32, device=slots.device)
    counts.index_add_(0, slots.masked_fill(slots < 0, capacity), weights)
    counts[owner] = 0
    return counts[:capacity]


def _private_events(counts: Tensor, width: int) -> _Log:
    """Write each row of counts `[H, C]` as events of its own; owners are numbered as the rows are."""
    row, slot = counts.nonzero(as_tuple=True)
    place = _place_in_run(row)
    chunks = -(-torch.bincount(row, minlength=counts.shape[0]) // width)
    first = chunks.cumsum(0) - chunks
    event, column = first[row] + place // width, place % width
    slots = torch.full((int(chunks.sum()), width), -1, dtype=torch.int32, device=counts.device)
    weights = torch.zeros_like(slots)
    slots[event, column] = slot.to(torch.int32)
    weights[event, column] = counts[row, slot].to(torch.int32)
    owner = torch.repeat_interleave(torch.arange(counts.shape[0], device=counts.device), chunks)
    return _Log(slots, weights, owner, torch.arange(owner.numel(), device=counts.device))


def _place_in_run(values: Tensor) -> Tensor:
    """Place of each entry of a sorted `[P]` in its run of equal values."""
    _, inverse, lengths = torch.unique_consecutive(values, return_inverse=True, return_counts=True)
    return torch.arange(values.numel(), device=values.device) - (lengths.cumsum(0) - lengths)[inverse]


def _pack(logs: list[_Log], capacity: int, width: int, device: torch.device) -> EventGraph:
    rows = [_pack_row(log, capacity) for log in logs]
    number = max((events.shape[0] for events, _, _ in rows), default=0)
    longest = max((lists.shape[1] for _, _, lists in rows), default=0)
    nobody = EventGraph.empty(len(rows), capacity, device)
    if not rows:
        return nobody

    def stacked(column: int, fill: int) -> Tensor:
        return torch.stack(
            [pad_slots(row[column].unsqueeze(0), number - row[column].shape[0], fill)[0] for row in rows]
        )

    lists = torch.stack([F.pad(row[2], (0, longest - row[2].shape[1]), value=-1) for row in rows])
    return EventGraph(stacked(0, -1), stacked(1, 0), lists)


def _pack_row(log: _Log, capacity: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the events that somebody lists, their weights, and the lists `[C, E]`."""
    used, event = torch.unique(log.event, return_inverse=True)
    order = torch.argsort(log.owner, stable=True)
    owner, event = log.owner[order], event[order]
    place = _place_in_run(owner)
    longest = int(place.max()) + 1 if place.numel() else 0
    lists = torch.full((capacity, longest), -1, dtype=torch.int32, device=log.owner.device)
    lists[owner, place] = event.to(torch.int32)
    return log.slots[used], log.weights[used], lists
