"""Checks of interfaces for which it is not enough that a name is there."""

from __future__ import annotations

import inspect
import sys
from typing import Any

from hf_memoria.compatibility.interface import require


def _tiny_gpt2(**settings: Any) -> Any:
    from transformers import GPT2Config

    sizes: Any = {"n_layer": 1, "n_embd": 8, "n_head": 2, "n_positions": 8, "vocab_size": 9}
    return GPT2Config(**sizes, bos_token_id=None, eos_token_id=None, **settings)


def check_implementation_of_config() -> None:
    config = _tiny_gpt2(attn_implementation="eager")
    held = vars(config).get("_attn_implementation_internal")
    require(held == "eager", f"a config must hold its attention under that name; got {held!r}.")
    kind = inspect.getattr_static(type(config), "_attn_implementation")
    require(isinstance(kind, property) and kind.fset is not None, "_attn_implementation must be a property to set.")


def check_loaded_mark() -> None:
    import torch
    from transformers.initialization import guard_torch_init_functions

    given = torch.nn.Parameter(torch.zeros(1))
    given._is_hf_initialized = True  # type: ignore[attr-defined]
    with guard_torch_init_functions():
        torch.nn.init.ones_(given)
    require(given.item() == 0, "initialisation must leave parameters alone that are marked as loaded; it does not.")


def check_attention_modules() -> None:
    from hf_memoria.backbones.attending import attention_modules
    from hf_memoria.backbones.spec import SPECS
    from hf_memoria.models.families import MEMORIA_CLASSES

    for stock, ours in MEMORIA_CLASSES.items():
        config: Any = ours.config_class
        if config.backbone_type not in SPECS or stock.base_model_prefix not in stock.__name__.lower():
            continue  # of a family that was found, the modules were asked
        if not stock.__module__.startswith("transformers."):
            continue  # a user's own class of a family that is declared
        source = sys.modules[stock.__module__]
        classes = [cls for name, cls in vars(source).items() if name.endswith("Attention") and inspect.isclass(cls)]
        there = any(list(attention_modules(_blank(cls))) for cls in classes if cls.__module__ == source.__name__)
        require(there, f"a forward in {source.__name__} must look up ALL_ATTENTION_FUNCTIONS; none does.")


def _blank(cls: Any) -> Any:
    from torch import nn

    blank = cls.__new__(cls)
    nn.Module.__init__(blank)
    return blank


def check_blocks() -> None:
    import torch

    from hf_memoria.backbones.blocks import blocks_of
    from hf_memoria.backbones.spec import SPECS
    from hf_memoria.models.families import MEMORIA_CLASSES

    for stock, ours in MEMORIA_CLASSES.items():
        config: Any = ours.config_class
        spec = SPECS.get(config.backbone_type)
        if spec is None or not stock.__name__.endswith("Model") or "LMHead" in stock.__name__:
            continue
        with torch.device("meta"):
            block = blocks_of(stock(config(num_hidden_layers=1)).base_model, spec)[0]
        for path in filter(None, (spec.attention, spec.norm, spec.joins)):
            block.get_submodule(path)


def check_checkpointing() -> None:
    from transformers import GPT2Model

    model = GPT2Model(_tiny_gpt2())
    # Renamed in 5.20; the old name goes with version 6.
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable()
    require(hasattr(model.h[0], "_gradient_checkpointing_func"), "a block that checkpoints must have this attribute.")


def check_cache() -> None:
    import torch
    from transformers import DynamicCache

    cache = DynamicCache()
    cache.update(torch.zeros(1, 1, 2, 4), torch.zeros(1, 1, 2, 4), 0)
    layer: Any = cache.layers[0]
    require(layer.keys.shape == layer.values.shape == (1, 1, 2, 4), "a layer of a cache must hold keys and values.")
    for name in ("reorder_cache", "batch_repeat_interleave", "batch_select_indices", "crop", "reset"):
        require(hasattr(cache, name), f"DynamicCache must have {name}.")


def check_losses() -> None:
    from transformers import GPT2LMHeadModel

    parameters = inspect.signature(GPT2LMHeadModel.forward).parameters.values()
    named = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters)
    require(named, "a forward must take keyword arguments, so that Trainer brings num_items_in_batch.")


def check_strict() -> None:
    from huggingface_hub.errors import StrictDataclassError

    try:
        _tiny_gpt2(layer_norm_epsilon="none")
    except StrictDataclassError as error:
        require(isinstance(error.__cause__, (TypeError, ValueError)), "such an error must have a cause.")
    else:
        raise TypeError("a config must refuse a field of the wrong type with a StrictDataclassError.")


def check_fingerprint() -> None:
    from datasets import Dataset

    require(isinstance(Dataset.from_dict({"a": [1]})._fingerprint, str), "a dataset must have a fingerprint.")


def check_stream() -> None:
    from datasets import Dataset

    stream = Dataset.from_dict({"a": [1]}).to_iterable_dataset()
    require(hasattr(stream, "_distributed"), "a stream must say in _distributed whether it was split.")


def check_parameters() -> None:
    from torch import nn

    held = vars(nn.Linear(1, 1)).get("_parameters")
    require(
        isinstance(held, dict) and list(held) == ["weight", "bias"], "a module must hold parameters by name there."
    )


def check_decay() -> None:
    from torch import nn
    from transformers import Trainer

    from hf_memoria.backbones.undecayed import leave_undecayed

    model = nn.ModuleDict({"plain": nn.Linear(1, 1, bias=False), "left": nn.Linear(1, 1, bias=False)})
    leave_undecayed(model["left"])
    decayed = Trainer.get_decay_parameter_names(_blank_object(Trainer), model)
    require(
        decayed == ["plain.weight"], f"weight decay must look at lowered names of parameters; it decays {decayed}."
    )


def _blank_object(cls: Any) -> Any:
    return cls.__new__(cls)


def check_metrics() -> None:
    from transformers.trainer_utils import speed_metrics

    found = speed_metrics("eval", 0.0, num_samples=1)
    told = {"eval_runtime", "eval_samples_per_second"}
    require(told <= set(found), "the metrics of an evaluation must say its run time and its samples a second.")


def check_pipelines() -> None:
    from transformers import Pipeline
    from transformers.pipelines.base import PipelineRegistry

    class Registered(Pipeline):
        pass

    PipelineRegistry({}, {}).register_pipeline("task", Registered, type="text")
    # It marks the class as code of a checkpoint, and long_inputs takes the mark away.
    require(hasattr(Registered, "_registered_impl"), "register_pipeline must set _registered_impl; it does not.")
