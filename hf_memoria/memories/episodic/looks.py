"""Which engrams each position looked at, while a model reads or generates, and a page that shows it."""

from __future__ import annotations

import html
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hf_memoria.backbones import HookHolder, reading_of
from hf_memoria.memories.episodic.reader import EpisodicReader
from hf_memoria.memories.episodic.searched import SearchedStore, SearchRead
from hf_memoria.memories.episodic.store.state import NO_ID


@dataclass(frozen=True)
class Look:
    """An engram that a position looked at.

    Attributes:
        ids: its window in the order of the text, the id behind it at last; `NO_ID` where there is none.
        position: its place in the document.
        segments_ago: its age.
        weight: attention that it got, the mean over heads, from 0 to 1.
    """

    ids: list[int]
    position: int
    segments_ago: int
    weight: float


@dataclass(frozen=True)
class Looked:
    """What one position of a row looked at.

    Attributes:
        block: number of the reading block.
        row: the row of the batch.
        token: id of the position, or None where it came without one.
        looks: the engrams that got most, in that order; what is missing to a sum of 1 went to nothing at all.
    """

    block: int
    row: int
    token: int | None
    looks: list[Look]


class LookRecorder(HookHolder):
    """Records what a model with an episodic memory looks at, within `with LookRecorder(model) as recorder:`.

    It records the separate read; each position stands in `recorder.looked` in the order of reading, once a reading
    block. What is recorded is the text itself.

    Args:
        model: a model with an episodic memory that has a separate read.
        most: engrams of a position at most.

    Attributes:
        looked: the looks that were recorded so far.

    Raises:
        ValueError: if no block of the model reads so.
    """

    def __init__(self, model: Any, most: int = 5) -> None:
        self.base_model, self.most = model.base_model, most
        self.looked: list[Looked] = []
        modules = self.base_model.modules()
        self._blocks: list[nn.Module] = [module for module in modules if isinstance(module, EpisodicReader)]
        self._handles: list[Any] = []
        if not self._blocks:
            raise ValueError(
                "model must have an EpisodicMemoryConfig with separate_read=True to record what it looks at; got "
                f"{type(model).__name__} with {model.config.memory}."
            )

    def __enter__(self) -> LookRecorder:
        self._handles = [reader.register_forward_hook(self._record) for reader in self._blocks]
        return self

    def __exit__(self, *error: object) -> None:
        while self._handles:
            self._handles.pop().remove()

    @torch.no_grad()
    def _record(self, reader: nn.Module, args: tuple[Any, ...], read: SearchRead) -> None:
        reading, store = reading_of(self.base_model), args[1]
        weights = read.weights.float().mean(dim=1)
        found = weights.topk(min(self.most, weights.shape[-1]), dim=-1)
        columns = found.indices
        if read.columns is not None:
            columns = read.columns.unsqueeze(1).expand(-1, weights.shape[1], -1).gather(2, columns)
        block, real = self._blocks.index(reader), reading.real_positions(read.hidden)
        for row, place in real.nonzero().tolist():
            token = None if reading.ids is None else int(reading.ids[row, place])
            looks = [
                _look(store, row, int(column), float(weight))
                for column, weight in zip(columns[row, place], found.values[row, place], strict=True)
                if weight > 0
            ]
            self.looked.append(Looked(block, row, token, looks))


def _look(store: SearchedStore, row: int, column: int, weight: float) -> Look:
    window: Tensor = store.ids[row, column]
    return Look(
        ids=[*window[:-1].flip(0).tolist(), int(window[-1])],
        position=int(store.position[row, column]),
        segments_ago=int(store.age[row, column]),
        weight=weight,
    )


def write_looks_page(
    looked: Sequence[Looked], path: str | Path, word_of: Callable[[int], str], title: str = "What was looked at"
) -> None:
    """Write a page with a line for each position: its token, and the engrams that it looked at, as text.

    Args:
        looked: the looks of one row and block, in the order of reading.
        path: the path of the page, HTML without scripts. It holds text that was read.
        word_of: the function from an id to its text, a tokenizer's `convert_ids_to_tokens` or `decode`.
        title: the title of the page.
    """
    lines = [_line(one, word_of) for one in looked]
    body = PAGE.format(title=html.escape(title), lines="\n".join(lines))
    Path(path).write_text(body, encoding="utf-8")


def _line(one: Looked, word_of: Callable[[int], str]) -> str:
    token = "(no id)" if one.token is None else word_of(one.token)
    nothing = max(0.0, 1 - sum(look.weight for look in one.looks))
    cells = "".join(_cell(look, word_of) for look in one.looks)
    return f"<tr><th>{html.escape(token)}</th><td>{nothing:.2f}</td><td>{cells}</td></tr>"


def _cell(look: Look, word_of: Callable[[int], str]) -> str:
    words = [word_of(token) for token in look.ids[:-1] if token != NO_ID]
    behind = "" if look.ids[-1] == NO_ID else word_of(look.ids[-1])
    text = f"{html.escape(' '.join(words))} <i>{html.escape(behind)}</i>"
    told = f"position {look.position}, {look.segments_ago} segments ago"
    return f'<span title="{told}" style="--w:{look.weight:.3f}">{text}<small>{look.weight:.2f}, {told}</small></span>'


PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>{title}</title>
<style>
body {{ font: 15px/1.4 system-ui, sans-serif; margin: 2rem; color: #1a1a1a; background: #fff; }}
table {{ border-collapse: collapse; }}
th, td {{ text-align: left; vertical-align: top; padding: .25rem .75rem; border-bottom: 1px solid #ddd; }}
span {{ display: inline-block; margin: 0 .5rem .25rem 0; padding: .1rem .4rem; border-radius: .3rem;
  background: color-mix(in srgb, #2a6fbb calc(var(--w) * 70%), #f1f1f1); }}
small {{ display: block; color: #333; }}
</style>
<h1>{title}</h1>
<p>Each line is a position in the order of reading: its token, the attention that went to nothing at all, and the
engrams that got the most of the rest, the mean over heads. An engram is shown as the words of its window and, in
italics, the word that came behind it.</p>
<table><tr><th>token</th><th>nothing</th><th>looked at</th></tr>
{lines}
</table></html>
"""
