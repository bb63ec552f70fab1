"""Conversations with a model with memory: each turn is a new segment, and what was said before is in the memory.

A client hands over what is new. What memory holds in the end is the text that the tokenizer's chat template makes of
the whole conversation, system prompt once and every answer closed, as if all of it stood in one context.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hf_memoria.generation.cache import MemoriaCache
from hf_memoria.memories.interface import State
from hf_memoria.memories.shared.contents import NO_SOURCE

Message = Mapping[str, Any]
"""A `role` and a `content`, as chat templates take them."""

ASSISTANT = "assistant"
ASKED, ANSWERED = "A question.", "An-answer-to-be-found."
"""A turn that stands in for those that are in memory; the answer is text that no template has."""

MAX_NEW_TOKENS = 512
"""Tokens of an answer at most, where nothing else is said."""


@dataclass(frozen=True)
class Answer:
    """An answer, and what is remembered after it.

    Attributes:
        text: the answer.
        memory: the state that has read the turn, answer and its end included, one row.
        prompt_tokens: number of tokens that were new to the model before it answered.
        completion_tokens: number of tokens that it made, the one that ends the answer included.
        ended: whether the model ended the answer; else a limit or a caller did, and the end was added.
    """

    text: str
    memory: State
    prompt_tokens: int
    completion_tokens: int
    ended: bool


def turn_ids(tokenizer: Any, messages: Sequence[Message], *, first: bool) -> Tensor:
    """Return the ids of what is new to a memory, int64 `[1, N]`, up to where the answer begins.

    Args:
        tokenizer: the tokenizer, with a chat template.
        messages: the conversation, or its end alone; the last message is not the assistant's.
        first: whether the memory has read nothing of the conversation. Then all messages are new, with the system
            prompt that the template may add. Else those are new that stand behind the last of the assistant, and a
            system prompt at the very beginning is known already.

    Raises:
        TypeError: if a message is no mapping.
        ValueError: if there is no chat template, or nothing new, or the template refuses the messages or writes
            earlier ones anew when others follow.
    """
    _check(tokenizer, messages)
    if first:
        return torch.tensor([_encoded(tokenizer, _rendered(tokenizer, messages, prompt=True))])
    return torch.tensor([_without_preamble(tokenizer, _new(messages))])


def preamble_length(tokenizer: Any, messages: Sequence[Message]) -> int:
    """Return how many ids of a first turn stand before its first message that is not the system's.

    They are the system prompt and what else the chat template puts at the beginning. There are none where it puts
    nothing there, or writes the system prompt into a message of the user.

    Args:
        tokenizer: the tokenizer, with a chat template.
        messages: the conversation.

    Raises:
        TypeError, ValueError: as `turn_ids`.
    """
    ids = turn_ids(tokenizer, messages, first=True)[0].tolist()
    rest = _without_preamble(tokenizer, _without_system(messages))
    return len(ids) - len(rest) if ids[len(ids) - len(rest) :] == rest else 0


def closing_ids(tokenizer: Any) -> list[int]:
    """Return the ids that the chat template puts behind an answer before the next turn begins.

    Raises:
        ValueError: if there is no chat template, or it refuses a conversation of user and assistant.
    """
    alone = _after_answer(tokenizer, [], prompt=False)
    followed = _after_answer(tokenizer, [{"role": "user", "content": ASKED}], prompt=True)
    # Some templates end a whole text with one token more, which no further turn stands behind.
    common = next((i for i, (a, b) in enumerate(zip(alone, followed, strict=False)) if a != b), len(alone))
    return alone[:common]


def answer(
    model: Any,
    tokenizer: Any,
    messages: Sequence[Message],
    memory: State | None,
    *,
    first: bool | None = None,
    streamer: Any = None,
    source: int | None = None,
    **generation: Any,
) -> Answer:
    """Return the answer to what is new in a conversation, and the memory after it; `memory` stays as it is.

    Args:
        model: a causal language model with memory, in evaluation mode.
        tokenizer: the tokenizer, with a chat template.
        messages: the conversation, or its end alone, see `turn_ids`.
        memory: the state to start from, one row; None for an empty one.
        first: whether the memory has read nothing of the conversation; None if that is so when `memory` is None.
        streamer: a streamer of Transformers that gets the tokens as they are made.
        source: id of the document that the turn becomes, for memories that keep sources; None for none. The system
            prompt belongs to no document then, so that it stays when the first turn is forgotten.
        generation: the arguments of `generate()`. A stopping criterion may end the answer at any token.

    Raises:
        TypeError: if the model or a message is of the wrong kind.
        ValueError: if the messages cannot be read (see `turn_ids`), the state does not fit, or several answers are
            asked for.
    """
    _check_model(model)
    first = memory is None if first is None else first
    ids = turn_ids(tokenizer, messages, first=first).to(model.device)
    prompt_tokens, closing = ids.shape[1], closing_ids(tokenizer)
    settings = _settings(model, tokenizer, closing, generation)
    before = preamble_length(tokenizer, messages) if first and source is not None else 0
    if before:
        memory, ids = _read(model, ids[:, :before], memory), ids[:, before:]
    cache = MemoriaCache(model.config, model.starting_state(memory, None, ids, source))
    said = model.generate(
        input_ids=ids, attention_mask=torch.ones_like(ids), past_key_values=cache, streamer=streamer, **settings
    )[0, ids.shape[1] :].tolist()
    ended = said[-1] in settings["eos_token_id"]
    # The cache has read all but the last token. Whatever token ended the answer, it is closed as the template does.
    rest = closing if ended and closing else [said[-1], *closing]
    with torch.no_grad():
        model(torch.tensor([rest], device=model.device), past_key_values=cache)
    text = tokenizer.decode(said[:-1] if ended else said, skip_special_tokens=True)
    return Answer(text, cache.finished_memory(), prompt_tokens, len(said), ended)


@torch.no_grad()
def _read(model: Any, ids: Tensor, memory: State | None) -> State:
    """Return the memory after ids that belong to no document."""
    cache = MemoriaCache(model.config, model.starting_state(memory, None, ids, NO_SOURCE))
    model(ids, past_key_values=cache)
    return cache.finished_memory()


def _settings(model: Any, tokenizer: Any, closing: list[int], given: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of `generate()`: those given, and where an answer ends."""
    for name in ("num_beams", "num_return_sequences"):
        wanted = given.get(name, getattr(model.generation_config, name, None))
        if wanted not in (None, 1):
            raise ValueError(f"{name} must be 1 for a conversation, which goes on from one answer; got {wanted}.")
    settings = dict(given)
    if not {"max_new_tokens", "max_length"} & settings.keys():
        settings["max_new_tokens"] = MAX_NEW_TOKENS
    known = settings.get("eos_token_id", model.generation_config.eos_token_id)
    ends = {known} if isinstance(known, int) else set(known or ())
    # A base model's own end may be another token than that of a turn.
    ends |= set([token for token in closing if token in set(tokenizer.all_special_ids)][:1])
    settings["eos_token_id"] = sorted(ends)
    if ends and settings.get("pad_token_id", model.generation_config.pad_token_id) is None:
        settings["pad_token_id"] = min(ends)  # one row is never padded, and generate() would say so
    return settings


def _new(messages: Sequence[Message]) -> list[Message]:
    answers = [i for i, message in enumerate(messages) if message["role"] == ASSISTANT]
    return list(messages[answers[-1] + 1 :]) if answers else _without_system(messages)


def _without_system(messages: Sequence[Message]) -> list[Message]:
    first = next((i for i, message in enumerate(messages) if message["role"] != "system"), None)
    if first is None:
        raise ValueError("messages must hold one that is not the system's; got nothing else.")
    return list(messages[first:])


def _without_preamble(tokenizer: Any, messages: list[Message]) -> list[int]:
    """Return the ids of messages that follow an answer, and of the beginning of the next."""
    closing = closing_ids(tokenizer)
    following = _after_answer(tokenizer, messages, prompt=True)
    if following[: len(closing)] != closing:
        raise ValueError(
            "the chat template must end an answer alike whatever follows, to be read turn by turn; got "
            f"{tokenizer.decode(following)!r} where {tokenizer.decode(closing)!r} had to come first."
        )
    return following[len(closing) :]


def _after_answer(tokenizer: Any, messages: list[Message], prompt: bool) -> list[int]:
    """Return the ids of what the template puts behind an answer when these messages follow."""
    told = [{"role": "user", "content": ASKED}, {"role": ASSISTANT, "content": ANSWERED}]
    _, found, after = _rendered(tokenizer, [*told, *messages], prompt).rpartition(ANSWERED)
    if not found:
        raise ValueError("the chat template must write the assistant's content as it is; it left it out.")
    return _encoded(tokenizer, after)


def _rendered(tokenizer: Any, messages: Sequence[Message], prompt: bool) -> str:
    from jinja2.exceptions import TemplateError  # local: Transformers imports it as late

    _check_template(tokenizer)
    try:
        return str(tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=prompt))
    except TemplateError as error:
        roles = ", ".join(str(message["role"]) for message in messages)
        raise ValueError(f"the chat template refuses messages of {roles}: {error}") from error


def _encoded(tokenizer: Any, text: str) -> list[int]:
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids


def _check(tokenizer: Any, messages: Sequence[Message]) -> None:
    _check_template(tokenizer)
    if isinstance(messages, Mapping | str) or not messages:
        raise ValueError(f"messages must be a list with at least one message; got {messages!r}.")
    for message in messages:
        if not isinstance(message, Mapping) or not {"role", "content"} <= message.keys():
            raise TypeError(f"a message must be a mapping with role and content; got {message!r}.")
    if messages[-1]["role"] == ASSISTANT:
        raise ValueError("messages must end with one that is to be answered; the last is the assistant's.")


def _check_template(tokenizer: Any) -> None:
    if getattr(tokenizer, "chat_template", None) is None:
        raise ValueError(
            f"the tokenizer must have a chat template for a conversation; {type(tokenizer).__name__} has none. Take a "
            "model that was trained for conversations, or set tokenizer.chat_template."
        )


def _check_model(model: Any) -> None:
    if not hasattr(model, "starting_state") or getattr(model.config, "memory", None) is None:
        raise TypeError(
            f"model must have a memory for a conversation; got {type(model).__name__} without one. "
            "hf_memoria.wrap(model, memory=...) gives it one."
        )
