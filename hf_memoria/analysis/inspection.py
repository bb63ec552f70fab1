"""Everything that can be shown of a run's memory, in one call."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hf_memoria.analysis.engram_lives import DOCUMENT, engram_lives, life_table, unknown_engrams
from hf_memoria.analysis.memory_page import write_memory_page
from hf_memoria.analysis.memory_plots import plot_lives, plot_memory_measures
from hf_memoria.analysis.trace_files import Traces, read_traces
from hf_memoria.memories.interface import EVENTS


def inspect_run(folder: str | Path, output: str | Path, run: str | None = None) -> list[Path]:
    """Write tables, plots and a page of what a run's memory held; return the files.

    Args:
        folder: the folder of a run: traces themselves, a folder `traces`, or several runs with one each.
        output: the folder to write to; see `inspect_traces`.
        run: the one to read, where files of several lie together; see `read_traces`.

    Raises:
        FileNotFoundError: if there are no traces in the folder.
        ImportError: without matplotlib or plotly.
        ValueError: if traces are of several runs, or a file cannot be read.
    """
    return inspect_traces(find_traces(folder, run), output)


def inspect_traces(found: Mapping[str, Traces], output: str | Path) -> list[Path]:
    """Write tables, plots and a page of traces; return the files.

    `measures.png` holds the paper's measures of all of them, one beside the other. For each there are `lives.csv` (a
    row an engram), `life_table.csv`, `lives.png` (the longest document) and `memory.html`, in a folder of their own if
    there are several.

    Args:
        found: traces by the name of the run.
        output: the folder to write to.

    Raises:
        ImportError: without matplotlib or plotly; nothing is written then.
        ValueError: if one holds no segment.
    """
    check_drawing()
    output = Path(output)
    output.mkdir(parents=True, exist_ok=True)
    plot_memory_measures(found, output / "measures.png")
    written = [output / "measures.png"]
    for name, traces in found.items():
        written += _inspect(traces, output if len(found) == 1 else output / name, name)
    return written


def find_traces(folder: str | Path, run: str | None = None) -> dict[str, Traces]:
    """Return the traces in a folder by name: its own, or those of the runs in it.

    Args:
        folder: the folder of a run, of its traces, or of several runs.
        run: the one to read, where files of several lie together; see `read_traces`.

    Raises:
        FileNotFoundError: if there are none.
        ValueError: if traces are of several runs, or a file cannot be read.
    """
    found = trace_folders(folder)
    if not found:
        raise FileNotFoundError(
            f"folder must hold traces of a run, as TraceCallback and TraceRecorder write them; {folder} has none."
        )
    return {name: read_traces(place, run) for name, place in found.items()}


def trace_folders(folder: str | Path) -> dict[str, Path]:
    """Return where traces are in a folder, by the name of the run; nothing is read."""
    folder = Path(folder)
    places = {folder.resolve().name: folder} | {path.name: path for path in sorted(folder.glob("*")) if path.is_dir()}
    found: dict[Path, str] = {}
    for name, place in places.items():
        for traces in (place, place / "traces"):
            # A folder `traces` is the run's own, not a run by that name.
            if (traces / "settings.json").is_file() and list(traces.glob("segments-*.parquet")):
                found.setdefault(traces.resolve(), name)
    return {name: traces for traces, name in found.items()}


def describe_traces(traces: Traces) -> dict[str, Any]:
    """Return how much traces hold, as plain JSON: steps, lanes, documents, segments, how often each event is.

    `unknown_engrams` are those that something is recorded of, but not how they were made.
    """
    segments, memory = traces.segments, traces.settings["memory"]
    return {
        "retrieval": memory.get("retrieval", "graph"),
        "lanes": int(segments.lane.nunique()),
        "documents": len(segments.groupby(DOCUMENT)),
        "segments": len(segments),
        **{event: int((traces.events.event == event).sum()) for event in EVENTS},
        "unknown_engrams": unknown_engrams(traces),
        "full_at_step": traces.settings["full_at_step"],
    }


def check_drawing() -> None:
    """Check that there is what draws plots and pages.

    Raises:
        ImportError: naming what is missing, and the extra that has it.
    """
    for library in ("matplotlib", "plotly"):
        try:
            importlib.import_module(library)
        except ImportError as error:
            raise ImportError(f"{library} must be installed to draw; pip install 'hf-memoria[analysis]'.") from error


def _inspect(traces: Traces, output: Path, name: str) -> list[Path]:
    output.mkdir(parents=True, exist_ok=True)
    engram_lives(traces).to_csv(output / "lives.csv", index=False)
    life_table(traces).to_csv(output / "life_table.csv")
    lane, document = traces.segments.groupby(DOCUMENT).size().idxmax()
    plot_lives(traces, lane, document, output / "lives.png")
    write_memory_page(traces, output / "memory.html", title=f"What the memory of {name} held")
    return [output / file for file in ("lives.csv", "life_table.csv", "lives.png", "memory.html")]
