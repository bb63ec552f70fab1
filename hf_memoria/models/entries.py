"""The entry of a model that nobody declared: found, proved, and kept for the next model like it."""

from __future__ import annotations

import json
from typing import Any

import torch
from transformers import PreTrainedModel

from hf_memoria.backbones.finding import find_spec
from hf_memoria.backbones.spec import BackboneSpec
from hf_memoria.backbones.tree import NotFoundError, lists_of_blocks, said
from hf_memoria.models.probe_inputs import FAILURES, probe_inputs
from hf_memoria.models.proving import prove

NOT_OF_STRUCTURE = ("dtype", "architectures", "transformers_version")

_FOUND: dict[tuple[type, str], BackboneSpec] = {}
"""Entries by class of the base model and by what its config says of it."""


def spec_for(model: PreTrainedModel) -> BackboneSpec:
    """Return a proved entry of a model that nobody declared.

    Args:
        model: a model of Transformers, with head or without. It runs a few forwards on random input.

    Raises:
        NotFoundError: saying what was tried, and what to do.
    """
    key = type(model), _structure(model.config)
    if key not in _FOUND:
        with torch.inference_mode(False), torch.enable_grad():  # one of the proofs is that gradient arrives
            _FOUND[key] = _find(model)
    return _FOUND[key]


def _structure(config: Any) -> str:
    values = {
        name: value
        for name, value in config.to_dict().items()
        if not name.startswith("_") and name not in NOT_OF_STRUCTURE
    }
    return json.dumps(values, sort_keys=True, default=str)


def _find(model: Any) -> BackboneSpec:
    try:
        if getattr(model.config, "is_encoder_decoder", False):
            raise NotFoundError("it is an encoder-decoder, which reads two sequences")
        lists_of_blocks(model.base_model)  # before anything is run
        inputs = probe_inputs(model)
        spec = find_spec(model, inputs)
        _check_sizes(model.config, spec)
        prove(model, spec, inputs)
        return spec
    except NotFoundError as error:
        raise NotFoundError(_told(model, str(error))) from error
    except FAILURES as error:
        raise NotFoundError(
            _told(model, f"a forward on random input fails with {type(error).__name__}: {error}")
        ) from error


def _check_sizes(config: Any, spec: BackboneSpec) -> None:
    own = {"hidden_size": spec.width, "num_attention_heads": spec.num_heads, "num_hidden_layers": spec.num_blocks}
    for name, found in own.items():
        value = found or said(config, name)
        if type(value) is not int:
            whole = "" if config.get_text_config() is config else "; wrap the model of its text alone"
            raise NotFoundError(f"its config has no {name} of one number, but {value!r}{whole}")


def _told(model: Any, reason: str) -> str:
    return (
        f"model must be one in whose blocks a memory can be read; in {type(model).__name__} no such place was found "
        f"and proved: {reason}. register_family takes an entry by hand, where there is such a place."
    )
