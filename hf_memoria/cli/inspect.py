"""`hf-memoria inspect`: what a memory file, or a checkpoint of Trainer, holds."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from hf_memoria.cli.command import Command
from hf_memoria.memory import EngramState
from hf_memoria.models.outputs import MemoryState
from hf_memoria.models.state_files import read_state
from hf_memoria.token_memory import TokenState

EXAMPLES = """\
  hf-memoria inspect memory.safetensors
  hf-memoria inspect out/checkpoint-500           # the lanes of every process
  hf-memoria inspect memory.safetensors --json"""

def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("path", type=Path, metavar="PATH", help="a memory file, or a folder with some")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Print a table for each file: a row of it for each lane."""
    summaries = {str(path): summarise(*read_state(path)) for path in memory_files(args.path)}
    if args.json:
        print(json.dumps(summaries, indent=2))
    else:
        print("\n\n".join(f"{path}\n{as_text(summary)}" for path, summary in summaries.items()))
    return 0


def memory_files(path: Path) -> list[Path]:
    """Return the memory file that is meant, or those of a folder.

    Raises:
        FileNotFoundError: if there is none.
    """
    if not path.is_dir():
        return [path]
    found = sorted(path.glob("memory*.safetensors"))
    if not found:
        raise FileNotFoundError(f"PATH must be a memory file, or hold memory*.safetensors; {path} holds none.")
    return found


def summarise(state: MemoryState, made_with: dict[str, Any] | None) -> dict[str, Any]:
    """Return what a state holds, as plain JSON: lifespans, ages, firings and norms as least, median and most."""
    if isinstance(state, TokenState):
        vectors, told, row_of = state.tokens, {"past_segments": len(state.history)}, _row_of_tokens
    else:
        vectors, told, row_of = state.data, {"cofire_graph": state.graph.form}, _row_of_engrams
    return {
        "made_with": made_with,
        "hidden_size": vectors.shape[-1],
        "dtype": str(vectors.dtype).removeprefix("torch."),
        **told,
        "rows": [{"row": row, "segments": int(state.step[row]), **row_of(state, row)} for row in range(len(vectors))],
    }


def _row_of_engrams(state: EngramState, row: int) -> dict[str, Any]:
    alive = state.valid[row]
    numbers = {"lifespan": state.lifespan, "age": state.age, "fired": state.fire_counts}
    return {
        "short_term": int(state.num_short_term[row]),
        "long_term": int(state.num_long_term[row]),
        **{name: _spread(values[row][alive].double().tolist()) for name, values in numbers.items()},
        "refused": int(state.refused[row]),
    }


def _row_of_tokens(state: TokenState, row: int) -> dict[str, Any]:
    norms = state.tokens[row].double().norm(dim=-1).tolist()
    return {"tokens": len(norms), "norm": _spread(norms)}


def _spread(values: list[float]) -> dict[str, float] | None:
    if not values:
        return None
    values = sorted(values)
    return {"least": values[0], "median": values[len(values) // 2], "most": values[-1]}


def as_text(summary: dict[str, Any]) -> str:
    """Return a summary as a table for people."""
    head = f"{len(summary['rows'])} rows, hidden size {summary['hidden_size']}, {summary['dtype']}"
    made_with = ", ".join(f"{name}={value!r}" for name, value in sorted((summary["made_with"] or {}).items()))
    columns = list(summary["rows"][0]) if summary["rows"] else list(ROW_COLUMNS)
    table = [columns, *([_cell(row[name]) for name in columns] for row in summary["rows"])]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in table]
    return "\n".join([head, f"made with: {made_with or 'not said'}", *lines])


def _cell(value: Any) -> str:
    if isinstance(value, dict):
        return " / ".join(f"{number:.4g}" for number in value.values())
    return "-" if value is None else str(value)


COMMAND = Command("inspect", "show what a memory holds", EXAMPLES, add_arguments, run)
