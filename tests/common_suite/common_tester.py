"""Tiny configs and inputs of each family, in the form that Transformers' common tests ask for."""

from __future__ import annotations

from typing import Any

import torch
from families import FAMILIES, memoria_class, small_memory

_TEXT = {"vocab_size": 99, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
_SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 37}

SETTINGS: dict[str, dict[str, Any]] = {
    "GPT2": {**_TEXT, "n_positions": 32, "n_embd": 32, "n_layer": 2, "n_head": 4},
    "Llama": {**_TEXT, **_SIZES, "num_key_value_heads": 2, "max_position_embeddings": 32},
    "Bert": {**_TEXT, **_SIZES, "max_position_embeddings": 32},
    "Roberta": {**_TEXT, **_SIZES, "max_position_embeddings": 32},
    "ViT": {**_SIZES, "image_size": 12, "patch_size": 4, "num_channels": 3, "encoder_stride": 4},
}
"""Configs by family."""


class FamilyTester:
    """What the common tests call a model tester: configs and inputs of one family, with or without memory."""

    batch_size = 3
    is_training = True
    hidden_size, num_hidden_layers, num_attention_heads = 32, 2, 4
    image_size, patch_size, num_masks, mask_length = 12, 4, 5, 9

    def __init__(self, family: str, with_memory: bool) -> None:
        self.family = family
        self.with_memory = with_memory
        # Patches and the class token.
        self.seq_length = 10 if family == "ViT" else 7
        self.heads = [memoria_class(family, head) for head in FAMILIES[family]]

    def get_config(self) -> Any:
        """Return a fresh config."""
        memory = small_memory() if self.with_memory else None
        return memoria_class(self.family, "Config")(**SETTINGS[self.family], memory=memory)

    def prepare_config_and_inputs_for_common(self) -> tuple[Any, dict[str, torch.Tensor]]:
        """Return a fresh config and the inputs of one segment."""
        if self.family == "ViT":
            return self.get_config(), {
                "pixel_values": torch.rand(self.batch_size, 3, self.image_size, self.image_size)
            }
        ids = torch.randint(3, 99, (self.batch_size, self.seq_length))
        return self.get_config(), {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
