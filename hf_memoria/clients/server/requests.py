"""What a client may ask for: OpenAI's chat completions, as far as a model with memory can do them."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from hf_memoria.clients.server.errors import RequestError

IGNORED = {
    "metadata",
    "prompt_cache_key",
    "prompt_cache_options",
    "prompt_cache_retention",
    "safety_identifier",
    "service_tier",
    "store",
}
"""Fields that change no answer."""

DEFAULTS: dict[str, tuple[Any, ...]] = {
    "frequency_penalty": (0,),
    "function_call": ("none", "auto"),
    "functions": ([],),
    "logit_bias": ({},),
    "logprobs": (False,),
    "modalities": (["text"],),
    "n": (1,),
    "parallel_tool_calls": (True, False),
    "presence_penalty": (0,),
    "response_format": ({"type": "text"},),
    "tool_choice": ("none", "auto"),
    "tools": ([],),
    "top_logprobs": (0,),
}
"""Values, beside null, of fields that would change an answer: those that ask for what is done anyway."""

MOST_STOPS = 4
"""As OpenAI's."""


class TextPart(BaseModel):
    """A piece of a message's text."""

    type: Literal["text"]
    text: str


class Message(BaseModel):
    """One message of a conversation; what clients send back of an answer beside its text has to be empty."""

    model_config = ConfigDict(extra="allow")

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart]

    def plain(self) -> dict[str, str]:
        """Return it as a chat template reads it; a developer is the system under its newer name."""
        text = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        return {"role": "system" if self.role == "developer" else self.role, "content": text}


class StreamOptions(BaseModel):
    """What comes with a stream."""

    include_usage: bool = False
    include_obfuscation: bool = False


class ChatRequest(BaseModel):
    """The body of a chat completion."""

    model_config = ConfigDict(extra="allow")

    model: str
    messages: list[Message] = Field(min_length=1)
    user: str | None = Field(default=None, min_length=1)
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    max_tokens: int | None = Field(default=None, ge=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, gt=0, le=1)
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**63)
    stop: str | list[str] | None = None

    @property
    def stops(self) -> list[str]:
        """Texts that end an answer."""
        given = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return [stop for stop in given if stop]

    @property
    def includes_usage(self) -> bool:
        """Whether a stream ends with how many tokens were read and made."""
        return self.stream_options is not None and self.stream_options.include_usage

    def check(self, served: str, most_tokens: int) -> None:
        """Refuse what this server does not have or do.

        Args:
            served: name of the model.
            most_tokens: tokens of an answer at most.

        Raises:
            RequestError: naming the field.
        """
        if self.model != served:
            raise RequestError(
                f"model must be {served!r}; got {self.model!r}. GET /v1/models says what there is.",
                "model",
                "model_not_found",
                404,
            )
        for name, value in (self.model_extra or {}).items():
            if name not in IGNORED and value is not None and value not in DEFAULTS.get(name, ()):
                told = "must be left out: this server does not know it, or cannot do what it asks for"
                raise RequestError(f"{name} {told}.", name, "unsupported_parameter")
        _check_messages(self.messages)
        for name in ("max_completion_tokens", "max_tokens"):
            asked = getattr(self, name)
            if asked is not None and asked > most_tokens:
                told = f"{name} must be at most {most_tokens}, which --max-tokens of the server sets; got {asked}."
                raise RequestError(told, name, "integer_above_max_value")
        if len(self.stops) > MOST_STOPS:
            raise RequestError(f"stop must have at most {MOST_STOPS} texts; got {len(self.stops)}.", "stop")
        if self.stream_options is not None and not self.stream:
            raise RequestError("stream_options must be left out where stream is not true.", "stream_options")

    def new_tokens(self, most_tokens: int) -> int:
        """Return how many tokens an answer may have, `most_tokens` where nothing is asked for."""
        return self.max_completion_tokens or self.max_tokens or most_tokens


def _check_messages(messages: list[Message]) -> None:
    for number, message in enumerate(messages):
        if not _is_text(message.plain()["content"]):
            told = f"messages.{number}.content must be text; it has half of a surrogate pair."
            raise RequestError(told, f"messages.{number}.content")
        for name, value in (message.model_extra or {}).items():
            if value not in (None, [], {}):
                told = f"messages.{number}.{name} must be left out: a message here is its role and its text."
                raise RequestError(told, f"messages.{number}.{name}", "unsupported_parameter")
    if messages[-1].role != "user":
        place = f"messages.{len(messages) - 1}.role"
        raise RequestError(
            f"{place} must be 'user', since the last message is what is answered; got {messages[-1].role!r}.", place
        )


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:  # JSON can write what is no character
        return False
    return True
