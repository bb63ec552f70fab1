"""What becomes of code that a checkpoint brought along when its model is saved again.

Transformers copies the one file that a class stands in, and writes into the config where it was. Our classes stand in
files that need others, and are known by name where the package is installed, so it is told to leave both alone.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

from hf_memoria.backbones.brought import came_with_checkpoint


class NotCopied:
    """For models: loading one with `trust_remote_code` does not make saving copy source files."""

    @classmethod
    def register_for_auto_class(cls, auto_class: Any = "AutoModel") -> None:
        """Do nothing: `hf_memoria.export_remote_code` is what makes a checkpoint bring its code."""


class KeepsOwnCode(NotCopied):
    """For configs: where a checkpoint brought the code, all of it is saved with the config; else none is named.

    Attributes:
        auto_map: the class of a checkpoint's own code for each Auto class; empty where it brought none. Libraries
            that find no class of the architecture's name in Transformers take it that there is one, TRL for example.
    """

    auto_map: ClassVar[Mapping[str, str]] = MappingProxyType({})

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON; `auto_map` is in it only where the code is saved as well."""
        output: dict[str, Any] = super().to_dict()  # type: ignore[misc]
        auto_map = output.pop("auto_map", None)
        if auto_map and came_with_checkpoint(type(self).__module__):
            # Transformers puts the repository in front, which is another one from now on.
            output["auto_map"] = {name: found.rpartition("--")[2] for name, found in auto_map.items()}
        return output

    def save_pretrained(self, save_directory: str | os.PathLike, *args: Any, **kwargs: Any) -> None:
        """As the stock method; code that came with the checkpoint goes with it."""
        if came_with_checkpoint(type(self).__module__):
            os.makedirs(save_directory, exist_ok=True)
            folder = Path(str(sys.modules[type(self).__module__].__file__)).parent
            for path in folder.glob("memoria_*.py"):
                shutil.copy(path, save_directory)
        super().save_pretrained(save_directory, *args, **kwargs)  # type: ignore[misc]
