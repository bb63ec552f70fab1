"""What came of reading documents in segments, put together from what each segment gave.

Axes: B documents, S segments of one, N tokens of one as they were read, T positions of a segment, L labels, D hidden
size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers.utils import ModelOutput

from hf_memoria.long_inputs.documents import Document, TextDocument
from hf_memoria.memories.interface import State

REDUCTIONS = ("last", "mean", "max")


@dataclass(frozen=True)
class ReadTokens:
    """The tokens of a document as they were read, segment after segment, without padding.

    Attributes:
        input_ids: int64 `[N]`.
        repeated: tokens that every segment has around the text: special tokens, the first text of a pair; bool `[N]`.
        segment: number of the segment, int64 `[N]`.
        offsets: first character of each token in the text and the one behind its last, int64 `[N, 2]`, 0 where
            `repeated`; None where the tokenizer does not say it, or ids came without a text.
    """

    input_ids: Tensor
    repeated: Tensor
    segment: Tensor
    offsets: Tensor | None = None


@dataclass(frozen=True)
class LongOutput:
    """What came of reading documents or image streams of any length. Lists have an entry a document.

    Attributes:
        memory: the state after the last segment of each document, B rows; None for a model without memory.
        num_segments: int64 `[B]`.
        reduce: the rule by which segments became one answer; None where there is an answer for each token.
        logits: the answer of a sequence or image classifier, `[B, L]`.
        segment_logits: those of each segment, `[S, L]`.
        token_logits: the logits of a token classifier, `[N, L]`.
        start_logits: the logits of a model that answers questions, `[N]`; the answer's span may cross the end of a
            segment.
        end_logits: the logits of the span's end, `[N]`.
        embeddings: the vectors of a model without a head, `[B, D]`.
        segment_embeddings: those of each segment, `[S, D]`.
        token_states: final hidden states, `[N, D]`, if they were asked for.
        tokens: the tokens of each document as they were read; None for images.
    """

    memory: State | None
    num_segments: Tensor
    reduce: str | None = None
    logits: Tensor | None = None
    segment_logits: list[Tensor] | None = None
    token_logits: list[Tensor] | None = None
    start_logits: list[Tensor] | None = None
    end_logits: list[Tensor] | None = None
    embeddings: Tensor | None = None
    segment_embeddings: list[Tensor] | None = None
    token_states: list[Tensor] | None = None
    tokens: list[ReadTokens] | None = None


def read_tokens(document: Document) -> ReadTokens | None:
    """Return the tokens of a document as they are read; None for images."""
    if not isinstance(document, TextDocument):
        return None
    before, behind = len(document.before.ids), len(document.behind.ids)
    ids, own, numbers = [], [], []
    for number in range(len(document)):
        segment = document.segment(number)["input_ids"]
        mine = torch.zeros(len(segment), dtype=torch.bool)
        mine[before : len(segment) - behind] = True
        ids.append(segment)
        own.append(mine)
        numbers.append(torch.full_like(segment, number))
    text, offsets = torch.cat(own), None
    if document.offsets is not None:
        offsets = torch.zeros(len(text), 2, dtype=torch.int64)
        offsets[text] = document.offsets
    return ReadTokens(torch.cat(ids), ~text, torch.cat(numbers), offsets)


@dataclass
class Gathered:
    """What the segments of documents gave so far, by name of the output, a list a document.

    Attributes:
        documents: B.
        has_memory: whether the model has a memory.
        wanted: the reduction that was asked for, or None for the usual one.
        keeps_states: whether final hidden states of all tokens are kept.
    """

    documents: Sequence[Document]
    has_memory: bool
    wanted: str | None
    keeps_states: bool
    parts: dict[str, list[list[Tensor]]] = field(default_factory=dict)
    counts: list[list[int]] = field(default_factory=list)
    head: str | None = None

    @property
    def reduce(self) -> str | None:
        """How segments become one answer."""
        if self.head in ("tokens", "spans"):
            return None
        usual = "last" if self.head == "sequence" and self.has_memory else "mean"
        return self.wanted or usual

    def add(self, output: ModelOutput, rows: list[int], lengths: Sequence[int | None]) -> None:
        """Add a segment.

        Args:
            output: the model's.
            rows: documents that the batch's rows are of.
            lengths: positions of each row that are not padding, the first ones; None for all.

        Raises:
            TypeError: if the output is none of a head that gives an answer for a document.
            ValueError: if a reduction was asked for and there is nothing to reduce.
        """
        if self.head is None:
            self.head = _head_of(output)
            if self.reduce is None and self.wanted is not None:
                raise ValueError(f"reduce must be None for answers by token; got {self.wanted!r}.")
        for place, (row, length) in enumerate(zip(rows, lengths, strict=True)):
            for name, value in self._of_row(output, place, length).items():
                self.parts.setdefault(name, [[] for _ in self.documents])[row].append(value)

    def _of_row(self, output: Any, place: int, length: int | None) -> dict[str, Tensor]:
        if self.head == "sequence":
            return {"segment_logits": output["logits"][place].unsqueeze(0)}
        if self.head == "tokens":
            return {"token_logits": output["logits"][place, :length]}
        if self.head == "spans":
            return {name: output[name][place, :length] for name in ("start_logits", "end_logits")}
        hidden = output["last_hidden_state"][place, :length]
        pooled = hidden.float().amax(dim=0) if self.wanted == "max" else hidden.float().mean(dim=0)
        weight = hidden.new_full((1, 1), len(hidden), dtype=torch.float32)
        states = {"token_states": hidden} if self.keeps_states else {}
        return {"segment_embeddings": pooled.to(hidden.dtype).unsqueeze(0), "weights": weight, **states}

    def joined(self) -> dict[str, Any]:
        """Return the fields of `LongOutput` that came of it."""
        found: dict[str, Any] = {
            name: [torch.cat(of_document) for of_document in parts] for name, parts in self.parts.items()
        }
        weights = found.pop("weights", None)
        for name, answer in (("segment_logits", "logits"), ("segment_embeddings", "embeddings")):
            if name in found:
                each = weights or [torch.ones(len(value), 1, device=value.device) for value in found[name]]
                pairs = zip(found[name], each, strict=True)
                found[answer] = torch.stack([reduced(value, weight, str(self.reduce)) for value, weight in pairs])
        return found


def reduced(values: Tensor, weights: Tensor, how: str) -> Tensor:
    """Return one vector `[L]` of those of segments `[S, L]`, whose mean goes by weights `[S, 1]`."""
    if how == "last":
        return values[-1]
    if how == "max":
        return values.amax(dim=0)
    return ((values.float() * weights).sum(dim=0) / weights.sum()).to(values.dtype)


def _head_of(output: ModelOutput) -> str:
    logits = output.get("logits")
    if logits is not None:
        return "sequence" if logits.dim() == 2 else "tokens"
    if "start_logits" in output:
        return "spans"
    if "last_hidden_state" in output:
        return "base"
    raise TypeError(
        "model must be a classifier of sequences, tokens or images, one that answers questions, or one without a "
        f"head; got one whose output has {', '.join(output.keys())}."
    )
