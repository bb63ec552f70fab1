"""Modules under the names that they had in 0.1: they warn, and offer what they had."""

import importlib
import sys
import warnings

import pytest

import hf_memoria
from hf_memoria.moved import MOVED, MOVED_NAMES

NAMES = {
    "memory": ("EngramKind", "EngramState", "Reminded", "compact", "memorize", "remind"),
    "memory.native": ("use_native_kernels",),
    "token_memory": ("MemoryLoss", "PastSegment", "TokenState", "memory_loss"),
    "modules": (
        *("PFU", "Abstractor", "AttentionPooling", "AttentionUnit", "ForgettingFunction", "ForgettingReLU"),
        *("HopfieldPooling", "LwpfUnit", "MemoryAttention", "MemoryEncoder", "MemoryReader", "SdmAttention"),
        *("TokenMemory", "lwpf_attention", "lwpf_attention_naive", "sdm_attention"),
    ),
    "models.cache": ("MemoriaCache",),
    "models.attention_config": ("ATTENTION_KINDS", "LwpfAttentionConfig", "SdmAttentionConfig"),
    "models.memory_config": ("EngramMemoryConfig", "TokenMemoryConfig"),
    "models.outputs": ("with_memory", "MemoriaCausalLMOutputWithCrossAttentions"),
}


@pytest.fixture(autouse=True)
def _import_anew():
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name.removeprefix("hf_memoria.") in MOVED:
            del sys.modules[name]


@pytest.mark.parametrize("old", MOVED)
def test_every_old_module_can_be_imported_and_warns(old):
    sys.modules.pop(f"hf_memoria.{old}", None)
    with pytest.warns(DeprecationWarning, match=rf"hf_memoria\.{old} has moved to hf_memoria\."):
        importlib.import_module(f"hf_memoria.{old}")


@pytest.mark.parametrize("old", NAMES)
def test_it_offers_what_it_had(old):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        module = importlib.import_module(f"hf_memoria.{old}")
        for name in NAMES[old]:
            assert getattr(module, name) is not None
            if hasattr(hf_memoria, name):
                assert getattr(module, name) is getattr(hf_memoria, name)
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        module.nothing  # noqa: B018


@pytest.mark.parametrize(("folder", "name"), [("models", "convert_reference_checkpoint"), ("backbones", "Reading")])
def test_folders_that_stay_offer_what_left_them(folder, name):
    assert folder in MOVED_NAMES
    module = importlib.import_module(f"hf_memoria.{folder}")
    with pytest.warns(DeprecationWarning, match=f"{name} has moved from hf_memoria.{folder}"):
        getattr(module, name)
