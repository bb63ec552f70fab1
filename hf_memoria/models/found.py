"""Families that nobody declared: their classes, made when they are asked for, and their entry, which the config keeps.

The classes are called as those of `register_family`, and can be made again in another process: by the model type in a
config.json, by the name in a pickle, or by the code that a checkpoint brings.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import transformers
from transformers import CONFIG_MAPPING, PreTrainedConfig, PreTrainedModel

from hf_memoria.backbones.brought import came_with_checkpoint
from hf_memoria.backbones.spec import BackboneSpec
from hf_memoria.models import registered
from hf_memoria.models.config import ENTRY, MemoriaConfigMixin
from hf_memoria.models.families import (
    AUTO_CLASS_OF,
    AUTO_CLASSES,
    MEMORIA_CLASSES,
    config_with_memory,
    end_of,
    make_known,
    model_with_memory,
)

PREFIX = "memoria-"
"""What model types with memory begin with."""

NO_ENTRY = (
    "backbone_entry must say where memory is read in the blocks of {}; got None. wrap(model, memory=...) and "
    "MemoriaAutoModel...from_pretrained(checkpoint, memory=...) find it out."
)

MEMBERS: dict[str, Any] = {}
"""What every model class made here has, beside what `MemoriaMixin` gives it."""

_FAMILIES: dict[type, tuple[Any, ...]] = {}


@dataclass(kw_only=True, repr=False)
class FoundBackbone(MemoriaConfigMixin):
    """What a config with memory keeps of a backbone that nobody declared.

    Attributes:
        backbone_entry: fields of the `BackboneSpec` that was found, as plain JSON.
    """

    backbone_entry: dict[str, Any] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        width = (self.backbone_entry or {}).get("width")
        if width is not None:  # what memories know the stream's width by; a backbone of several widths has a list
            self.hidden_size = width
            kwargs |= {"hidden_size": width} if "hidden_size" in kwargs else {}
        super().__post_init__(**kwargs)
        config: Any = self
        if config.architectures is None:  # an Auto class that chooses by them looks through a list
            config.architectures = []

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """As in Transformers; first the Auto class learns of classes that it does not know, if they were saved."""
        for name in config_dict.get("architectures") or ():
            class_named(name)
        return super().from_dict(config_dict, **kwargs)

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if name == ENTRY and (value or {}).get("width") is not None:  # loading sets it on a config that is made
            self.hidden_size = value["width"]

    @property
    def backbone_spec(self) -> BackboneSpec:
        """Where things are in the blocks of this model."""
        if self.backbone_entry is None:
            raise ValueError(NO_ENTRY.format(self.backbone_type))
        return spec_of(self.backbone_entry)


def running_base(model: Any) -> Any:
    """Return the model without head, or what the head runs in its place, as the entry in the config says."""
    base = getattr(model, model.base_model_prefix, model)
    inner = (model.config.backbone_entry or {}).get("base")
    return base if inner is None else dict(base.named_modules()).get(inner, base)


def is_custom_code(cls: Any) -> bool:
    """Return False: loading is to initialise what a checkpoint does not hold as it does for the stock class."""
    return False


MEMBERS.update(base_model=property(running_base), is_custom_code=classmethod(is_custom_code))


def entry_of(spec: BackboneSpec) -> dict[str, Any]:
    """Return what an entry says beside the defaults, as plain JSON."""
    defaults = {part.name: part.default for part in fields(spec)}
    values = {name: value for name, value in asdict(spec).items() if value != defaults[name]}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


def spec_of(entry: dict[str, Any]) -> BackboneSpec:
    """Return the entry that `entry_of` was given.

    Raises:
        TypeError, ValueError: if it is none.
    """
    reads = entry.get("reads")
    return BackboneSpec(**{**entry, "reads": None if reads is None else tuple(reads)})


def is_found(model_class: Any) -> bool:
    """Whether a model class with memory is of a family that nobody declared."""
    return issubclass(model_class.config_class, FoundBackbone)


def is_undeclared(stock: Any) -> bool:
    """Whether a stock class is of a family that nobody declared; a class of a user's own may be of a declared one."""
    return _declared_config(stock.config_class) is None


def _declared_config(config_class: Any) -> Any:
    """Return the config class with memory that was declared for a stock one, or None."""
    declared = {model.config_class: None for model in MEMORIA_CLASSES.values() if not is_found(model)}
    return next((config for config in declared if _is_with_memory_of(config, config_class)), None)


def _is_with_memory_of(config: Any, stock: Any) -> bool:
    return config is stock or (issubclass(config, stock) and config.backbone_type == stock.model_type)


def memoria_class_of(stock: type[PreTrainedModel]) -> Any:
    """Return the class with memory of a stock model class, made now if nobody has declared it.

    Raises:
        ValueError: if it is none of the heads that read memory.
    """
    if stock not in MEMORIA_CLASSES:
        family_of(stock.config_class, (stock,))
    return MEMORIA_CLASSES[stock]


def family_of(config_class: Any, also: Sequence[Any] = (), module: str = registered.__name__) -> tuple[Any, ...]:
    """Return the config class and the model classes with memory of a family, made now if nobody declared it.

    Args:
        config_class: stock config class.
        also: stock model classes that no Auto class knows.
        module: name of the module that new classes belong to.

    Raises:
        ValueError: if one of `also` is none of the heads that read memory.
    """
    for stock in also:
        end_of(stock)
    declared = _declared_config(config_class)
    if declared is not None:
        _FAMILIES.setdefault(config_class, (declared,))
    elif config_class not in _FAMILIES:
        config = config_with_memory(config_class, module, FoundBackbone)
        models = tuple(model_with_memory(stock, config, module, **MEMBERS) for stock in _heads_of(config_class))
        make_known(config, models)
        _keep(config_class, (config, *models))
    for stock in also:
        if stock not in MEMORIA_CLASSES:
            members = MEMBERS if declared is None else {}
            made = model_with_memory(stock, declared or _FAMILIES[config_class][0], module, **members)
            MEMORIA_CLASSES[stock] = made
            _make_told_apart(made)
            _keep(config_class, (*_FAMILIES[config_class], made))
    return _FAMILIES[config_class]


def _make_told_apart(made: Any) -> None:
    """Let an Auto class choose between its class and one that it does not know, by a config's `architectures`."""
    auto = AUTO_CLASS_OF[made] = AUTO_CLASSES[end_of(made)]
    there = auto._model_mapping.get(made.config_class, ())
    known = there if isinstance(there, tuple) else (there,)
    auto.register(made.config_class, (*known, made), exist_ok=True)


def _keep(config_class: type, family: tuple[Any, ...]) -> None:
    _FAMILIES[config_class] = family
    registered.REGISTERED.update({cls.__name__: cls for cls in family})


def _heads_of(config_class: Any) -> list[Any]:
    found = []
    for auto in dict.fromkeys(AUTO_CLASSES.values()):
        stock = auto._model_mapping.get(config_class, None)
        heads = stock if isinstance(stock, tuple) else (stock,)
        if heads[0] is not None and heads[0].config_class is config_class and _is_of(heads[0], auto):
            found.append(heads[0])
    return list(dict.fromkeys(found))


def _is_of(stock: type, auto: Any) -> bool:
    """Whether a class is by its name one of the Auto class that has it, which BART's for masked words is not."""
    end = next((end for end in AUTO_CLASSES if stock.__name__.endswith(end)), None)
    return end is not None and AUTO_CLASSES[end] is auto


def classes_by_name(backbone_type: str, module: str) -> dict[str, type]:
    """Return the classes of a family by their names, for code that a checkpoint brings.

    Args:
        backbone_type: model type of the backbone.
        module: name of the module that they are to be found in where this package is not installed.
    """
    home = module if came_with_checkpoint(__name__) else registered.__name__
    return {cls.__name__: cls for cls in family_of(CONFIG_MAPPING[backbone_type], module=home)}


def class_named(name: str) -> type | None:
    """Return a class of a family that nobody declared by its name, or None if there is no such stock class."""
    plain = name.removeprefix("Memoria")
    for stock_name in (plain, plain.replace("ForCausalLM", "LMHeadModel")) if plain != name else ():
        stock = getattr(transformers, stock_name, None)
        if isinstance(stock, type) and issubclass(stock, PreTrainedConfig):
            return next(cls for cls in family_of(stock) if cls.__name__ == name)
        if isinstance(stock, type) and issubclass(stock, PreTrainedModel):
            family_of(stock.config_class, (stock,))
            return registered.REGISTERED.get(name)
    return None


class LoadsFound:
    """Stands in `CONFIG_MAPPING` for configs of families that nobody declared, until one of them is needed."""

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """Return a config of the class that is made for its model type.

        Raises:
            ValueError: if it is of a family that `register_family` added.
        """
        model_type = config_dict["model_type"]
        if ENTRY not in config_dict:
            raise ValueError(
                f"model_type {model_type!r} is of a family that register_family added: import the module that calls "
                "it first."
            )
        config = family_of(CONFIG_MAPPING[model_type.removeprefix(PREFIX)])[0]
        return config.from_dict(config_dict, **kwargs)


def offer_found_families() -> None:
    """Let `AutoConfig` load what was saved of a family that nobody declared, whichever it is."""
    for model_type in list(CONFIG_MAPPING):
        name = f"{PREFIX}{model_type}"
        if name not in CONFIG_MAPPING and not model_type.startswith(PREFIX):
            stand_in: Any = LoadsFound
            CONFIG_MAPPING.register(name, stand_in)


registered.MAKERS.append(class_named)
