"""A model with a token memory, as its forwards are run with memory tokens in them."""

from __future__ import annotations

from typing import Any

from transformers.utils import ModelOutput

from hf_memoria.backbones.calls import Call, wants_attentions
from hf_memoria.memories.interface import Forward
from hf_memoria.memories.token.config import TokenMemoryConfig
from hf_memoria.memories.token.encoder import TokenMemory
from hf_memoria.memories.token.reading import TokenReading


class TokenForward:
    """What the parts of a segment's reading share.

    Args:
        model: a model with a token memory.
        stock_forward: the backbone's forward, bound.

    Attributes:
        base: the model without head.
        settings: the settings of the memory.
        memory: the modules of the memory.
        causal: whether the backbone is causal.
    """

    def __init__(self, model: Any, stock_forward: Forward) -> None:
        self.model, self.stock_forward, self.base = model, stock_forward, model.base_model
        # Looked up for each forward: PEFT puts a trained copy in its place.
        self.settings: TokenMemoryConfig = model.config.memory
        self.memory: TokenMemory = model.base_model.token_memory
        self.causal: bool = model.config.backbone_spec.is_causal(model.config)

    def __deepcopy__(self, memo: dict[int, Any]) -> TokenForward:
        # A copy of a KV cache is of the same model.
        return self

    def whole(self, reading: TokenReading, inputs: dict[str, Any]) -> ModelOutput:
        """Run the model with its head."""
        return self._run(self.stock_forward, reading, inputs)

    def headless(self, reading: TokenReading, inputs: dict[str, Any]) -> ModelOutput:
        """Run the base model, without a KV cache of its own."""
        if "use_cache" in self.base.token_hooks.parameters:
            inputs = {"use_cache": False, **inputs}
        return self._run(self.base, reading, inputs)

    def _run(self, forward: Forward, reading: TokenReading, inputs: dict[str, Any]) -> ModelOutput:
        alone = self.base is self.model
        call = Call(self.base, reading, wants_attentions(self.model.config, inputs), entered=alone)
        if alone:
            output: ModelOutput = call.run(self.base.token_hooks.run, self.stock_forward, reading, inputs)
        else:
            output = call.run(forward, **inputs, return_dict=True)
        return output
