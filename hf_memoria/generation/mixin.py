"""`generate()` past the window: segments end by themselves, and what they held is read from memory."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import GenerationMixin
from transformers.generation import MaxLengthCriteria, StoppingCriteriaList
from transformers.utils import ModelOutput

from hf_memoria.generation.cache import MemoriaCache
from hf_memoria.generation.reader import Reader, RowEnds, best_beams, check_can_generate, check_given_cache
from hf_memoria.memories.shared.outputs import with_memory

_GenerationMixin: Any = GenerationMixin  # its hooks are typed for callers, not for those who override them


class MemoriaGenerationMixin(_GenerationMixin):
    """`GenerationMixin` of a model with memory; it stands where a family's class lists that one.

    `generate()` takes any prompt and any number of new tokens: its KV cache holds one segment of
    `config.segment_length` tokens at a time. It takes three arguments more, `memory`, the state to start from (a new
    segment begins), `reset_memory`, and `source`, the documents that prompt and continuation belong to. With
    `return_dict_in_generate=True` the output has a `memory` with a row for each of its `sequences`, which has read all
    of them, the last token and the unfinished segment included.

    Raises:
        TypeError, ValueError: from `generate`, if the state does not fit the batch, and for what a memory cannot do:
            assisted generation, caches other than `MemoriaCache`, classifier-free guidance, continuous batching.
    """

    config: Any

    @property
    def _ends_segments(self) -> bool:
        # A backbone that is not causal reads all it has written anew with every token.
        return self.config.memory is not None and self.config.backbone_spec.is_causal(self.config)

    def _validate_generation_mode(self, generation_mode: Any, generation_config: Any, *args: Any) -> None:
        if self._ends_segments:
            check_can_generate(generation_mode, generation_config)
        super()._validate_generation_mode(generation_mode, generation_config, *args)

    def init_continuous_batching(self, *args: Any, **kwargs: Any) -> Any:
        """Refuse: a continuous batch has requests and no rows, and so no memory."""
        if self._ends_segments:
            raise ValueError("continuous batching must not be used with memory; call generate() with a batch.")
        return super().init_continuous_batching(*args, **kwargs)

    def _expand_inputs_for_generation(
        self, expand_size: int = 1, is_encoder_decoder: bool = False, input_ids: Any = None, **model_kwargs: Any
    ) -> tuple[Any, dict[str, Any]]:
        if self._ends_segments and model_kwargs.get("past_key_values") is None:
            given = {name: model_kwargs.pop(name, None) for name in ("memory", "reset_memory", "source")}
            state = self.starting_state(**given, like=input_ids)
            rows = torch.arange(state.batch_size).repeat_interleave(expand_size)
            model_kwargs["memory"] = state if expand_size == 1 else state[rows]
        expanded: tuple[Any, dict[str, Any]] = super()._expand_inputs_for_generation(
            expand_size, is_encoder_decoder, input_ids, **model_kwargs
        )
        return expanded

    def _prepare_cache_for_generation(
        self, generation_config: Any, model_kwargs: dict[str, Any], *args: Any, **kwargs: Any
    ) -> None:
        if self._ends_segments:
            check_given_cache(generation_config, model_kwargs)
            if "past_key_values" not in self._forward_names:
                # It has no KV cache to go without: a segment is read again in any case.
                generation_config.use_cache = True  # of this call's own copy
            if model_kwargs.get("past_key_values") is None and generation_config.use_cache is not False:
                model_kwargs["past_key_values"] = MemoriaCache(self.config, model_kwargs.pop("memory"))
                return
        super()._prepare_cache_for_generation(generation_config, model_kwargs, *args, **kwargs)

    def prepare_inputs_for_generation(
        self,
        input_ids: Tensor,
        next_sequence_length: int | None = None,
        past_key_values: Any = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        is_first_iteration: bool | None = False,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Return what a step hands to `forward`; without a cache, all segments are read again."""
        if self._ends_segments and past_key_values is None:
            past_key_values = MemoriaCache(self.config, kwargs.pop("memory", None))
        inputs: dict[str, Any] = super().prepare_inputs_for_generation(
            input_ids,
            next_sequence_length,
            past_key_values,
            attention_mask,
            inputs_embeds,
            is_first_iteration,
            **kwargs,
        )
        return inputs

    def _update_model_kwargs_for_generation(
        self, outputs: ModelOutput, model_kwargs: dict[str, Any], *args: Any, **kwargs: Any
    ) -> dict[str, Any]:
        updated: dict[str, Any] = super()._update_model_kwargs_for_generation(outputs, model_kwargs, *args, **kwargs)
        ends = getattr(updated.get("past_key_values"), "row_ends", None)
        if ends is not None:
            updated["attention_mask"] = ends.mask_padding(updated.get("attention_mask"))
        return updated

    def _prepare_generated_length(
        self, generation_config: Any, has_default_max_length: bool, *args: Any, input_ids_length: int, **kwargs: Any
    ) -> Any:
        default = generation_config.max_length
        prepared = super()._prepare_generated_length(
            generation_config, has_default_max_length, *args, input_ids_length=input_ids_length, **kwargs
        )
        if self._ends_segments and has_default_max_length and prepared.max_new_tokens is None:
            # The stock method bounds it by the backbone's positions, which here start again.
            prepared.max_length = default + input_ids_length
        return prepared

    def _get_stopping_criteria(self, *args: Any, **kwargs: Any) -> StoppingCriteriaList:
        criteria: StoppingCriteriaList = super()._get_stopping_criteria(*args, **kwargs)
        for criterion in criteria:
            if self._ends_segments and isinstance(criterion, MaxLengthCriteria):
                criterion.max_position_embeddings = None  # it would warn past that many tokens
        return criteria

    def _sample(self, input_ids: Tensor, stopping_criteria: Any, generation_config: Any, **kwargs: Any) -> Any:
        options = {"generation_config": generation_config, **kwargs}
        if not self._ends_segments:
            return super()._sample(input_ids, stopping_criteria=stopping_criteria, **options)
        cache, ends = kwargs.get("past_key_values"), RowEnds(stopping_criteria, input_ids)
        reader = None if cache is not None else Reader(self, input_ids, generation_config, kwargs)
        output = self._sample_until(ends, cache, input_ids, options)
        if not generation_config.return_dict_in_generate:
            return output
        real = ends.real(output.sequences)
        if reader is not None:
            return with_memory(output, reader.read(output.sequences, real))
        # The cache that is returned lacks the last token, as every cache of generate() does.
        reader = Reader(self, input_ids, generation_config, kwargs)
        return with_memory(output, reader.read_on(output.sequences[:, -1:], real[:, -1:]))

    def _sample_until(self, ends: RowEnds, cache: Any, input_ids: Tensor, options: dict[str, Any]) -> Any:
        if cache is None:
            return super()._sample(input_ids, stopping_criteria=ends, **options)
        cache.row_ends = ends
        try:
            return super()._sample(input_ids, stopping_criteria=ends, **options)
        finally:
            cache.row_ends = None

    def _beam_search(self, input_ids: Tensor, generation_config: Any, **kwargs: Any) -> Any:
        if not self._ends_segments or not generation_config.return_dict_in_generate:
            return super()._beam_search(input_ids, generation_config=generation_config, **kwargs)
        reader = Reader(self, input_ids, generation_config, kwargs)
        output = super()._beam_search(input_ids, generation_config=generation_config, **kwargs)
        # Beams are shuffled and the best may have ended long ago: what each has read is read again.
        reader.take(best_beams(input_ids.shape[0], generation_config))
        return with_memory(output, reader.read(output.sequences, output.beam_indices >= 0))
