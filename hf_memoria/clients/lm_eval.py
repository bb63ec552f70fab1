"""Models with memory under EleutherAI's evaluation harness, as its model `hf-memoria`.

The harness cuts what is longer than a window, and measures every window alone: a memory would never be read. Here
texts of any length are read segment by segment, and each request begins with an empty memory.
"""

from __future__ import annotations

import json
from typing import Any

import torch
from lm_eval.api.registry import register_model
from lm_eval.models.huggingface import HFLM
from torch import Tensor
from torch.nn import functional as F
from tqdm.auto import tqdm

from hf_memoria.models import wrap

NAME = "hf-memoria"

UNBOUNDED = 2**31 - 1
"""Tokens that a model with memory reads at most, as the harness is told."""


@register_model(NAME)
class MemoriaLM(HFLM):
    """As the harness's `hf`, for models with memory: loglikelihoods, rolling ones, and generation past the window.

    Args:
        pretrained: the checkpoint, as there; one with memory, or a plain one together with `memory`.
        memory: settings of a memory for a plain checkpoint, a mapping or its JSON.
        kwargs: the other arguments, as there.

    Raises:
        ValueError: if there is no memory, or the batch size is to be found out, for which the harness tries the
            longest text that a model reads.
    """

    _model: Any

    def __init__(self, pretrained: Any, memory: str | dict[str, Any] | None = None, **kwargs: Any) -> None:
        if str(kwargs.get("batch_size", 1)).startswith("auto"):
            raise ValueError(f"batch_size must be a number; got {kwargs['batch_size']!r}.")
        # The harness knows model types of Transformers only, and warns of the others.
        super().__init__(pretrained, **({"backend": "causal"} | kwargs))
        if memory is not None:
            settings = json.loads(memory) if isinstance(memory, str) else memory
            self._model = wrap(self._model, memory=settings).eval()
        if getattr(self.model.config, "memory", None) is None:
            named = pretrained if isinstance(pretrained, str) else f"a {type(pretrained).__name__}"
            raise ValueError(
                f"pretrained must have a memory; {named} has none. Give memory={{...}}, or use the model 'hf'."
            )

    @property
    def max_length(self) -> int:
        """As the harness's: how much of a text is read."""
        return int(self._max_length or UNBOUNDED)

    @torch.no_grad()
    def _model_call(self, inps: Tensor, attn_mask: Tensor | None = None, labels: Tensor | None = None) -> Tensor:
        """Return the logits of rows that are padded on the right, `[B, L, V]`.

        What a row reads behind its end changes nothing before it, so that padding needs no mask.
        """
        return torch.cat([logits for _, logits in self._segments(inps)], dim=1)

    def _segments(self, ids: Tensor) -> Any:
        """Yield (start, logits) of each segment, which reads the memory of those before it."""
        length, memory = self.model.config.segment_length or ids.shape[1], None
        with torch.autocast(self.device.type, self.mixed_precision_dtype, self.mixed_precision_dtype is not None):
            for start in range(0, ids.shape[1], length):
                output = self.model(ids[:, start : start + length], memory=memory, use_cache=False)
                memory = output.memory
                yield start, output.logits

    @torch.no_grad()
    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
        """Return the loglikelihood of whole texts, each read from an empty memory to its end."""
        found = []
        for request in tqdm(requests, disable=disable_tqdm or self.rank != 0, desc="Reading whole texts"):
            (text,) = request.args
            ids = torch.tensor([[self.prefix_token_id, *self.tok_encode(text)]], device=self.device)
            total = 0.0
            for start, logits in self._segments(ids[:, :-1]):
                targets = ids[:, start + 1 : start + 1 + logits.shape[1]]
                total -= float(F.cross_entropy(logits[0].float(), targets[0], reduction="sum"))
            found.append(total)
            self.cache_hook.add_partial("loglikelihood_rolling", (text,), total)
        return found
