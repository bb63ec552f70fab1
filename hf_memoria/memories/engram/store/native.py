"""Optional compiled kernels for the CPU, in place of torch operators; what is remembered is the same.

Nothing needs them, and installing builds nothing: `use_native_kernels()`, or HF_MEMORIA_NATIVE=1 in the environment,
has torch compile `kernels/walk.cpp` once, which takes a C++ compiler and ninja and about a minute.
"""

from __future__ import annotations

import os
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from hf_memoria.memories.engram.store.cofire import DenseGraph

if TYPE_CHECKING:
    from hf_memoria.memories.engram.store.state import EngramState

SOURCE = Path(__file__).parent / "kernels" / "walk.cpp"
_in_use = False
_loaded = False


def use_native_kernels(use: bool = True) -> None:
    """Use the compiled kernels from now on, building them if they are not built yet; False goes back to torch.

    Raises:
        RuntimeError: if they cannot be built; torch's operators stay in use.
    """
    global _in_use
    if use and not _loaded:
        _build()
    _in_use = use


def in_use() -> bool:
    """Whether the kernels are in use."""
    return _in_use


def may_walk(state: EngramState) -> bool:
    """Whether the search of long-term memory of this state has a kernel."""
    return _in_use and state.data.device.type == "cpu"


def may_measure(data: Tensor) -> bool:
    """Whether distances to vectors of this type have a kernel."""
    return _in_use and data.device.type == "cpu" and data.dtype in (torch.float32, torch.bfloat16, torch.float16)


def walk(state: EngramState, index: Tensor, mask: Tensor, long_term: Tensor, depth: int) -> Tensor:
    """See `retrieval.walk`."""
    kernels, rest = torch.ops.hf_memoria, (state.recent.contiguous(), long_term, index, mask, depth)
    if isinstance(state.graph, DenseGraph):
        found: Tensor = kernels.walk_table(state.graph.counts.contiguous(), *rest)
        return found
    parts = [getattr(state.graph, part.name).contiguous() for part in fields(state.graph)]
    logged: Tensor = kernels.walk_log(*parts, *rest)
    return logged


def squared_distances(data: Tensor, index: Tensor, mask: Tensor, centre: Tensor) -> Tensor:
    """Squared distances of slots `index` `[B, K]` of `data` `[B, C, D]` to `centre` `[B, D]`, float32 `[B, K]`.

    Zero where `mask` `[B, K]` is false.
    """
    kernel = torch.ops.hf_memoria.squared_distances
    distances: Tensor = kernel(data.contiguous(), index, mask.contiguous(), centre.to(torch.float32))
    return distances


def _build() -> None:
    global _loaded
    # Local: it looks for compilers when it is imported, which is nobody's wish who does not build.
    from torch.utils import cpp_extension

    try:
        cpp_extension.load(
            "hf_memoria_kernels",
            [str(SOURCE)],
            extra_cflags=["-O3", "-march=native"],
            is_python_module=False,
        )
    except Exception as error:
        raise RuntimeError(
            f"native kernels must be built from {SOURCE.name} with a C++ compiler and ninja, which failed: {error}. "
            "Without them torch's operators do the same; leave HF_MEMORIA_NATIVE unset."
        ) from error
    _register_shapes()
    _loaded = True


def _register_shapes() -> None:
    """Tell torch.compile what comes out."""
    for name in ("walk_table", "walk_log"):
        torch.library.register_fake(f"hf_memoria::{name}", lambda *args: torch.empty_like(args[-4]))
    torch.library.register_fake(
        "hf_memoria::squared_distances", lambda data, index, mask, centre: centre.new_empty(index.shape)
    )


# Code that a checkpoint brought along has no kernels.
if os.environ.get("HF_MEMORIA_NATIVE") == "1" and SOURCE.is_file():
    use_native_kernels()
