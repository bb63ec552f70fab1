"""What a memory adds to a stock model: the modules, and a state that goes in and comes out of `forward`."""

from __future__ import annotations

import functools
import inspect
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.utils import ModelOutput

from hf_memoria.backbones import READING, blocks_of, install_engram_memory
from hf_memoria.memory import EngramState
from hf_memoria.models.attention_choice import AttendsByChoice
from hf_memoria.models.cache import MemoriaCache
from hf_memoria.models.config import check_memory_fits
from hf_memoria.models.engram_step import end_segment, prepare_reading, starting_state
from hf_memoria.models.losses import zero_without_targets
from hf_memoria.models.outputs import with_memory
from hf_memoria.models.segments import read_in_segments

OWN_ARGUMENTS = ("memory", "reset_memory")


class MemoriaMixin(AttendsByChoice):
    """A stock model whose blocks read a memory; list it before the stock class.

    `forward` takes two arguments more, `memory` (the state after the previous segment, or None for new lanes) and
    `reset_memory` (bool `[B]`, true where a row starts a new document), and its output has one field more, `memory`,
    the state after this segment, detached. The model itself keeps nothing between calls. A forward that continues a
    filled KV cache reads memory and leaves it as it was, since its segment is not over; one with a `MemoriaCache` ends
    segments by itself, and its `memory` is what has been written so far.

    Raises:
        TypeError, ValueError: from `forward`, if state and batch do not agree.
    """

    config: Any
    _forward_names: tuple[str, ...]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        stock = inspect.signature(super().forward)  # type: ignore[misc]
        cls._forward_names = tuple(stock.parameters)[1:]
        if "__init__" not in vars(cls):
            cls.__init__ = _with_stock_signature(cls)  # type: ignore[method-assign]
        cls.forward = _with_own_signature(cls.forward, stock, causal_lm="ForCausalLM" in cls.__name__)  # type: ignore[method-assign]

    def __init__(self, config: PreTrainedConfig, *args: Any, **kwargs: Any) -> None:
        super().__init__(config, *args, **kwargs)
        # Some heads build their base model by AutoModel, which knows our config: that one has its memory already.
        inner = self.base_model is not self and isinstance(self.base_model, MemoriaMixin)  # type: ignore[attr-defined]
        self._reads_memory = self.config.memory is not None
        if self._reads_memory and not inner:
            # Once more: settings may have come to the config after it was made, as from_pretrained(memory=...) does.
            check_memory_fits(self.config, self.config.memory)
            self._install_memory()
            # Everything else is initialised already and marked so: this reaches what was just added.
            self.post_init()  # type: ignore[attr-defined]

    def _install_memory(self) -> None:
        config, memory, spec = self.config, self.config.memory, self.config.backbone_spec
        install_engram_memory(
            self.base_model,  # type: ignore[attr-defined]
            spec,
            hidden_size=config.hidden_size,
            intermediate_size=getattr(config, spec.intermediate_size) or 4 * config.hidden_size,
            num_heads=config.num_attention_heads,
            num_memories=memory.num_memories,
            layers=memory.layers,
            cue_layer=memory.cue_layer,
            gated=memory.gate is not None,
            attention_dropout=_rate(config, spec.attention_dropout),
            output_dropout=_rate(config, spec.output_dropout),
        )

    def forward(self, *args: Any, memory: Any = None, reset_memory: Tensor | None = None, **kwargs: Any) -> Any:
        """Run the stock forward over one segment, reading and writing memory; see the class."""
        kwargs.update(zip(self._forward_names, args, strict=False))
        if READING in kwargs:  # the base model of a head that has begun the segment
            return super().forward(**kwargs)  # type: ignore[misc]
        self.check_still_attends_so()
        if self.config.memory is None:
            if memory is not None:
                raise ValueError("memory must be None for a model whose config.memory is None; got a state.")
            return zero_without_targets(super().forward(**kwargs), kwargs)  # type: ignore[misc]
        if not self._reads_memory:
            raise ValueError(
                "config.memory must be None for a model that was built without memory; got settings. "
                "wrap(model, memory=...) gives a model a memory."
            )
        return_dict = kwargs.pop("return_dict", None)
        output = self._forward_segment(memory, reset_memory, kwargs)
        return output if (self.config.return_dict if return_dict is None else return_dict) else output.to_tuple()

    def starting_state(self, memory: Any, reset_memory: Tensor | None, like: Tensor) -> EngramState:
        """Return the state that a segment of the batch `like` starts from; see `engram_step.starting_state`."""
        return starting_state(
            memory,
            reset_memory,
            batch_size=like.shape[0],
            like=torch.empty(0, device=like.device, dtype=self.dtype),  # type: ignore[attr-defined]
            hidden_size=self.config.hidden_size,
        )

    def _forward_segment(self, memory: Any, reset_memory: Tensor | None, kwargs: dict[str, Any]) -> ModelOutput:
        like, cache = self._main_input(kwargs), kwargs.get("past_key_values")
        if isinstance(cache, MemoriaCache):
            cache.start_from(memory, reset_memory, lambda state, reset: self.starting_state(state, reset, like))
            output = read_in_segments(self, super().forward, cache, like, kwargs)  # type: ignore[misc]
            return with_memory(output, cache.memory)
        state = self.starting_state(memory, reset_memory, like)
        base = self.base_model  # type: ignore[attr-defined]
        _refuse_reentrant_checkpoints(blocks_of(base, self.config.backbone_spec)[0])
        mask = _token_mask(kwargs.get("attention_mask"))
        reading = prepare_reading(state, getattr(base, "abstractor", None), self.config.memory, mask)
        continues = _cached_length(kwargs.get("past_key_values")) > 0
        output = super().forward(**kwargs, **{READING: reading}, return_dict=True)  # type: ignore[misc]
        if not continues:
            # No hook sees a base model's own forward when it is called from here.
            final: Any = output[0].detach() if base is self else reading.final_hidden
            state = end_segment(state, reading, self.config.memory, final)
        return with_memory(zero_without_targets(output, kwargs), state)

    def save_pretrained(
        self, save_directory: Any, *args: Any, save_original_format: bool = False, **kwargs: Any
    ) -> None:
        """As the stock method, with the weights' names of today.

        Trainer resumes by the names that a model has: under the names of old checkpoints, which Transformers prefers
        where there are any (ViT), it would resume without the weights of a single block.
        """
        self.check_still_attends_so()
        super().save_pretrained(save_directory, *args, save_original_format=save_original_format, **kwargs)  # type: ignore[misc]

    def _main_input(self, kwargs: dict[str, Any]) -> Tensor:
        names = [name for name in (self.main_input_name, "inputs_embeds") if name in self._forward_names]  # type: ignore[attr-defined]
        found = [kwargs[name] for name in names if kwargs.get(name) is not None]
        if len(found) != 1:
            raise ValueError(f"exactly one of {' and '.join(names)} must be given; got {len(found)}.")
        return found[0]

    @init.guard_torch_init_functions()
    def initialize_weights(self) -> None:
        """Initialise what no checkpoint gave, the memory's own parameters by their own rule."""
        for module in self.base_model.modules():  # type: ignore[attr-defined]
            if hasattr(module, "reset_memory_parameters"):
                module.reset_memory_parameters()
        super().initialize_weights()  # type: ignore[misc]


def _refuse_reentrant_checkpoints(block: Any) -> None:
    # The reentrant form sends the gradient of the working memory through its graph once a block and fails with
    # "backward through the graph a second time", which names neither the cause nor the remedy.
    checkpoint = getattr(block, "_gradient_checkpointing_func", None)
    reentrant = isinstance(checkpoint, functools.partial) and checkpoint.keywords.get("use_reentrant")
    if block.training and reentrant:
        raise ValueError("use_reentrant must be False to checkpoint activations of a model with memory; got True.")


def _token_mask(attention_mask: Any) -> Tensor | None:
    # Of a mask by queries and keys, or by layer types, nothing is known about padding.
    return attention_mask if isinstance(attention_mask, Tensor) and attention_mask.dim() == 2 else None


def _rate(config: Any, name: str | None) -> float:
    return 0.0 if name is None else getattr(config, name)


def _cached_length(cache: Any) -> int:
    return 0 if cache is None else int(cache.get_seq_length())


def _with_own_signature(forward: Any, stock: inspect.Signature, causal_lm: bool) -> Any:
    """Return `forward` under the stock signature plus ours, which Trainer and generate() look at."""

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        return forward(self, *args, **kwargs)

    # Trainer drops dataset columns that are not named here.
    names = (*OWN_ARGUMENTS, "shift_labels") if causal_lm else OWN_ARGUMENTS
    own = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None) for name in names]
    parameters = [p for p in stock.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
    rest = [p for p in stock.parameters.values() if p.kind is inspect.Parameter.VAR_KEYWORD]
    call.__signature__ = stock.replace(parameters=[*parameters, *own, *rest])  # type: ignore[attr-defined]
    call.__doc__, call.__name__, call.__qualname__ = forward.__doc__, "forward", forward.__qualname__
    return call


def _with_stock_signature(cls: Any) -> Any:
    """Return an `__init__` that shows the stock model's arguments, such as ViT's `use_mask_token`."""
    stock = next(c for c in cls.__mro__ if issubclass(c, PreTrainedModel) and not issubclass(c, MemoriaMixin))

    @functools.wraps(stock.__init__)
    def call(self: Any, *args: Any, **kwargs: Any) -> None:
        super(cls, self).__init__(*args, **kwargs)

    return call
