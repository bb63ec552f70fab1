"""Checkpoints of memoria-pytorch's own models (its `experiment` folder) as models of this package."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_utils import load_state_dict

from hf_memoria.memoria_pytorch.rules import REFERENCE_MODELS, ReferenceModel
from hf_memoria.memories.engram.config import EngramMemoryConfig

WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")

LABELS = ("id2label", "label2id", "problem_type")
"""Of the fields that every config has, those that say what a model computes; the rest is the writer's book-keeping."""


def convert_reference_checkpoint(folder: str | Path) -> PreTrainedModel:
    """Load a checkpoint of one of memoria-pytorch's own models as a model of this package.

    These are `GPT2WithMemoriaLMHeadModel` and `MemoriaBert` and `MemoriaRoberta` with their sequence classifiers, and
    the three without a head. The model gets `correlation="mean_l2"`, which is how memoria-pytorch 1.1.0 ranks engrams,
    and BERT and RoBERTa the cue of the same segment. Biases that the checkpoint lacks are zero. `memoria_reset_period`
    has no counterpart: `reset_memory` tells where a row starts anew.

    Args:
        folder: the folder with config.json and model.safetensors or pytorch_model.bin.

    Raises:
        FileNotFoundError: if one of the files is missing.
        ValueError: if a file is damaged, the checkpoint is of another model, a field is missing or does not fit, or
            weights are missing, unknown, of another shape, or two where one is tied to the other.
    """
    folder = Path(folder)
    config = _read_config(folder)
    if config.get("model_type") not in REFERENCE_MODELS:
        known = " or ".join(map(repr, REFERENCE_MODELS))
        raise ValueError(f"model_type must be {known} in {folder}; got {config.get('model_type')!r}.")
    reference = REFERENCE_MODELS[config["model_type"]]
    weights = _read_weights(folder)
    with_head = any(name.startswith(reference.prefix) for name in weights)
    model_class = reference.head if with_head else reference.base
    model = model_class(_converted_config(config, reference, folder))
    prefix = "" if with_head else reference.prefix
    converted = reference.convert({f"{prefix}{name}": weight for name, weight in weights.items()})
    _load_exactly(model, {name.removeprefix(prefix): weight for name, weight in converted.items()}, folder)
    return model.eval()


def _read_config(folder: Path) -> dict[str, Any]:
    path = _existing(folder, ("config.json",))
    try:
        config = json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path} must be JSON; it is not: {error}.") from error
    if not isinstance(config, dict):
        raise ValueError(f"{path} must hold a JSON object; got {type(config).__name__}.")
    return config


def _read_weights(folder: Path) -> dict[str, Tensor]:
    path = _existing(folder, WEIGHT_FILES)
    try:
        return load_state_dict(str(path))
    except Exception as error:  # each format has its own kind
        raise ValueError(
            f"{path} must hold nothing but tensors and be whole; reading it ended with {type(error).__name__}."
        ) from error


def _converted_config(config: dict[str, Any], reference: ReferenceModel, folder: Path) -> PreTrainedConfig:
    missing = sorted(set(reference.memory_fields) - set(config))
    if missing:
        raise ValueError(f"config.json in {folder} must have the fields of memoria-pytorch; missing {missing}.")
    if config.get("position_embedding_type", "absolute") != "absolute":
        got = config["position_embedding_type"]
        raise ValueError(f"position_embedding_type must be 'absolute' in {folder}; got {got!r}.")
    config_class = reference.head.config_class
    bookkeeping = {field.name for field in fields(PreTrainedConfig)} - set(LABELS)
    known = {field.name for field in fields(config_class)} - bookkeeping
    memory = {ours: config[theirs] for theirs, ours in reference.memory_fields.items()}
    try:
        settings = EngramMemoryConfig(**memory, correlation="mean_l2", gate=None)
        return config_class(**{name: config[name] for name in known & set(config)}, memory=settings)
    except (TypeError, ValueError) as error:
        raise ValueError(f"config.json in {folder} must describe a model that can be built: {error}") from error


def _load_exactly(model: PreTrainedModel, weights: dict[str, Tensor], folder: Path) -> None:
    tied, expected = model.all_tied_weights_keys, model.state_dict()
    for name, source in tied.items():
        weight = weights.pop(name, None)
        if weight is not None and not torch.equal(weight, weights.get(source, weight)):
            raise ValueError(f"{name} must equal {source}, to which it is tied, in {folder}; it does not.")
    for name, weight in expected.items():
        if name.endswith(".bias") and name not in weights and name not in tied:
            weights[name] = torch.zeros_like(weight)
    missing = sorted(set(expected) - set(weights) - set(tied))
    unknown = sorted(set(weights) - set(expected))
    if missing or unknown:
        raise ValueError(f"weights in {folder} must be those of the model; missing {missing}, unknown {unknown}.")
    for name, weight in weights.items():
        if weight.shape != expected[name].shape:
            shapes = f"{list(expected[name].shape)}; got {list(weight.shape)}"
            raise ValueError(f"{name} in {folder} must have shape {shapes}.")
    model.load_state_dict(weights, strict=False)


def _existing(folder: Path, names: tuple[str, ...]) -> Path:
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise FileNotFoundError(f"{' or '.join(names)} must be in {folder}; it is not.")
