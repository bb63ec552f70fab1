"""What a memory adds to the config of a backbone."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

from huggingface_hub.dataclasses import strict
from huggingface_hub.errors import StrictDataclassError
from transformers import CONFIG_MAPPING, PreTrainedConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, MODEL_MAPPING_NAMES

from hf_memoria.attentions.choice import AttentionChoice, check_attention_fits
from hf_memoria.backbones import SPECS, BackboneSpec
from hf_memoria.memories import kinds as _kinds  # noqa: F401  (known to every config, exported code among them)
from hf_memoria.memories.interface import SYSTEMS, system_of
from hf_memoria.memories.shared.settings import MemorySettings
from hf_memoria.models.own_code import KeepsOwnCode
from hf_memoria.settings import settings_from

ConfigT = TypeVar("ConfigT")

ENTRY = "backbone_entry"
"""The field in which the config of a family that nobody declared keeps its entry."""

TOLD = "config_file_of"
"""Keyword in which reading a config file tells building the config where the file lies."""


@dataclass(kw_only=True, repr=False)
class MemoriaConfigMixin(KeepsOwnCode, AttentionChoice):
    """A backbone's config with a `memory` and an `attention`; list it before the stock config class.

    Attributes:
        backbone_type: `model_type` of the backbone, whose plain checkpoints load as well.
        memory: settings of the memory, or None for the backbone as it is.
        base_checkpoint: the place of the backbone's weights, in the config.json of an adapter and of a model that was
            loaded from one; a checkpoint that is saved whole does not say it. See `save_adapter`.
    """

    backbone_type: ClassVar[str]
    model_type: ClassVar[str]
    # Outputs that Trainer does not gather as predictions.
    keys_to_ignore_at_inference: ClassVar[list[str]] = ["past_key_values", "losses", "memory"]

    memory: MemorySettings | None = None
    base_checkpoint: dict[str, Any] | None = None

    @property
    def backbone_spec(self) -> BackboneSpec:
        """Where things are in the blocks of this family."""
        return SPECS[self.backbone_type]

    @property
    def segment_length(self) -> int | None:
        """Tokens of a segment: what the memory says, else all the positions that the backbone has."""
        own = self.memory.segment_length if self.memory is not None else None
        return own or self._num_positions

    @property
    def _num_positions(self) -> int | None:
        positions = getattr(self, "max_position_embeddings", None)
        if positions is None and self.backbone_spec.causal:  # of a model of text and images, its part for text says it
            config: Any = self
            positions = getattr(config.get_text_config(), "max_position_embeddings", None)
        positions = None if positions is not None and positions < 0 else positions  # XLNet's way of saying so
        if positions is None or not self.backbone_spec.positions_after_padding:
            return positions
        return positions - (getattr(self, "pad_token_id", None) or 0) - 1

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, memory_config_from(value) if name == "memory" else value)

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)  # type: ignore[misc]
        if self.memory is not None:
            check_memory_fits(self)
        if self.attention is not None:
            check_attention_fits(self, self.attention)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON, the memory's fields among it."""
        output = super().to_dict()
        output["memory"] = None if self.memory is None else self.memory.to_dict()
        output.pop("base_checkpoint", None)
        return output

    @classmethod
    def get_config_dict(
        cls, pretrained_model_name_or_path: Any, **kwargs: Any
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Read a checkpoint's config; a plain one of the backbone becomes one of this class."""
        config, unused = super().get_config_dict(pretrained_model_name_or_path, **kwargs)  # type: ignore[misc]
        return cls.adopt(config), {**unused, TOLD: str(pretrained_model_name_or_path)}

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """As the stock method; what is wrong in a file is told with where it lies."""
        where = kwargs.pop(TOLD, None) or kwargs.get("name_or_path")
        try:
            return super().from_dict(config_dict, **kwargs)
        except (TypeError, ValueError) as error:
            kind = TypeError if isinstance(error, TypeError) else ValueError
            raise kind(f"config.json of {where}: {error}" if where else str(error)) from error

    @classmethod
    def adopt(cls, config: dict[str, Any]) -> dict[str, Any]:
        """Turn the config of a plain backbone into one of this class, without memory.

        Raises:
            ValueError: if it is of another model type.
        """
        found = config.get("model_type", cls.model_type)
        if _runs_as(found, cls.backbone_type):
            # Some types have no model of their own; what their config leaves out is theirs all the same.
            config, found = CONFIG_MAPPING[found].from_dict(config).to_dict(), cls.backbone_type
        elif _has_text_of(found, cls.backbone_type):
            config, found = CONFIG_MAPPING[found].from_dict(config).get_text_config().to_dict(), cls.backbone_type
        if found not in (cls.model_type, cls.backbone_type):
            raise ValueError(f"model_type must be {cls.backbone_type!r} or {cls.model_type!r}; got {found!r}.")
        if found == cls.model_type:
            return config
        return {**{k: v for k, v in config.items() if k != "architectures"}, "model_type": cls.model_type}


def _runs_as(model_type: str, other: str) -> bool:
    """Whether a model type is another one whose base model is of the same class (InternLM 3 runs as a Llama)."""
    names: Any = MODEL_MAPPING_NAMES
    return model_type != other and names.get(model_type) is not None and names[model_type] == names.get(other)


def _has_text_of(model_type: str, other: str) -> bool:
    """Whether a checkpoint of text and images loads as the causal model of its text (Qwen3.5)."""
    names: Any = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    return model_type != other and other.endswith("_text") and names.get(model_type, "") == names.get(other)


def memory_config_from(value: Any) -> MemorySettings | None:
    """Return the settings of a memory that `value` holds; see `settings_from`."""
    if isinstance(value, MemorySettings) and value.kind in SYSTEMS:
        known = isinstance(value, SYSTEMS[value.kind].settings_class)
        value = value if known else value.to_dict()  # of a copy of the kind that came with a checkpoint
    return settings_from(value, {kind: system.settings_class for kind, system in SYSTEMS.items()}, "memory")


def check_memory_fits(config: Any) -> None:
    """Check `config.memory` against the backbone that is to have it.

    Raises:
        ValueError: naming the field.
    """
    memory, positions = config.memory, config._num_positions
    if memory.segment_length and positions and memory.segment_length > positions:
        raise ValueError(
            f"segment_length must be at most the backbone's {positions} positions; got {memory.segment_length}."
        )
    system_of(memory).check_fits(config)


def memoria_config(cls: type[ConfigT]) -> type[ConfigT]:
    """Class decorator: strict field types, whose errors are the ValueError or TypeError that they report."""
    checked: type[ConfigT] = strict(cls)
    for name in ("__init__", "__setattr__"):
        setattr(checked, name, _plain_errors(getattr(checked, name)))
    return checked


def _plain_errors(method: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(method)
    def call(self: PreTrainedConfig, *args: Any, **kwargs: Any) -> None:
        try:
            method(self, *args, **kwargs)
        except StrictDataclassError as error:
            cause = error.__cause__
            kind = type(cause) if isinstance(cause, (TypeError, ValueError)) else ValueError
            raise kind(str(error)) from error

    return call
