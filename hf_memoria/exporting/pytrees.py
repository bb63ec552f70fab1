"""States as pytrees, by the names of their tensors."""

from __future__ import annotations

from typing import Any

from torch.utils import _pytree

from hf_memoria.memories.interface import SYSTEMS

_Named = list[tuple[_pytree.KeyEntry, Any]]


def register_states() -> None:
    """Make the states of every registered kind of memory known; calling it again adds those that came since."""
    for kind, system in SYSTEMS.items():
        if system.state_class not in _pytree.SUPPORTED_NODES:
            _register(kind, system.state_class)


def _register(kind: str, state_class: Any) -> None:
    # The context has to be equal for states of one form and plain JSON: torch.export compares it, and saves it.
    def flatten(state: Any) -> tuple[list[Any], dict[str, Any]]:
        tensors = state.tensors()
        return list(tensors.values()), {"names": list(tensors), "known": state.known()}

    def flatten_with_keys(state: Any) -> tuple[_Named, dict[str, Any]]:
        values, context = flatten(state)
        keys: list[_pytree.KeyEntry] = [_pytree.MappingKey(name) for name in context["names"]]
        return list(zip(keys, values, strict=True)), context

    def unflatten(values: Any, context: Any) -> Any:
        return state_class.from_tensors(dict(zip(context["names"], values, strict=True))).knowing(context["known"])

    _pytree.register_pytree_node(
        state_class,
        flatten,
        unflatten,
        serialized_type_name=f"hf_memoria.memory.{kind}",
        flatten_with_keys_fn=flatten_with_keys,
    )
