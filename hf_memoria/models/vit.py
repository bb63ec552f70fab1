"""ViT with memory."""

from __future__ import annotations

from typing import ClassVar

from transformers import (
    ViTConfig,
    ViTForImageClassification,
    ViTForMaskedImageModeling,
    ViTModel,
)

from hf_memoria.backbones.spec import SPECS
from hf_memoria.models.config import MemoriaConfigMixin, memoria_config
from hf_memoria.models.families import register_family
from hf_memoria.models.mixin import MemoriaMixin


@memoria_config
class MemoriaViTConfig(MemoriaConfigMixin, ViTConfig):
    """`ViTConfig` with a `memory`."""

    model_type = "memoria-vit"
    backbone_type: ClassVar[str] = "vit"


class MemoriaViTModel(MemoriaMixin, ViTModel):
    """`ViTModel` with a memory."""

    config_class = MemoriaViTConfig


class MemoriaViTForImageClassification(MemoriaMixin, ViTForImageClassification):
    """`ViTForImageClassification` with a memory."""

    config_class = MemoriaViTConfig


class MemoriaViTForMaskedImageModeling(MemoriaMixin, ViTForMaskedImageModeling):
    """`ViTForMaskedImageModeling` with a memory."""

    config_class = MemoriaViTConfig


register_family(
    SPECS["vit"],
    MemoriaViTConfig,
    (
        MemoriaViTModel,
        MemoriaViTForImageClassification,
        MemoriaViTForMaskedImageModeling,
    ),
)
