"""Train over segments on two processes, and compare with one: `accelerate launch scale_worker.py FOLDER`.

No Trainer: accelerate shards parameters (FSDP2) on no CPU, and Trainer's DDP is tested in `ddp_worker.py`.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from families import CASES as FAMILY_HEADS
from families import loss_of, tiny_model, tiny_segments, with_targets

from hf_memoria import EpisodicState
from hf_memoria.backbones.blocks import blocks_of

STEPS, ROWS = 3, 2
Batch = dict[str, torch.Tensor]
ASSOCIATED = {"share_attention": True, "association": "spread", "association_graph": "both"}
# Family, head, and settings of the memory.
MODELS: dict[str, tuple[str, str, dict[str, Any]]] = {
    f"{family} {head}": (family, head, {}) for family, head in FAMILY_HEADS
}
# Those of which every way is tried.
EVERY_WAY: dict[str, tuple[str, str, dict[str, Any]]] = {
    "GPT2": ("GPT2", "ForCausalLM", {}),
    "GPT2 with gates": ("GPT2", "ForCausalLM", {"gate": "tanh"}),
    "Llama": ("Llama", "ForCausalLM", {}),
    "Bert": ("Bert", "ForMaskedLM", {}),
    "Bert, cue of the same segment": ("Bert", "ForTokenClassification", {"cue_layer": 0}),
    "Roberta": ("Roberta", "ForSequenceClassification", {}),
    "ViT": ("ViT", "ForImageClassification", {}),
    "ViT, cue of the same segment": ("ViT", "ForImageClassification", {"cue_layer": 0}),
    "Llama, memory tokens": ("Llama", "ForCausalLM", {"kind": "token", "bptt_segments": 1}),
    "GPT2, memory tokens without encoder": ("GPT2", "ForCausalLM", {"kind": "token", "encoder_layers": 0}),
    "Bert, memory tokens": ("Bert", "ForMaskedLM", {"kind": "token"}),
    "ViT, memory tokens": ("ViT", "ForImageClassification", {"kind": "token"}),
    "GPT2, episodes": ("GPT2", "ForCausalLM", {"kind": "episodic"}),
    "Llama, episodes shared and by association": ("Llama", "ForCausalLM", {"kind": "episodic", **ASSOCIATED}),
    "Bert, episodes": ("Bert", "ForMaskedLM", {"kind": "episodic", "content": ["ids", "hidden"]}),
    "ViT, episodes": ("ViT", "ForImageClassification", {"kind": "episodic"}),
}
MODELS |= EVERY_WAY


def batches_of(name: str, rank: int) -> list[Batch]:
    """Return what a process reads in each step."""
    family, head, _ = MODELS[name]
    segments = tiny_segments(family, steps=STEPS, batch=ROWS, seed=rank)
    return [with_targets(family, head, inputs) for inputs in segments]


def shard(model: nn.Module) -> nn.Module:
    """Shard every block, and the rest, over the processes."""
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    for block in blocks_of(model.base_model, model.config.backbone_spec):
        fully_shard(block, mesh=mesh)
    return fully_shard(model, mesh=mesh)


# How a model is wrapped, and whether its activations are checkpointed.
WAYS: dict[str, tuple[Callable[[nn.Module], nn.Module], bool]] = {
    "DDP": (DistributedDataParallel, False),
    "DDP checkpointing": (DistributedDataParallel, True),
    "FSDP2 checkpointing": (shard, True),
}
CASES = [(name, way) for name in MODELS for way in (WAYS if name in EVERY_WAY else ["DDP"])]


def train(model: nn.Module, batches: list[list[Batch]]) -> tuple[list[float], list[Any]]:
    """Read the batches of several lanes step by step, all of whose losses count alike; return losses and states."""
    states: list[Any] = [None] * len(batches[0])
    losses = []
    for step in batches:
        for lane, batch in enumerate(step):
            output = model(**batch, memory=states[lane])
            states[lane] = output.memory
            loss = loss_of(output)
            (loss / len(step)).backward()
            losses.append(loss.item())
    return losses, states


def whole(value: torch.Tensor | None) -> torch.Tensor | None:
    """Gather what is sharded."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def largest_difference(one: dict[str, Any], other: dict[str, Any]) -> float:
    """Return the largest difference of two dictionaries of tensors; a missing one differs without bound."""
    if one.keys() != other.keys() or any((one[name] is None) != (other[name] is None) for name in one):
        return float("inf")
    return max((one[name] - other[name]).abs().max().item() for name in one if one[name] is not None)


def held(state: Any) -> dict[str, torch.Tensor]:
    """Return what a state holds: its vectors, or where they are made at the read all that they are made of."""
    tensors = state.tensors() if isinstance(state, EpisodicState) else {"data": state.data}
    return {name: value.double() for name, value in tensors.items() if value.numel()}


def compare(name: str, way: str) -> dict[str, Any]:
    """Train the same model wrapped on two processes, and alone on the lanes of both."""
    rank, processes = dist.get_rank(), dist.get_world_size()
    family, head, memory = MODELS[name]
    wrap, checkpointing = WAYS[way]
    alone, model = (tiny_model(family, head, memory).train() for _ in range(2))
    if checkpointing:
        model.gradient_checkpointing_enable()
    of_rank = [batches_of(name, rank) for rank in range(processes)]
    losses, states = train(wrap(model), [[batch] for batch in of_rank[rank]])
    expected, lanes = train(alone, [list(step) for step in zip(*of_rank, strict=True)])
    gradients = {name: whole(parameter.grad) for name, parameter in model.named_parameters()}
    weights = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True))
    return {
        "losses": max(abs(one - other) for one, other in zip(losses, expected[rank::processes], strict=True)),
        "gradients": largest_difference(gradients, {name: p.grad for name, p in alone.named_parameters()}),
        "data": largest_difference(held(states[0]), held(lanes[rank])),
        "sharded": any(isinstance(parameter, DTensor) for parameter in model.parameters()),
        "remembered": sum(int(value.any(dim=-1).sum()) for value in held(states[0]).values()),
        "weights": largest_difference(weights, alone.state_dict()) if rank == 0 else 0.0,
    }


def main() -> None:
    """Compare every model, wrapped in every way."""
    dist.init_process_group("gloo")
    reports = {f"{name}: {way}": compare(name, way) for name, way in CASES}
    Path(sys.argv[1], f"scale-{dist.get_rank()}.json").write_text(json.dumps(reports))
    dist.barrier()
    dist.destroy_process_group()
    # After all is reported, the end of the interpreter aborts the process in one run of many ("terminate called
    # without an active exception"): threads of PyTorch are still there. What is tested is over; that end is left out.
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
