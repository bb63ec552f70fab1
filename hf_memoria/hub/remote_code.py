"""Checkpoints that bring the package's code along, for machines that do not have it."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from transformers import CONFIG_MAPPING

from hf_memoria.hub.flattening import PACKAGE, flat_name, flatten, flatten_own
from hf_memoria.memories.interface import OWN_MODULE, SYSTEMS
from hf_memoria.models.config import MemoriaConfigMixin
from hf_memoria.models.families import MEMORIA_CLASSES, auto_class_of
from hf_memoria.models.found import PREFIX, FoundBackbone, LoadsFound, family_of
from hf_memoria.version import VERSION

STUB = "memoria_remote"
"""The file that Transformers is told of: it takes the installed package where there is one."""

HEADER = """# Part of hf_memoria {version} (Apache-2.0), for machines that do not have it; one that is installed
# is used instead. Made by hf_memoria.export_remote_code.
"""

STUB_BODY = '''"""Models with memory, of the installed hf_memoria if there is one, else of the files beside this."""

try:
    from {package} import {names}
except ModuleNotFoundError as error:
    if error.name != "{package}":
        raise
    from .{flat} import {names}
{own}
__all__ = {all}
'''


FOUND_BODY = '''"""Models with memory, of the installed hf_memoria if there is one, else of the files beside this."""

try:
    from {package}.models.found import classes_by_name
except ModuleNotFoundError as error:
    if error.name != "{package}":
        raise
    from .{flat} import classes_by_name
{own}
_classes = classes_by_name("{backbone}", __name__)
{names}

__all__ = {all}
'''
"""The same for a family that nobody declared, whose classes are made."""


def export_remote_code(folder: str | Path) -> list[Path]:
    """Make a saved checkpoint loadable with `trust_remote_code=True` where hf_memoria is not installed.

    Writes the sources that its family needs beside the weights, and into config.json where each Auto class finds its
    class, all heads of the family among them. Where hf_memoria is installed, that is used. Saving a model that was
    loaded so keeps the code with it; saving it where hf_memoria is installed gives a plain checkpoint.

    Args:
        folder: the folder that `save_pretrained` of a model of this package wrote.

    Returns:
        the files that were written.

    Raises:
        FileNotFoundError: if there is no config.json.
        ValueError: if its kind of memory was defined in no file, or it is of no family of this package; one that
            `register_family` added somewhere else cannot be exported, because its own module would be needed.
    """
    folder = Path(folder)
    path = folder / "config.json"
    if not path.is_file():
        raise FileNotFoundError(f"folder must hold a saved checkpoint; there is no {path}.")
    config = json.loads(path.read_text(encoding="utf-8"))
    config_class = _config_class(config.get("model_type"), folder)
    config["auto_map"] = auto_map(config_class)
    own, needed = _own_memory(config.get("memory"))
    sources = {**flatten([_home_of(config_class), *needed]), **own, STUB: _stub(config_class, list(own))}
    written = [_write(folder / f"{name}.py", _header() + source) for name, source in sources.items()]
    return [*written, _write(path, json.dumps(config, indent=2, sort_keys=True) + "\n")]


def auto_map(config_class: type) -> dict[str, str]:
    """Return which class of the stub each Auto class is to load, all heads of a family included."""
    heads = {auto.__name__: model.__name__ for auto, model in _heads(config_class)}
    return {name: f"{STUB}.{found}" for name, found in {"AutoConfig": config_class.__name__, **heads}.items()}


def _heads(config_class: Any) -> Iterable[tuple[Any, type]]:
    for model in MEMORIA_CLASSES.values():
        if model.config_class is config_class:
            yield auto_class_of(model), model


def _config_class(model_type: Any, folder: Path) -> Any:
    if model_type not in CONFIG_MAPPING or not issubclass(
        CONFIG_MAPPING[model_type], (MemoriaConfigMixin, LoadsFound)
    ):
        raise ValueError(f"{folder} must hold a checkpoint of hf_memoria; its model_type is {model_type!r}.")
    config_class: Any = CONFIG_MAPPING[model_type]
    if config_class is LoadsFound:
        config_class = family_of(CONFIG_MAPPING[model_type.removeprefix(PREFIX)])[0]
    if config_class.__module__.partition(".")[0] != PACKAGE:
        raise ValueError(
            f"{folder} must be of one of the families that hf_memoria lists; {config_class.__name__} is defined in "
            f"{config_class.__module__}, which would be needed as well."
        )
    return config_class


def _own_memory(memory: dict[str, Any] | None) -> tuple[dict[str, str], list[str]]:
    """Return the source of a kind of memory that is not of the package, by flat name, and what it needs of it."""
    if not memory:
        return {}, []
    cls = type(SYSTEMS[memory["kind"]])
    if cls.__module__.partition(".")[0] == PACKAGE:
        return {}, []
    path = inspect.getsourcefile(cls)
    if path is None or cls.__module__ == "__main__":
        raise ValueError(
            f"memory of kind {memory['kind']!r} must be defined in a module with a file to be exported; "
            f"{cls.__name__} is in {cls.__module__}."
        )
    source, needed = flatten_own(cls.__module__, Path(path))
    name = cls.__module__.rpartition(".")[2] if OWN_MODULE in cls.__module__ else cls.__module__.replace(".", "_")
    return {name if name.startswith(OWN_MODULE) else f"{OWN_MODULE}{name}": source}, needed


def _home_of(config_class: type) -> str:
    """Return the module of the package that makes the classes of a family."""
    return FoundBackbone.__module__ if issubclass(config_class, FoundBackbone) else config_class.__module__


def _stub(config_class: Any, own: list[str]) -> str:
    names = sorted({config_class.__name__, *(model.__name__ for _, model in _heads(config_class))})
    flat = flat_name(_home_of(config_class))
    lines = "".join(f"from .{name} import __name__ as _{name}  # registers a kind of memory\n" for name in own)
    said = {"package": PACKAGE, "flat": flat, "all": names, "own": f"\n{lines}" if own else ""}
    if issubclass(config_class, FoundBackbone):
        made = "\n".join(f'{name} = _classes["{name}"]' for name in names)
        return FOUND_BODY.format(**said, names=made, backbone=config_class.backbone_type)
    return STUB_BODY.format(**said, names=", ".join(names))


def _header() -> str:
    return HEADER.format(version=VERSION)


def _write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path
