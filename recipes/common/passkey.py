"""A pass key in a long text, asked for at its end (Mohtashami & Jaggi 2023, section 4.2)."""

import random
from typing import Any

import torch
from tqdm import tqdm
from transformers import PreTrainedModel

from .arms import Run
from .held import bytes_held

HEAD = "<|im_start|>user\nThere is a pass key hidden in the text. Remember it.\n"
FACT = "\n\nThe pass key is {key}. Remember it. {key} is the pass key.\n\n"
TAIL = "\n\nWhat is the pass key?<|im_end|>\n<|im_start|>assistant\nThe pass key is"


class PassKeys:
    """Questions for a pass key, the same for every arm.

    Args:
        tokenizer: of the model that is asked.
        text: ids of the text that hides the key; longer than any prompt.
        number: of keys of a length, at depths spread evenly over the text.
        seed: of keys and places.
    """

    def __init__(self, tokenizer: Any, text: list[int], number: int, seed: int) -> None:
        self.tokenizer, self.text, self.number, self.seed = tokenizer, text, number, seed

    def prompts(self, length: int) -> list[tuple[list[int], int]]:
        """Return prompts of so many ids, each with its key.

        Raises:
            ValueError: if the text is too short.
        """
        draw, found = random.Random(f"{self.seed} {length}"), []
        for which in range(self.number):
            key = draw.randrange(10000, 100000)
            head, fact, tail = (self._ids(part.format(key=key)) for part in (HEAD, FACT, TAIL))
            room = length - len(head) - len(fact) - len(tail)
            if room < 0 or room > len(self.text):
                raise ValueError(f"length must leave room for 0 to {len(self.text)} ids of text; got {length}.")
            start = draw.randrange(len(self.text) - room + 1)
            filler, at = self.text[start : start + room], int(room * (which + 0.5) / self.number)
            found.append((head + filler[:at] + fact + filler[at:] + tail, key))
        return found

    def is_right(self, answer: list[int], key: int) -> bool:
        """Return whether an answer names the key."""
        return str(key) in self.tokenizer.decode(answer).replace(" ", "")

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids


@torch.no_grad()
def ask_length(model: PreTrainedModel, keys: PassKeys, length: int, window: int | None, description: str) -> Run:
    """Return which keys are told back, `right`, and the bytes that are held after the last answer.

    Args:
        model: with a memory or without.
        keys: what is asked.
        length: ids of a prompt.
        window: the last ids of it that are read; None for all of them.
        description: of the progress.
    """
    right, held = [], 0
    for prompt, key in tqdm(keys.prompts(length), desc=f"{description}, {length}", unit="key"):
        ids = torch.tensor([prompt[-(window or 0) :]])
        given = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0, "return_dict_in_generate": True}
        generated: Any = model.generate(ids, **given)
        right.append(keys.is_right(generated.sequences[0, ids.shape[1] :].tolist(), key))
        held = bytes_held(generated.past_key_values)
    return {"right": right, "bytes": held}
