"""The memory of the lanes that this process reads, fed to a model and taken from it by hooks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from hf_memoria.models import MemoriaMixin
from hf_memoria.models.outputs import MemoryState

Listener = Callable[[MemoryState | None, dict[str, Any], Any], None]


class LaneMemory:
    """State of each lane between steps, one for training and one for evaluation.

    It takes part in forwards that bring `num_items_in_batch` and no `memory`: Trainer's do, a user's own do not.

    Attributes:
        training: state after the last training step, or None before the first.
        evaluation: state after the last evaluation step, or None.
        strict: whether a training forward without `reset_memory` is an error.
        was_fed: whether an evaluation's forward took part since this was last set to False.
        listeners: called after each such forward with the state before, the inputs and the output.
    """

    def __init__(self) -> None:
        self.training: MemoryState | None = None
        self.evaluation: MemoryState | None = None
        self.strict = False
        self.was_fed = False
        self.listeners: list[Listener] = []
        self._handles: list[Any] = []
        self._before: MemoryState | None = None
        self._inputs: dict[str, Any] | None = None

    def attach(self, model: nn.Module) -> None:
        """Hook the model with memory inside `model`; a model hooked before is let go.

        Raises:
            ValueError: if there is none, or it is switched off.
        """
        self.detach()
        inner = find_memory_model(model)
        for hook in list(inner._forward_pre_hooks.values()):
            # An older Trainer of this model: only one may feed it.
            if isinstance(owner := getattr(hook, "__self__", None), LaneMemory):
                owner.detach()
        self._handles = [
            inner.register_forward_pre_hook(self._feed, with_kwargs=True),
            inner.register_forward_hook(self._take, with_kwargs=True),
        ]

    def detach(self) -> None:
        """Remove the hooks."""
        while self._handles:
            self._handles.pop().remove()

    def _feed(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self._inputs = None
        if kwargs.get("memory") is not None or "num_items_in_batch" not in kwargs:
            return None
        if kwargs.get("reset_memory") is None:
            if self.strict and model.training:
                raise ValueError(
                    "reset_memory must be in every training batch; this one has none. Make the dataset with "
                    "segment_documents."
                )
            return None
        state = self.training if model.training else self.evaluation
        rows = len(kwargs["reset_memory"])
        self._before = None if state is None else _first_rows(state, rows)
        self._inputs = kwargs = {**kwargs, "memory": self._before}
        return args, kwargs

    def _take(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        if self._inputs is None:
            return
        inputs, before = self._inputs, self._before
        self._inputs = self._before = None
        # The state stands last in the tuple that return_dict=False gives.
        after = output["memory"] if isinstance(output, dict) else output[-1]
        if model.training:
            self.training = _replace_first_rows(self.training, after)
        else:
            self.evaluation = _replace_first_rows(self.evaluation, after)
        self.was_fed = self.was_fed or not model.training
        for listener in self.listeners:
            listener(before, inputs, output)


def find_memory_model(model: nn.Module) -> nn.Module:
    """Return the outermost model with memory, looking inside wrappers (DDP, PEFT, torch.compile).

    Raises:
        ValueError: if there is none, or its `config.memory` is None.
    """
    for module in model.modules():
        if isinstance(module, MemoriaMixin):
            if module.config.memory is None:
                raise ValueError("config.memory must be settings of a memory; got None. Leave MemoriaCallback out.")
            return module
    raise ValueError(f"model must be a model of hf_memoria; got {type(model).__name__}. See hf_memoria.wrap.")


def _first_rows(state: Any, rows: int) -> Any:
    if rows > state.batch_size:
        raise ValueError(
            f"a batch must have at most one row for each of the {state.batch_size} lanes; got {rows} rows. A smaller "
            "batch holds the first lanes; no batch is larger than the first."
        )
    return state if rows == state.batch_size else state[:rows]


def _replace_first_rows(old: Any, new: Any) -> Any:
    if old is None or new.batch_size == old.batch_size:
        return new
    return type(old).cat([new, old[new.batch_size :]])
