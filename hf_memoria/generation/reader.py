"""What `generate()` needs beside its steps: what it refuses, where rows ended, what they have read in the end."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.generation import GenerationMode, StoppingCriteriaList

from hf_memoria.generation.cache import MemoriaCache
from hf_memoria.memories.interface import State

MODES = (GenerationMode.GREEDY_SEARCH, GenerationMode.SAMPLE, GenerationMode.BEAM_SEARCH, GenerationMode.BEAM_SAMPLE)

CACHES = (None, "dynamic")


def check_can_generate(mode: GenerationMode, config: Any) -> None:
    """Refuse what a model with memory cannot do.

    Raises:
        ValueError: naming the setting.
    """
    if mode not in MODES:
        raise ValueError(
            f"the generation mode must be one of {', '.join(MODES)} with memory; got {mode.value}. Others take tokens "
            "back, and what was written to memory cannot be."
        )
    if config.cache_implementation not in CACHES:
        raise ValueError(
            f"cache_implementation must be None or 'dynamic' with memory; got {config.cache_implementation!r}. One "
            "segment needs no other."
        )
    if config.guidance_scale is not None and config.guidance_scale != 1:
        raise ValueError(
            f"guidance_scale must be None or 1 with memory; got {config.guidance_scale}. The model without the prompt "
            "would read neither segments nor memory."
        )
    if config.is_assistant:
        raise ValueError("assistant_model must have no memory: what it wrote cannot be taken back.")


def check_given_cache(config: Any, model_kwargs: dict[str, Any]) -> None:
    """Refuse a cache that `generate()` was given and cannot use.

    Raises:
        TypeError: if it is of another kind.
        ValueError: if it comes with a state as well, or is not to be used.
    """
    cache = model_kwargs.get("past_key_values")
    if cache is None:
        return
    if not isinstance(cache, MemoriaCache):
        raise TypeError(
            f"past_key_values must be a MemoriaCache or None with memory; got {type(cache).__name__}, in which no "
            "segment ends."
        )
    for name in ("memory", "reset_memory", "source"):
        if model_kwargs.get(name) is not None:
            raise ValueError(f"{name} must be None with past_key_values: a MemoriaCache has its own memory.")
    if config.use_cache is False:
        raise ValueError("use_cache must be True with past_key_values; got False.")


class RowEnds(StoppingCriteriaList):
    """The stopping criteria of a generation, which also keep at which length each row ended; padding follows."""

    def __init__(self, criteria: StoppingCriteriaList, input_ids: Tensor) -> None:
        super().__init__(criteria)
        self.prompt_length = input_ids.shape[1]
        # generate() pads finished rows only if one of the criteria is an end-of-sequence token.
        self.pads = any(hasattr(criterion, "eos_token_id") for criterion in criteria)
        self.never = torch.iinfo(torch.int64).max
        self.lengths = torch.full(input_ids.shape[:1], self.never, device=input_ids.device)

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        done: Tensor = super().__call__(input_ids, scores, **kwargs)
        if self.pads:
            self.lengths = torch.where(done, self.lengths.clamp(max=input_ids.shape[1]), self.lengths)
        return done

    def mask_padding(self, attention_mask: Tensor | None) -> Tensor | None:
        """Return a mask whose last position, that of the next token, is padding in the rows that have ended."""
        ended = (self.lengths < self.never).unsqueeze(-1)
        if not bool(ended.any()):
            return attention_mask
        if attention_mask is None:
            return (~ended).to(torch.int64)
        return torch.cat([attention_mask[:, :-1], attention_mask[:, -1:].masked_fill(ended, 0)], dim=-1)

    def real(self, sequences: Tensor) -> Tensor:
        """Return which generated tokens are not padding, bool `[B, N]`."""
        columns = torch.arange(self.prompt_length, sequences.shape[1], device=sequences.device)
        return columns < self.lengths.unsqueeze(-1)


class Reader:
    """What a generation starts from, and from that the memory of having read prompt and continuation.

    Args:
        model: the model that generates.
        input_ids: the prompt, `[B, T]`.
        config: the config of the generation.
        model_kwargs: the model's arguments in the generation.
    """

    def __init__(self, model: Any, input_ids: Tensor, config: Any, model_kwargs: dict[str, Any]) -> None:
        given, embeds = model_kwargs.get("past_key_values"), model_kwargs.get("inputs_embeds")
        self.model, self.prompt_length = model, input_ids.shape[1]
        self.cache = MemoriaCache(model.config, model_kwargs.get("memory")) if given is None else given.copy()
        mask, types = model_kwargs.get("attention_mask"), model_kwargs.get("token_type_ids")
        name, prompt = ("input_ids", input_ids) if embeds is None else ("inputs_embeds", embeds)
        # As generate() does: a prompt as long as its mask holds what the cache has seen as well.
        mask_length = getattr(config, "_mask_length", -1) if mask is None else mask.shape[1]
        unread = max(prompt.shape[1] - (self.cache.seen if mask_length == prompt.shape[1] else 0), 1)
        inputs = {name: prompt, "attention_mask": mask, "token_type_ids": types}
        self.prompt = {key: value[:, -unread:] for key, value in inputs.items() if value is not None}

    def take(self, rows: Tensor) -> None:
        """Keep some rows, in the order asked for."""
        self.cache.batch_select_indices(rows)
        self.prompt = {name: value[rows.to(value.device)] for name, value in self.prompt.items()}

    def read(self, sequences: Tensor, real: Tensor) -> State:
        """Return the memory after the prompt and what follows it in `sequences` where bool `real` `[B, N]` is true."""
        self._forward(**self.prompt)
        return self.read_on(sequences[:, self.prompt_length :], real)

    def read_on(self, tokens: Tensor, real: Tensor) -> State:
        """Return the memory after more tokens `[B, N]` where bool `real` `[B, N]` is true."""
        types = self.prompt.get("token_type_ids")
        more = {} if types is None else {"token_type_ids": types[:, -1:].expand(tokens.shape)}
        self._forward(input_ids=tokens, attention_mask=real, **more)
        return self.cache.finished_memory()

    def _forward(self, **inputs: Tensor) -> None:
        few = {"logits_to_keep": 1} if self.model._supports_logits_to_keep() else {}
        self.model(**inputs, **few, past_key_values=self.cache)


def best_beams(rows: int, config: Any) -> Tensor:
    """Return for each sequence that beam search returns a row of its input with the same prompt."""
    prompts = torch.arange(rows // config.num_beams) * config.num_beams
    rows_of: Tensor = prompts.repeat_interleave(config.num_return_sequences)
    return rows_of
