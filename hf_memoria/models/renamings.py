"""How weights of old checkpoints are renamed: as those of the stock model, which Transformers knows by name."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

from transformers.conversion_mapping import (
    get_checkpoint_conversion_mapping,
    register_checkpoint_conversion_mapping,
)
from transformers.core_model_loading import WeightRenaming

_WAITING: dict[str, tuple[str, Sequence[str]]] = {}
_LOCK = threading.Lock()


class _WhenLoading(WeightRenaming):
    """A renaming that saving does not turn round."""

    __slots__ = ()

    def reverse_transform(self) -> WeightRenaming:
        return WeightRenaming("^$", "")


def rename_as(stock: str, ours: str, prefixes: Sequence[str] = ()) -> None:
    """Note that weights of `ours` are renamed as those of `stock` are, each by model type or class name.

    Args:
        stock: name that Transformers has renamings for.
        ours: name that gets them.
        prefixes: prefixes of the base model in checkpoints of other heads, and last the one that they become.
    """
    with _LOCK:
        _WAITING[ours] = stock, prefixes


def tell_renamings() -> None:
    """Tell Transformers what was noted. It makes a table of all its models for that, which takes most of a second.

    So it is done when there is a model to load, not when this package is imported.
    """
    if not _WAITING:
        return
    with _LOCK:
        for ours, (stock, prefixes) in _WAITING.items():
            renamings = [*(get_checkpoint_conversion_mapping(stock) or ())]
            renamings += [_WhenLoading(rf"^{other}\.", f"{prefixes[-1]}.") for other in prefixes[:-1]]
            if renamings:
                register_checkpoint_conversion_mapping(ours, renamings, overwrite=True)
        _WAITING.clear()


def prefixes_of(model: Any, models: Sequence[Any]) -> list[str]:
    """Return the base model's prefixes of other heads, and last that of this one, where it is brought to."""
    others = {other.base_model_prefix for other in models} - {model.base_model_prefix}
    return [*sorted(others), model.base_model_prefix]
