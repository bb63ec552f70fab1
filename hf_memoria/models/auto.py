"""Auto classes that give any checkpoint of Transformers a memory."""

from __future__ import annotations

from typing import Any, ClassVar

from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageClassification,
    AutoModelForMaskedImageModeling,
    AutoModelForMaskedLM,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
)

from hf_memoria.models.config import ENTRY, MemoriaConfigMixin, memory_config_from
from hf_memoria.models.entries import spec_for
from hf_memoria.models.found import entry_of, is_undeclared, memoria_class_of
from hf_memoria.models.open_settings import OF_LOADING
from hf_memoria.models.trial import Stock, try_out


class MemoriaAuto:
    """Base of the Auto classes: loads a plain checkpoint, or one with memory, as a model of this package.

    Of a family that nobody declared the plain model is loaded once before, to find out and to prove where its blocks
    can read, and let go; the model with memory is tried out, as by `wrap`.

    Attributes:
        auto_class: the Auto class of Transformers for the same head.
    """

    auto_class: ClassVar[Any]

    def __init__(self) -> None:
        raise TypeError(f"{type(self).__name__} must be used by its from_pretrained(...) or from_config(...).")

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """Load a checkpoint.

        Args:
            pretrained_model_name_or_path: the name or path, as in Transformers.
            args: the other arguments, as in Transformers.
            kwargs: the keyword arguments, as in Transformers, and `memory` and `attention`, settings of this package.

        Returns:
            the model with memory, in evaluation mode.

        Raises:
            ValueError: if no place to read is found in the blocks of its family, or there is no such head.
        """
        where = {name: kwargs[name] for name in (*OF_LOADING, "gguf_file") if name in kwargs}
        config = kwargs.get("config") or AutoConfig.from_pretrained(pretrained_model_name_or_path, **where)
        if isinstance(config, MemoriaConfigMixin):
            return cls.auto_class.from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        stock = cls._stock_class(config)
        before = None
        if is_undeclared(stock):
            given = _as_plain(stock, config, kwargs)
            plain = stock.from_pretrained(pretrained_model_name_or_path, *args, **given)
            spec = spec_for(plain)
            kwargs[ENTRY] = entry_of(spec)
            memory = memory_config_from(kwargs.get("memory"))
            before = Stock.of(plain, spec, None if memory is None else memory.segment_length)
            del plain  # before the other one is loaded
        ours = memoria_class_of(stock)
        if "config" in kwargs:
            kwargs["config"] = _with_choices(ours, kwargs)
        loaded = ours.from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        if before is not None:
            try_out(loaded[0] if isinstance(loaded, tuple) else loaded, before)
        return loaded

    @classmethod
    def from_config(cls, config: Any, **kwargs: Any) -> Any:
        """Build a model with random weights.

        Args:
            config: the config of the plain model, or one with memory.
            kwargs: `memory` and `attention`, settings of this package.

        Raises:
            ValueError: as `from_pretrained`.
        """
        if isinstance(config, MemoriaConfigMixin):
            return cls.auto_class.from_config(config)
        stock = cls._stock_class(config)
        if is_undeclared(stock):
            kwargs[ENTRY] = entry_of(spec_for(stock(_part_for(stock, config))))
        ours = memoria_class_of(stock)
        return ours(_with_choices(ours, {**kwargs, "config": config}))

    @classmethod
    def _stock_class(cls, config: Any) -> Any:
        found = cls.auto_class._model_mapping.get(type(config), None)
        stock = found[0] if isinstance(found, (tuple, list)) else found
        if stock is None:
            raise ValueError(
                f"config must be of a family that {cls.auto_class.__name__} knows; got {type(config).__name__}."
            )
        return stock


def _part_for(stock: Any, config: Any) -> Any:
    """Return the part of a config that a class takes: of one of text and images that of the text."""
    return config if isinstance(config, stock.config_class) else config.get_text_config()


def _as_plain(stock: Any, config: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of loading a checkpoint as the plain model that it is."""
    ours = ("memory", "attention", "output_loading_info")
    plain = {name: value for name, value in kwargs.items() if name not in ours}
    return plain | {"config": _part_for(stock, config)} if "config" in plain else plain


def _with_choices(ours: Any, kwargs: dict[str, Any]) -> Any:
    """Return a config with memory for a plain one, with what is chosen for it taken out of `kwargs`."""
    config_class, plain = ours.config_class, kwargs["config"]
    chosen = {name: kwargs.pop(name) for name in ("memory", "attention", ENTRY) if name in kwargs}
    return config_class(**config_class.adopt(plain.to_dict()) | chosen)


class MemoriaAutoModel(MemoriaAuto):
    """`AutoModel` with memory."""

    auto_class = AutoModel


class MemoriaAutoModelForCausalLM(MemoriaAuto):
    """`AutoModelForCausalLM` with memory."""

    auto_class = AutoModelForCausalLM


class MemoriaAutoModelForMaskedLM(MemoriaAuto):
    """`AutoModelForMaskedLM` with memory."""

    auto_class = AutoModelForMaskedLM


class MemoriaAutoModelForSequenceClassification(MemoriaAuto):
    """`AutoModelForSequenceClassification` with memory."""

    auto_class = AutoModelForSequenceClassification


class MemoriaAutoModelForTokenClassification(MemoriaAuto):
    """`AutoModelForTokenClassification` with memory."""

    auto_class = AutoModelForTokenClassification


class MemoriaAutoModelForQuestionAnswering(MemoriaAuto):
    """`AutoModelForQuestionAnswering` with memory."""

    auto_class = AutoModelForQuestionAnswering


class MemoriaAutoModelForImageClassification(MemoriaAuto):
    """`AutoModelForImageClassification` with memory."""

    auto_class = AutoModelForImageClassification


class MemoriaAutoModelForMaskedImageModeling(MemoriaAuto):
    """`AutoModelForMaskedImageModeling` with memory."""

    auto_class = AutoModelForMaskedImageModeling
