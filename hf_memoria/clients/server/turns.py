"""Turns under way: those of one user one after another as they came, those of others beside them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any
from weakref import WeakValueDictionary

from transformers import StoppingCriteriaList

from hf_memoria.clients.conversation import Answer, answer, turn_ids
from hf_memoria.clients.server.errors import RequestError, as_request_error
from hf_memoria.clients.server.memories import Memories, digest_of
from hf_memoria.clients.server.pieces import EndsWithPieces, Pieces
from hf_memoria.clients.server.requests import ChatRequest
from hf_memoria.clients.server.responses import Usage
from hf_memoria.clients.server.sampling import sampling_of


@dataclass(frozen=True)
class Finished:
    """The end of an answer.

    Attributes:
        reason: `stop`, or `length` where the answer was cut off.
        usage: its tokens.
    """

    reason: str
    usage: Usage


class Turn:
    """One request while it is answered; an asynchronous iterator of pieces of text, and a `Finished` at the end.

    Args:
        asked: the request.
        tokenizer: the tokenizer.
    """

    def __init__(self, asked: ChatRequest, tokenizer: Any) -> None:
        self.asked, self._loop = asked, asyncio.get_running_loop()
        self._coming: asyncio.Queue[str | Finished | RequestError] = asyncio.Queue()
        self.pieces = Pieces(tokenizer, self._hand_on, asked.stops)

    def _hand_on(self, piece: str) -> None:
        self._loop.call_soon_threadsafe(self._coming.put_nowait, piece)

    def end(self, how: Finished | RequestError) -> None:
        """Say how it ended; called in the server's own thread."""
        self._coming.put_nowait(how)

    def cancel(self) -> None:
        """Let go of an answer that nobody waits for; a memory stays what it was. Does nothing to one that is done."""
        self.pieces.cancelled = True

    async def __aiter__(self) -> AsyncIterator[str | Finished]:
        while True:
            item = await self._coming.get()
            if isinstance(item, RequestError):
                raise item
            yield item
            if isinstance(item, Finished):
                return


class Turns:
    """What answers requests.

    Args:
        model: the model, in evaluation mode.
        tokenizer: its tokenizer, with a chat template.
        memories: the memories of its users.
        workers: turns that are answered at a time, each in a thread.
        most_tokens: tokens of an answer at most.

    Raises:
        ValueError: if `workers` or `most_tokens` is less than 1.
    """

    def __init__(self, model: Any, tokenizer: Any, memories: Memories, workers: int, most_tokens: int) -> None:
        for name, value in (("workers", workers), ("max_tokens", most_tokens)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1; got {value}.")
        self.model, self.tokenizer, self.memories, self.most_tokens = model, tokenizer, memories, most_tokens
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="turn")
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._under_way: dict[asyncio.Task[None], Turn] = {}

    def lock_of(self, user: str | None) -> asyncio.Lock:
        """Return what lets one turn of a user at a time through, in order; without a user, one that is always open."""
        if user is None:
            return asyncio.Lock()
        return self._locks.setdefault(digest_of(user), asyncio.Lock())

    def start(self, asked: ChatRequest) -> Turn:
        """Begin to answer a request, as soon as those of its user before it are answered and a worker is free."""
        turn = Turn(asked, self.tokenizer)
        task = asyncio.create_task(self._run(turn, self.lock_of(asked.user)))
        self._under_way[task] = turn
        task.add_done_callback(self._under_way.pop)
        return turn

    async def _run(self, turn: Turn, lock: asyncio.Lock) -> None:
        try:
            async with lock:
                ended: Any = await asyncio.get_running_loop().run_in_executor(self._pool, self._answer, turn)
        except Exception as error:
            ended = as_request_error(error)
        turn.end(ended)

    def _answer(self, turn: Turn) -> Finished:
        asked, pieces = turn.asked, turn.pieces
        self._check_wanted(pieces)
        memory = None if asked.user is None else self.memory_of(asked.user, self.memories.get)
        given = self._generate(asked, pieces, memory)
        self._check_wanted(pieces)
        if asked.user is not None:
            self.memories.put(asked.user, given.memory)
        reason = "stop" if given.ended or pieces.stopped else "length"
        return Finished(reason, Usage(given.prompt_tokens, given.completion_tokens))

    def _generate(self, asked: ChatRequest, pieces: Pieces, memory: Any) -> Answer:
        messages = [message.plain() for message in asked.messages]
        try:
            turn_ids(self.tokenizer, messages, first=memory is None)
        except ValueError as error:
            raise RequestError(str(error), "messages") from error
        config = self.model.generation_config
        return answer(
            self.model,
            self.tokenizer,
            messages,
            memory,
            streamer=pieces,
            max_new_tokens=asked.new_tokens(self.most_tokens),
            num_beams=1,
            do_sample=False,  # what samples brings its own random numbers
            logits_processor=sampling_of(config, asked.temperature, asked.top_p, asked.seed, self.model.device),
            stopping_criteria=StoppingCriteriaList([EndsWithPieces(pieces)]),
        )

    def memory_of(self, user: str, how: Callable[[str], Any]) -> Any:
        """Return a user's memory, None if there is none; `how` is `get` or `look` of the memories.

        Raises:
            RequestError: if it cannot be read.
        """
        try:
            return how(user)
        except (OSError, ValueError) as error:
            as_request_error(error)  # which logs it
            told = (
                "the memory of this user cannot be read; the server's log says why. Serve the model that made it, or "
                "delete it: DELETE /v1/memories?user=..."
            )
            raise RequestError(told, "user", "memory_unreadable", 500) from error

    def _check_wanted(self, pieces: Pieces) -> None:
        if pieces.cancelled:
            raise RequestError("the request was cancelled, and nothing of it is remembered.", code="cancelled")

    async def alone(self, user: str, work: Any, *given: Any) -> Any:
        """Return what a function returns, called in a thread while no turn of a user is under way."""
        async with self.lock_of(user):
            return await asyncio.get_running_loop().run_in_executor(None, work, *given)

    async def close(self) -> None:
        """Let go of turns that are under way, and wait until their threads have ended."""
        for turn in self._under_way.values():
            turn.cancel()
        await asyncio.gather(*self._under_way, return_exceptions=True)
        self._pool.shutdown()
