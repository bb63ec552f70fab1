"""What a module tree says of where things are: the list of blocks, and what in a block may be its self-attention."""

from __future__ import annotations

from typing import Any

from torch import nn

ATTENTION_WORDS = ("attention", "attn")
ATTENTION_NAMES = ("attn", "attention", "self_attn", "self_attention", "selfattention", "mixer")
OTHER_WORDS = ("cross", "encdec", "encoder_attn", "crossattention")
"""What attends to something else than the block's own input."""

NO_NORM = ("layer", "block", "encoder", "output", "intermediate", "mlp")
"""Ends of the names of classes that are no norms, whatever else they are called (RoBERTa-PreLayerNorm)."""

NO_ATTENTION = (nn.Linear, nn.ModuleList, nn.Sequential, nn.Dropout, nn.Identity)
"""Classes that are no self-attention, whatever name leads to them: RegNet's `attention` weighs channels."""


class NotFoundError(ValueError):
    """It is not found out where a memory could be read in a model; the message says what was tried."""


class NotTakenError(ValueError):
    """A setting asks for what a backbone's attention does not do; the message names the setting."""


def said(config: Any, name: str) -> Any:
    """Return what a config says of a whole model, or None: it says nothing, or something else for each layer."""
    try:
        return getattr(config, name, None)
    except RuntimeError:  # Transformers' answer where layers differ
        return None


def find_blocks(base_model: Any, ran: set[nn.Module] | None = None) -> tuple[str, nn.ModuleList]:
    """Return the path and the list of a base model's blocks.

    Args:
        base_model: the model without head.
        ran: modules that ran on the input of a proof; a part that did not (the images of Gemma 3) is no candidate.

    Raises:
        NotFoundError: if there is no list of modules with a self-attention, or several that could be the one.
    """
    outer = lists_of_blocks(base_model, ran)
    count = said(base_model.config, "num_hidden_layers")
    best = [path for path, blocks in outer.items() if len(blocks) == count] or list(outer)
    longest = max(len(outer[path]) for path in best)
    best = [path for path in best if len(outer[path]) == longest]
    if len(best) > 1 or (len(outer) > 1 and base_model.config.is_encoder_decoder):
        raise NotFoundError(f"several lists of blocks have a self-attention: {', '.join(sorted(outer))}")
    return best[0], outer[best[0]]


def lists_of_blocks(base_model: nn.Module, ran: set[nn.Module] | None = None) -> dict[str, nn.ModuleList]:
    """Return the lists of modules with a self-attention that are in no other, by path; see `find_blocks`.

    Raises:
        NotFoundError: if there is none.
    """
    lists = {
        path: module
        for path, module in base_model.named_modules()
        if isinstance(module, nn.ModuleList)
        and any(attention_paths(block) for block in module)
        and (ran is None or not ran.isdisjoint(module.modules()))
    }
    outer = {path: blocks for path, blocks in lists.items() if not any(_is_within(path, other) for other in lists)}
    if not outer:
        raise NotFoundError("no list of blocks with a self-attention was found")
    return outer


def attention_paths(block: nn.Module) -> list[str]:
    """Return the paths of what may be a block's self-attention, outer modules before those in them."""
    return [path for path, module in block.named_modules() if path and _may_attend(path, module)]


def is_norm(path: str, module: nn.Module) -> bool:
    """Whether a module is a norm by its class, or by its name where a block has left it out."""
    kind = type(module).__name__.lower()
    if isinstance(module, nn.Identity):
        return "norm" in path.lower()
    return "norm" in kind and not any(word in kind for word in ATTENTION_WORDS) and not kind.endswith(NO_NORM)


def _may_attend(path: str, module: nn.Module) -> bool:
    name, kind = path.rpartition(".")[2].lower(), type(module).__name__.lower()
    if is_norm(path, module) or isinstance(module, NO_ATTENTION):
        return False
    if any(word in path.lower() or word in kind for word in OTHER_WORDS):
        return False
    if name in ATTENTION_NAMES:  # of a hybrid's blocks, one name may lead to an attention or to something else
        return any(word in kind for word in ATTENTION_WORDS) or name != "mixer"
    return any(word in kind for word in ATTENTION_WORDS)


def _is_within(path: str, other: str) -> bool:
    return path.startswith(f"{other}.")
