"""Which engrams each position looked at, while a model reads or generates, and a page that shows it."""

from __future__ import annotations

import html
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hf_memoria.backbones import HookHolder, blocks_of, reading_of, submodule
from hf_memoria.memories.episodic.install import reading_layers, sharing_layers
from hf_memoria.memories.episodic.reader import EpisodicReader
from hf_memoria.memories.episodic.reading import EpisodicReading
from hf_memoria.memories.episodic.searched import SearchedStore, SearchRead
from hf_memoria.memories.episodic.store.state import NO_ID
from hf_memoria.memories.shared.files import write_text_whole

SEPARATE, SHARED = "separate", "shared"
"""The reads of an episodic memory: one beside self-attention, and self-attention itself."""


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
        block: number of the reading block, counted from 0; None for the mean over blocks.
        row: the row of the batch.
        token: id of the position, or None where it came without one.
        looks: the engrams that got most, in that order. What is missing to a sum of 1 went to engrams that are not
            listed and, of the separate read, to nothing at all, of shared attention, to the segment itself.
        read: `"separate"` or `"shared"`.
    """

    block: int | None
    row: int
    token: int | None
    looks: list[Look]
    read: str = SEPARATE


class LookRecorder(HookHolder):
    """Records what a model with an episodic memory looks at, within `with LookRecorder(model) as recorder:`.

    Each position stands in `recorder.looked` in the order of reading, once a reading block and read; of shared
    attention only where there is something stored. What is recorded is the text itself.

    Args:
        model: a model with an episodic memory.
        most: engrams of a position at most.
        always: whether shared attention's looks at what it sees whatever the scores are count too: the segment before
            and the document's first positions. Without these, only what was searched is recorded.

    Attributes:
        looked: the looks that were recorded so far.

    Raises:
        ValueError: if the model has no episodic memory.
    """

    def __init__(self, model: Any, most: int = 5, always: bool = True) -> None:
        self.base_model, self.most, self.always = model.base_model, most, always
        self.looked: list[Looked] = []
        memory: Any = getattr(model.config, "memory", None)
        if getattr(memory, "kind", None) != "episodic":
            raise ValueError(
                "model must have an EpisodicMemoryConfig to record what it looks at; got "
                f"{type(model).__name__} with memory {memory}."
            )
        spec, blocks = model.config.backbone_spec, blocks_of(self.base_model, model.config.backbone_spec)
        self._readers: dict[nn.Module, int] = {  # with PEFT a block has two, of which one runs
            module: index
            for index in (reading_layers(model.config) if memory.separate_read else ())
            for module in blocks[index].modules()
            if isinstance(module, EpisodicReader)
        }
        self._sharing = [submodule(blocks[index], spec, "attention") for index in sharing_layers(model.config)]
        self._handles: list[Any] = []

    def __enter__(self) -> LookRecorder:
        self._handles = [reader.register_forward_hook(self._record) for reader in self._readers]
        self._handles += [attention.register_forward_pre_hook(self._watch) for attention in self._sharing]
        return self

    def __exit__(self, *error: object) -> None:
        while self._handles:
            self._handles.pop().remove()

    def _record(self, reader: nn.Module, args: tuple[Any, ...], read: SearchRead) -> None:
        reading, weights = reading_of(self.base_model), read.weights
        self._add(reading, self._readers[reader], args[1], weights, read.columns, SEPARATE)

    def _watch(self, attention: nn.Module, args: tuple[Any, ...]) -> None:
        reading = reading_of(self.base_model)
        if isinstance(reading, EpisodicReading):
            reading.watch = self._record_shared

    def _record_shared(self, reading: EpisodicReading, block: int, weights: Tensor) -> None:
        if not self.always:
            weights = weights * ~reading.shared[block].visible.always[:, None, None]
        self._add(reading, block, reading.store, weights, None, SHARED)

    @torch.no_grad()
    def _add(
        self, reading: Any, block: int, store: SearchedStore, weights: Tensor, columns: Tensor | None, read: str
    ) -> None:
        mean = weights.float().mean(dim=1)
        found = mean.topk(min(self.most, mean.shape[-1]), dim=-1)
        places = found.indices
        if columns is not None:
            places = columns.unsqueeze(1).expand(-1, mean.shape[1], -1).gather(2, places)
        real = reading.real_positions(mean)
        for row, place in real.nonzero().tolist():
            token = None if reading.ids is None else int(reading.ids[row, place])
            looks = _looks(store, row, places[row, place], found.values[row, place].tolist())
            self.looked.append(Looked(block, row, token, looks, read))


def _looks(store: SearchedStore, row: int, columns: Tensor, weights: list[float]) -> list[Look]:
    """Return looks at columns of a row, int64 `[K]`, the best first; those without weight are left out."""
    fields = (store.ids[row, columns], store.position[row, columns], store.age[row, columns])
    entries = zip(*(field.tolist() for field in fields), weights, strict=True)
    return [
        Look(ids=[*window[-2::-1], window[-1]], position=position, segments_ago=age, weight=weight)
        for window, position, age, weight in entries
        if weight > 0
    ]


def mean_over_blocks(looked: Sequence[Looked], most: int = 5, read: str = SHARED) -> list[Looked]:
    """Return one entry a position, where the weights of its looks are means over all blocks that read so.

    Engrams that a block did not list count as nothing there: record with a large `most` to have them all.

    Args:
        looked: the looks that were recorded, of whole forwards.
        most: engrams of a position at most.
        read: the read that is meant, `"separate"` or `"shared"`.
    """
    places: dict[tuple[int | None, int], int] = defaultdict(int)
    together: dict[tuple[int, int], list[Looked]] = defaultdict(list)
    for one in looked:
        if one.read == read:  # the n-th entry of a row in one block is of the same position as in another
            together[one.row, places[one.block, one.row]].append(one)
            places[one.block, one.row] += 1
    return [_mean(entries, most) for entries in together.values()]


def _mean(entries: list[Looked], most: int) -> Looked:
    weights: dict[int, float] = defaultdict(float)
    engrams = {look.position: look for one in entries for look in one.looks}
    for one in entries:
        for look in one.looks:
            weights[look.position] += look.weight / len(entries)
    best = sorted(engrams, key=lambda position: -weights[position])[:most]
    looks = [replace(engrams[position], weight=weights[position]) for position in best]
    return replace(entries[0], block=None, looks=looks)


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
    write_text_whole(body, Path(path))


def _line(one: Looked, word_of: Callable[[int], str]) -> str:
    token = "(no id)" if one.token is None else word_of(one.token)
    elsewhere = max(0.0, 1 - sum(look.weight for look in one.looks))
    cells = "".join(_cell(look, word_of) for look in one.looks)
    return f"<tr><th>{html.escape(token)}</th><td>{elsewhere:.2f}</td><td>{cells}</td></tr>"


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
<p>Each line is a position in the order of reading: its token, the attention that went elsewhere (to nothing at all, to
the segment itself, to engrams that are not listed), and the engrams that got most, the mean over heads. An engram is
shown as the words of its window and, in italics, the word that came behind it.</p>
<table><tr><th>token</th><th>elsewhere</th><th>looked at</th></tr>
{lines}
</table></html>
"""
