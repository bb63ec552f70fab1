"""`hf-memoria join`: several memory files as one, which is asked of all of them at once."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from hf_memoria.cli.command import Command
from hf_memoria.memories.interface import State, system_of_state
from hf_memoria.memories.shared.joining import join_memories
from hf_memoria.memories.shared.state_files import read_state, write_state
from hf_memoria.models.memory_files import BOOKKEEPING, WEIGHTS

EXAMPLES = """\
  hf-memoria join louvre.safetensors orsay.safetensors -o paris.safetensors
  hf-memoria join a.safetensors b.safetensors -o both.safetensors --source-offsets 0 100   # both have a document 1
  hf-memoria generate out/model --memory paris.safetensors --prompt-file question.txt"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    told = "memory files of one kind and with the same settings; what is read next goes on from the last"
    parser.add_argument("paths", type=Path, metavar="FILE", nargs="+", help=told)
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", required=True, help="the file to write")
    told = "a number for each file, which is added to the ids of its documents"
    parser.add_argument("--source-offsets", type=int, nargs="+", metavar="N", help=told)


def run(args: argparse.Namespace) -> int:
    """Write the joined memory, and say what it holds."""
    if args.output.exists():
        raise FileExistsError(f"--output must be a file that is not there yet; {args.output} is.")
    found = [read_state(path) for path in args.paths]
    description = joined_description(args.paths, found)
    joined = join_memories([state for state, _ in found], args.source_offsets)
    write_state(joined, args.output, description)
    rows = "1 row" if joined.batch_size == 1 else f"{joined.batch_size} rows"
    print(f"{len(found)} memories in {args.output}, {rows}; hf-memoria inspect shows what they hold")
    return 0


def joined_description(paths: list[Path], found: list[tuple[State, dict[str, Any] | None]]) -> dict[str, Any] | None:
    """Return the settings that all memories were made with; None if one does not say its own.

    The weights are named if all of them were made by the same. Stores of ids may be of different ones.

    Args:
        paths: the files.
        found: the state that each of them holds, and the settings that it was made with.

    Raises:
        ValueError: if settings differ, or weights do where vectors mean something only to those.
    """
    said = [(path, made_with) for path, (_, made_with) in zip(paths, found, strict=True) if made_with is not None]
    for path, made_with in said[1:]:
        first = said[0][1]
        names = [name for name in {**first, **made_with} if name not in BOOKKEEPING]
        differing = [name for name in names if first.get(name) != made_with.get(name)]
        if "kind" in differing:  # then no other setting can be compared
            differing = ["kind"]
        if differing:
            told = "; ".join(f"{name} is {first.get(name)!r} and {made_with.get(name)!r}" for name in differing)
            raise ValueError(f"FILEs must be made with the same settings; in {said[0][0]} and {path} {told}.")
    weights = {made_with.get(WEIGHTS) for _, made_with in said}
    bound = any(system_of_state(state).bound_to_weights(state) for state, _ in found)
    if len(weights - {None}) > 1 and bound:
        got = ", ".join(sorted(map(str, weights)))
        raise ValueError(f"FILEs must be made by the same weights, whose vectors they hold; got {got}.")
    if len(said) < len(found):
        return None
    settings = {name: value for name, value in said[0][1].items() if name not in BOOKKEEPING}
    return settings | ({WEIGHTS: said[0][1][WEIGHTS]} if len(weights) == 1 and None not in weights else {})


COMMAND = Command("join", "make one memory of several files, asked all at once", EXAMPLES, add_arguments, run)
