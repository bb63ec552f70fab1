"""What users of released versions have on disk loads, and computes what it computed then; `make.py` made it."""

import json
import shutil
from pathlib import Path

import datasets
import pytest
import torch
from released_run import SAVED_STEP, losses_after, new_trainer, segments
from safetensors.torch import load_file
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageClassification,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    Trainer,
)

from hf_memoria import EngramState, MemoriaTrainerMixin, TokenState, load_memory, save_memory
from hf_memoria.analysis import TraceRecorder, read_traces

RELEASED = Path(__file__).parent / "0.1.0"
SEGMENTS = 3

ENGRAMS = {
    "gpt2_default_engrams": AutoModelForCausalLM,
    "gpt2_dense_engrams": AutoModelForCausalLM,
    "gpt2_sparse_engrams": AutoModelForCausalLM,
    "gpt2_pfu_engrams": AutoModelForCausalLM,
    "llama_engrams": AutoModelForCausalLM,
    "bert_engrams": AutoModelForMaskedLM,
    "vit_engrams": AutoModelForImageClassification,
}
TOKENS = {
    "gpt2_tokens": AutoModelForCausalLM,
    "gpt2_recurrent_tokens": AutoModelForCausalLM,
    "roberta_tokens": AutoModelForSequenceClassification,
}
WITHOUT_MEMORY = dict.fromkeys(("gpt2_relu", "gpt2_pfu", "gpt2_sdm"), AutoModelForCausalLM)
WITH_MEMORY = ENGRAMS | TOKENS
MODELS = WITH_MEMORY | WITHOUT_MEMORY
GENERATING = [name for name, auto_class in MODELS.items() if auto_class is AutoModelForCausalLM]
GENERATING_BY_BEAMS = ["gpt2_dense_engrams", "gpt2_tokens"]
WITH_HISTORY = ["gpt2_recurrent_tokens"]
TRAINED = ["engrams", "tokens"]

MEMORY_FILES = [(name, "memory.safetensors") for name in WITH_MEMORY]
MEMORY_FILES += [(name, "history.safetensors") for name in WITH_HISTORY]
CHECKPOINT_FILES = {
    "config.json",
    "generation_config.json",
    "memory-00000-of-00001.safetensors",
    "model.safetensors",
    "trainer_state.json",
}


@pytest.fixture(scope="module", autouse=True)
def _dataset_cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("datasets"))
        yield


@pytest.fixture(scope="module")
def load():
    """Load a released model by its Auto class, once."""
    loaded = {}

    def of_name(name):
        if name not in loaded:
            loaded[name] = MODELS[name].from_pretrained(folder_of(name), output_loading_info=True)
        return loaded[name][0].eval()

    of_name.info = loaded
    return of_name


def folder_of(name):
    return RELEASED / "models" / name


def expected_of(name):
    return load_file(folder_of(name) / "expected.safetensors")


def files_of(folder):
    return {path.name for path in folder.iterdir()}


def assert_close(found, expected, **tolerance):
    """Compare numbers up to rounding, and everything else exactly."""
    settings = {"atol": 1e-5, "rtol": 1e-4, **tolerance} if expected.is_floating_point() else {"atol": 0, "rtol": 0}
    torch.testing.assert_close(found, expected, **settings)


@torch.no_grad()
def read(model, inputs, memory=None):
    return model(**{model.main_input_name: inputs}, **({} if memory is None else {"memory": memory}))


def read_three(model, expected):
    """Read the first segments one after another; return the outputs."""
    outputs = []
    for number in range(SEGMENTS):
        memory = outputs[-1].get("memory") if outputs else None
        outputs.append(read(model, expected[f"inputs.{number}"], memory))
    return outputs


def remembered(state):
    """Return the tensors of a state but those of the form that its co-fire graph happens to have."""
    own = {name: value for name, value in state.tensors().items() if not name.startswith("graph.")}
    return own | ({"cofire_counts": state.cofire_counts} if isinstance(state, EngramState) else {})


def test_there_is_data_of_every_kind():
    assert files_of(RELEASED) == {"models", "training", "traces"}
    assert files_of(RELEASED / "models") == set(MODELS)
    assert files_of(RELEASED / "training") == set(TRAINED)
    for name in MODELS:
        files = {"config.json", "model.safetensors", "expected.safetensors"}
        files |= {"generation_config.json"} if name in GENERATING else set()
        files |= {"memory.safetensors"} if name in WITH_MEMORY else set()
        files |= {"history.safetensors"} if name in WITH_HISTORY else set()
        assert files_of(folder_of(name)) == files
    for name in TRAINED:
        assert files_of(RELEASED / "training" / name) == {f"checkpoint-{SAVED_STEP}", "losses.json"}
        assert files_of(RELEASED / "training" / name / f"checkpoint-{SAVED_STEP}") == CHECKPOINT_FILES


def test_what_is_expected_is_there():
    for name in MODELS:
        names = {f"{kind}.{number}" for kind in ("inputs", "logits") for number in range(SEGMENTS + 1)}
        names |= {"generated"} if name in GENERATING else set()
        names |= {"generated_by_beams"} if name in GENERATING_BY_BEAMS else set()
        names |= {"history.loss", "history.gradient"} if name in WITH_HISTORY else set()
        assert set(expected_of(name)) == names


@pytest.mark.parametrize("name", MODELS)
def test_every_weight_finds_its_place(name, load):
    load(name)
    _, info = load.info[name]
    assert not any(info.values()), info


@pytest.mark.parametrize("name", MODELS)
def test_settings_are_those_that_were_saved(name, load):
    saved = json.loads((folder_of(name) / "config.json").read_text(encoding="utf-8"))
    config = load(name).config.to_dict()
    assert (saved["memory"] is not None) == (name in WITH_MEMORY)
    for part in ("memory", "attention"):
        assert (saved[part] is None) == (config[part] is None)
        assert (saved[part] or {}).items() <= (config[part] or {}).items()
    assert saved["model_type"] == config["model_type"]


@pytest.mark.parametrize("name", MODELS)
def test_a_checkpoint_computes_the_logits_that_it_computed(name, load):
    model, expected = load(name), expected_of(name)
    for number, output in enumerate(read_three(model, expected)):
        assert_close(output.logits, expected[f"logits.{number}"])


@pytest.mark.parametrize("name", WITH_MEMORY)
def test_a_checkpoint_remembers_what_it_remembered(name, load, tmp_path):
    model, expected = load(name), expected_of(name)
    save_memory(read_three(model, expected)[-1].memory, tmp_path / "memory.safetensors", model.config)
    found = load_memory(tmp_path / "memory.safetensors", model)
    released = load_memory(folder_of(name) / "memory.safetensors", model)
    values, others = remembered(released), remembered(found)
    assert values.keys() == others.keys()
    for field, value in values.items():
        assert_close(others[field], value)
    if name in ENGRAMS:
        assert isinstance(found, EngramState)
        assert found.valid.any()
        assert found.cofire_counts.any()


@pytest.mark.parametrize(("name", "file"), MEMORY_FILES)
def test_a_memory_file_loads_as_it_was_saved(name, file, load):
    state = load_memory(folder_of(name) / file, load(name))
    assert isinstance(state, TokenState if name in TOKENS else EngramState)
    saved = load_file(folder_of(name) / file)
    assert state.tensors().keys() == saved.keys()
    for field, value in state.tensors().items():
        assert value.dtype == saved[field].dtype
        assert torch.equal(value, saved[field])


def test_there_are_files_of_both_graphs_and_of_histories(load):
    fields = {name: set(load_file(folder_of(name) / file)) for name, file in MEMORY_FILES}
    assert "graph.counts" in fields["gpt2_dense_engrams"]
    assert "graph.events" in fields["gpt2_sparse_engrams"]
    assert {"history.0.input_ids", "history.1.input_ids"} <= fields["gpt2_recurrent_tokens"]
    assert load_memory(folder_of("gpt2_dense_engrams") / "memory.safetensors").num_long_term.all()
    assert load_memory(folder_of("gpt2_sparse_engrams") / "memory.safetensors").num_long_term.all()


@pytest.mark.parametrize("name", MODELS)
def test_reading_goes_on_from_a_memory_file(name, load):
    model, expected = load(name), expected_of(name)
    memory = load_memory(folder_of(name) / "memory.safetensors", model) if name in WITH_MEMORY else None
    fourth = expected[f"inputs.{SEGMENTS}"]
    assert_close(read(model, fourth, memory).logits, expected[f"logits.{SEGMENTS}"])
    if memory is not None:
        forgetful = read(model, fourth).logits - expected[f"logits.{SEGMENTS}"]
        assert forgetful.abs().max() > 1e-2


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        *((name, "generated") for name in GENERATING),
        *((name, "generated_by_beams") for name in GENERATING_BY_BEAMS),
    ],
)
def test_generation_goes_on_from_a_memory_file(name, kind, load):
    model, expected = load(name), expected_of(name)
    prompt = expected[f"inputs.{SEGMENTS}"]
    given = {}
    if name in WITH_MEMORY:
        given["memory"] = load_memory(folder_of(name) / "memory.safetensors", model)
        assert expected[kind].shape[1] > 2 * model.config.segment_length
    new = expected[kind].shape[1] - prompt.shape[1]
    settings = {"max_new_tokens": new, "min_new_tokens": new, "do_sample": False, "no_repeat_ngram_size": 2}
    beams = {"num_beams": 3} if kind == "generated_by_beams" else {}
    found = model.generate(prompt, **settings, **beams, **given)
    assert found.tolist() == expected[kind].tolist()


@pytest.mark.parametrize("name", WITH_HISTORY)
def test_gradient_goes_back_through_a_saved_history(name):
    expected = expected_of(name)
    model = MODELS[name].from_pretrained(folder_of(name)).train()
    memory = load_memory(folder_of(name) / "history.safetensors", model)
    fourth = expected[f"inputs.{SEGMENTS}"]
    loss = model(fourth, labels=fourth, memory=memory).loss
    loss.backward()
    assert_close(loss.detach(), expected["history.loss"])
    assert_close(model.get_input_embeddings().weight.grad, expected["history.gradient"])


class MovedTrainer(MemoriaTrainerMixin, Trainer):
    """Resumes from a checkpoint wherever it lies."""


@pytest.mark.parametrize("where", ["in the run's folder", "elsewhere"])
@pytest.mark.parametrize("name", TRAINED)
def test_a_training_resumes_as_if_it_had_never_stopped(name, where, tmp_path):
    checkpoint, trainer_class = RELEASED / "training" / name / f"checkpoint-{SAVED_STEP}", MovedTrainer
    if where == "in the run's folder":
        checkpoint = shutil.copytree(checkpoint, tmp_path / checkpoint.name)
        trainer_class = Trainer
    model = AutoModelForCausalLM.from_pretrained(checkpoint)
    trainer = new_trainer(model, tmp_path, trainer_class)
    trainer.train(resume_from_checkpoint=str(checkpoint))
    expected = json.loads((RELEASED / "training" / name / "losses.json").read_text(encoding="utf-8"))
    assert len(expected) > SAVED_STEP
    assert losses_after(trainer, SAVED_STEP) == pytest.approx(expected, abs=1e-5, rel=1e-5)


def test_traces_that_name_no_run_are_read_and_gone_on_with(load, tmp_path):
    shutil.copytree(RELEASED / "traces" / "run", tmp_path / "run")
    columns = ["step", "lane", "document", "time", "event", "id", "tier", "created"]
    expected = json.loads((RELEASED / "traces" / "events.json").read_text(encoding="utf-8"))
    assert read_traces(tmp_path / "run").events[columns].astype(object).to_numpy().tolist() == expected
    model = load("gpt2_dense_engrams")
    with TraceRecorder(model, tmp_path / "run", resume=2):
        model(torch.arange(3, 9).view(1, 6))
    again = read_traces(tmp_path / "run", run="0.1.0")
    assert sorted(set(again.segments.step)) == [0, 1, 2]
    assert "run" not in again.settings


def test_the_training_was_stopped_in_the_middle_of_documents():
    steps = torch.tensor(segments()["reset_memory"]).unflatten(0, (-1, 2))
    assert not steps[SAVED_STEP].any()
    assert steps[1:].any()
    for name in TRAINED:
        path = RELEASED / "training" / name / f"checkpoint-{SAVED_STEP}" / "memory-00000-of-00001.safetensors"
        assert load_memory(path).step.tolist() == [SAVED_STEP, SAVED_STEP]
