"""Whether code came with a checkpoint, and names that such code shares with no other checkpoint's."""

from __future__ import annotations

import hashlib

BROUGHT = "transformers_modules"
"""The package in which Transformers runs code that came with a checkpoint."""


def came_with_checkpoint(module: str) -> bool:
    """Whether a module, by its dotted name, was loaded with `trust_remote_code`, and not from an installed package."""
    return module.partition(".")[0] == BROUGHT


def own_name(name: str) -> str:
    """Return the name under which this code makes something known to a registry of Transformers.

    Names of the installed package stay as they are. Of checkpoints that brought their code there can be several in one
    process, each with another version of it: under one name, the last one imported would run for all of them.
    """
    package = __name__.rpartition(".")[0]
    if not came_with_checkpoint(package):
        return name
    return f"{name}_{hashlib.sha256(package.encode()).hexdigest()[:12]}"
