"""Texts, however they are given, as calls of a model: one row, no padding, no longer than it can read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

LONGEST = 1024
"""Tokens of a window where nothing else is said: eager attention takes their square."""


def windows_of(
    texts: Iterable[str | Sequence[int] | Mapping[str, Tensor]],
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase | None = None,
    max_length: int | None = None,
) -> Iterator[dict[str, Any]]:
    """Yield keyword arguments for `model`, on its device; windows of one token, where nothing is chosen, are left out.

    Raises:
        TypeError: a text is neither a string, token ids nor a mapping, or a string comes without a tokenizer.
        ValueError: a mapping has padding.
    """
    if isinstance(texts, (str, Mapping)):
        raise TypeError(f"texts must be a list of texts; got one {type(texts).__name__}. Put it into a list.")
    length = max_length or _positions(model)
    for text in texts:
        if isinstance(text, Mapping):
            yield _as_it_is(text, model)
            continue
        for ids in _cut(text, tokenizer, length):
            if len(ids) > 1:
                yield {"input_ids": torch.as_tensor([ids], device=model.device)}


def _as_it_is(inputs: Mapping[str, Any], model: PreTrainedModel) -> dict[str, Any]:
    mask = inputs.get("attention_mask")
    if mask is not None and not bool(torch.as_tensor(mask).all()):
        raise ValueError("texts must not be padded; got an attention_mask with zeros. Pass texts one by one.")
    return {name: value.to(model.device) if isinstance(value, Tensor) else value for name, value in inputs.items()}


def _cut(text: str | Sequence[int], tokenizer: PreTrainedTokenizerBase | None, length: int) -> list[list[int]]:
    if not isinstance(text, str):
        ids = torch.as_tensor(text)
        if ids.ndim != 1 or ids.is_floating_point():
            raise TypeError(f"texts must be strings, lists of token ids or mappings; got {text!r}. Pass one of these.")
        return [part.tolist() for part in ids.split(length)]
    if tokenizer is None:
        raise TypeError("tokenizer must be given for texts that are strings; got None. Pass the model's tokenizer.")
    encoded = tokenizer(text, truncation=True, max_length=length, return_overflowing_tokens=True)["input_ids"]
    return encoded if not encoded or isinstance(encoded[0], list) else [encoded]


def _positions(model: PreTrainedModel) -> int:
    return min(getattr(model.config.get_text_config(), "max_position_embeddings", None) or LONGEST, LONGEST)
