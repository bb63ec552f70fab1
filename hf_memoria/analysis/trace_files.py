"""Traces of a memory as files: what became of each engram, and what was read when.

A folder holds `events-*.parquet`, `segments-*.parquet` and `settings.json`. Parts are written under another name and
moved when they are whole, so what is there can be read while a run goes on.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from hf_memoria.memories.interface import EVENTS

FORMAT, VERSION = "hf_memoria.traces", 1

TIERS = ("", "working", "short-term", "long-term")
"""Names of `EngramKind`, by its numbers."""

EVENT_SCHEMA = pa.schema(
    {
        "step": pa.int32(),
        "lane": pa.int32(),
        "document": pa.int32(),
        "time": pa.int32(),
        "event": pa.int8(),
        "id": pa.int32(),
        "tier": pa.int8(),
        "created": pa.int32(),
        "credit": pa.float32(),
        "lifespan": pa.float32(),
    }
)
SEGMENT_SCHEMA = pa.schema(
    {
        **{name: pa.int32() for name in ("step", "lane", "document", "time")},
        "text": pa.string(),
        "image": pa.binary(),
    }
)
TABLES = {"events": EVENT_SCHEMA, "segments": SEGMENT_SCHEMA}


@dataclass(frozen=True)
class Traces:
    """What a recorder wrote.

    Attributes:
        events: one row an event: `step` of the run, `lane`, `document` of the lane (counting from 0), `time` (segments
            of the document before this one), `event` (one of `EVENTS`), `id`, `tier` (before the event, and after it
            where it was promoted), `created` (the time at which the engram was made), `credit` (steps of life that
            reminding earned; else NaN), `lifespan` (after the step; NaN if forgotten).
        segments: one row a segment that was read: `step`, `lane`, `document`, `time`, `text`, `image` (PNG).
        settings: the memory's settings, whether the bound of the size was reached, and so on.
    """

    events: pd.DataFrame
    segments: pd.DataFrame
    settings: dict[str, Any]

    @property
    def source_lag(self) -> int:
        """Segments between an engram and what it was made of: 1, or 0 where the cue is of the same segment."""
        return 1 if self.settings["memory"].get("cue_layer") is None else 0

    def of_lane(self, lane: int) -> Traces:
        """Return what belongs to a lane.

        Raises:
            ValueError: if nothing of it is recorded.
        """
        if not (self.segments.lane == lane).any():
            lanes = ", ".join(map(str, sorted(set(self.segments.lane))))
            raise ValueError(f"row must be one that is recorded, of {lanes or 'none'}; got {lane}.")
        return Traces(self.events[self.events.lane == lane], self.segments[self.segments.lane == lane], self.settings)

    def of_document(self, lane: int, document: int) -> Traces:
        """Return what belongs to one document of a lane."""
        events, segments = (
            frame[(frame.lane == lane) & (frame.document == document)] for frame in (self.events, self.segments)
        )
        return Traces(events, segments, self.settings)


def read_traces(folder: str | Path) -> Traces:
    """Read what has been recorded so far.

    Raises:
        FileNotFoundError: if there are no traces.
        ValueError: if they are of a format or a version that this one does not know.
    """
    folder = Path(folder)
    path = folder / "settings.json"
    if not path.is_file():
        raise FileNotFoundError(f"folder must hold traces, with a settings.json; there is none in {folder}.")
    settings = json.loads(path.read_text(encoding="utf-8"))
    for name, expected in (("format", FORMAT), ("version", VERSION)):
        if settings.get(name) != expected:
            raise ValueError(f"{name} of the traces in {folder} must be {expected!r}; got {settings.get(name)!r}.")
    events = _read_table(folder, "events").to_pandas()
    events["event"] = pd.Categorical.from_codes(events["event"], EVENTS)
    events["tier"] = pd.Categorical.from_codes(events["tier"], TIERS)
    return Traces(events, _read_table(folder, "segments").to_pandas(), settings)


def _read_table(folder: Path, table: str) -> pa.Table:
    parts = [_read_part(part, TABLES[table]) for part in _parts(folder, table)]
    return pa.concat_tables([TABLES[table].empty_table(), *parts]).sort_by([("step", "ascending")])


def _read_part(part: Path, schema: pa.Schema) -> pa.Table:
    try:
        return pq.read_table(part, schema=schema)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(
            f"{part} must be a whole Parquet file; it cannot be read ({error}). Copy it again, or do without its "
            "steps: delete it."
        ) from error


def _parts(folder: Path, table: str, process: int | None = None) -> list[Path]:
    return sorted(folder.glob(f"{table}-{'*' if process is None else f'{process:04d}'}-*.parquet"))


class TraceWriter:
    """Appends to the traces of one process, up to a size.

    Args:
        folder: of the traces.
        settings: to write beside them.
        most_bytes: nothing more is written once the process's files hold as much.
        process: number of this process among those that write here.
        resume: the step that the traces go on from; what is there of later steps goes. None begins new ones.

    Raises:
        ValueError: if the folder holds traces already, and is not to be resumed.
    """

    def __init__(
        self, folder: Path, settings: dict[str, Any], most_bytes: int, process: int = 0, resume: int | None = None
    ) -> None:
        self.folder, self.process, self.most_bytes = folder, process, most_bytes
        self.settings = {"format": FORMAT, "version": VERSION, "full_at_step": None, **settings}
        self._pending: dict[str, list[dict[str, Any]]] = {table: [] for table in TABLES}
        folder.mkdir(parents=True, exist_ok=True)
        if resume is not None:
            self._cut(resume)
        elif _parts(folder, "segments", process):
            raise ValueError(f"folder must hold no traces yet; got {folder}. Choose another, or delete it.")
        self._write_settings()

    @property
    def full(self) -> bool:
        """Whether the bound has been reached."""
        return self.settings["full_at_step"] is not None

    def last_documents(self) -> dict[int, int]:
        """Return the number of the last document of each lane that is recorded."""
        parts = _parts(self.folder, "segments", self.process)
        found = pa.concat_tables([SEGMENT_SCHEMA.empty_table(), *(pq.read_table(part) for part in parts)])
        return found.to_pandas().groupby("lane").document.max().to_dict()

    def add(self, table: str, columns: dict[str, Any]) -> None:
        """Keep rows, a column a name, for the next flush."""
        if len(columns["step"]) and not self.full:
            self._pending[table].append(columns)

    def flush(self) -> None:
        """Write what is pending as a part of each table."""
        for table, batches in self._pending.items():
            if not batches:
                continue
            joined = {name: _join(batch[name] for batch in batches) for name in TABLES[table].names}
            first, last = int(joined["step"][0]), int(joined["step"][-1])
            self._write_part(f"{table}-{self.process:04d}-{first:09d}.parquet", pa.table(joined, TABLES[table]))
            batches.clear()
            if self._size() >= self.most_bytes and not self.full:
                self.settings["full_at_step"] = last
        if self.full:
            self._write_settings()

    def _size(self) -> int:
        return sum(part.stat().st_size for table in TABLES for part in _parts(self.folder, table, self.process))

    def _write_part(self, name: str, rows: pa.Table) -> None:
        temporary = self.folder / f".{name}"
        pq.write_table(rows, temporary, compression="zstd")
        os.replace(temporary, self.folder / name)

    def _write_settings(self) -> None:
        temporary = self.folder / f".settings-{self.process}"
        temporary.write_text(json.dumps(self.settings, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        os.replace(temporary, self.folder / "settings.json")

    def _cut(self, step: int) -> None:
        for table in TABLES:
            for part in _parts(self.folder, table, self.process):
                rows = pq.read_table(part)
                kept = rows.filter(pc.less(rows["step"], step))
                if len(kept) < len(rows):
                    part.unlink()
                    if len(kept):
                        self._write_part(part.name, kept)


def _join(columns: Iterable[Any]) -> Any:
    columns = list(columns)
    if isinstance(columns[0], np.ndarray):
        return np.concatenate(columns)
    return [value for column in columns for value in column]
