"""`hf-memoria inspect`: what a memory file or a checkpoint of Trainer holds, and what a run's memory held."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from hf_memoria.cli.command import Command
from hf_memoria.cli.inspect_contents import Decode, contents_as_text, decoder_for, row_contents
from hf_memoria.cli.inspect_traces import inspect_traces, trace_folders, traces_as_text
from hf_memoria.memories.interface import State, system_of_state
from hf_memoria.memories.shared.state_files import read_state

EXAMPLES = """\
  hf-memoria inspect memory.safetensors
  hf-memoria inspect out/checkpoint-500           # the lanes of every process
  hf-memoria inspect out                          # of traces: measures, plots and a page, into out/inspection
  hf-memoria inspect runs --output_dir shown      # several runs in a folder, one beside the other
  hf-memoria inspect out --row 0                  # one lane alone
  hf-memoria inspect memory.safetensors --json
  hf-memoria inspect memory.safetensors --tokenizer openai-community/gpt2   # the text of an episodic memory"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    told = "a memory file; or a folder with some, with traces of TraceCallback, or with runs that have traces"
    parser.add_argument("path", type=Path, metavar="PATH", help=told)
    told = "where plots, tables and page of traces go (default: `inspection` in PATH)"
    parser.add_argument("--output_dir", type=Path, metavar="DIR", help=told)
    parser.add_argument("--row", type=int, help="only this row of a batch, which is a lane of a run")
    told = "only this run, where traces of several lie in one folder; the error says which are there"
    parser.add_argument("--run", metavar="NAME", help=told)
    told = (
        "a folder or a name on the Hub, to show the text where a memory holds its ids (default: one beside the file)"
    )
    parser.add_argument("--tokenizer", metavar="NAME", help=told)
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Print a table for each memory file, and write and name what can be shown of traces."""
    traces = trace_folders(args.path)
    if args.run is not None and not traces:
        raise ValueError(f"--run is for a folder with traces; {args.path} has none.")
    files = _memory_files(args, traces)
    decode = decoder_for(args.tokenizer, args.path) if files else None
    summaries = {str(path): _of_row(summarise(*read_state(path), decode), args.row) for path in files}
    output = args.output_dir or args.path / "inspection"
    shown = inspect_traces(traces, args.path, output, args.row, args.run) if traces else {}
    if args.json:
        print(json.dumps({**summaries, **shown}, indent=2))
        return 0
    parts = [f"{path}\n{as_text(summary)}" for path, summary in summaries.items()]
    print("\n\n".join([*parts, *(traces_as_text(one) for one in shown.values())]))
    return 0


def _memory_files(args: argparse.Namespace, traces: dict[str, Path]) -> list[Path]:
    if not args.path.is_dir():
        if args.output_dir is not None:
            raise ValueError(f"--output_dir is for a folder with traces; PATH is {args.path}.")
        return [args.path]
    found = sorted(args.path.glob("memory*.safetensors"))
    if not found and not traces:
        raise FileNotFoundError(
            f"PATH must be a memory file, or hold memory*.safetensors or traces of TraceCallback; {args.path} holds "
            "none."
        )
    return found


def _of_row(summary: dict[str, Any], row: int | None) -> dict[str, Any]:
    rows = summary["rows"]
    if row is None:
        return summary
    if not 0 <= row < len(rows):
        raise ValueError(f"--row must be from 0 to {len(rows) - 1}; got {row}.")
    return {**summary, "rows": [rows[row]], "contents": [summary["contents"][row]]}


def summarise(state: State, made_with: dict[str, Any] | None, decode: Decode | None = None) -> dict[str, Any]:
    """Return what a state holds, as plain JSON; `decode` makes text of ids."""
    system, rows = system_of_state(state), range(state.batch_size)
    return {
        "made_with": made_with,
        "hidden_size": state.hidden_size,
        "dtype": str(state.data.dtype).removeprefix("torch."),
        "holds": system.holds,
        "rows": [system.summary(state, row) for row in rows],
        "contents": [row_contents(state, row, decode) for row in rows],
    }


def as_text(summary: dict[str, Any]) -> str:
    """Return a summary as a table for people."""
    head = f"{len(summary['rows'])} rows, hidden size {summary['hidden_size']}, {summary['dtype']}"
    made_with = ", ".join(f"{name}={value!r}" for name, value in sorted((summary["made_with"] or {}).items()))
    columns = list(summary["rows"][0]) if summary["rows"] else []
    table = [columns, *([_cell(row[name]) for name in columns] for row in summary["rows"])]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in table]
    told = [f"made with: {made_with or 'not said'}", f"holds {summary['holds']}"]
    return "\n".join([head, *told, *lines, *contents_as_text(summary["contents"])])


def _cell(value: Any) -> str:
    if isinstance(value, dict):
        return " / ".join(f"{number:.4g}" for number in value.values())
    return "-" if value is None else str(value)


COMMAND = Command("inspect", "show what a memory holds, and what it held in a run", EXAMPLES, add_arguments, run)
