"""FSDP2 under Trainer, for every kind of memory, with bfloat16 and without: `torchrun sharded.py`.

A run is a few steps of a small GPT-2 over segments, with `MemoriaCallback` and no code of ours in the loop. What is
written says of each whether it ran, its losses, and the error that it ended with. Without `--sharded` nothing is
sharded, as on a CPU, where accelerate shards nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import traceback
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments, set_seed

from hf_memoria import (
    EngramMemoryConfig,
    EpisodicMemoryConfig,
    MemoriaCallback,
    TokenMemoryConfig,
    segment_documents,
    wrap,
)

VOCABULARY = 200
MEMORIES: dict[str, Any] = {
    "none": lambda: None,
    "engram": lambda: EngramMemoryConfig(num_memories=8, stm_capacity=16, num_reminded_stm=8, num_reminded_ltm=8),
    "token": lambda: TokenMemoryConfig(num_tokens=4, encoder_layers=1, encoder_heads=2, gate=None),
    "episodic": lambda: EpisodicMemoryConfig(capacity=128, stm_capacity=16, top_k=8),
}


def parse_arguments() -> argparse.Namespace:
    """Return the settings."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sharded", action="store_true")
    parser.add_argument("--memories", nargs="+", choices=MEMORIES, default=list(MEMORIES))
    parser.add_argument("--hidden_size", type=int, default=64)
    parser.add_argument("--segment_length", type=int, default=32)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--lanes", type=int, default=4, help="Rows of a step, over all processes.")
    parser.add_argument("--output", type=Path, required=True, help="JSON file for what became of the runs.")
    return parser.parse_args()


def segments(args: argparse.Namespace) -> Dataset:
    """Return documents of random tokens, cut into as many steps as asked for."""
    set_seed(0)
    length = args.segment_length * args.steps
    documents = torch.randint(1, VOCABULARY, (args.lanes, length)).tolist()
    dataset = Dataset.from_dict({"input_ids": documents})
    return segment_documents(dataset, segment_length=args.segment_length, lanes=args.lanes)


def model_with(memory: str, args: argparse.Namespace) -> Any:
    """Return a small GPT-2 with a memory."""
    set_seed(0)
    sizes = {"n_layer": 2, "n_head": 2, "n_embd": args.hidden_size, "n_positions": args.segment_length}
    backbone = GPT2LMHeadModel(GPT2Config(vocab_size=VOCABULARY, **sizes, bos_token_id=0, eos_token_id=0))
    settings = MEMORIES[memory]()
    return backbone if settings is None else wrap(backbone, memory=settings)


def train(memory: str, bf16: bool, args: argparse.Namespace, folder: str) -> list[float]:
    """Train for an epoch; return the losses of its steps."""
    sharding: dict[str, Any] = {}
    if args.sharded:
        sharding["fsdp"] = "full_shard auto_wrap"
        sharding["fsdp_config"] = {"version": 2, "transformer_layer_cls_to_wrap": ["GPT2Block"]}
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    arguments = TrainingArguments(
        output_dir=folder,
        per_device_train_batch_size=max(args.lanes // processes, 1),
        train_sampling_strategy="sequential",
        num_train_epochs=1,
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        bf16=bf16,
        use_cpu=not args.sharded,
        disable_tqdm=True,
        **sharding,
    )
    callbacks = [] if memory == "none" else [MemoriaCallback()]
    trainer = Trainer(model_with(memory, args), arguments, train_dataset=segments(args), callbacks=callbacks)
    trainer.train()
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def main() -> None:
    """Train every kind, and write what became of it; fail if one did not run."""
    args = parse_arguments()
    runs: dict[str, Any] = {}
    for memory in args.memories:
        for bf16 in (False, True):
            name = f"{memory}, {'bfloat16' if bf16 else 'float32'}"
            try:
                with tempfile.TemporaryDirectory() as folder:
                    runs[name] = {"ran": True, "losses": train(memory, bf16, args, folder)}
            except Exception as error:
                traceback.print_exc()
                runs[name] = {"ran": False, "error": f"{type(error).__name__}: {error}"[:500]}
    failed = [name for name, run in runs.items() if not run["ran"]]
    if os.environ.get("RANK", "0") == "0":
        args.output.write_text(json.dumps({"sharded": args.sharded, "runs": runs}, indent=2) + "\n", encoding="utf-8")
    if failed:
        raise SystemExit(f"every kind must train under Trainer; these did not: {failed}.")


if __name__ == "__main__":
    main()
