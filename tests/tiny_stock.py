"""Tiny stock models, of families that the package knows or of ones that neither it nor a test declares."""

import torch
import transformers

from hf_memoria.backbones.spec import SPECS

SIZES = {
    "vocab_size": 61,
    "hidden_size": 32,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 32,
    "pad_token_id": 0,
}


def tiny_stock(name, **changes):
    """Return a stock model, the same at every call."""
    cls = getattr(transformers, name)
    torch.manual_seed(0)
    return cls(cls.config_class(**{**SIZES, **changes})).eval()


def undeclared(name, **changes):
    """Return a stock model of a family that is to be found; one that a test declares would be known."""
    stock = tiny_stock(name, **changes)
    assert stock.config.model_type not in SPECS, f"{name} is declared: take another"
    return stock
