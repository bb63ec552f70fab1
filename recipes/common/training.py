"""What is trained, with which optimizer, and how under Trainer?"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    ViTConfig,
    ViTForImageClassification,
)

from hf_memoria import MemoriaCallback

from .images import Images


def small_gpt2(
    *,
    vocabulary: int,
    end_of_text: int,
    positions: int,
    layers: int,
    hidden_size: int,
    heads: int,
    dropout: float = 0.0,
    initializer_range: float = 0.02,
) -> GPT2LMHeadModel:
    """Return a GPT-2 with random weights.

    Narrow models learn sooner from wider ones than GPT-2's own, whose `initializer_range` is for hundreds of numbers.
    """
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=vocabulary,
            n_positions=positions,
            n_layer=layers,
            n_embd=hidden_size,
            n_head=heads,
            resid_pdrop=dropout,
            embd_pdrop=dropout,
            attn_pdrop=dropout,
            initializer_range=initializer_range,
            bos_token_id=end_of_text,
            eos_token_id=end_of_text,
        )
    )


def small_llama(
    *,
    vocabulary: int,
    end_of_text: int,
    positions: int,
    layers: int,
    hidden_size: int,
    heads: int,
    dropout: float = 0.0,
    initializer_range: float = 0.02,
) -> LlamaForCausalLM:
    """Return a Llama with random weights, whose positions are told by rotation; embeddings and head share theirs.

    `dropout` is on attention weights, the only ones that a Llama drops.
    """
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocabulary,
            max_position_embeddings=positions,
            num_hidden_layers=layers,
            hidden_size=hidden_size,
            num_attention_heads=heads,
            intermediate_size=8 * hidden_size // 3,
            attention_dropout=dropout,
            initializer_range=initializer_range,
            tie_word_embeddings=True,
            bos_token_id=end_of_text,
            eos_token_id=end_of_text,
        )
    )


BACKBONES = {"gpt2": small_gpt2, "llama": small_llama}
"""Small backbones with random weights, by family."""


def small_vit(
    images: Images,
    *,
    patch_size: int,
    layers: int,
    hidden_size: int,
    heads: int,
    initializer_range: float = 0.02,
) -> ViTForImageClassification:
    """Return a ViT with random weights, for images of this size and their labels."""
    _, channels, size, _ = images.pixels.shape
    return ViTForImageClassification(
        ViTConfig(
            image_size=size,
            patch_size=patch_size,
            num_channels=channels,
            num_labels=int(images.labels.max()) + 1,
            num_hidden_layers=layers,
            hidden_size=hidden_size,
            intermediate_size=2 * hidden_size,
            num_attention_heads=heads,
            initializer_range=initializer_range,
        )
    )


def adamw(model: PreTrainedModel, learning_rate: float, memory_learning_rate: float | None) -> torch.optim.AdamW:
    """Return AdamW without weight decay, with a learning rate of their own for the parameters that a memory adds."""
    backbone, memory = [], []
    for name, weight in model.named_parameters():
        (memory if "memory" in name or "abstractor" in name else backbone).append(weight)
    groups = [{"params": backbone, "lr": learning_rate}]
    if memory:
        groups.append({"params": memory, "lr": memory_learning_rate or learning_rate})
    return torch.optim.AdamW(groups, weight_decay=0.0)


def train_on_lanes(
    model: PreTrainedModel,
    rows: Dataset,
    lanes: int,
    optimizer: torch.optim.Optimizer,
    folder: Path,
    *,
    schedule: torch.optim.lr_scheduler.LRScheduler | None = None,
    callbacks: Sequence[TrainerCallback] = (),
    trainer_class: Callable[..., Trainer] = Trainer,
    **settings: Any,
) -> list[dict[str, Any]]:
    """Train with the plain Trainer on segments that lie in lanes; return its logs: step, mean loss, and more.

    Args:
        model: with a memory, which goes from batch to batch, or without.
        rows: segments, as `segment_documents` lays them.
        lanes: how many lanes they lie in: the batch size.
        optimizer: what steps are made with.
        folder: where Trainer writes.
        schedule: of the learning rate; None is the one that `settings` name.
        callbacks: beside the one that carries a memory.
        trainer_class: makes the Trainer, where it is another.
        settings: more `TrainingArguments`.
    """
    arguments = {
        "output_dir": str(folder),
        "per_device_train_batch_size": lanes,
        "train_sampling_strategy": "sequential",
        "warmup_steps": 0.05,
        "save_strategy": "no",
        "report_to": "none",
        **settings,
    }
    trainer = trainer_class(
        model,
        TrainingArguments(**arguments),
        train_dataset=rows,
        optimizers=(optimizer, schedule),
        callbacks=[*([MemoriaCallback()] if model.config.memory is not None else []), *callbacks],
    )
    trainer.train()
    return [entry for entry in trainer.state.log_history if "loss" in entry]
