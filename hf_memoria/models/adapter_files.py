"""The folder of an adapter: what a memory adds to a checkpoint that lies elsewhere, in files.

`config.json` is that of the whole model and says in `base_checkpoint` where the backbone lies. The tensors are in
`memory_adapter.safetensors`, under the names that they have in the model. An adapter of PEFT beside the memory lies in
PEFT's own files, and what it trains in full (`modules_to_save`) is there and nowhere else.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from transformers.utils import cached_file

from hf_memoria.memories.shared.files import write_text_whole, write_whole

WEIGHTS_FILE, PEFT_WEIGHTS, PEFT_CONFIG = (
    "memory_adapter.safetensors",
    "adapter_model.safetensors",
    "adapter_config.json",
)
FORMAT = {"format": "hf_memoria.adapter", "version": "1"}
PEFT_PREFIX = "base_model.model."


@dataclass(frozen=True)
class BaseCheckpoint:
    """The checkpoint that holds the backbone of a model.

    Attributes:
        name: its name on the Hub, or its folder.
        revision: its branch, tag or commit, or None for the newest.
        gguf_file: the file in it, of checkpoints in GGUF.
        fingerprint: fingerprint of its backbone; see `backbone_fingerprint_of`.
        peft: whether an adapter of PEFT lies beside the memory.
    """

    name: str
    revision: str | None = None
    gguf_file: str | None = None
    fingerprint: str | None = None
    peft: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain JSON, without what is not said."""
        return {field: value for field, value in asdict(self).items() if value not in (None, False)}


def plain_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return a model's tensors by the names that they have without PEFT: of trained copies, the copy.

    What PEFT adds beside keeps its name.

    Args:
        model: the model inside of `PeftModel`, with or without layers of PEFT.
    """
    tensors = {}
    for name, value in model.state_dict().items():
        if ".original_module." not in f".{name}":
            tensors[re.sub(r"\.modules_to_save\.[^.]+|\.base_layer", "", name)] = value
    return tensors


def peft_tensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors of an adapter of PEFT by the names that they have in the model without PEFT."""
    return {name.removeprefix(PEFT_PREFIX): value for name, value in read_file(path)[0].items()}


def write_weights(tensors: dict[str, Tensor], folder: Path) -> None:
    """Write the tensors of an adapter; the file appears under its name only when it is whole."""
    held = {name: value.detach().cpu().clone().contiguous() for name, value in tensors.items()}
    write_whole(held, folder / WEIGHTS_FILE, dict(FORMAT))


def read_weights(
    name: Any, base: BaseCheckpoint, where: dict[str, Any]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the tensors of an adapter: its own, and those of PEFT beside it, none without.

    Args:
        name: folder or name on the Hub.
        base: checkpoint that it says it belongs to.
        where: arguments of `from_pretrained` that say where it lies.

    Raises:
        OSError: if a file is not there.
        ValueError: if a file is damaged, or of another format.
    """
    path = Path(str(cached_file(str(name), WEIGHTS_FILE, **of_cache(where))))
    tensors, header = read_file(path)
    if (header.get("format"), header.get("version")) != (FORMAT["format"], FORMAT["version"]):
        raise ValueError(
            f"{path} must be of format {FORMAT['format']!r}, version {FORMAT['version']}; got "
            f"{header.get('format')!r}, version {header.get('version')}. A newer hf_memoria may read it."
        )
    if not base.peft:
        return tensors, {}
    return tensors, peft_tensors(Path(str(cached_file(str(name), PEFT_WEIGHTS, **of_cache(where)))))


def of_cache(where: dict[str, Any]) -> dict[str, Any]:
    """Return those of the arguments that say where a file of the Hub lies."""
    return {field: value for field, value in where.items() if field != "trust_remote_code"}


def read_file(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return tensors and header of a safetensors file.

    Raises:
        ValueError: if it is damaged.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path} must be a whole safetensors file; it is damaged: {error}. Save it again.") from error


def edit_json(path: Path, **fields: Any) -> None:
    """Set fields of a JSON file."""
    held = json.loads(path.read_text(encoding="utf-8")) | fields
    write_text_whole(json.dumps(held, indent=2, sort_keys=True) + "\n", path)


def same(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors, on any devices, are the same to the bit."""
    return one.shape == other.shape and one.dtype == other.dtype and torch.equal(one.cpu(), other.cpu())
