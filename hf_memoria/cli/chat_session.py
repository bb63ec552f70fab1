"""A conversation in a terminal: turns, what is remembered of them, and the file that keeps it."""

from __future__ import annotations

import signal
import threading
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import StoppingCriteria, StoppingCriteriaList, TextStreamer, set_seed

from hf_memoria.clients.conversation import answer
from hf_memoria.memories.interface import State, system_of
from hf_memoria.memories.shared.contents import NO_SOURCE, KeepsSources
from hf_memoria.models import save_memory


class Session:
    """What lasts from turn to turn.

    Args:
        model: the model with memory, in evaluation mode.
        tokenizer: the tokenizer, with a chat template.
        path: the file that is written after each turn; None for none.
        memory: the state to go on from, one row; None for an empty memory.
        system: the system prompt of a memory that begins; None for the chat template's own.
        seed: the seed of each turn's sampling; None for none.
        generation: the arguments of `generate()`.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        path: Path | None,
        memory: State | None,
        system: str | None,
        seed: int | None,
        generation: dict[str, Any],
    ) -> None:
        self.model, self.tokenizer, self.path = model, tokenizer, path
        self.memory, self.system, self.seed, self.generation = memory, system, seed, generation

    @property
    def keeps_sources(self) -> bool:
        """Whether turns can be forgotten one by one."""
        return issubclass(system_of(self.model.config.memory).state_class, KeepsSources)

    def sources(self) -> dict[int, int]:
        """Return how much is remembered of each turn, by its number, and of the system prompt as `NO_SOURCE`."""
        return self.memory.sources(0) if isinstance(self.memory, KeepsSources) else {}

    def told(self) -> str:
        """Return in a line what is talked with, and where it is kept what was said."""
        place = "kept until you leave" if self.path is None else f"kept in {self.path}"
        begun = "nothing is remembered yet" if self.memory is None else "it goes on from what is remembered"
        return (
            f"{type(self.model).__name__} with a memory of kind {self.model.config.memory.kind!r}, {place}; {begun}."
        )

    def turn(self, text: str) -> None:
        """Print the answer to a message as it is made, and remember both.

        An interrupt ends the answer, and what was said till then is remembered. A second one, or an error, leaves
        the memory as it was before the message.
        """
        messages = [{"role": "user", "content": text}]
        if self.memory is None and self.system is not None:
            messages.insert(0, {"role": "system", "content": self.system})
        if self.seed is not None:
            set_seed(self.seed)
        source = max(self.sources(), default=NO_SOURCE) + 1 if self.keeps_sources else None
        stop, printer = Stop(), Printer(self.tokenizer, skip_prompt=True, skip_special_tokens=True)
        try:
            with stop.at_interrupt():
                answered = answer(
                    self.model,
                    self.tokenizer,
                    messages,
                    self.memory,
                    streamer=printer,
                    source=source,
                    stopping_criteria=StoppingCriteriaList([stop]),
                    **self.generation,
                )
        except KeyboardInterrupt:
            print("\n(interrupted twice: this turn is not remembered)")
            return
        if stop.asked:
            print("(stopped: what was said till here is remembered)")
        elif not answered.ended:
            print(f"(ended by its limit of {answered.completion_tokens} tokens)")
        self.keep(answered.memory)

    def keep(self, memory: State | None) -> None:
        """Go on from a state, and write it to the file; of an empty memory there is no file."""
        if self.path is not None:
            if memory is None:
                self.path.unlink(missing_ok=True)
            else:
                save_memory(memory, self.path, self.model)
        self.memory = memory  # after the file: an error leaves both as they were

    def forget(self, turn: int) -> int:
        """Forget a turn; return how many tokens were remembered of it.

        Raises:
            ValueError: if it is not remembered, or the memory does not keep turns apart.
        """
        if not self.keeps_sources:
            raise ValueError(
                f"/forget must be without a number for a memory of kind {self.model.config.memory.kind!r}, which does "
                "not keep turns apart; /forget forgets everything."
            )
        held = self.sources()
        if turn not in held or turn == NO_SOURCE:
            known = ", ".join(map(str, sorted(set(held) - {NO_SOURCE}))) or "none"
            raise ValueError(f"/forget must be followed by a turn that is remembered ({known}); got {turn}.")
        memory: Any = self.memory
        self.keep(memory.forget(turn))
        return held[turn]


class Stop(StoppingCriteria):
    """Ends an answer at its next token, once that is asked for."""

    def __init__(self) -> None:
        self.asked = False

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Any:
        """Return for each row whether it ends."""
        return torch.full(input_ids.shape[:1], self.asked, device=input_ids.device)

    @contextmanager
    def at_interrupt(self) -> Iterator[None]:
        """While this lasts, the first Ctrl-C asks for it; the second one interrupts, as ever."""
        if threading.current_thread() is not threading.main_thread():
            yield  # only there can signals be heard
            return
        before = signal.signal(signal.SIGINT, self._ask)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)

    def _ask(self, number: int, frame: Any) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True


class Printer(TextStreamer):
    """Prints an answer as it is made, without anything that would tell the terminal what to do."""

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        """Print more of the text."""
        super().on_finalized_text(printable(text), stream_end)


def printable(text: str) -> str:
    """Return a text without control characters, line ends and tabs excepted."""
    return "".join(letter for letter in text if letter in "\n\t" or unicodedata.category(letter) != "Cc")
