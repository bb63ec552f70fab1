"""The losses by which a token memory learns without gradient through time (thought-and-memory).

The model's own loss acts on the backbone. The recall loss reaches the backbone too, and through the new memory tokens
the memory encoder; its target is detached. The memory loss reaches the memory encoder alone.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers.utils import ModelOutput

from hf_memoria.memories.shared.losses import IGNORED, share_of_step
from hf_memoria.memories.token import memory_loss
from hf_memoria.memories.token.forward import TokenForward
from hf_memoria.memories.token.reading import TokenReading

ALONG = ("attention_mask", "token_type_ids", "position_ids", "interpolate_pos_encoding")
"""Arguments of a segment's forward that its recall has as well."""


class TokenLosses:
    """Losses of one segment.

    Args:
        forward: the forward that read it.
        kwargs: the arguments of that forward.
        reading: the reading that the forward went with.
        real: positions that are not padding, bool `[B, T]`.
    """

    def __init__(self, forward: TokenForward, kwargs: dict[str, Any], reading: TokenReading, real: Tensor) -> None:
        self.forward, self.kwargs, self.real = forward, kwargs, real
        self.settings, self.memory = forward.settings, forward.memory
        assert reading.final_hidden is not None
        self.hidden = reading.final_hidden

    def add_to(self, output: ModelOutput, before: Tensor, after: Tensor) -> dict[str, Tensor]:
        """Add the weighted losses to the output's loss; return every part by name, unweighted and attached.

        Args:
            output: the output of the forward.
            before: memory tokens that it began with, `[B, M, D]`.
            after: memory tokens that it led to.
        """
        losses = {"task": output["loss"]}
        total = torch.zeros_like(output["loss"])
        if self.settings.recall_weight:
            losses["recall"] = self.recall(after)
            total = total + self.settings.recall_weight * losses["recall"]
        if self.settings.memory_weight:
            parts = self.composition(before)
            losses |= parts
            total = total + self.settings.memory_weight * parts["memory"]
        # Where none of them reaches the encoder, DistributedDataParallel would miss its gradient.
        unreached = 0.0 if len(losses) > 1 else after.sum() * 0.0
        output["loss"] = output["loss"] + total * share_of_step(self.kwargs) + unreached
        return losses

    def recall(self, after: Tensor) -> Tensor:
        """Return how far the segment that the backbone brings back from new memory tokens is from the real one."""
        ask = self.memory.recall_token(after.device).to(after.dtype).expand(after.shape[0], 1, -1)
        reading = TokenReading(torch.cat([self.memory.placed(after), ask], dim=1), sees_all=True)
        inputs = self._blank(reading)
        if self.settings.recall_target == "tokens":
            return self._token_loss(reading, inputs)
        self.forward.headless(reading, inputs)
        assert reading.final_hidden is not None
        squared = (reading.final_hidden - self.hidden.detach()).float().square().mean(dim=-1)
        return (squared * self.real).sum() / self.real.sum().clamp(min=1)

    def _blank(self, reading: TokenReading) -> dict[str, Any]:
        """Return the inputs of a segment of which nothing is told but where its positions are."""
        blank = {name: self.kwargs[name] for name in ALONG if self.kwargs.get(name) is not None}
        token = self.memory.mask_token(self.hidden.device)
        if self.kwargs.get("pixel_values") is not None:
            reading.added = token
            return blank | {"pixel_values": torch.zeros_like(self.kwargs["pixel_values"])}
        return blank | {"inputs_embeds": token.to(self.hidden.dtype).expand(self.hidden.shape)}

    def _token_loss(self, reading: TokenReading, inputs: dict[str, Any]) -> Tensor:
        tokens = self.kwargs.get("input_ids")
        if tokens is None or self.forward.model.get_output_embeddings() is None:
            raise ValueError(
                "recall_target must be 'hidden' for a model without a language-modelling head, or for inputs_embeds; "
                "got 'tokens'."
            )
        logits = self.forward.whole(reading, inputs)["logits"]
        wanted = tokens.masked_fill(~self.real, IGNORED)
        total = F.cross_entropy(logits.flatten(0, 1).float(), wanted.flatten(), ignore_index=IGNORED, reduction="sum")
        return total / self.real.sum().clamp(min=1)

    def composition(self, before: Tensor) -> dict[str, Tensor]:
        """Return the memory loss and its parts; no gradient leaves the encoder."""
        settings, projected = self.settings, self.memory.project(self.hidden.detach())

        def encode(memory: Tensor, positions: Tensor) -> Tensor:
            return self.memory.rewritten(memory, projected, positions)

        loss = memory_loss(encode, before.detach(), self.real, settings.max_chunks, settings.variance_target)
        parts = {"composition": loss.composition, "variance": loss.variance, "covariance": loss.covariance}
        spread = settings.variance_weight * loss.variance + settings.covariance_weight * loss.covariance
        return {"memory": loss.composition + (spread if settings.vicreg else 0.0), **parts}
