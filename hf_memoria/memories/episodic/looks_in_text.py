"""The text that an episodic memory holds, highlighted where it was looked at, as HTML without scripts."""

from __future__ import annotations

import html
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from hf_memoria.memories.episodic.looks import Looked
from hf_memoria.memories.episodic.store import EpisodicState
from hf_memoria.memories.episodic.store.state import NO_ID
from hf_memoria.memories.shared.files import write_text_whole

Decode = Callable[[list[int]], str]


def weight_by_position(looked: Sequence[Looked], against: Sequence[Looked] = ()) -> dict[int, float]:
    """Return the attention that each position of the document got, the mean over these looks.

    Args:
        looked: the looks of one row.
        against: looks at the same row for another reason, for example for other questions. What they gave a position
            on average is subtracted, and positions that got no more than that are left out: some tokens get much
            attention whatever is asked.
    """
    weights: dict[int, float] = defaultdict(float)
    for looks, sign in ((looked, 1.0), (against, -1.0)):
        for one in looks:
            for look in one.looks:
                weights[look.position] += sign * look.weight / len(looks)
    return {position: weight for position, weight in weights.items() if weight > 0}


def looked_text(
    memory: EpisodicState,
    looked: Sequence[Looked],
    decode: Decode,
    *,
    row: int = 0,
    against: Sequence[Looked] = (),
    passages: int = 3,
    around: int = 24,
    whole: bool = True,
) -> str:
    """Return the text that was looked at as a piece of HTML: the passages that got most, and all of it.

    The more attention a token got, the mean over these looks, the stronger its colour; the strongest is that of the
    token that got most.

    Args:
        memory: the state that was read from.
        looked: the looks of one row at it.
        decode: the function from ids to their text, a tokenizer's `decode`.
        row: the row of the state.
        against: looks for another reason, whose mean is subtracted; see `weight_by_position`.
        passages: passages that are shown apart, at most.
        around: tokens that a passage shows before and behind the token that got most.
        whole: whether all of the text stands behind them, folded.

    Raises:
        ValueError: if the row holds none of what was looked at, or if it got no more attention than in `against`.
    """
    weights, tokens = weight_by_position(looked, against), _tokens(memory, row, decode)
    strongest = max((weights.get(token.position, 0.0) for token in tokens), default=0.0)
    if not strongest:
        raise ValueError(
            f"looked must be looks at row {row} of this memory; it holds no engram that they gave any attention, or "
            "none that they gave more than `against`."
        )
    shown = [_span(token, weights.get(token.position, 0.0), strongest) for token in tokens]
    parts = [
        f"<p><small>position {tokens[best].position}, source {tokens[best].source}, "
        f"{weights[tokens[best].position]:.4f}</small><br>… {''.join(shown[first:last])} …</p>"
        for best, first, last in _passages(tokens, weights, passages, around)
    ]
    if whole:
        parts.append(f"<details><summary>All of the text</summary><p>{''.join(shown)}</p></details>")
    return f'<div style="{STYLE}">{"".join(parts)}</div>'


def write_text_page(
    memory: EpisodicState,
    looked: Sequence[Looked],
    path: str | Path,
    decode: Decode,
    title: str = "Where it looked",
    row: int = 0,
    against: Sequence[Looked] = (),
) -> None:
    """Write `looked_text` as a page of its own, HTML without scripts. It holds text that was read.

    Args:
        memory: the state that was read from.
        looked: the looks of one row at it.
        path: the path of the page.
        decode: the function from ids to their text, a tokenizer's `decode`.
        title: the title of the page.
        row: the row of the state.
        against: looks for another reason, whose mean is subtracted; see `weight_by_position`.
    """
    body = looked_text(memory, looked, decode, row=row, against=against)
    write_text_whole(PAGE.format(title=html.escape(title), body=body), Path(path))


class _Token(NamedTuple):
    """A position of the text, as it is shown."""

    position: int
    source: int
    text: str


def _tokens(memory: EpisodicState, row: int, decode: Decode) -> list[_Token]:
    """Return what a row holds in the order of the text; positions without an id are a dot."""
    tokens, before = [], None
    for passage in memory.passages(row):
        for place, token in enumerate(passage.ids):
            text = "·" if token == NO_ID else _text_behind(before, token, decode)
            tokens.append(_Token(passage.position + place, passage.source, text))
            before = None if token == NO_ID else token
    return tokens


def _text_behind(before: int | None, token: int, decode: Decode) -> str:
    """Return the text of a token; some tokenizers drop the space before it unless another stands there."""
    if before is not None:
        first, both = decode([before]), decode([before, token])
        if both.startswith(first):
            return both[len(first) :]
    return decode([token])


def _passages(
    tokens: Sequence[_Token], weights: dict[int, float], most: int, around: int
) -> list[tuple[int, int, int]]:
    """Return the place of the token that got most, the first and the end of each passage; they do not overlap."""
    order = sorted(range(len(tokens)), key=lambda place: -weights.get(tokens[place].position, 0.0))
    found: list[tuple[int, int, int]] = []
    for place in order:
        if len(found) == most or not weights.get(tokens[place].position):
            break
        if all(abs(place - other) > 2 * around for other, *_ in found):
            found.append((place, max(place - around, 0), place + around + 1))
    return found


def _span(token: _Token, weight: float, strongest: float) -> str:
    text = html.escape(token.text).replace("\n", "<br>")
    share = round(100 * weight / strongest)
    if not share:
        return text
    return f'<span title="{weight:.4f}" style="background: rgba(230, 140, 0, {share / 100})">{text}</span>'


STYLE = "font: 15px/1.5 system-ui, sans-serif; max-width: 50rem"

PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>{title}</title>
<body style="margin: 2rem; color: #1a1a1a; background: #fff">
<h1 style="font: 24px system-ui, sans-serif">{title}</h1>
{body}
</body></html>
"""
