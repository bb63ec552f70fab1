"""Layers that see no further than a window, and masks by type of layer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hf_memoria.backbones.tree import said

FULL, SLIDING = "full_attention", "sliding_attention"
"""Types of layers in a config's `layer_types`: those that see everything, and those with a window.

Of a config with parts (Gemma 3) the one for text has it.
"""


def sliding_window(config: Any) -> int | None:
    """Return the window of a backbone's layers as its config has it, in positions; None if no layer has one."""
    config = config.get_text_config()
    window: int | None = said(config, "sliding_window")
    types = getattr(config, "layer_types", None)
    return window if types is None or SLIDING in types else None


def narrowing_window(config: Any, columns: int) -> int | None:
    """Return the window where it hides one of so many columns of keys from another, else None."""
    window = sliding_window(config)
    return window if window is not None and columns > window else None


def window_beside_full(config: Any, index: int) -> int | None:
    """Return the window of a layer of a backbone that has layers without one, too; None where that layer has none.

    Args:
        config: the config of the backbone.
        index: number of the layer.
    """
    config = config.get_text_config()
    types = getattr(config, "layer_types", None) or ()
    return sliding_window(config) if FULL in types and types[index] == SLIDING else None


def window_of_all(config: Any) -> int | None:
    """Return the window that every layer of a backbone has; None where one sees everything."""
    config = config.get_text_config()
    types = getattr(config, "layer_types", None)
    return sliding_window(config) if types is None or set(types) == {SLIDING} else None


def other_layer_types(config: Any, known: tuple[str, ...] = (FULL, SLIDING)) -> list[str]:
    """Return the types of a backbone's layers that are none of those known, by default those with masks made here."""
    return sorted(set(getattr(config.get_text_config(), "layer_types", None) or ()) - set(known))


def masks_by_layer(config: Any, make: Callable[[bool], Any]) -> Any:
    """Return a mask as a backbone with windows takes it from its caller: one, or a dict by type of layer.

    Args:
        config: the config of the backbone, which has a window and no `other_layer_types`.
        make: a function from whether a layer has the window to its mask.
    """
    types = getattr(config.get_text_config(), "layer_types", None)
    return make(True) if types is None else {kind: make(kind == SLIDING) for kind in set(types)}
