"""`config.attention` decides how a model attends, and nothing else does while it is set."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import partial
from typing import Any

from hf_memoria.attentions.interface import (
    implementation_of,
    install_attention,
    register_attention,
)
from hf_memoria.attentions.kinds import ATTENTION_KINDS, attention_config_from
from hf_memoria.attentions.settings import AttentionSettings
from hf_memoria.backbones import check_attends_by_interface
from hf_memoria.backbones.blocks import check_layers_exist
from hf_memoria.backbones.ownership import ATTENTION, record_added


@dataclass(kw_only=True, repr=False)
class AttentionChoice:
    """What a config has of it: the field, and an attention implementation that cannot contradict it.

    Attributes:
        attention: settings of another attention, or None for the backbone's.
    """

    attention: AttentionSettings | None = None

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "attention":
            value = attention_config_from(value)
            self._follow(value)
        super().__setattr__(name, value)

    def _follow(self, attention: AttentionSettings | None) -> None:
        """Let the implementation's name follow the settings."""
        found = self.__dict__.get("_attn_implementation_internal")
        if attention is not None:
            check_implementation(found if not _is_a_kind(found) else None, attention)
            self.__dict__["_attn_implementation_internal"] = implementation_of(attention.kind)
        elif _is_a_kind(found):
            self.__dict__["_attn_implementation_internal"] = None

    @property
    def _attn_implementation(self) -> str | None:
        return self.__dict__.get("_attn_implementation_internal")

    @_attn_implementation.setter
    def _attn_implementation(self, value: str | dict[str, Any] | None) -> None:
        attention = self.__dict__.get("attention")
        check_implementation(value.get("") if isinstance(value, dict) else value, attention)
        if attention is None:
            super(AttentionChoice, type(self))._attn_implementation.fset(self, value)  # type: ignore[misc]

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON, the attention's fields among it."""
        output = super().to_dict()  # type: ignore[misc]
        output["attention"] = None if self.attention is None else self.attention.to_dict()
        return output

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """As in Transformers; another attention than that of a checkpoint is not taken for it unnoticed.

        Raises:
            ValueError: if both have one and they differ.
        """
        if "attention" in kwargs:
            check_not_replaced(config_dict.get("attention"), kwargs["attention"])
        return super().from_dict(config_dict, **kwargs)  # type: ignore[misc]


class AttendsByChoice:
    """What a model has of it: the units, and a setter that cannot contradict the config.

    Raises:
        ValueError: if the backbone's attention cannot be chosen, or an implementation is asked for beside a choice.
    """

    config: Any

    def __init__(self, config: Any, *args: Any, **kwargs: Any) -> None:
        if config.attention is not None:
            check_attention_fits(config, config.attention)
            for part in filter(None, (getattr(config, name, None) for name in config.sub_configs)):
                part._attn_implementation = implementation_of(config.attention.kind)  # of CLIP's vision model
        try:
            super().__init__(config, *args, **kwargs)  # type: ignore[call-arg]
        except KeyError as error:
            refuse_unknown(type(self), config.attention, error)
            raise
        attention = self.config.attention
        # Some heads build their base model by AutoModel, which knows our config: that one attends by choice already.
        inner = self.base_model is not self and isinstance(self.base_model, AttendsByChoice)  # type: ignore[attr-defined]
        if attention is not None and not inner:
            self._install(attention)
        self._attention_built = copy.deepcopy(attention)

    def _install(self: Any, attention: AttentionSettings) -> None:
        check_attends_by_interface(self, "attention", "None", attention.layers, "attention.layers")
        make_unit = partial(attention.make_unit, self.config)
        install = partial(install_attention, self.base_model, self.config.backbone_spec, make_unit, attention.layers)
        record_added(self.base_model, ATTENTION, install)

    def check_still_attends_so(self) -> None:
        """Refuse to run, or to be saved as, what the model was not built as.

        Raises:
            ValueError: if `config.attention` was changed after the model was built.
        """
        if self.config.attention != self._attention_built:
            raise ValueError(
                f"config.attention must be what the model was built with, {self._attention_built}; got "
                f"{self.config.attention}. wrap(model, attention=...) gives a model another attention."
            )

    def set_attn_implementation(self, attn_implementation: Any, *args: Any, **kwargs: Any) -> None:
        """As in Transformers; an error if `config.attention` says something else."""
        asked = attn_implementation.get("") if isinstance(attn_implementation, dict) else attn_implementation
        check_implementation(asked, self.config.attention)
        if self.config.attention is not None and asked is not None:
            attn_implementation = implementation_of(self.config.attention.kind)
        super().set_attn_implementation(attn_implementation, *args, **kwargs)  # type: ignore[misc]


def refuse_unknown(model: type, attention: AttentionSettings | None, error: KeyError) -> None:
    """Refuse a backbone that has a table of attentions of its own (Data2Vec), in which another one is not found.

    Raises:
        ValueError: if that is what the error says.
    """
    if attention is not None and error.args == (implementation_of(attention.kind),):
        raise ValueError(
            f"attention must be None for {model.__name__}, whose attention is one of a table of its own and does not "
            "go through Transformers' AttentionInterface."
        ) from error


def check_implementation(asked: str | None, attention: AttentionSettings | None) -> None:
    """Check an attention implementation that is asked for against `config.attention`.

    Raises:
        ValueError: if they contradict each other.
    """
    if attention is None and _is_a_kind(asked):
        settings = next(cls for kind, cls in ATTENTION_KINDS.items() if asked in (kind, implementation_of(kind)))
        raise ValueError(
            f"attn_implementation must not be {asked!r} without its settings: give them as attention="
            f"{settings.__name__}(...)."
        )
    if attention is not None and asked not in (None, attention.kind, implementation_of(attention.kind)):
        raise ValueError(
            f"attn_implementation must be None or {attention.kind!r} for a model whose config.attention has "
            f"kind={attention.kind!r}; got {asked!r}. wrap(model, attention=None) gives the backbone's attention back."
        )


def _is_a_kind(implementation: str | None) -> bool:
    """Whether an attention implementation is one of ours."""
    return any(implementation in (kind, implementation_of(kind)) for kind in ATTENTION_KINDS)


def check_not_replaced(found: Any, asked: Any) -> None:
    """Check an attention that is asked for at loading against the one that the checkpoint has.

    Args:
        found: settings or their JSON; None if it has none, and anything may be asked for.
        asked: the same; None is the backbone's attention, which is another one too.

    Raises:
        ValueError: if they differ.
    """
    own, other = attention_config_from(found), attention_config_from(asked)
    if own is not None and own != other:
        raise ValueError(
            f"attention must be left out, or be what this checkpoint was saved with, {own}; got {other}. To replace "
            "it on purpose: wrap(model, attention=...), or load the config, set config.attention, and pass it to "
            "from_pretrained as config=."
        )


def check_attention_fits(config: Any, attention: AttentionSettings) -> None:
    """Check the settings of an attention against the backbone that is to have it.

    Raises:
        ValueError: naming the field.
    """
    check_layers_exist(config, "attention.layers", attention.layers)


for _kind in ATTENTION_KINDS:
    register_attention(_kind)
