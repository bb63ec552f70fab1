"""An answer's text, piece by piece while its tokens are made."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import StoppingCriteria
from transformers.generation.streamers import BaseStreamer

TORN = "\ufffd"
"""What a character decodes to of which some bytes are still to come."""


class Pieces(BaseStreamer):
    """A streamer that hands on text as soon as it is certain, and ends an answer at a stop text.

    The pieces together are the answer: without special tokens, and without the stop text and what follows it.

    Args:
        tokenizer: the tokenizer.
        hand_on: takes a piece; called in the thread that generates.
        stops: texts that end the answer.

    Attributes:
        ids: the tokens that were made.
        stopped: whether a stop text came.
        cancelled: whether the answer is no longer wanted; set from any thread.
    """

    def __init__(self, tokenizer: Any, hand_on: Callable[[str], None], stops: Sequence[str] = ()) -> None:
        self.tokenizer, self.hand_on, self.stops = tokenizer, hand_on, list(stops)
        self.ids: list[int] = []
        self.stopped = self.cancelled = False
        self._prompt_is_next = True
        self._begin = self._end = 0  # tokens that give context to those that come, and whose text is known
        self._held = ""  # text that a stop may begin with

    def put(self, value: Tensor) -> None:
        """Take tokens as `generate()` gives them, the prompt first."""
        if self._prompt_is_next:
            self._prompt_is_next = False
            return
        self.ids += value.flatten().tolist()
        self._take(last=False)

    def end(self) -> None:
        """Hand on what was held back."""
        self._take(last=True)

    def _take(self, last: bool) -> None:
        known, text = self._decode(self._begin, self._end), self._decode(self._begin, len(self.ids))
        if last or (len(text) > len(known) and not text.endswith(TORN)):
            self._begin, self._end = self._end, len(self.ids)
            self._hand_on(text[len(known) :], last)

    def _decode(self, begin: int, end: int) -> str:
        settings = {"skip_special_tokens": True, "clean_up_tokenization_spaces": False}
        return str(self.tokenizer.decode(self.ids[begin:end], **settings))

    def _hand_on(self, text: str, last: bool) -> None:
        if self.stopped:
            return
        text = self._held + text
        places = [place for place in map(text.find, self.stops) if place >= 0]
        if places:
            self.stopped, text, self._held = True, text[: min(places)], ""
        else:
            kept = 0 if last else _beginning(text, self.stops)
            text, self._held = text[: len(text) - kept], text[len(text) - kept :]
        if text:
            self.hand_on(text)


def _beginning(text: str, stops: Sequence[str]) -> int:
    """Return the length of the longest end of a text that one of `stops` begins with."""
    return max(
        (size for stop in stops for size in range(1, min(len(stop), len(text)) + 1) if stop.startswith(text[-size:])),
        default=0,
    )


class EndsWithPieces(StoppingCriteria):
    """Ends a generation whose text came to a stop, or is no longer wanted."""

    def __init__(self, pieces: Pieces) -> None:
        self.pieces = pieces

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        """Return whether rows are done, bool `[B]`."""
        done = self.pieces.stopped or self.pieces.cancelled
        return torch.full(input_ids.shape[:1], done, dtype=torch.bool, device=input_ids.device)
