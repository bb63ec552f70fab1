"""What `hf-memoria inspect` makes of the traces of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

ALONE = """\
note: several of these curves look much the same for noise. Run the same with retrieval="fifo" and retrieval="random",
and inspect the folder that holds the three: measures.png then shows them side by side."""


def trace_folders(path: Path) -> dict[str, Path]:
    """Return where traces are in a folder, by the name of the run; none in a file."""
    if not path.is_dir():
        return {}
    # Local, here and below: only traces need it, and it takes a while to import.
    from hf_memoria.analysis import inspection

    return inspection.trace_folders(path)


def inspect_traces(
    folders: dict[str, Path], path: Path, output: Path, row: int | None, run: str | None
) -> dict[str, Any]:
    """Write plots, tables and pages; return what there is and what was written, under `path`, as plain JSON.

    Args:
        folders: the folders of traces, by the name of the run.
        path: the path that was asked for.
        output: the folder to write to.
        row: a lane to be shown alone, or None.
        run: the one to be shown, where files of several lie together, or None.
    """
    from hf_memoria.analysis import inspection, read_traces

    inspection.check_drawing()
    found = {name: read_traces(folder, run) for name, folder in folders.items()}
    if row is not None:
        found = {name: traces.of_lane(row) for name, traces in found.items()}
    written = inspection.inspect_traces(found, output)
    runs = {name: {"traces": str(folders[name]), **inspection.describe_traces(one)} for name, one in found.items()}
    return {str(path): {"runs": runs, "written": list(map(str, written))}}


def traces_as_text(shown: dict[str, Any]) -> str:
    """Return it for people."""
    lines = []
    for name, run in shown["runs"].items():
        lines.append(f"{name}: {run['lanes']} lanes, {run['documents']} documents, {run['segments']} segments")
        told = ", ".join(f"{run[event]} {event}" for event in ("created", "reminded", "promoted", "forgotten"))
        lines.append(f"  engrams {told}; retrieval {run['retrieval']!r}")
        if run["unknown_engrams"]:
            lines.append(f"  {run['unknown_engrams']} engrams more are left out: how they were made is not recorded")
        if run["full_at_step"] is not None:
            lines.append(f"  full at step {run['full_at_step']}: nothing after it is recorded (most_bytes)")
    if not {"fifo", "random"} <= {run["retrieval"] for run in shown["runs"].values()}:
        lines.append(ALONE)
    return "\n".join([*lines, *(f"wrote {file}" for file in shown["written"])])
