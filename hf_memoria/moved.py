"""Modules under the names that they had in 0.1: importing one warns, and offers what it had from where that is now."""

from __future__ import annotations

import functools
import importlib
import sys
import warnings
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

_STORE = "memories.engram.store"

_STORE_MODULES = (
    *("checks", "cofire", "cofire_events", "cofire_folding", "compaction", "consolidation", "engine", "io", "lottery"),
    *("naive", "native", "plasticity", "precision", "reminded", "retrieval", "room", "similarity", "slots"),
    *("stacking", "state"),
)

MOVED: dict[str, tuple[str, ...]] = {
    "analysis.trace_events": ("memories.engram.events",),
    "memory": (_STORE,),
    **{f"memory.{name}": (f"{_STORE}.{name}",) for name in _STORE_MODULES},
    "memory.files": ("memories.shared.files",),
    "memory.rows": ("memories.shared.rows",),
    "token_memory": ("memories.token",),
    "token_memory.state": ("memories.token.state",),
    "token_memory.losses": ("memories.token.memory_loss",),
    "token_memory.io": ("memories.token.io",),
    "modules": (
        "attentions",
        "memories.engram.abstractor",
        "memories.engram.reader",
        "memories.token.encoder",
    ),
    "modules.abstractor": ("memories.engram.abstractor", "memories.shared.masks"),
    "modules.memory_attention": ("memories.engram.reader",),
    "modules.memory_encoder": ("memories.token.encoder",),
    "modules.forgetting": ("attentions.lwpf.forgetting",),
    "modules.lwpf": ("attentions.lwpf.attention",),
    "modules.lwpf_blocks": ("attentions.lwpf.blocks",),
    "modules.lwpf_naive": ("attentions.lwpf.naive",),
    "modules.lwpf_probe": ("attentions.lwpf.probe",),
    "modules.lwpf_tiles": ("attentions.lwpf.tiles",),
    "modules.lwpf_triton": ("attentions.lwpf.triton",),
    "modules.attention_unit": ("attentions.unit", "attentions.lwpf.unit"),
    "modules.pooling": ("attentions.pooling",),
    "modules.sdm_attention": ("attentions.sdm.attention",),
    "backbones.attention": ("attentions.interface",),
    "backbones.install": ("backbones.blocks", "memories.engram.install"),
    "backbones.reading": ("memories.engram.reading",),
    "backbones.tokens": ("memories.token.hooks", "backbones.blocks"),
    "models.attention_choice": ("attentions.choice",),
    "models.attention_config": ("attentions.kinds", "attentions.lwpf.config", "attentions.sdm.config"),
    "models.sdm_attention_config": ("attentions.sdm.config",),
    "models.cache": ("generation.cache",),
    "models.convert": ("memoria_pytorch.convert",),
    "models.convert_rules": ("memoria_pytorch.rules",),
    "models.engram_step": ("memories.engram.segment",),
    "models.generated_memory": ("generation.reader",),
    "models.generation": ("generation.mixin",),
    "models.losses": ("memories.shared.losses",),
    "models.memory_config": ("memories.engram.config", "memories.token.config", "models.config"),
    "models.memory_systems": ("memories.interface", "memories.engram.system", "memories.token.system"),
    "models.outputs": ("memories.shared.outputs",),
    "models.recall": ("memories.engram.recall",),
    "models.segments": ("generation.segments",),
    "models.settings": ("settings",),
    "models.starting_state": ("memories.shared.starting_state",),
    "models.state_files": ("memories.shared.state_files",),
    "models.token_forward": ("memories.token.forward",),
    "models.token_losses": ("memories.token.losses",),
    "models.token_memory_config": ("memories.token.config",),
    "models.token_recall": ("memories.token.recall",),
    "models.token_step": ("memories.token.segment",),
    "training.statistics": ("memories.engram.statistics",),
    "training.token_statistics": ("memories.token.statistics",),
}
"""Where the names of a module are now, within the package."""

MOVED_NAMES: dict[str, tuple[str, ...]] = {
    "backbones": (
        "attentions.interface",
        "memories.engram.install",
        "memories.engram.reading",
        "memories.token.hooks",
    ),
    "models": ("memoria_pytorch.convert",),
}
"""Where folders that stay had names that they do not offer any more."""


class _MovedModules(MetaPathFinder, Loader):
    """Finds modules of `MOVED`, and makes them of what is there now."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        package, _, name = fullname.partition(".")
        if package != __package__ or name not in MOVED:
            return None
        return ModuleSpec(fullname, self, is_package=True)

    def exec_module(self, module: ModuleType) -> None:
        homes = _full_names(MOVED[module.__name__.partition(".")[2]])
        _warn(f"{module.__name__} has moved to {' and '.join(homes)}")
        module.__getattr__ = functools.partial(_look_up, module.__name__, homes)  # type: ignore[method-assign]


def _full_names(homes: Sequence[str]) -> list[str]:
    return [f"{__package__}.{home}" for home in homes]


def _warn(told: str) -> None:
    warnings.warn(f"{told}; the old name goes with version 0.3.", DeprecationWarning, stacklevel=3)


def _look_up(module: str, homes: Sequence[str], name: str) -> Any:
    for home in () if name.startswith("__") else homes:
        found = importlib.import_module(home)
        if hasattr(found, name):
            return getattr(found, name)
    raise AttributeError(f"module {module!r} has no attribute {name!r}")


def _look_up_moved(module: str, homes: Sequence[str], name: str) -> Any:
    found = _look_up(module, homes, name)
    _warn(f"{name} has moved from {module} to {getattr(found, '__module__', ' or '.join(homes))}")
    return found


def offer_moved_modules() -> None:
    """Let imports find what moved; calling it again changes nothing."""
    if not any(isinstance(finder, _MovedModules) for finder in sys.meta_path):
        sys.meta_path.append(_MovedModules())
    for folder, homes in MOVED_NAMES.items():
        module = importlib.import_module(f"{__package__}.{folder}")
        look_up = functools.partial(_look_up_moved, module.__name__, _full_names(homes))
        module.__getattr__ = look_up  # type: ignore[method-assign]
