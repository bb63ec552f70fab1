"""From an adapter's folder to a model: the backbone's checkpoint is loaded, and the memory's weights on top of it."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

import transformers
from packaging.version import Version
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel

from hf_memoria.backbones.ownership import ATTENTION, MEMORY, is_within, roots_of
from hf_memoria.models.adapter_files import BaseCheckpoint, of_cache, read_weights
from hf_memoria.models.config import ENTRY
from hf_memoria.models.copied import copied_as
from hf_memoria.models.fingerprint import backbone_fingerprint_of
from hf_memoria.models.gguf import load_gguf
from hf_memoria.models.open_settings import OF_LOADING

given_later: ContextVar[tuple[str, ...]] = ContextVar("given_later", default=())
"""Patterns of names that the checkpoint which is being loaded need not hold, for they are given afterwards."""

LOADS_IN_FULL = Version(transformers.__version__) >= Version("5.18")
"""Whether `load_adapter` of Transformers loads what an adapter trained in full; before, it stays as it began."""

OF_REPOSITORY = ("revision", "subfolder")
OVERRIDES = ("base_model", "base_revision")


def leave_for_later(model: Any) -> None:
    """Have the loading of a model that is being built not report as missing what is given afterwards."""
    model._keys_to_ignore_on_load_missing = {*(model._keys_to_ignore_on_load_missing or ()), *given_later.get()}


def base_of_checkpoint(cls: Any, name: Any, kwargs: dict[str, Any]) -> BaseCheckpoint | None:
    """Return where the backbone of a checkpoint lies, or None if it holds its backbone itself.

    Args:
        cls: class with memory that is to be loaded.
        name: folder or name of the checkpoint on the Hub, or None for weights that are given.
        kwargs: arguments of `from_pretrained`.

    Raises:
        ValueError: if another base is asked for, and it is no adapter.
    """
    told = None if name is None else _told_by(cls, name, kwargs)
    overrides = [key for key in OVERRIDES if kwargs.get(key) is not None]
    if told is None and overrides:
        raise ValueError(
            f"{overrides[0]} must be left out to load {str(name)!r}, which holds its backbone itself: it is no folder "
            "of save_adapter."
        )
    return None if told is None else BaseCheckpoint(**told)


def _told_by(cls: Any, name: Any, kwargs: dict[str, Any]) -> dict[str, Any] | None:
    config = kwargs.get("config")
    if isinstance(config, PreTrainedConfig) and getattr(config, "base_checkpoint", None) is None:
        return None
    where = {key: kwargs[key] for key in OF_LOADING if key in kwargs}
    try:
        told: dict[str, Any] | None = cls.config_class.get_config_dict(name, **where)[0].get("base_checkpoint")
    except OSError:  # a checkpoint without a config, which was given
        return None
    return told


def load_with_base(
    cls: Any, stock: Callable[..., Any], name: Any, base: BaseCheckpoint, kwargs: dict[str, Any]
) -> Any:
    """Return the model of an adapter, whole, or raise.

    Args:
        cls: class with memory.
        stock: `from_pretrained` of its stock class, bound to it.
        name: folder of the adapter, or its name on the Hub.
        base: checkpoint that it says it belongs to.
        kwargs: arguments of `from_pretrained`.

    Raises:
        OSError: if a file, or the base, is not there.
        ValueError: if weights are missing, left over or of another shape.
    """
    where = {key: kwargs[key] for key in OF_LOADING if key in kwargs}
    told = kwargs.pop("output_loading_info", False)
    adapter_name, _ = kwargs.pop("adapter_name", "default"), kwargs.pop("adapter_kwargs", None)
    base = _with_overrides(base, {key: kwargs.pop(key, None) for key in OVERRIDES})
    own, peft = read_weights(name, base, where)
    rest = {key: value for key, value in kwargs.items() if key not in OF_REPOSITORY}
    model, info = load_base(cls, stock, _config_of(cls, name, rest), base, tuple(own | peft), rest)
    tensors = own | {key: value for key, value in peft.items() if key in model.state_dict()}
    _check(name, base, model, tensors, info["missing_keys"])
    model.load_state_dict(tensors, strict=False)
    _warn_of_another_base(name, base, backbone_fingerprint_of(model))
    model.config.base_checkpoint = base.to_dict()
    model.config.name_or_path = model.name_or_path = str(name)
    if base.peft:
        _add_peft(model, name, adapter_name, where)
    return (model, {**info, "missing_keys": set()}) if told else model


def loaded_from(name: Any, kwargs: dict[str, Any], loaded: Any) -> Any:
    """Note in the config of a model that was just loaded what its name alone does not say of its checkpoint.

    Args:
        name: folder or name of the checkpoint.
        kwargs: arguments of `from_pretrained`.
        loaded: the result of the call: the model, or a tuple that begins with it.
    """
    told = {key: kwargs[key] for key in ("gguf_file", "revision") if kwargs.get(key)}
    if told:
        (loaded[0] if isinstance(loaded, tuple) else loaded).config.base_checkpoint = {"name": str(name), **told}
    return loaded


def load_base(
    cls: Any,
    stock: Callable[..., Any],
    config: Any,
    base: BaseCheckpoint,
    later: tuple[str, ...],
    kwargs: dict[str, Any],
) -> tuple[Any, dict[str, Any]]:
    """Return a model with the weights of its base checkpoint, and what loading says of it.

    Args:
        cls: class with memory.
        stock: `from_pretrained` of its stock class, bound to it.
        config: config of the model.
        base: checkpoint to load.
        later: names of parameters that are given afterwards.
        kwargs: the other arguments of `from_pretrained`.

    Raises:
        OSError: if the checkpoint is not there.
    """
    place = kwargs if base.revision is None else {**kwargs, "revision": base.revision}
    if base.gguf_file is not None:
        chosen = {"memory": config.memory, "attention": config.attention}
        plain, chosen = load_gguf(
            cls, base.name, gguf_file=base.gguf_file, **{"dtype": config.dtype, **place}, **chosen
        )
        entry = getattr(config, ENTRY, None)
        return copied_as(cls, plain, chosen if entry is None else {**chosen, ENTRY: entry}), {"missing_keys": set()}
    token = given_later.set(tuple(f"^{re.escape(name)}$" for name in later))
    try:
        model, info = stock(base.name, config=config, output_loading_info=True, **place)
    except OSError as error:
        raise OSError(
            f"the base checkpoint {base.name!r} of the adapter could not be loaded: {error} Where it lies elsewhere, "
            "say so with base_model=."
        ) from error
    finally:
        given_later.reset(token)
    return model, info


def _config_of(cls: Any, name: Any, rest: dict[str, Any]) -> Any:
    """Return the config of an adapter, with what is asked for taken out of `rest`."""
    config = rest.pop("config", None)
    if isinstance(config, PreTrainedConfig):
        return config
    where = {key: rest[key] for key in OF_LOADING if key in rest}
    chosen = {key: rest.pop(key) for key in ("memory", "attention") if key in rest}
    return cls.config_class.from_pretrained(name if config is None else config, **where, **chosen)


def _with_overrides(base: BaseCheckpoint, asked: dict[str, Any]) -> BaseCheckpoint:
    name, revision = asked["base_model"], asked["base_revision"]
    if name is None and revision is None:
        return base
    kept = base.revision if name is None else None
    return BaseCheckpoint(str(name or base.name), revision or kept, base.gguf_file, base.fingerprint, base.peft)


def own_names(model: Any) -> list[str]:
    """Return the names of what a memory and another attention add, without what PEFT adds to them."""
    roots = roots_of(model, MEMORY, ATTENTION)
    return [name for name in model.state_dict() if is_within(name, roots)]


def _check(name: Any, base: BaseCheckpoint, model: Any, tensors: dict[str, Tensor], missing: Any) -> None:
    state = model.state_dict()
    lost = sorted({key for key in own_names(model) if key not in tensors} | set(missing) - set(tensors))
    left = sorted(key for key in tensors if key not in state)
    other = [
        f"{key} {list(tensors[key].shape)}" for key in tensors if key in state and _unlike(state[key], tensors[key])
    ]
    for what, names in (("missing", lost), ("left over", left), ("of another shape", other)):
        if names:
            raise ValueError(
                f"the adapter {str(name)!r} and its base {base.name!r} must together give every weight of "
                f"{type(model).__name__} and no other; {len(names)} are {what}: {_some(names)}. Load it with the "
                "memory settings that it was saved with, and give its base as base_model=."
            )


def _unlike(held: Tensor, given: Tensor) -> bool:
    if held.is_meta:
        raise ValueError(
            "device_map must keep the memory on a device to load an adapter; got weights that are offloaded."
        )
    return held.shape != given.shape


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _warn_of_another_base(name: Any, base: BaseCheckpoint, found: str | None) -> None:
    if None not in (found, base.fingerprint) and found != base.fingerprint:
        warnings.warn(
            f"the adapter {str(name)!r} was trained on a backbone with the fingerprint {base.fingerprint}; "
            f"{base.name!r} has {found}. The memory may be worth less there. Give the checkpoint that it was trained "
            "on as base_model=, or train it further.",
            stacklevel=5,
        )


def _add_peft(model: Any, name: Any, adapter_name: str, where: dict[str, Any]) -> None:
    try:
        # Past the check of our own: the memory is there already, and an adapter copies it as it is.
        PreTrainedModel.load_adapter(model, str(name), adapter_name=adapter_name, adapter_kwargs=of_cache(where))
    except ImportError as error:
        raise ImportError(f"{str(name)!r} holds an adapter of PEFT beside the memory: pip install peft.") from error


def check_loaded_in_full(model: Any) -> None:
    """Refuse an adapter of PEFT whose modules that are trained in full, such as a memory, were not loaded.

    Raises:
        ValueError: naming them and how to load them.
    """
    if LOADS_IN_FULL:
        return
    names = [name for name, module in model.named_modules() if hasattr(module, "modules_to_save")]
    if names:
        raise ValueError(
            "transformers must be 5.18 or later to load an adapter with modules_to_save into "
            f"{type(model).__name__}; got {transformers.__version__}, which leaves as it began: {_some(names)}. "
            "Load it with peft.PeftModel.from_pretrained(model, folder), or update: pip install -U transformers."
        )
