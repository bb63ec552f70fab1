"""Settings of an engram memory, checked against the backbone that is to have it."""

from __future__ import annotations

from typing import Any

from hf_memoria.backbones import check_layers_exist, num_blocks, reading_blocks


def check_layers(config: Any) -> None:
    """Check which blocks read, and which makes the cue.

    Raises:
        ValueError: naming the field.
    """
    memory = config.memory
    check_layers_exist(config, "layers", memory.layers)
    if memory.cue_layer is not None:
        _check_cue_layer(config, memory.cue_layer, memory.layers)


def _check_cue_layer(config: Any, cue_layer: int, layers: list[int] | None) -> None:
    if config.backbone_spec.is_causal(config):
        raise ValueError(
            f"cue_layer must be None for {config.backbone_type}; got {cue_layer}. A causal backbone that reads "
            "what a block made of the same segment would see the future."
        )
    last = num_blocks(config) - 1
    if cue_layer >= last:
        raise ValueError(f"cue_layer must be below {last}, so that a block after it can read; got {cue_layer}.")
    if not any(layer > cue_layer for layer in reading_blocks(config)):
        raise ValueError(f"cue_layer must be below {max(reading_blocks(config))}, which reads; got {cue_layer}.")
    if layers and layers[0] <= cue_layer:
        raise ValueError(f"layers must name blocks after cue_layer ({cue_layer}), which read; got {layers}.")
