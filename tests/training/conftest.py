"""A tiny GPT-2 with memory, documents cut into lanes, and a Trainer over them."""

from types import SimpleNamespace

import datasets
import pytest
import torch
from datasets import Dataset
from state_content import same_content
from transformers import Trainer, TrainingArguments

from hf_memoria import EngramMemoryConfig, EngramState, MemoriaCallback, MemoriaGPT2Config, MemoriaGPT2ForCausalLM
from hf_memoria import segment_documents as cut_documents

SEGMENT = 8
# Documents of one to ten segments; the last segment of some has no target.
LENGTHS = (73, 30, 9, 17, 60, 41, 5, 33, 12, 25, 8, 49)

# Under these, engrams are promoted, reminded and forgotten within a few segments, and weigh enough to matter.
MEMORY = {
    "num_memories": 3,
    "stm_capacity": 4,
    "num_reminded_stm": 3,
    "num_reminded_ltm": 3,
    "ltm_search_depth": 2,
    "initial_lifespan": 3,
    "lifespan_extend_scale": 1.0,
}


@pytest.fixture(scope="session", autouse=True)
def _dataset_cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("datasets"))
        yield


@pytest.fixture(scope="session")
def new_model():
    """Build a model in training mode; the same seed gives the same weights."""

    def build(*, dropout=0.0, seed=0, without_memory=False, **memory):
        torch.manual_seed(seed)
        config = MemoriaGPT2Config(
            vocab_size=61,
            n_positions=16,
            n_embd=32,
            n_layer=2,
            n_head=4,
            bos_token_id=0,
            eos_token_id=0,
            resid_pdrop=dropout,
            embd_pdrop=dropout,
            attn_pdrop=dropout,
            initializer_range=0.2,
            memory=None if without_memory else EngramMemoryConfig(**(MEMORY | memory)),
        )
        return MemoriaGPT2ForCausalLM(config).train()

    return build


@pytest.fixture(scope="session")
def new_documents():
    """Make documents of random tokens, one of each length."""

    def make(lengths=LENGTHS, seed=0):
        generator = torch.Generator().manual_seed(seed)
        return [torch.randint(1, 61, (length,), generator=generator).tolist() for length in lengths]

    return make


@pytest.fixture(scope="session")
def cut():
    """Cut documents into segments over lanes."""

    def lay_out(documents, lanes=4):
        return cut_documents(Dataset.from_dict({"input_ids": documents}), segment_length=SEGMENT, lanes=lanes)

    return lay_out


@pytest.fixture(scope="session")
def segments(new_documents, cut):
    """Four lanes to train on."""
    return cut(new_documents())


@pytest.fixture(scope="session")
def evaluation_documents(new_documents):
    """Documents to evaluate on; their batches have different numbers of targets."""
    return new_documents((19, 33, 4, 27, 9, 14), seed=1)


@pytest.fixture(scope="session")
def evaluation_segments(evaluation_documents, cut):
    """Four lanes to evaluate on."""
    return cut(evaluation_documents)


@pytest.fixture(scope="session")
def new_trainer(tmp_path_factory):
    """Build a plain Trainer (or a subclass) with what training in lanes needs; `arguments` change its arguments."""

    def build(model, train=None, evaluate=None, *, callback=None, callbacks=(), trainer=Trainer, **arguments):
        settings = {
            "output_dir": str(tmp_path_factory.mktemp("run")),
            "per_device_train_batch_size": 4,
            "per_device_eval_batch_size": 4,
            "train_sampling_strategy": "sequential",
            "num_train_epochs": 1,
            "learning_rate": 0.05,
            "lr_scheduler_type": "constant",
            "optim": "sgd",
            "logging_steps": 1,
            "save_strategy": "no",
            "report_to": [],
            "use_cpu": True,
            "disable_tqdm": True,
        }
        return trainer(
            model,
            TrainingArguments(**(settings | arguments)),
            train_dataset=train,
            eval_dataset=evaluate,
            callbacks=[MemoriaCallback() if callback is None else callback, *callbacks],
        )

    return build


@pytest.fixture(scope="session")
def record():
    """Note what every forward of a model received, once all hooks before it were through, and what it returned."""

    def attach(model):
        calls = []

        def note(module, args, inputs, output):
            before = inputs.get("memory")
            calls.append(SimpleNamespace(training=module.training, inputs=inputs, before=before, after=output.memory))

        model.register_forward_hook(note, with_kwargs=True)
        return calls

    return attach


@pytest.fixture(scope="session")
def losses():
    """Return one value of each training log of a trainer."""

    def read(trainer, name="loss"):
        return [log[name] for log in trainer.state.log_history if "loss" in log]

    return read


@pytest.fixture(scope="session")
def difference():
    """Return the largest difference between the weights of two models."""

    def largest(one, other):
        ours, theirs = one.state_dict(), other.state_dict()
        assert ours.keys() == theirs.keys()
        return max((ours[name] - theirs[name]).abs().max().item() for name in ours)

    return largest


@pytest.fixture(scope="session")
def same_lanes():
    """Say whether two states hold the same, whatever number of slots they are padded to."""

    return same_content


@pytest.fixture(scope="session")
def empty_lanes():
    """Return the state of lanes that have read nothing."""
    return lambda rows: EngramState.empty(rows, 32)
