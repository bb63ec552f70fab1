"""The families with memory, and how one more is added: classes with memory, known to Transformers' Auto classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageClassification,
    AutoModelForImageTextToText,
    AutoModelForMaskedImageModeling,
    AutoModelForMaskedLM,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    GenerationMixin,
    PreTrainedConfig,
    PreTrainedModel,
)

from hf_memoria.backbones.brought import came_with_checkpoint
from hf_memoria.backbones.spec import SPECS, BackboneSpec
from hf_memoria.generation.mixin import MemoriaGenerationMixin
from hf_memoria.models import registered
from hf_memoria.models.config import MemoriaConfigMixin, memoria_config
from hf_memoria.models.mixin import MemoriaMixin
from hf_memoria.models.renamings import prefixes_of, rename_as

AUTO_CLASSES: dict[str, Any] = {
    "LMHeadModel": AutoModelForCausalLM,
    "Model": AutoModel,
    "ForCausalLM": AutoModelForCausalLM,
    "ForConditionalGeneration": AutoModelForCausalLM,
    "GenerationDecoder": AutoModelForCausalLM,
    "ForMaskedLM": AutoModelForMaskedLM,
    "ForSequenceClassification": AutoModelForSequenceClassification,
    "ForTokenClassification": AutoModelForTokenClassification,
    "ForQuestionAnswering": AutoModelForQuestionAnswering,
    "ForImageClassification": AutoModelForImageClassification,
    "ForMaskedImageModeling": AutoModelForMaskedImageModeling,
}
"""Auto classes by the end of a stock class's name, a longer end before one that it ends with."""

ALSO_KNOWN_TO: dict[str, tuple[Any, ...]] = {"ForConditionalGeneration": (AutoModelForImageTextToText,)}
"""More Auto classes by the same ends. Models of text and images are read as language models."""

MEMORIA_CLASSES: dict[type[PreTrainedModel], type[PreTrainedModel]] = {}
"""Class with memory by stock class."""

AUTO_CLASS_OF: dict[type, Any] = {}
"""Auto class by class with memory, as they were registered."""


def register_family(
    spec: BackboneSpec,
    config_class: type[PreTrainedConfig],
    model_classes: Sequence[type[PreTrainedModel]],
    *,
    module: str | None = None,
) -> tuple[type, ...]:
    """Give a memory to a family of models, and make the Auto classes and `wrap` know it.

    Of stock classes, classes with memory are made, called as they are with `Memoria` in front (and `ForCausalLM` for
    `LMHeadModel`); classes that are made already are taken as they are. Code that came with a checkpoint is known to
    the Auto classes for that checkpoint alone.

    Args:
        spec: the spec of the family, which says where things are in its blocks.
        config_class: stock config class, or one with `MemoriaConfigMixin`.
        model_classes: stock model classes of that config, or ones with `MemoriaMixin`.
        module: name of the module that the classes belong to and where they are assigned to their names, `__name__` of
            the caller: unpickling a model imports it. Without one, the family has to be registered before that.

    Returns:
        the config class with memory and the model classes with memory, in the order given.

    Raises:
        TypeError: if an argument is of the wrong kind.
        ValueError: if a model class is none of the heads that read memory.
    """
    _check_family(spec, config_class, model_classes)
    home = registered.__name__ if module is None else module
    config: Any = config_with_memory(config_class, home)
    models = tuple(model_with_memory(model, config, home) for model in model_classes)
    registered.REGISTERED.update({cls.__name__: cls for cls in (config, *models) if cls.__module__ == home})
    SPECS[config.backbone_type] = spec
    make_known(config, models)
    return (config, *models)


def make_known(config: Any, models: Sequence[Any]) -> None:
    """Make the Auto classes and `wrap` know a config class with memory and its model classes."""
    if not came_with_checkpoint(config.__module__):
        # By this name Transformers would load the next checkpoint that brings its code with this one's. The entries
        # below are by class, and so this code's alone; heads that build their base model by AutoModel need them.
        AutoConfig.register(config.model_type, config, exist_ok=True)
    rename_as(config.backbone_type, config.model_type)
    for model in models:
        stock = model.__bases__[1]
        AUTO_CLASS_OF[model] = AUTO_CLASSES[end_of(model)]
        for auto in (AUTO_CLASS_OF[model], *ALSO_KNOWN_TO.get(end_of(model), ())):
            auto.register(config, model, exist_ok=True)
        MEMORIA_CLASSES[stock] = model
        rename_as(stock.__name__, model.__name__, prefixes_of(model, models))


def auto_class_of(model: type) -> Any:
    """Return the Auto class that a class with memory was registered with, or the one that it is derived from."""
    return next(AUTO_CLASS_OF[cls] for cls in model.__mro__ if cls in AUTO_CLASS_OF)


def _check_family(spec: Any, config_class: Any, model_classes: Any) -> None:
    if not isinstance(spec, BackboneSpec):
        raise TypeError(f"spec must be a BackboneSpec; got {type(spec).__name__}.")
    if not (isinstance(config_class, type) and issubclass(config_class, PreTrainedConfig)):
        raise TypeError(f"config_class must be a config class of Transformers; got {config_class!r}.")
    for model in model_classes:
        if not (isinstance(model, type) and issubclass(model, PreTrainedModel)):
            raise TypeError(f"every item of model_classes must be a model class of Transformers; got {model!r}.")
        if model.config_class is not config_class:
            raise TypeError(
                f"every item of model_classes must be a model of {config_class.__name__}; got {model.__name__}, whose "
                f"config_class is {model.config_class}."
            )
        end_of(model)


def config_with_memory(stock: type, module: str, mixin: type = MemoriaConfigMixin) -> type:
    """Return the config class with memory of a stock one, or the class itself if it has one.

    Args:
        stock: the class.
        module: name of the module that the new class belongs to.
        mixin: the base class that it gets before the stock one.
    """
    if issubclass(stock, MemoriaConfigMixin):
        return stock
    backbone_type = stock.model_type  # type: ignore[attr-defined]
    body = {
        "__module__": module,
        "__doc__": f"`{stock.__name__}` with a `memory`.",
        "model_type": f"memoria-{backbone_type}",
        "backbone_type": backbone_type,
    }
    return memoria_config(type(f"Memoria{stock.__name__}", (mixin, stock), body))


def model_with_memory(stock: Any, config: type, module: str, **members: Any) -> Any:
    """Return the model class with memory of a stock one, or the class itself if it has one.

    Args:
        stock: the class.
        config: config class with memory.
        module: name of the module that the new class belongs to.
        members: the other members of the new class.
    """
    if issubclass(stock, MemoriaMixin):
        return stock
    name = f"Memoria{stock.__name__}".replace("LMHeadModel", "ForCausalLM")
    # generate() looks for its mixin among the direct bases.
    generation = (MemoriaGenerationMixin,) if issubclass(stock, GenerationMixin) else ()
    body = {"__module__": module, "__doc__": f"`{stock.__name__}` with a memory.", "config_class": config}
    return type(name, (MemoriaMixin, stock, *generation), body | members)


def end_of(model: type) -> str:
    """Return the end of a model class's name by which its Auto class is known.

    Raises:
        ValueError: if it is none of those that read memory.
    """
    for end in AUTO_CLASSES:
        if model.__name__.endswith(end):
            return end
    raise ValueError(f"model_classes must end with one of {', '.join(AUTO_CLASSES)}; got {model.__name__}.")
