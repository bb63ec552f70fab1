"""Saving what a memory adds to a checkpoint, and not the checkpoint."""

from __future__ import annotations

import copy
import os
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.utils import cached_file
from transformers.utils.hub import extract_commit_hash

from hf_memoria.backbones.ownership import ATTENTION, MEMORY, is_within, roots_of
from hf_memoria.models.adapter_files import (
    PEFT_CONFIG,
    PEFT_WEIGHTS,
    BaseCheckpoint,
    edit_json,
    peft_tensors,
    plain_tensors,
    same,
    write_weights,
)
from hf_memoria.models.adapter_loading import load_base, own_names
from hf_memoria.models.fingerprint import backbone_fingerprint_of
from hf_memoria.models.mixin import MemoriaMixin

WHOLE = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")


def save_adapter(
    model: PreTrainedModel,
    folder: str | Path,
    *,
    base_model: str | Path | None = None,
    base_revision: str | None = None,
    gguf_file: str | None = None,
) -> None:
    """Save the weights that a model has beside those of the checkpoint that it was made from.

    These are the weights of its memory and of another attention, those of a head that the checkpoint does not have or
    that was trained, and an adapter of PEFT. `from_pretrained(folder)` of the Auto classes loads the checkpoint and
    puts them in place. The checkpoint is loaded for comparison: the backbone has to be the same to the bit.

    Args:
        model: a model with memory, or a `PeftModel` of one.
        folder: the folder, which is made if it is not there.
        base_model: name or folder of the checkpoint; else the one that the model was loaded from.
        base_revision: its branch, tag or commit; else the one that was loaded.
        gguf_file: its file, if it is in GGUF.

    Raises:
        TypeError: if the model is none of this package.
        ValueError: if it has neither memory nor another attention, comes from no checkpoint, or its backbone differs;
            or if the folder holds something else. Nothing is written then.
        OSError: if the checkpoint is not there.
    """
    base = base_of_model(inside(model), base_model, base_revision, gguf_file)
    write_adapter(model, Path(folder), base, named=str(folder))


def inside(model: Any) -> Any:
    """Return the model inside of `PeftModel`.

    Raises:
        TypeError: if it is none of this package.
        ValueError: if there is nothing to save.
    """
    plain = model.get_base_model() if hasattr(model, "get_base_model") else model
    if not isinstance(plain, MemoriaMixin):
        raise TypeError(f"model must be a model of hf_memoria; got {type(plain).__name__}. See hf_memoria.wrap.")
    if plain.config.memory is None and plain.config.attention is None:
        raise ValueError("model must have a memory or another attention to save; got neither. Use save_pretrained.")
    return plain


def base_of_model(
    model: Any, name: Any = None, revision: str | None = None, gguf_file: str | None = None
) -> BaseCheckpoint:
    """Return the checkpoint that a model was made from, as far as the arguments do not say it.

    Raises:
        ValueError: if nobody says it.
    """
    if name is not None:
        return BaseCheckpoint(str(name), revision, gguf_file)
    told = model.config.base_checkpoint
    told = {"name": model.config.name_or_path or model.name_or_path} if told is None else dict(told)
    if not told["name"]:
        raise ValueError(
            "base_model must name the checkpoint that the backbone's weights lie in; the model was loaded from none. "
            "Save it whole with save_pretrained if there is none."
        )
    return BaseCheckpoint(told["name"], revision or told.get("revision"), gguf_file or told.get("gguf_file"))


def _as_compared(base: BaseCheckpoint, model: Any, peft: bool) -> BaseCheckpoint:
    """Return a checkpoint of which `model` was just loaded, with the commit that it is at, and its fingerprint."""
    revision = base.revision
    if not Path(base.name).exists():
        path = cached_file(base.name, base.gguf_file or "config.json", revision=revision)
        revision = extract_commit_hash(str(path), None) or revision
    return replace(base, revision=revision, fingerprint=backbone_fingerprint_of(model), peft=peft)


def write_adapter(model: Any, folder: Path, base: BaseCheckpoint, named: str) -> None:
    """Write an adapter's folder.

    Args:
        model: the model, or a `PeftModel` of one.
        folder: the folder.
        base: checkpoint of its backbone.
        named: the name that the folder will have, which PEFT's file has to say.

    Raises:
        ValueError: as `save_adapter`.
    """
    plain, peft = inside(model), _peft_of(model)
    _check_folder(folder, peft)
    reference, missing = _reference(plain, base)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".adapter") as made:
        draft, held = Path(made), set[str]()
        if peft:
            model.save_pretrained(draft)
            edit_json(draft / PEFT_CONFIG, base_model_name_or_path=named, revision=None)
            held = set(peft_tensors(draft / PEFT_WEIGHTS))
        write_weights(_chosen(plain, reference, missing, held, base), draft)
        _write_configs(plain, draft, _as_compared(base, reference, peft))
        for path in sorted(draft.iterdir(), key=lambda path: path.name == "config.json"):  # last: it names the others
            os.replace(path, folder / path.name)


def _peft_of(model: Any) -> bool:
    adapters = list(getattr(model, "peft_config", {}))
    if adapters not in ([], ["default"]):
        raise ValueError(f"model must have one adapter of PEFT at most, named 'default'; got {adapters}.")
    return bool(adapters)


def _check_folder(folder: Path, peft: bool) -> None:
    found = [name for name in WHOLE if (folder / name).exists()]
    found += [PEFT_CONFIG] if (folder / PEFT_CONFIG).exists() and not peft else []
    if found:
        raise ValueError(
            f"folder must be free for an adapter; {folder} holds {found[0]}, which does not go with it. "
            "Choose another."
        )


def _reference(model: Any, base: BaseCheckpoint) -> tuple[Any, set[str]]:
    """Return the model as its base checkpoint gives it, and names that this does not give."""
    config = copy.deepcopy(model.config)
    later = tuple(name for name in plain_tensors(model) if is_within(name, roots_of(model, MEMORY, ATTENTION)))
    stock = super(MemoriaMixin, type(model)).from_pretrained
    with torch.random.fork_rng(devices=[]):  # what is not given is drawn, and a training may go on after this
        loaded, info = load_base(type(model), stock, config, base, later, {"dtype": model.dtype})
    return loaded, set(info["missing_keys"])


def _chosen(model: Any, reference: Any, missing: set[str], held: set[str], base: BaseCheckpoint) -> dict[str, Tensor]:
    """Return what is to be written; see `save_adapter`."""
    ours, theirs = plain_tensors(model), reference.state_dict()
    inner = next(path for path, module in reference.named_modules() if module is reference.base_model)
    own, chosen, changed = set(own_names(reference)), {}, []
    for name in theirs.keys() - held:
        if name not in ours:
            raise ValueError(f"model must keep its weights under their names; {name} is not there. Merge its adapter.")
        head = bool(inner) and not name.startswith(f"{inner}.")
        if name in own or name in missing:
            chosen[name] = ours[name]
        elif not same(ours[name], theirs[name]):
            if head:
                chosen[name] = ours[name]
            else:
                changed.append(name)
    if changed:
        raise ValueError(
            f"the backbone must have the weights of {base.name!r} to be left out; {len(changed)} of "
            f"{len(theirs)} differ, {min(changed)} among them. Save the model whole with save_pretrained, or train "
            "the memory alone (requires_grad_(False) for the backbone) or with LoRA."
        )
    return chosen


def _write_configs(model: Any, folder: Path, base: BaseCheckpoint) -> None:
    model.config.save_pretrained(folder)
    fields = {"architectures": [type(model).__name__], "dtype": str(model.dtype).removeprefix("torch.")}
    edit_json(folder / "config.json", base_checkpoint=base.to_dict(), **fields)
    if model.can_generate():
        model.generation_config.save_pretrained(folder)
