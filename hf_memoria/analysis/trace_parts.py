"""The Parquet files that traces consist of: their names, what is in them, and the run that each is of.

A part `<table>-<process>-<step>.parquet` holds what one process recorded from a step on. Its metadata names the run;
what 0.1.0 wrote names none.
"""

from __future__ import annotations

import os
import re
import uuid
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from hf_memoria.memories.interface import EVENTS

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

MOST_TIME = 2**24
"""Segments of a document at most; firings are counted exactly up to here. Lives are tables over time."""

BOUNDS: dict[str, tuple[int, int | None]] = {
    **dict.fromkeys(("step", "lane", "document", "id"), (0, None)),
    **dict.fromkeys(("time", "created"), (0, MOST_TIME)),
    "event": (0, len(EVENTS) - 1),
    "tier": (0, len(TIERS) - 1),
}
MAY_BE_NULL = ("text", "image")

OLD_RUN = "0.1.0"
"""Stands for the run of parts that name none; no other run may be called so."""

_RUN = b"hf_memoria.run"
_REMEDY = "Copy it again, or do without its steps: delete it."


def new_run() -> str:
    """Return a name for a run that no other has."""
    return uuid.uuid4().hex[:12]


def check_run(run: object, old: bool = True) -> None:
    """Refuse what cannot be the name of a run; `old` says whether it may be that of traces that name none.

    Raises:
        ValueError: saying what can.
    """
    if old and run == OLD_RUN:
        return
    if not isinstance(run, str) or not re.fullmatch(r"[0-9A-Za-z_-]{1,64}", run):
        raise ValueError(f"run must be a name of 1 to 64 letters, digits, - or _; got {run!r}.")


def find_parts(folder: Path, table: str, process: int | None = None) -> list[Path]:
    """Return the parts of a table, of all processes or of one, in order.

    Raises:
        ValueError: if a file among them is not named as a part is.
    """
    found = sorted(folder.glob(f"{table}-*.parquet"))
    for path in found:
        if not re.fullmatch(rf"{table}-\d{{4,}}-\d{{9,}}\.parquet", path.name):
            raise ValueError(
                f"{path} must be named {table}-<process>-<step>.parquet, as a part of traces is. Move it away if it "
                "is a copy or something else."
            )
    return [path for path in found if process is None or int(path.name.split("-")[1]) == process]


def run_of(path: Path) -> str:
    """Return the run that a part is of.

    Raises:
        ValueError: if it cannot be read, naming it.
    """
    try:
        found = (pq.read_schema(path).metadata or {}).get(_RUN)
        run = OLD_RUN if found is None else found.decode("ascii")
        check_run(run)
    except Exception as error:  # what a damaged file makes of the decoder is not documented
        raise _damaged(path, error) from error
    return run


def runs_in(folder: Path, process: int | None = None) -> dict[str, list[Path]]:
    """Return the parts in a folder by their run, of all processes or of one, less what is taken away meanwhile.

    Raises:
        ValueError: if a part cannot be read, naming it.
    """
    found: dict[str, list[Path]] = {}
    for table in TABLES:
        for path in find_parts(folder, table, process):
            try:
                found.setdefault(run_of(path), []).append(path)
            except ValueError:
                if path.exists():
                    raise
    return found


def read_part(path: Path, table: str) -> pa.Table:
    """Read a part, with checksums of its pages where it has any.

    Raises:
        ValueError: if it cannot be read or is something else, naming it; row and column too where a value is none.
    """
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            rows = file.read().replace_schema_metadata(None)
        rows.validate(full=True)
    except Exception as error:  # as above
        raise _damaged(path, error) from error
    if not rows.schema.equals(TABLES[table]):
        raise ValueError(
            f"{path} must have the columns of {table}, {_told(TABLES[table])}; got {_told(rows.schema)}. Move it away "
            "if it is something else."
        )
    for name in TABLES[table].names:
        _check_column(path, name, rows[name])
    if table == "events":
        _check_all(path, "created", "at most its time", rows["created"], pc.less_equal(rows["created"], rows["time"]))
        _check_all(path, "credit", "finite, or NaN for none", rows["credit"], pc.invert(pc.is_inf(rows["credit"])))
    return rows


def write_part(path: Path, rows: pa.Table, run: str) -> None:
    """Write a part, which appears under its name when it is whole."""
    metadata = None if run == OLD_RUN else {_RUN: run.encode("ascii")}
    temporary = path.with_name(f".{path.name}")
    pq.write_table(rows.replace_schema_metadata(metadata), temporary, compression="zstd", write_page_checksum=True)
    os.replace(temporary, path)


def _check_column(path: Path, name: str, column: pa.ChunkedArray) -> None:
    if name not in MAY_BE_NULL:
        _check_all(path, name, "a number", column, column.is_valid())
    if name in BOUNDS:
        least, most = BOUNDS[name]
        expected = f"at least {least}" if most is None else f"from {least} to {most}"
        inside = pc.greater_equal(column, least)
        _check_all(
            path, name, expected, column, inside if most is None else pc.and_(inside, pc.less_equal(column, most))
        )


def _check_all(path: Path, name: str, expected: str, column: pa.ChunkedArray, right: pa.ChunkedArray) -> None:
    row = pc.index(right, False).as_py()
    if row >= 0:
        raise ValueError(f"{name} in row {row} of {path} must be {expected}; got {column[row].as_py()!r}. {_REMEDY}")


def _told(schema: pa.Schema) -> str:
    return ", ".join(f"{field.name} ({field.type})" for field in schema)


def _damaged(path: Path, error: Exception) -> ValueError:
    return ValueError(f"{path} must be a whole Parquet file of traces; it cannot be read ({error}). {_REMEDY}")
