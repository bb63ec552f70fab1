"""What `hf-memoria inspect` tells of what was read: documents, and the text, where a memory holds them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from hf_memoria.memories.interface import State
from hf_memoria.memories.shared.contents import NO_SOURCE, KeepsSources, KeepsText

Decode = Callable[[list[int]], str]

OF_TOKENIZER = ("tokenizer.json", "tokenizer_config.json")
"""Files of which a folder with a tokenizer has one."""

SHOWN = 300
"""Characters of a passage where several rows are shown; one row alone is shown whole."""

ASK = "--tokenizer NAME shows the text"


def decoder_for(tokenizer: str | None, path: Path) -> Decode | None:
    """Return what makes text of ids: by the tokenizer that is named, or that lies beside a memory file, or None.

    Args:
        tokenizer: folder or name on the Hub; None looks beside the file.
        path: the path of a memory file, or its folder.

    Raises:
        ValueError: if one is named and cannot be had.
    """
    folder = path if path.is_dir() else path.parent
    beside = any((folder / name).is_file() for name in OF_TOKENIZER)
    if tokenizer is None and not beside:
        return None
    try:
        found = AutoTokenizer.from_pretrained(tokenizer or str(folder))
    except (OSError, ValueError) as error:
        if tokenizer is None:
            return None  # nobody asked for it
        raise ValueError(
            f"--tokenizer must be the folder of a tokenizer or its name on the Hub; got {tokenizer!r}: {error}"
        ) from error
    return lambda ids: str(found.decode(ids))


def row_contents(state: State, row: int, decode: Decode | None) -> dict[str, Any]:
    """Return what a row can tell of what it has read, as plain JSON; nothing where its kind keeps nothing of it.

    `sources` counts what is remembered of each document by its id, 0 for those without. `passages` are runs of the
    text with their documents and places, and the text itself where ids can be decoded.
    """
    contents: dict[str, Any] = {"row": row}
    if isinstance(state, KeepsSources):
        contents["sources"] = {str(source): count for source, count in state.sources(row).items()}
    if isinstance(state, KeepsText):
        contents["passages"] = [
            {
                "source": passage.source,
                "position": passage.position,
                "length": len(passage.ids),
                "text": None if decode is None else _text(passage.ids, decode),
            }
            for passage in state.passages(row)
        ]
    return contents


def _text(ids: list[int], decode: Decode) -> str | None:
    known = [token for token in ids if token >= 0]
    return decode(known) if known else None


def contents_as_text(contents: list[dict[str, Any]]) -> list[str]:
    """Return lines for people, one for each row's documents and one for each passage whose text is known."""
    lines = []
    for of_row in contents:
        if of_row.get("sources"):
            counts = ", ".join(f"{_named(int(source))} {count}" for source, count in of_row["sources"].items())
            lines.append(f"row {of_row['row']}, engrams by source: {counts}")
        for passage in of_row.get("passages", ()):
            if passage["text"] is not None:
                place = f"row {of_row['row']}, source {_named(passage['source'])}, position {passage['position']}"
                lines.append(f"{place}: {shown(passage['text'], whole=len(contents) == 1)}")
    if any(passage["text"] is None for of_row in contents for passage in of_row.get("passages", ())):
        lines.append(ASK)
    return lines


def _named(source: int) -> str:
    return "none" if source == NO_SOURCE else str(source)


def shown(text: str, whole: bool) -> str:
    """Return a text as one line, cut short unless it is to be whole."""
    # As JSON, so that a line stays a line, and nothing in the text tells the terminal what to do.
    told = json.dumps(text if whole else text[:SHOWN], ensure_ascii=False)
    return told if whole or len(text) <= SHOWN else f"{told} and {len(text) - SHOWN} characters more"
