"""Several pass keys in one text, each with a name: the text is read once, and every key asked from a copy of it.

A key stands right behind its name, "Anna48213". With words in between, as in "The pass key of Anna is 48213", a small
model that has several of them in its context takes the first digit of another's.
"""

import copy
import random
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm
from transformers import DynamicCache, PreTrainedModel

from hf_memoria import MemoriaCache

from .arms import Run
from .half_life import FIRST, KEYS, NAMES
from .held import bytes_held
from .statistics import wilson

HEAD = "<|im_start|>user\nThere are pass keys hidden in the text. Remember them.\n"
FACT = "\n\nThe pass key of {name} is {name}{key}. Remember it. {name}{key} is the pass key of {name}.\n\n"
TAIL = "\n\nWhat is the pass key of"
QUESTION = " {name}?<|im_end|>\n<|im_start|>assistant\nThe pass key of {name} is {name}"


@dataclass(frozen=True)
class KeysInText:
    """A text with pass keys.

    Args:
        ids: of the text, and of what all questions begin with.
        questions: the ids of what else each asks, and of its answer, in the order in which keys are told.
    """

    ids: list[int]
    questions: list[tuple[list[int], list[int]]]


class NamedKeys:
    """Texts with pass keys of several names, the same for every arm.

    Args:
        tokenizer: of the model that is asked.
        text: ids that hide the keys.
        texts: of a length, each with another part of the ids.
        number: of keys of a text, at depths spread evenly over it.
        seed: of keys, names and parts of the text.

    Raises:
        ValueError: if there are more keys than names.
    """

    def __init__(self, tokenizer: Any, text: list[int], texts: int, number: int, seed: int) -> None:
        if number > len(NAMES):
            raise ValueError(f"number must be at most {len(NAMES)} keys, one for each name; got {number}.")
        self.tokenizer, self.text, self.texts, self.number, self.seed = tokenizer, text, texts, number, seed

    def of_length(self, length: int) -> list[KeysInText]:
        """Return texts of so many ids, the longest question and its answer among them.

        Raises:
            ValueError: if the ids are too few for so many texts, or a text too short for its keys.
        """
        part, draw = len(self.text) // self.texts, random.Random(f"{self.seed} {length}")
        return [self._one(self.text[at * part : (at + 1) * part], length, draw) for at in range(self.texts)]

    def _one(self, part: list[int], length: int, draw: random.Random) -> KeysInText:
        told = [(name, draw.randrange(FIRST, FIRST + KEYS)) for name in draw.sample(NAMES, self.number)]
        facts = [self._ids(FACT.format(name=name, key=key)) for name, key in told]
        asked = [(self._ids(QUESTION.format(name=name)), self._ids(str(key))) for name, key in told]
        head, tail = self._ids(HEAD), self._ids(TAIL)
        room = length - sum(map(len, (head, tail, *facts))) - max(len(one) + len(key) for one, key in asked)
        if not 0 <= room <= len(part):
            raise ValueError(f"length must leave room for 0 to {len(part)} ids of text; got {length}.")
        start = draw.randrange(len(part) - room + 1)
        ends = [start + int(room * (which + 0.5) / self.number) for which in range(self.number)]
        ids, begin = head, start
        for fact, end in zip(facts, ends, strict=True):
            ids, begin = ids + part[begin:end] + fact, end
        return KeysInText(ids + part[begin : start + room] + tail, asked)

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids


@torch.no_grad()
def read(model: PreTrainedModel, ids: list[int], window: int | None) -> Any:
    """Return the KV cache after a text, with the memory of all before it if the model has one.

    Args:
        model: with a memory or without.
        ids: of the text.
        window: the last ids that a model without memory reads; None for all of them.
    """
    if getattr(model.config, "memory", None) is None:
        cache: Any = DynamicCache(config=model.config)
        model(input_ids=torch.tensor([ids[-(window or 0) :]]), past_key_values=cache, use_cache=True, logits_to_keep=1)
        return cache
    memory, length = None, model.config.segment_length
    whole = (len(ids) - 1) // length * length
    for segment in torch.tensor(ids[:whole]).split(length) if whole else ():
        memory = model(input_ids=segment[None], memory=memory, use_cache=False, logits_to_keep=1).memory
    cache = MemoriaCache(model.config, memory)
    model(input_ids=torch.tensor([ids[whole:]]), past_key_values=cache, use_cache=True, logits_to_keep=1)
    return cache


@torch.no_grad()
def answers(model: PreTrainedModel, read: Any, told: KeysInText) -> list[bool]:
    """Return which keys greedy generation gives, each from a copy of what was read."""
    right = []
    for question, key in told.questions:
        cache = read.copy() if isinstance(read, MemoriaCache) else copy.deepcopy(read)
        ids = torch.tensor([question + key])
        output = model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=len(key) + 1)
        expected: Tensor = ids[0, -len(key) :]
        right.append(bool((output.logits[0, :-1].argmax(-1) == expected).all()))
    return right


def ask_length(model: PreTrainedModel, keys: NamedKeys, length: int, window: int | None) -> Run:
    """Return the answers for texts of a length, by text, processor seconds, and the bytes that a text leaves."""
    right, reading, held, started = [], 0.0, 0, time.process_time()
    for told in tqdm(keys.of_length(length), desc=f"{length} tokens", unit="text"):
        begun = time.process_time()
        cache = read(model, told.ids, window)
        reading += time.process_time() - begun
        held = max(held, bytes_held(cache))
        right.append(answers(model, cache, told))
    seconds = {"reading": round(reading, 1), "seconds": round(time.process_time() - started, 1)}
    return {"right": right, **seconds, "bytes": held}


def shares(runs: Mapping[str, list[Mapping[str, Run]]]) -> dict[str, dict[str, dict[str, float]]]:
    """Return, by arm and length, the share of keys that are given, Wilson's interval, and what it cost.

    The interval takes keys of a text as independent, which they are not quite.

    Args:
        runs: for each arm the runs of its seeds, each what `ask_length` found by length.
    """
    found: dict[str, dict[str, dict[str, float]]] = {}
    for arm, done in runs.items():
        found[arm] = {}
        for length in done[0]:
            right = [key for run in done for text in run[length]["right"] for key in text]
            low, high = wilson(sum(right), len(right))
            seconds, held = sum(run[length]["seconds"] for run in done), max(run[length]["bytes"] for run in done)
            share = {"share": sum(right) / len(right), "low": low, "high": high, "keys": len(right)}
            found[arm][str(length)] = {**share, "seconds": seconds, "bytes": held}
    return found


def print_shares(labels: Mapping[str, str], found: Mapping[str, Mapping[str, Mapping[str, float]]]) -> None:
    """Print the share of each arm and length."""
    for arm, by_length in found.items():
        for length, one in by_length.items():
            share = f"{one['share']:.2f} ({one['low']:.2f} to {one['high']:.2f}) of {one['keys']} keys"
            cost = f"{one['seconds']:.0f} s, {one['bytes'] / 1e6:.0f} MB"
            print(f"  {labels[arm]:60} {length:>6} tokens  {share}  {cost}")
