"""One segment of a model with memory as an `ExportedProgram`: inputs and memory in, outputs and memory out."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers.utils import ModelOutput

from hf_memoria.exporting.memory import check_has_memory, fixed_memory, without_cache
from hf_memoria.exporting.pytrees import register_states

NOT_GIVEN_BACK = ("past_key_values",)
"""Fields of an output that no exported segment returns: its KV cache ends with it."""


class _Segment(nn.Module):
    """The forward of a model with its memory as the first argument, and a dict of tensors as what it returns."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    @classmethod
    def of(cls, model: Any, names: Sequence[str]) -> _Segment:
        """Return the segment of a model that takes these inputs: torch.export asks the signature for their names."""

        def forward(self: _Segment, memory: Any, **inputs: Any) -> dict[str, Any]:
            output: ModelOutput = self.model(**without_cache(self.model, inputs), memory=memory)
            return {name: value for name, value in output.items() if name not in NOT_GIVEN_BACK}

        kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
        parameters = [inspect.Parameter(name, kind) for name in ("self", "memory", *names)]
        setattr(forward, "__signature__", inspect.Signature(parameters))  # noqa: B010
        own: _Segment = type(cls.__name__, (cls,), {"forward": forward})(model)
        return own


@torch.no_grad()
def export_segment(
    model: Any, inputs: Mapping[str, Any], *, dynamic_batch: bool = True
) -> torch.export.ExportedProgram:
    """Export one segment: what it reads and its memory go in, the outputs by name and the memory after it come out.

        program = export_segment(model, {"input_ids": ids})
        memory = fixed_memory(model, {"input_ids": ids})
        for ids in segments:
            outputs = program.module()(memory, input_ids=ids)
            memory = outputs["memory"]

    The memory has a fixed number of slots, see `fixed_memory`, and so has the segment: as many positions as `inputs`.
    A shorter one is padded, and masked by an `attention_mask` that has to be among `inputs` then.

    Args:
        model: a model with memory, in evaluation mode.
        inputs: keyword arguments of its forward for one segment, `[B, ...]` each; the program takes just these.
        dynamic_batch: whether the program reads any number of rows, for which `inputs` have at least two. Otherwise it
            reads as many as `inputs` have.

    Raises:
        TypeError: if the model has no memory, or an input is no tensor.
        ValueError: if the model is in training mode, `inputs` say the memory themselves or have one row, or the
            memory's settings allow a row to hold any number of engrams; naming the setting.
    """
    given = _checked(model, inputs, dynamic_batch)
    memory = fixed_memory(model, given)
    register_states()
    shapes: Any = torch.export.ShapesCollection()
    if dynamic_batch:
        rows = torch.export.Dim("batch", min=1)
        for value in (*given.values(), *memory.tensors().values()):
            shapes[value] = {0: rows}
    # Hooks on the blocks look up the call that is under way in their thread, which tracing bytecode does not follow.
    segment = _Segment.of(model, list(given))
    program = torch.export.export(segment, (memory,), given, dynamic_shapes=shapes, strict=False)
    # torch.export.save pickles examples, and a state among them could be loaded as code only.
    program.example_inputs = None
    return program


def _checked(model: Any, inputs: Mapping[str, Any], dynamic_batch: bool) -> dict[str, Tensor]:
    """Return copies of the inputs, no two of which are the same tensor."""
    check_has_memory(model)
    if model.training:
        raise ValueError("model must be in evaluation mode to be exported; got training mode. Call model.eval().")
    if "memory" in inputs:
        raise ValueError("inputs must be without memory, which an exported segment always takes; got one.")
    for name, value in inputs.items():
        if not isinstance(value, Tensor):
            raise TypeError(f"inputs must be tensors [B, ...]; got {type(value).__name__} for {name}.")
        if dynamic_batch and len(value) < 2:
            raise ValueError(
                f"inputs must have at least two rows for a program that reads any number of them; got {len(value)} of "
                f"{name}. Give two, or dynamic_batch=False."
            )
    return {name: value.clone() for name, value in inputs.items()}
