"""Writing traces, part by part."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hf_memoria.analysis.trace_parts import (
    OLD_RUN,
    SEGMENT_SCHEMA,
    TABLES,
    check_run,
    find_parts,
    new_run,
    read_part,
    runs_in,
    write_part,
)
from hf_memoria.analysis.trace_settings import FORMAT, VERSION, write_settings


class TraceWriter:
    """Appends to the traces of one process, up to a size.

    Args:
        folder: the folder of the traces.
        settings: the settings to write beside them.
        most_bytes: the size of the process's files at which nothing more is written.
        process: number of this process among those that write here.
        resume: the step that the traces go on from; what is there of later steps goes. None begins new ones.
        run: name of the run, the same for all processes that write here; None is a new one, or that of the traces
            that are resumed.

    Raises:
        ValueError: if the folder holds traces already and is not to be resumed, or holds those of another run.
    """

    def __init__(
        self,
        folder: Path,
        settings: dict[str, Any],
        most_bytes: int,
        process: int = 0,
        resume: int | None = None,
        run: str | None = None,
    ) -> None:
        self.folder, self.process, self.most_bytes = folder, process, most_bytes
        self._pending: dict[str, list[dict[str, Any]]] = {table: [] for table in TABLES}
        folder.mkdir(parents=True, exist_ok=True)
        self.run = run_to_write(folder, run, resumed=resume is not None)
        named = {} if self.run == OLD_RUN else {"run": self.run}
        self.settings = {"format": FORMAT, "version": VERSION, "full_at_step": None, **named, **settings}
        if resume is not None:
            self._cut(resume)
        elif runs_in(folder, process):
            raise ValueError(f"folder must hold no traces yet; got {folder}. Choose another, or delete it.")
        write_settings(folder, self.settings, process)

    @property
    def full(self) -> bool:
        """Whether the bound has been reached."""
        return self.settings["full_at_step"] is not None

    def last_documents(self) -> dict[int, int]:
        """Return the number of the last document of each lane that is recorded."""
        parts = find_parts(self.folder, "segments", self.process)
        found = pa.concat_tables([SEGMENT_SCHEMA.empty_table(), *(read_part(part, "segments") for part in parts)])
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
            path = self.folder / f"{table}-{self.process:04d}-{first:09d}.parquet"
            write_part(path, pa.table(joined, TABLES[table]), self.run)
            batches.clear()
            if self._size() >= self.most_bytes and not self.full:
                self.settings["full_at_step"] = last
        if self.full:
            write_settings(self.folder, self.settings, self.process)

    def _size(self) -> int:
        return sum(part.stat().st_size for table in TABLES for part in find_parts(self.folder, table, self.process))

    def _cut(self, step: int) -> None:
        for table in TABLES:
            for part in find_parts(self.folder, table, self.process):
                rows = read_part(part, table)
                kept = rows.filter(pc.less(rows["step"], step))
                if not len(kept):
                    part.unlink()
                elif len(kept) < len(rows):
                    write_part(part, kept, self.run)


def run_to_write(folder: Path, run: str | None, resumed: bool) -> str:
    """Return the run that traces in a folder are to be written as.

    Args:
        folder: the folder of the traces.
        run: its name, or None if there is none yet.
        resumed: whether traces that are there are gone on with.

    Raises:
        ValueError: if there are traces of another run.
    """
    if run is not None:
        check_run(run, old=resumed)
    held = sorted(runs_in(folder))
    if resumed and run is None:
        run = held[0] if held else None
    run = new_run() if run is None else run
    others = [name for name in held if name != run]
    if others and resumed:
        raise ValueError(
            f"folder must hold traces of the run that is resumed, {run!r}; got {folder}, with those of {others}. Give "
            "the folder of that run, or another."
        )
    if others:
        raise ValueError(
            f"folder must hold no traces yet; got {folder}, with those of {others}. Choose another, or delete them. "
            "Processes that write into one folder have to be given the same run."
        )
    return run


def _join(columns: Iterable[Any]) -> Any:
    columns = list(columns)
    if isinstance(columns[0], np.ndarray):
        return np.concatenate(columns)
    return [value for column in columns for value in column]
