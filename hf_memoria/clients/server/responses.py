"""Answers in OpenAI's form: whole, or as events of a stream."""

from __future__ import annotations

import json
import time
import uuid
from dataclasses import dataclass, field
from typing import Any

DONE = "data: [DONE]\n\n"
"""The last event of a stream."""


@dataclass(frozen=True)
class Usage:
    """Tokens of a turn.

    Attributes:
        read: those of the new messages, without what only the memory knows.
        made: those of the answer.
    """

    read: int
    made: int

    def told(self) -> dict[str, int]:
        """Return it as plain JSON."""
        return {
            "prompt_tokens": self.read,
            "completion_tokens": self.made,
            "total_tokens": self.read + self.made,
        }


@dataclass(frozen=True)
class Response:
    """What all parts of one answer say of it.

    Attributes:
        model: name of the model.
        id: its id.
        created: the time at which it was made, in seconds since 1970.
    """

    model: str
    id: str = field(default_factory=lambda: f"chatcmpl-{uuid.uuid4().hex}")
    created: int = field(default_factory=lambda: int(time.time()))

    def whole(self, text: str, reason: str, usage: Usage) -> dict[str, Any]:
        """Return an answer as plain JSON."""
        message = {"role": "assistant", "content": text, "refusal": None}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": reason}
        return self._of("chat.completion", [choice]) | {"usage": usage.told()}

    def event(self, delta: dict[str, str], reason: str | None = None) -> str:
        """Return a piece of an answer as an event: its `delta` has `role` or `content`."""
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
        return as_event(self._of("chat.completion.chunk", [choice]))

    def usage_event(self, usage: Usage) -> str:
        """Return the event that tells how many tokens it took."""
        return as_event(self._of("chat.completion.chunk", []) | {"usage": usage.told()})

    def _of(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model, "choices": choices}


def as_event(content: dict[str, Any]) -> str:
    """Return plain JSON as a server-sent event; JSON has no line breaks, which would end it."""
    return f"data: {json.dumps(content)}\n\n"
