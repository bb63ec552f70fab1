"""Traces of a memory: what became of each engram, and what was read when, of one run.

A folder holds `events-*.parquet`, `segments-*.parquet` and `settings.json`. Parts are written under another name and
moved when they are whole, so what is there can be read while a run goes on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from hf_memoria.analysis.trace_parts import TABLES, TIERS, check_run, read_part, runs_in
from hf_memoria.analysis.trace_settings import NAME, read_settings, run_named
from hf_memoria.memories.interface import EVENTS


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


def read_traces(folder: str | Path, run: str | None = None) -> Traces:
    """Read what has been recorded so far.

    Args:
        folder: the folder of the traces.
        run: the one to read, where files of several lie there, `"0.1.0"` for those that name none. None is the
            only one.

    Raises:
        FileNotFoundError: if there are no traces.
        ValueError: if they are of several runs, of a format or a version that this one does not know, damaged, or
            something else; it names the file, and the line or row.
    """
    folder = Path(folder)
    settings = read_settings(folder)
    parts = _of_run(folder, settings, run)
    events = _joined("events", parts).to_pandas()
    events["event"] = pd.Categorical.from_codes(events["event"], EVENTS)
    events["tier"] = pd.Categorical.from_codes(events["tier"], TIERS)
    return Traces(events, _joined("segments", parts).to_pandas(), settings)


def _of_run(folder: Path, settings: dict[str, Any], run: str | None) -> list[Path]:
    """Return the parts of the run that is asked for, whose settings have to be there."""
    found, own = runs_in(folder), run_named(settings)
    if run is not None:
        check_run(run)
    elif len(found) > 1:
        raise ValueError(
            f"{folder} must hold traces of one run; got those of {_told(found)}. Choose one with read_traces(folder, "
            "run=...) or `hf-memoria inspect --run`, or move the files of the others away."
        )
    wanted = next(iter(found), own) if run is None else run
    if wanted not in found and wanted != own:
        raise ValueError(f"run must be one whose traces are in {folder}, of {_told(found) or repr(own)}; got {run!r}.")
    if wanted != own:
        raise ValueError(
            f"{folder / NAME} must be of the run that is read, {wanted!r}; got that of {own!r}. Put the one of "
            f"{wanted!r} there, with its files alone."
        )
    return found.get(wanted, [])


def _told(found: Mapping[str, list[Path]]) -> str:
    return " and ".join(f"{run!r} ({', '.join(path.name for path in parts)})" for run, parts in sorted(found.items()))


def _joined(table: str, parts: list[Path]) -> pa.Table:
    of_table = [path for path in parts if path.name.startswith(f"{table}-")]
    tables = [TABLES[table].empty_table(), *(read_part(path, table) for path in of_table)]
    return pa.concat_tables(tables).sort_by([("step", "ascending")])
