"""A model to talk with, from what a command was given: with a memory, and a tokenizer that knows conversations."""

from __future__ import annotations

from argparse import Namespace
from typing import Any

from transformers import AutoModelForCausalLM, set_seed

from hf_memoria.cli.command import finding, settings_of_words, tokenizer_of
from hf_memoria.memories.kinds import DEFAULT_KIND
from hf_memoria.models import MemoriaMixin, wrap

DTYPES = ("auto", "float32", "bfloat16", "float16")
"""Names of dtypes that a command takes."""

MEMORY_SEED = 0
"""Of weights that are new, so that memories fit the next time too."""


def load_to_talk_with(args: Namespace, words: list[str] | None, option: str, dtype: str = "auto") -> tuple[Any, Any]:
    """Return the model that a command names, in evaluation mode on its device, and its tokenizer.

    Args:
        args: arguments of the command: `model`, `gguf_file`, `device`, `trust_remote_code`.
        words: settings of a memory as words, for a checkpoint without one; None gives none.
        option: name of the option that the words are of.
        dtype: name of the dtype of the weights, one of `DTYPES`; "auto" is that of the checkpoint.

    Raises:
        OSError: if the checkpoint is not there.
        ValueError: if the model would have no memory, or the tokenizer has no chat template.
    """
    given: dict[str, Any] = {"trust_remote_code": args.trust_remote_code}
    if args.gguf_file is not None:
        given["gguf_file"] = args.gguf_file
    settings = settings_of_words(words, option)
    with finding("MODEL", args.model):
        model: Any = AutoModelForCausalLM.from_pretrained(args.model, dtype=dtype, **given)
    tokenizer = tokenizer_of("MODEL", args.model, **given)
    if settings is not None:
        set_seed(MEMORY_SEED)
        model = wrap(model, memory={"kind": DEFAULT_KIND, **settings})
    elif not isinstance(model, MemoriaMixin) or model.config.memory is None:
        raise ValueError(
            f"MODEL must have a memory; {args.model} has none. Give it one: {option} kind=episodic "
            "share_attention=true separate_read=false works without training, or train one."
        )
    if tokenizer.chat_template is None:
        raise ValueError(
            f"MODEL must have a chat template; the tokenizer in {args.model} has none. Take a model that was trained "
            "for conversations, or go on from a text with hf-memoria generate."
        )
    return model.to(args.device).eval(), tokenizer
