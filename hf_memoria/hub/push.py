"""A model with memory to the Hub: weights, tokenizer, card and, if asked, memory and code, in one commit."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi
from transformers import PreTrainedModel

from hf_memoria.hub.card import describe, make_card, picture_name
from hf_memoria.hub.evaluation import read_results
from hf_memoria.hub.remote_code import export_remote_code
from hf_memoria.models.adapter_files import BaseCheckpoint
from hf_memoria.models.adapter_saving import base_of_model, inside, write_adapter
from hf_memoria.models.memory_files import save_memory

MEMORY_FILE = "memory.safetensors"


def push_to_hub(
    model: PreTrainedModel,
    repo_id: str,
    *,
    processor: Any = None,
    memory: Any = None,
    results: Mapping[str, Any] | str | Path | None = None,
    plot: str | Path | None = None,
    adapter: bool = False,
    remote_code: bool = False,
    base_model: str | None = None,
    license: str | None = None,
    private: bool | None = None,
    token: str | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    commit_message: str = "Upload model with memory",
) -> str:
    """Push a model to the Hub with a card that says what it is, how to load it and what was measured.

    Args:
        model: a model of this package.
        repo_id: `user/name`; it is made if it is not there.
        processor: its tokenizer or image processor.
        memory: a state to push as `memory.safetensors`. It holds representations of the text that was read, the
            training text among it, and of an episodic memory the text itself, so it is only pushed if it is given
            here, and the card says what it holds.
        results: the results of an evaluation: a recipe's `results.json` or what it holds, or Trainer's metrics. The
            card shows them, and its metadata has them for the Hub, of the dataset that `dataset` in them names: an id
            on the Hub, or a mapping with `type` and `name`.
        plot: a picture for the card.
        adapter: whether the backbone's weights stay where they are, and only what the model has beside them is pushed;
            see `save_adapter`. `base_model` or the model says where that is, on the Hub. A `PeftModel` may be given.
        remote_code: whether it is to load where hf_memoria is not installed; see `export_remote_code`.
        base_model: name on the Hub of what it was made from, if the model does not know.
        license: its licence; else that of the base model, if its card can be read.
        private: whether a new repository is private.
        token: the token for the Hub; else the one that is stored.
        revision: branch to push to.
        create_pr: whether to open a pull request instead.
        commit_message: first line of the commit.

    Returns:
        the address of the commit.

    Raises:
        TypeError, ValueError: if model, memory or results are not what they should be, or the base of an adapter lies
            in a folder; then nothing is pushed.
        FileNotFoundError: if `results` or `plot` name no file.
    """
    plain = inside(model) if adapter else model
    base = _base_on_hub(plain, base_model) if adapter else None
    told = {"results": read_results(results), "plot": picture_name(plot), "licence": license, "adapter": adapter}
    told |= {"memory_file": None if memory is None else MEMORY_FILE, "brings_code": remote_code}
    card = make_card(plain, describe(plain, repo_id, base_model if base is None else base.name, **told))
    with tempfile.TemporaryDirectory() as folder:
        _write_files(Path(folder), plain, processor, memory, plot)
        _write_weights(Path(folder), model, base, repo_id, remote_code)
        card.save(Path(folder) / "README.md")  # last: PEFT writes one too
        commit = {"commit_message": commit_message, "revision": revision, "create_pr": create_pr}
        return _upload(folder, repo_id, HfApi(token=token), private, commit)


def _upload(folder: str, repo_id: str, api: HfApi, private: bool | None, commit: dict[str, Any]) -> str:
    found = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
    if commit["revision"] is not None and not commit["create_pr"]:
        api.create_branch(found, branch=commit["revision"], exist_ok=True)
    return str(api.upload_folder(repo_id=found, folder_path=folder, **commit).commit_url)


def _base_on_hub(model: Any, name: str | None) -> BaseCheckpoint:
    base = base_of_model(model, name)
    if Path(base.name).exists():
        raise ValueError(
            f"base_model must name a checkpoint on the Hub, which everybody can load; got {base.name!r}, a folder of "
            "this machine. Push that first."
        )
    return base


def _write_files(folder: Path, model: Any, processor: Any, memory: Any, plot: Any) -> None:
    if memory is not None:
        save_memory(memory, folder / MEMORY_FILE, model)
    if plot is not None:
        shutil.copy(plot, folder)
    if processor is not None:
        processor.save_pretrained(folder)


def _write_weights(folder: Path, model: Any, base: BaseCheckpoint | None, name: str, remote_code: bool) -> None:
    if base is None:
        model.save_pretrained(folder)
    else:
        write_adapter(model, folder, base, named=name)
    if remote_code:
        export_remote_code(folder)
