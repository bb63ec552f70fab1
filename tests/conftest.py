"""Tiny models that every test can build in milliseconds, and no network."""

import gc
import os
import sys

os.environ["HF_HUB_OFFLINE"] = "1"
if "PYTEST_XDIST_WORKER" in os.environ:
    # Workers are as many as cores; threads of their own would be in each other's way.
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch
from families import small_memory, states_equal
from transformers import GPT2Config
from transformers.utils import logging

import hf_memoria
from hf_memoria import MemoriaGPT2Config

logging.disable_progress_bar()  # one for every model that is loaded

pytest_plugins = ["matrix_report", "per_file", "pytester"]

BACKBONE = {
    "vocab_size": 61,
    "n_positions": 16,
    "n_embd": 32,
    "n_layer": 3,
    "n_head": 4,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": 60,
    "resid_pdrop": 0.0,
    "embd_pdrop": 0.0,
    "attn_pdrop": 0.0,
    "classifier_dropout": 0.0,
}

# The abstractor's weights are small at first; these make what is remembered weigh enough to be seen in the logits.
LOUD = {"initializer_range": 0.2}


def pytest_collection_finish():
    # Every training ends with a collection of garbage, and what was imported until here is none.
    gc.collect()
    gc.freeze()
    # Automatic collections go through all that Transformers has imported, again and again.
    gc.set_threshold(20_000, 20, 50)


@pytest.fixture(autouse=True, scope="module")
def _frozen():
    # What the tests before this file have imported is no garbage either.
    gc.freeze()


@pytest.fixture(scope="module")
def own_evaluate_caches(tmp_path_factory):
    """Folders of a module's own for what `evaluate` copies, and nothing imported from another module's."""
    import evaluate  # takes seconds, which few modules need

    def forget():
        for name in [name for name in sys.modules if name.partition(".")[0] == "evaluate_modules"]:
            del sys.modules[name]

    forget()
    with pytest.MonkeyPatch.context() as patch:
        for name in ("HF_METRICS_CACHE", "HF_MODULES_CACHE"):
            patch.setattr(evaluate.config, name, tmp_path_factory.mktemp(name))
        patch.setattr(sys, "path", sys.path.copy())  # to which it adds the folder of its copies
        yield
    forget()


@pytest.fixture
def memory_settings():
    return small_memory


@pytest.fixture
def plain_config():
    return lambda **changes: GPT2Config(**(BACKBONE | LOUD | changes))


@pytest.fixture
def build():
    """Build a tiny model with memory: `build("ForCausalLM", memory={...}, **config)`."""

    def make(head="ForCausalLM", memory=None, without_memory=False, seed=0, **changes):
        settings = None if without_memory else small_memory(**(memory or {}))
        torch.manual_seed(seed)
        cls = getattr(hf_memoria, f"MemoriaGPT2{head}")
        return cls(MemoriaGPT2Config(**(BACKBONE | LOUD | changes), memory=settings)).eval()

    return make


@pytest.fixture
def segments():
    """Token ids of consecutive segments, `[steps, batch, length]`."""

    def make(steps=8, batch=2, length=12, seed=0):
        generator = torch.Generator().manual_seed(seed)
        return torch.randint(1, 60, (steps, batch, length), generator=generator)

    return make


def read_all(model, segments, memory=None, **kwargs):
    """Read segments one after another; return the outputs."""
    outputs = []
    for segment in segments:
        outputs.append(model(segment, memory=memory, **kwargs))
        memory = outputs[-1].memory
    return outputs


@pytest.fixture
def read():
    return read_all


@pytest.fixture
def same_state():
    return states_equal
