"""Compacting a log of events: who died leaves it, recent events join it, who fires often gets a row of counts.

This looks at values and makes shapes of them, so it runs between steps, lane by lane.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from hf_memoria.memories.engram.store.cofire_events import EventGraph

LONGEST_LIST = 8
"""Events that a slot lists at least; whoever takes part in more gets a row of counts."""


def longest_list(capacity: int) -> int:
    """Events that a slot may list: the longer a row of counts would be, the more."""
    return max(LONGEST_LIST, capacity // 2048)


@dataclass(frozen=True)
class _Log:
    """The graph of one lane.

    Attributes:
        events: slots that took part, int64 `[N, F]`, -1 for nobody.
        owner, event: who lists which, int64 `[P]` both.
        often: slots with a row of counts, int64 `[H]`.
        counts: these rows, float32 `[H, C]`.
    """

    events: Tensor
    owner: Tensor
    event: Tensor
    often: Tensor
    counts: Tensor


def compact_events(graph: EventGraph, index: Tensor, exists: Tensor, recent: Tensor, capacity: int) -> EventGraph:
    """Move slots `index` `[B, K]` to the front, and take the recent events into the log; see `DenseGraph.compact`."""
    logs = []
    for lane in range(index.shape[0]):
        log = _move(_read(graph, lane, recent[lane]), index[lane][exists[lane]], capacity)
        logs.append(_drop_unlisted(_fold(_drop_lonely(log))))
    return _pack(logs, capacity, index)


def events_from_table(counts: Tensor, width: int) -> EventGraph:
    """Return a log with events of `width` that says the same as a table of counts `[B, C, C]`.

    Who fired together with whom at once is forgotten by a table, so each slot has events of its own, or a row of
    counts if those would be too many.
    """
    logs = [_private_events(lane.fill_diagonal_(0), width) for lane in counts.clone()]
    return _pack(logs, counts.shape[1], counts)


def _private_events(counts: Tensor, width: int) -> _Log:
    often = (counts.sum(dim=1) > longest_list(counts.shape[0]) * width).nonzero().flatten()
    few = counts.clone()
    few[often] = 0
    owner, slot = few.nonzero(as_tuple=True)
    times = few[owner, slot].to(torch.int64)
    owner, slot = owner.repeat_interleave(times), slot.repeat_interleave(times)
    place = _place_in_run(owner, counts.shape[0])
    chunks = -(-torch.bincount(owner, minlength=counts.shape[0]) // width)
    event = (chunks.cumsum(0) - chunks)[owner] + place // width
    events = torch.full((int(chunks.sum()), width), -1, dtype=torch.int64, device=counts.device)
    events[event, place % width] = slot
    lister = torch.arange(counts.shape[0], device=counts.device).repeat_interleave(chunks)
    return _Log(events, lister, torch.arange(events.shape[0], device=counts.device), often, counts[often])


def _place_in_run(values: Tensor, number: int) -> Tensor:
    """Place of each entry of a sorted `[P]` of numbers below `number` among those equal to it."""
    lengths = torch.bincount(values, minlength=number)
    return torch.arange(values.numel(), device=values.device) - (lengths.cumsum(0) - lengths)[values]


def _read(graph: EventGraph, lane: int, recent: Tensor) -> _Log:
    width, first_recent = max(graph.events.shape[2], recent.shape[1]), graph.events.shape[1]
    events = torch.cat([F.pad(part, (0, width - part.shape[1]), value=-1) for part in (graph.events[lane], recent)])
    owner, place = (graph.lists[lane] >= 0).nonzero(as_tuple=True)
    event, member = (recent >= 0).nonzero(as_tuple=True)
    often = graph.row[lane].nonzero().flatten()
    return _Log(
        events.to(torch.int64),
        torch.cat([owner, recent[event, member].to(torch.int64)]),
        torch.cat([graph.lists[lane][owner, place].to(torch.int64), event + first_recent]),
        often,
        graph.rows_of_counts[lane][graph.row[lane][often].to(torch.int64)],
    )


def _move(log: _Log, kept: Tensor, capacity: int) -> _Log:
    """Rename slots to their places in `kept`; the others are nobody, and their lists and rows go."""
    former = log.counts.shape[1]
    place = torch.full((former + 1,), -1, dtype=torch.int64, device=kept.device)
    place[kept] = torch.arange(kept.numel(), device=kept.device)
    # -1 picks the last entry, which stays nobody.
    owner, often = place[log.owner], place[log.often]
    counts = log.counts[often >= 0]
    # Most often nobody has died since, and then the columns are where they were.
    counts = counts[:, : kept.numel()] if kept.numel() == int(kept[-1:].sum()) + 1 else counts[:, kept]
    return _Log(
        place[log.events],
        owner[owner >= 0],
        log.event[owner >= 0],
        often[often >= 0],
        F.pad(counts, (0, capacity - kept.numel())),
    )


def _drop_lonely(log: _Log) -> _Log:
    """Take out of the lists the events in which nobody else is left."""
    members = log.events[log.event]
    shared = ((members >= 0) & (members != log.owner.unsqueeze(1))).any(dim=1)
    return replace(log, owner=log.owner[shared], event=log.event[shared])


def _fold(log: _Log) -> _Log:
    """Count the events of those that list too many, or have a row already, in rows of theirs."""
    capacity = log.counts.shape[1]
    listed = torch.bincount(log.owner, minlength=capacity)
    row = torch.full((capacity,), -1, dtype=torch.int64, device=log.owner.device)
    row[log.often] = torch.arange(log.often.numel(), device=row.device)
    new = ((listed > longest_list(capacity)) & (row < 0)).nonzero().flatten()
    row[new] = torch.arange(new.numel(), device=row.device) + log.often.numel()
    counts = torch.cat([log.counts, log.counts.new_zeros(new.numel(), capacity)])
    folded = row[log.owner] >= 0
    members = log.events[log.event[folded]]
    rows = row[log.owner[folded]].unsqueeze(1).expand_as(members)
    counts.index_put_((rows, members.clamp(min=0)), (members >= 0).to(counts.dtype), accumulate=True)
    often = torch.cat([log.often, new])
    return _Log(log.events, log.owner[~folded], log.event[~folded], often, counts)


def _drop_unlisted(log: _Log) -> _Log:
    """Drop events that nobody lists, and make the others as narrow as the one with most members."""
    used, event = torch.unique(log.event, return_inverse=True)
    return replace(log, events=_narrow(log.events[used]), event=event)


def _narrow(events: Tensor) -> Tensor:
    """Move the members of each event to its front, and cut off what is left over of all."""
    present = events >= 0
    width = max(int(present.sum(dim=1).max()), 1) if events.numel() else 1
    if width >= events.shape[1]:
        return events
    # Nobody goes to a place too many, which is cut off.
    place = (present.cumsum(dim=1) - 1).masked_fill(~present, width)
    return events.new_full((events.shape[0], width + 1), -1).scatter_(1, place, events)[:, :width]


@dataclass(frozen=True)
class _Lane:
    """The graph of one lane as tensors that `EventGraph` holds for each.

    Attributes:
        events: int32 `[N, F]`.
        lists: int32 `[C, E]`.
        rows_of_counts: float32 `[H + 1, C]`; the first is zero.
        row: int32 `[C]`.
    """

    events: Tensor
    lists: Tensor
    rows_of_counts: Tensor
    row: Tensor


def _pack(logs: list[_Log], capacity: int, like: Tensor) -> EventGraph:
    """Put the lanes under each other, each as long as the longest."""
    if not logs:
        return EventGraph.empty(0, capacity, like.device)
    lanes = [_pack_lane(log, capacity) for log in logs]
    return EventGraph(
        events=_stack([lane.events for lane in lanes], fill=-1),
        lists=_stack([lane.lists for lane in lanes], fill=-1),
        rows_of_counts=_stack([lane.rows_of_counts for lane in lanes], fill=0),
        row=torch.stack([lane.row for lane in lanes]),
    )


def _stack(tables: list[Tensor], fill: int) -> Tensor:
    """Stack tables `[R, S]`, each widened by `fill` to the most rows and columns of all."""
    rows, columns = (max(sizes) for sizes in zip(*(table.shape for table in tables), strict=True))
    padded = []
    for table in tables:
        height, width = table.shape
        padded.append(F.pad(table, (0, columns - width, 0, rows - height), value=fill))
    return torch.stack(padded)


def _pack_lane(log: _Log, capacity: int) -> _Lane:
    order = torch.argsort(log.owner, stable=True)
    owner, event = log.owner[order], log.event[order]
    place = _place_in_run(owner, capacity)
    longest = int(place.max()) + 1 if place.numel() else 0
    lists = torch.full((capacity, longest), -1, dtype=torch.int32, device=owner.device)
    lists[owner, place] = event.to(torch.int32)
    row = torch.zeros(capacity, dtype=torch.int32, device=owner.device)
    row[log.often] = torch.arange(1, log.often.numel() + 1, dtype=torch.int32, device=owner.device)
    # Row 0 is of those without a row of their own.
    counts = F.pad(log.counts, (0, 0, 1, 0))
    return _Lane(events=log.events.to(torch.int32), lists=lists, rows_of_counts=counts, row=row)
