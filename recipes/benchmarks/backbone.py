"""The backbone that benchmarks of whole models run with and without a memory."""

import argparse

from transformers import GPT2Config, GPT2LMHeadModel, set_seed


def gpt2(args: argparse.Namespace, positions: int, dropout: float = 0.1) -> GPT2LMHeadModel:
    """Return a GPT-2 with random weights, of the sizes and the seed that the flags say."""
    set_seed(args.seed)
    sizes = {"n_positions": positions, "n_embd": args.hidden_size, "n_layer": args.layers, "n_head": args.heads}
    dropouts = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), dropout)
    return GPT2LMHeadModel(GPT2Config(vocab_size=args.vocabulary, **sizes, **dropouts, bos_token_id=0, eos_token_id=0))
