"""What a memory adds to a stock model: the modules, and a state that goes in and comes out of `forward`."""

from __future__ import annotations

import functools
import inspect
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from transformers import GenerationMixin, PreTrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.utils import ModelOutput

from hf_memoria.attentions.choice import AttendsByChoice
from hf_memoria.backbones.calls import (
    Call,
    FinalHidden,
    ReplayedCheckpoint,
    call_of,
    enter,
    leave,
    note_bare,
    wants_attentions,
)
from hf_memoria.backbones.ownership import MEMORY, record_added
from hf_memoria.backbones.warnings_once import learns, note_carried, note_empty_start
from hf_memoria.generation.cache import MemoriaCache
from hf_memoria.generation.segments import read_in_segments
from hf_memoria.memories.interface import system_of
from hf_memoria.memories.shared.contents import of_documents
from hf_memoria.memories.shared.losses import with_zero_loss
from hf_memoria.memories.shared.outputs import with_memory
from hf_memoria.memories.shared.rows import row_mask
from hf_memoria.memories.shared.starting_state import starting_state
from hf_memoria.models.adapter_loading import (
    base_of_checkpoint,
    check_loaded_in_full,
    leave_for_later,
    load_with_base,
    loaded_from,
)
from hf_memoria.models.config import check_memory_fits
from hf_memoria.models.copied import copied_as
from hf_memoria.models.evaluations import tell_evaluation
from hf_memoria.models.gguf import load_gguf
from hf_memoria.models.lengths import check_length
from hf_memoria.models.new_parameters import copy_new_parameters, reset_new_parameters
from hf_memoria.models.open_settings import close_for_loading, close_for_new_weights
from hf_memoria.models.own_code import NotCopied
from hf_memoria.models.renamings import tell_renamings

OWN_ARGUMENTS = ("memory", "reset_memory", "source")


def _from_pretrained(cls: Any, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
    """As the stock method; a folder of `save_adapter` names the checkpoint that is loaded with it.

    A `gguf_file` is read by the stock class, for Transformers knows no other in it.
    """
    name, stock = pretrained_model_name_or_path, super(MemoriaMixin, cls).from_pretrained
    if kwargs.get("gguf_file") is not None:
        gguf = copied_as(cls, *load_gguf(cls, name, *args, **kwargs))
        return loaded_from(name, kwargs, gguf)
    kwargs = close_for_loading(cls, name, kwargs)
    base = base_of_checkpoint(cls, name, kwargs)
    if base is not None:
        return load_with_base(cls, stock, name, base, kwargs)
    return loaded_from(name, kwargs, stock(name, *args, **kwargs))


class MemoriaMixin(NotCopied, AttendsByChoice):
    """A stock model whose blocks read a memory; list it before the stock class.

    `forward` takes three arguments more, `memory` (the state after the previous segment, or None for new lanes),
    `reset_memory` (bool `[B]`, true where a row starts a new document) and `source` (ids of the documents, an integer
    or int `[B]`, 0 for none; a row keeps its own until it is given another or reset), and its output has one field
    more, `memory`, the state after this segment, detached. The model itself keeps nothing between calls. A forward
    that continues a filled KV cache reads memory and leaves it as it was, since its segment is not over; one with a
    `MemoriaCache` ends segments by itself, and its `memory` is what has been written so far.

    What an episodic memory keeps knows its source, and `state.forget(source)` removes it. Other memories keep no
    sources: they leave a tensor of them unheeded, which batches bring, and refuse a number.

    Raises:
        TypeError, ValueError: from `forward`, if state and batch do not agree.
    """

    config: Any
    from_pretrained: Any = classmethod(_from_pretrained)
    _forward_names: tuple[str, ...]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        stock = inspect.signature(super().forward)  # type: ignore[misc]
        cls._forward_names = tuple(stock.parameters)[1:]
        if "__init__" not in vars(cls):
            cls.__init__ = _with_stock_signature(cls)  # type: ignore[method-assign]
        cls.forward = _with_own_signature(cls.forward, stock, causal_lm=issubclass(cls, GenerationMixin))  # type: ignore[method-assign]

    def __init__(self, config: PreTrainedConfig, *args: Any, **kwargs: Any) -> None:
        tell_renamings()
        super().__init__(config, *args, **kwargs)
        self.add_model_tags("hf_memoria")  # type: ignore[attr-defined]
        # Some heads build their base model by AutoModel, which knows our config: that one has its memory already.
        inner = self.base_model is not self and isinstance(self.base_model, MemoriaMixin)  # type: ignore[attr-defined]
        self._reads_memory = self.config.memory is not None
        if not inner and (self._reads_memory or self.config.attention is not None):
            self._watch_calls()
        leave_for_later(self)

    def _watch_calls(self: Any) -> None:
        """Let hooks on the modules know which call is under way, and add the memory, whose hooks stand in between."""
        self.base_model.register_forward_pre_hook(enter, with_kwargs=True)
        if self._reads_memory:
            if not isinstance(self.base_model, MemoriaMixin):
                self.base_model.register_forward_pre_hook(note_bare)
            close_for_new_weights(self.config)
            # Once more: settings may have come to the config after it was made, as from_pretrained(memory=...) does.
            check_memory_fits(self.config)
            final = self.config.backbone_spec.final
            if final is not None:
                self.base_model.get_submodule(final).register_forward_hook(FinalHidden(self.base_model).keep)
            record_added(self.base_model, MEMORY, lambda: system_of(self.config.memory).install(self))
            # Everything else is initialised already and marked so: this reaches what was just added.
            self.post_init()
        self.base_model.register_forward_hook(leave, always_call=True)

    def forward(
        self,
        *args: Any,
        memory: Any = None,
        reset_memory: Tensor | None = None,
        source: int | Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        """Run the stock forward over one segment, reading and writing memory; see the class."""
        kwargs.update(zip(self._forward_names, args, strict=False))
        call = call_of(self)  # type: ignore[arg-type]
        if call is not None and not call.bare:  # the base model of a head that has begun the segment
            return super().forward(**kwargs)  # type: ignore[misc]
        self.check_still_attends_so()
        if self.config.memory is None:
            if memory is not None:
                raise ValueError("memory must be None for a model whose config.memory is None; got a state.")
            of_documents(None, source, "a model whose config.memory is None", self._main_input(kwargs))
            return self._run_stock(with_zero_loss(super().forward), kwargs)  # type: ignore[misc]
        if not self._reads_memory:
            raise ValueError(
                "config.memory must be None for a model that was built without memory; got settings. "
                "wrap(model, memory=...) gives a model a memory."
            )
        return_dict = kwargs.pop("return_dict", None)
        output = self._forward_segment(memory, reset_memory, source, kwargs)
        return output if (self.config.return_dict if return_dict is None else return_dict) else output.to_tuple()

    def _run_stock(self: Any, stock_forward: Any, kwargs: dict[str, Any]) -> Any:
        if self.config.attention is None:
            return stock_forward(**kwargs)
        alone = self.base_model is self
        call = Call(self.base_model, None, wants_attentions(self.config, kwargs), entered=alone)
        return call.run(stock_forward, **kwargs)

    def _set_gradient_checkpointing(
        self, enable: bool = True, gradient_checkpointing_func: Any = checkpoint, *args: Any, **kwargs: Any
    ) -> None:
        """As the stock method; a block that runs again in the backward reads what it read."""
        replayed = ReplayedCheckpoint(gradient_checkpointing_func)
        super()._set_gradient_checkpointing(enable, replayed, *args, **kwargs)  # type: ignore[misc]

    def starting_state(
        self, memory: Any, reset_memory: Tensor | None, like: Tensor, source: int | Tensor | None = None
    ) -> Any:
        """Return the state that a segment of the batch `like` starts from, in which its documents are known.

        Raises:
            TypeError, ValueError: if state and batch do not agree.
        """
        system, rows = system_of(self.config.memory), like.shape[0]
        of_model = torch.empty(0, device=like.device, dtype=self.dtype)  # type: ignore[attr-defined]
        reset = None if reset_memory is None else row_mask("reset_memory", reset_memory, rows, like.device)
        state = starting_state(
            memory,
            reset,
            fresh=lambda: system.empty(self.config, rows, of_model),
            state_class=system.state_class,
            like=of_model,
            sizes={"batch_size": rows, **system.sizes(self.config)},
        )
        return of_documents(state, source, f"a memory of kind {self.config.memory.kind!r}", like)

    def _forward_segment(
        self, memory: Any, reset_memory: Tensor | None, source: int | Tensor | None, kwargs: dict[str, Any]
    ) -> ModelOutput:
        like, cache = self._main_input(kwargs), kwargs.get("past_key_values")
        if isinstance(cache, MemoriaCache):
            given = {"memory": memory, "reset_memory": reset_memory, "source": source}
            cache.start_from(given, lambda given: self.starting_state(**given, like=like))
            output = read_in_segments(self, super().forward, cache, like, kwargs)  # type: ignore[misc]
            return with_memory(output, cache.memory)
        check_length(self, like, kwargs, carried=memory is not None or reset_memory is not None)
        self._note_start(memory)
        state = self.starting_state(memory, reset_memory, like, source)
        stock_forward = with_zero_loss(super().forward)  # type: ignore[misc]
        read: ModelOutput = system_of(self.config.memory).read(self, stock_forward, state, kwargs)
        return read

    def _note_start(self: Any, memory: Any) -> None:
        if memory is not None:
            note_carried(self.base_model)
        elif learns(self):
            left = system_of(self.config.memory).never_carried(self.config.memory)
            note_empty_start(self.base_model, f"began with empty memory (memory=None): {left}")

    def train(self, mode: bool = True) -> Any:
        """As the stock method; whoever carries the memory through an evaluation is told that one may begin."""
        model = super().train(mode)  # type: ignore[misc]
        if not mode:
            tell_evaluation(self)  # type: ignore[arg-type]
        return model

    def save_pretrained(
        self, save_directory: Any, *args: Any, save_original_format: bool = False, **kwargs: Any
    ) -> None:
        """As the stock method, with the weights' names of today.

        Trainer resumes by the names that a model has: under the names of old checkpoints, which Transformers prefers
        where there are any (ViT), it would resume without the weights of a single block.
        """
        self.check_still_attends_so()
        super().save_pretrained(save_directory, *args, save_original_format=save_original_format, **kwargs)  # type: ignore[misc]

    def load_adapter(self, *args: Any, **kwargs: Any) -> Any:
        """As the stock method, which before Transformers 5.18 did not load a memory that is trained in full.

        Raises:
            ValueError: if the adapter has such modules and Transformers is older.
        """
        loaded = super().load_adapter(*args, **kwargs)  # type: ignore[misc]
        check_loaded_in_full(self)
        return loaded

    def _main_input(self, kwargs: dict[str, Any]) -> Tensor:
        names = [name for name in (self.main_input_name, "inputs_embeds") if name in self._forward_names]  # type: ignore[attr-defined]
        found = [kwargs[name] for name in names if kwargs.get(name) is not None]
        if len(found) != 1:
            raise ValueError(f"exactly one of {' and '.join(names)} must be given; got {len(found)}.")
        return found[0]

    @init.guard_torch_init_functions()
    def initialize_weights(self) -> None:
        """Initialise what no checkpoint gave, the memory's own parameters by their own rule."""
        modules = list(self.base_model.modules())  # type: ignore[attr-defined]
        super().initialize_weights()  # type: ignore[misc]
        for module in modules:  # after the backbone, which initialises layers of the types that it has itself
            if hasattr(module, "reset_memory_parameters"):
                reset_new_parameters(module)
        for module in modules:
            if hasattr(module, "copy_memory_parameters"):
                copy_new_parameters(module)


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
