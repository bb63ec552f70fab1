"""Memory in the form that an exported segment takes and gives back."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch.utils import _pytree

from hf_memoria.memories.interface import system_of


@torch.no_grad()
def fixed_memory(model: Any, inputs: Mapping[str, Any], memory: Any = None) -> Any:
    """Return a memory in the form that an exported segment takes and gives back.

    Its shapes are enough for whatever the model's settings let a row hold (`ltm_capacity` of an engram memory,
    `capacity` of an episodic one), and do not change from segment to segment.

    Args:
        model: a model with memory.
        inputs: keyword arguments of its forward for one segment, as `export_segment` was given.
        memory: any memory of the model, with a row for each of the inputs; None for new lanes.

    Raises:
        TypeError: if the model has no memory, or `memory` is not of its kind.
        ValueError: if memory and inputs do not agree, or it does not fit into such a form; naming the setting.
    """
    check_has_memory(model)
    state = model.starting_state(memory, None, next(iter(inputs.values())))
    after = model(**without_cache(model, inputs)).memory
    return system_of(model.config.memory).fixed(model.config, state, after)


def empty_memory(program: torch.export.ExportedProgram, rows: int) -> Any:
    """Return the memory of new lanes for an exported segment, of which nothing else has to be there.

    Args:
        program: the program that `export_segment` or `torch.export.load` returned.
        rows: rows of the inputs.

    Raises:
        ValueError: if the program reads another number of rows, or is no exported segment.
    """
    taken = {node.name: node.meta["val"] for node in program.graph.nodes if node.op == "placeholder"}
    args, _ = _pytree.tree_unflatten(
        [taken[name] for name in program.graph_signature.user_inputs], program.call_spec.in_spec
    )
    if not args or not hasattr(args[0], "tensors"):
        raise ValueError("program must be an exported segment, which takes a memory; this one takes none.")
    zeros = {}
    for name, like in args[0].tensors().items():
        if isinstance(like.shape[0], int) and like.shape[0] != rows:
            raise ValueError(f"rows must be {like.shape[0]}, as many as the program reads; got {rows}.")
        zeros[name] = torch.zeros(rows, *like.shape[1:], dtype=like.dtype, device=like.device)
    return type(args[0]).from_tensors(zeros).knowing(args[0].known())


def check_has_memory(model: Any) -> None:
    """Check that a model has a memory; a TypeError if it has none."""
    if getattr(getattr(model, "config", None), "memory", None) is None:
        raise TypeError(f"model must be a model with memory; got {type(model).__name__}. See hf_memoria.wrap.")


def without_cache(model: Any, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Return arguments of a forward that reads a segment whole, and names what it returns."""
    caches = "use_cache" in inspect.signature(model.forward).parameters
    return {**inputs, "return_dict": True, **({"use_cache": False} if caches else {})}
