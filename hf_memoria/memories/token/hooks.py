"""Memory tokens beside those of a segment, by what Transformers offers to callers: no modelling code is changed.

Before a causal backbone's tokens stand memory tokens; they see one another and nothing else, so that their keys and
values are those of the memory alone, and the text sees them and its own past. After the text tokens may stand that
see everything. In a backbone that is not causal memory tokens are tokens like others, and stand behind: what looks at
the first position finds what it expects. Positions of the text stay as they are, memory tokens in front are at
position 0, those behind at that of the last real token. They enter with the embeddings of the segment: as
`inputs_embeds`, or, where the family's entry names the embedding module, behind its output.

Axes: B rows, T positions of the segment, F and E tokens put in front and at the end, D hidden size.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import DynamicCache

from hf_memoria.backbones import BackboneSpec, HookHolder, cached_length, reading_of, submodule
from hf_memoria.backbones.attending import takes_positions
from hf_memoria.backbones.sliding_windows import sliding_window
from hf_memoria.memories.token.masks import masks_with_memory
from hf_memoria.memories.token.reading import TokenReading

TEXT = ("inputs_embeds", "input_ids")
"""Names of what a text backbone reads."""


class TokenHooks(HookHolder):
    """Puts memory tokens into the forward of a base model and takes them out of what comes back.

    Args:
        base_model: the model without head.
        spec: the spec of the backbone, which says where its embeddings are.
        causal: whether a position sees only what stands before it.
    """

    def __init__(self, base_model: Any, spec: BackboneSpec, causal: bool) -> None:
        self.base_model, self.spec, self.causal = base_model, spec, causal
        self.parameters = list(inspect.signature(base_model.forward).parameters)
        self.takes_positions = takes_positions(base_model, spec)

    def attach(self) -> None:
        """Register the hooks."""
        self.base_model.register_forward_pre_hook(self._before, with_kwargs=True)
        self.base_model.register_forward_hook(self._after)
        if self.spec.embeddings is not None:
            submodule(self.base_model, self.spec, "embeddings").register_forward_hook(self._add_to_embeddings)

    def _before(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        reading = reading_of(self.base_model)
        if reading is None:
            return None
        kwargs = {**dict(zip(self.parameters, args, strict=False)), **kwargs}
        return (), self._insert(reading, kwargs)

    def _after(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        reading = reading_of(self.base_model)
        return None if reading is None else self._remove(reading, output)

    def run(self, stock_forward: Callable[..., Any], reading: TokenReading, kwargs: dict[str, Any]) -> Any:
        """Run a base model's own forward, which no hook sees when it is called from a subclass."""
        return self._remove(reading, stock_forward(**self._insert(reading, kwargs)))

    def _insert(self, reading: TokenReading, kwargs: dict[str, Any]) -> dict[str, Any]:
        """Return the arguments of the base model's forward with the tokens in them."""
        past = cached_length(kwargs.get("past_key_values"))
        kwargs = {**self._with_cache(kwargs), "return_dict": True}
        if self.spec.embeddings is None:
            kwargs = self._with_embeddings(reading, kwargs, past)
        elif kwargs.get("inputs_embeds") is not None and not _length(kwargs):
            reading.alone = True
            first = torch.zeros(1, 1, dtype=torch.int64, device=reading.front.device)
            kwargs |= {"inputs_embeds": F.pad(kwargs["inputs_embeds"], (0, 0, 0, 1)), "position_ids": first}
        elif past and kwargs.get("position_ids") is None:
            kwargs["position_ids"] = self._text_positions(reading, kwargs, past, _length(kwargs))
        return self._with_mask(reading, kwargs)

    def _with_cache(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        """Return the arguments with a KV cache that keeps all keys, where the backbone would make one with windows."""
        base, asked = self.base_model, kwargs.get("use_cache")
        checkpoints = base.training and getattr(base, "gradient_checkpointing", False)
        asked = getattr(base.config.get_text_config(), "use_cache", False) if asked is None else asked
        makes_one = asked and kwargs.get("past_key_values") is None and not checkpoints
        if not (makes_one and self.causal) or sliding_window(base.config) is None:
            return kwargs
        return {**kwargs, "past_key_values": DynamicCache()}

    def _with_embeddings(self, reading: TokenReading, kwargs: dict[str, Any], past: int) -> dict[str, Any]:
        ids, text = kwargs.pop("input_ids", None), kwargs.get("inputs_embeds")
        if text is None:
            text = self.base_model.get_input_embeddings()(ids)
        kwargs["inputs_embeds"] = self._with_tokens(reading, text)
        if self.takes_positions:
            positions = self._text_positions(reading, kwargs, past, text.shape[1]).expand(text.shape[:2])
            kwargs["position_ids"] = self._with_positions(reading, positions, kwargs.get("attention_mask"))
        if kwargs.get("token_type_ids") is not None:
            types = kwargs["token_type_ids"]
            end = types.new_zeros(types.shape[0], reading.num_end)
            kwargs["token_type_ids"] = reading.around(
                types, types.new_zeros(types.shape[0], reading.num_front), end, self.causal
            )
        return kwargs

    def _with_tokens(self, reading: TokenReading, text: Tensor) -> Tensor:
        text = text[:, :0] if reading.alone else text
        text = text if reading.added is None else text + reading.added
        end = None if reading.end is None else reading.end.to(text)
        return reading.around(text, reading.front.to(text), end, self.causal)

    def _text_positions(self, reading: TokenReading, kwargs: dict[str, Any], past: int, length: int) -> Tensor:
        if kwargs.get("position_ids") is not None:
            given: Tensor = kwargs["position_ids"]
            return given
        start = past - reading.cached
        if self.spec.positions_after_padding:
            start += (self.base_model.config.pad_token_id or 0) + 1
        return torch.arange(start, start + length, device=reading.front.device).unsqueeze(0)

    def _with_positions(self, reading: TokenReading, text: Tensor, attention_mask: Tensor | None) -> Tensor:
        front = text.new_zeros(text.shape[0], reading.num_front)
        if not reading.num_end:
            return reading.around(text, front, None, self.causal)
        last = reading.end_position
        if last is None:
            real = text if attention_mask is None else text * attention_mask[:, -text.shape[1] :].to(text)
            last = real.amax(dim=-1)
        return reading.around(text, front, last.to(text).unsqueeze(1).expand(-1, reading.num_end), self.causal)

    def _with_mask(self, reading: TokenReading, kwargs: dict[str, Any]) -> dict[str, Any]:
        mask = kwargs.get("attention_mask")
        if reading.masks_given and not (isinstance(mask, Tensor) and mask.dim() == 2):
            return kwargs
        if mask is not None:
            if not isinstance(mask, Tensor) or mask.dim() != 2:
                got = list(mask.shape) if isinstance(mask, Tensor) else type(mask).__name__
                raise ValueError(
                    f"attention_mask must be a tensor of shape [rows, positions] with a token memory; got {got}. What "
                    "memory tokens see and who sees them is put into the model's own masks; pass the mask of padding."
                )
            front = mask.new_ones(mask.shape[0], reading.num_front + reading.cached)
            mask = reading.around(mask, front, mask.new_ones(mask.shape[0], reading.num_end), self.causal)
            kwargs["attention_mask"] = mask
        config = self.base_model.config.get_text_config()
        if (self.causal and reading.num_front) or sliding_window(config) is not None:
            like, cache = self._with_no_width(reading, kwargs), kwargs.get("past_key_values")
            kwargs["attention_mask"] = masks_with_memory(config, self.causal, reading, like, mask, cache)
        return kwargs

    def _with_no_width(self, reading: TokenReading, kwargs: dict[str, Any]) -> Tensor:
        """Return a tensor `[B, N, 0]` of as many positions as go into the blocks, memory tokens among them."""
        if self.spec.embeddings is None:
            return reading.front.new_empty(reading.front.shape[0], _length(kwargs), 0)
        text = 0 if reading.alone else _length(kwargs)
        return reading.front.new_empty(reading.front.shape[0], reading.num_front + text + reading.num_end, 0)

    def _add_to_embeddings(self, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Any:
        reading = reading_of(self.base_model)
        return None if reading is None else self._with_tokens(reading, output)

    def _remove(self, reading: TokenReading, output: Any) -> Any:
        """Take the tokens out of an output, and leave in the reading what came of them."""
        hidden = output["last_hidden_state"]
        front, end = reading.num_front, hidden.shape[1] - reading.num_end
        first, last = (front, end) if self.causal else (0, end - front)
        reading.final_hidden = hidden[:, first:last]
        reading.front_hidden = hidden[:, :front] if self.causal else hidden[:, last:end]
        reading.end_hidden = hidden[:, end:]
        output["last_hidden_state"] = reading.final_hidden
        if output.get("hidden_states") is not None:
            output["hidden_states"] = tuple(layer[:, first:last] for layer in output["hidden_states"])
        if output.get("attentions") is not None:
            # Positions of the segment to all they saw, the memory tokens among it.
            output["attentions"] = tuple(layer[:, :, first:last] for layer in output["attentions"])
        if reading.num_end and output.get("past_key_values") is not None:
            output["past_key_values"].crop(-reading.num_end)  # what is read on with comes after the text
        if front and last > first and output.get("pooler_output") is not None and hasattr(self.base_model, "pooler"):
            # It is of the segment's positions: of the last of them, or of the mean of all (BEiT).
            output["pooler_output"] = self.base_model.pooler(reading.final_hidden)
        return output


def _length(kwargs: dict[str, Any]) -> int:
    """Return how many positions of text a forward reads."""
    length: int = next(kwargs[name].shape[1] for name in TEXT if kwargs.get(name) is not None)
    return length
