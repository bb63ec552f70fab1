"""A kind of memory from outside of the package, made known by one call, does all that the package's own kinds do."""

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from families import SETTINGS, memoria_class, tiny_segments
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, Trainer, TrainerCallback, TrainingArguments

import hf_memoria
from hf_memoria import MemoriaCache, MemoriaCallback, load_memory, save_memory, segment_documents, wrap
from hf_memoria.cli import main as command_line
from hf_memoria.hub.card import describe, make_card
from hf_memoria.memories import MemorySettings, SegmentMemory, register_memory, system_of
from hf_memoria.memories.interface import SYSTEMS
from hf_memoria.memories.shared.files import _checksum, read_header

RECIPES = Path(__file__).resolve().parents[2] / "recipes"
sys.path.insert(0, str(RECIPES))
import mean_memory  # noqa: E402
from mean_memory import MeanMemory, MeanMemoryConfig, MeanState  # noqa: E402

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "hub"))
from blocking import run, run_without_the_package  # noqa: E402

pytestmark = pytest.mark.slow

CASES = [
    ("GPT2", "Model"),
    ("GPT2", "ForCausalLM"),
    ("Llama", "ForCausalLM"),
    ("Bert", "ForMaskedLM"),
    ("Roberta", "ForSequenceClassification"),
    ("ViT", "ForImageClassification"),
]


def tiny_model(family="GPT2", head="ForCausalLM", **settings):
    torch.manual_seed(0)
    config = memoria_class(family, "Config")(**SETTINGS[family], memory=MeanMemoryConfig(**settings))
    return memoria_class(family, head)(config).eval()


def answer_of(output):
    return output[0] if output[0].dim() else output[1]


@pytest.mark.parametrize(("family", "head"), CASES)
def test_every_family_reads_it_and_writes_the_mean_of_its_final_hidden_states(family, head):
    model = tiny_model(family, head)
    first, second = tiny_segments(family, steps=2)
    with torch.no_grad():
        one = model(**first, output_hidden_states=True)
        two = model(**second, memory=one.memory)
        alone = model(**second)
        plain = wrap(model, memory=None)(**first)
    hidden = model.base_model(**first).last_hidden_state
    torch.testing.assert_close(one.memory.mean, hidden.mean(dim=1))
    assert one.memory.positions.tolist() == [hidden.shape[1]] * 2
    assert torch.equal(answer_of(one), answer_of(plain))
    assert not torch.allclose(answer_of(two), answer_of(alone))


def test_gradient_reaches_its_parameter_and_nothing_of_a_segment_flows_into_the_next():
    model = tiny_model().train()
    first, second = tiny_segments("GPT2", steps=2)
    memory = model(**first).memory
    assert not memory.mean.requires_grad
    model(**second, labels=second["input_ids"], memory=memory).loss.backward()
    assert model.transformer.memory.scale.grad.abs() > 0


def test_rows_do_not_depend_on_each_other_and_padding_is_not_remembered():
    model = tiny_model()
    ids = tiny_segments("GPT2", steps=1)[0]["input_ids"]
    mask = torch.ones_like(ids)
    mask[0, 4:] = 0
    mask[1] = 0
    memory = model(ids, attention_mask=mask).memory
    alone = model(ids[:1, :4]).memory
    torch.testing.assert_close(memory[0].mean, alone.mean)
    assert memory.positions.tolist() == [4, 0]
    assert not memory[1].mean.any()
    reset = model(ids, memory=model(ids).memory, reset_memory=torch.tensor([True, False])).memory
    assert reset.positions.tolist() == [9, 18]


def documents(lanes=2):
    generator = torch.Generator().manual_seed(0)
    made = [torch.randint(1, 60, (length,), generator=generator).tolist() for length in (70, 50, 33, 41)]
    return segment_documents(Dataset.from_dict({"input_ids": made}), segment_length=8, lanes=lanes)


class SaveAt(TrainerCallback):
    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        control.should_save = state.global_step == self.step


def new_trainer(folder, *callbacks):
    arguments = TrainingArguments(
        str(folder),
        per_device_train_batch_size=2,
        per_device_eval_batch_size=2,
        train_sampling_strategy="sequential",
        max_steps=9,
        eval_strategy="steps",
        eval_steps=4,
        logging_steps=1,
        learning_rate=0.01,
        save_strategy="no",
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
    )
    data = documents()
    return Trainer(
        tiny_model(segment_length=8).train(),
        arguments,
        train_dataset=data,
        eval_dataset=data.select(range(6)),
        callbacks=[MemoriaCallback(), *callbacks],
    )


def losses_of(trainer):
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def test_resumed_in_the_middle_of_a_document_under_trainer_nothing_differs(tmp_path):
    whole = new_trainer(tmp_path / "whole", SaveAt(5))
    whole.train()
    resumed = new_trainer(tmp_path / "resumed")
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-5"))
    assert losses_of(resumed)[-4:] == losses_of(whole)[-4:]
    for one, other in zip(whole.model.parameters(), resumed.model.parameters(), strict=True):
        assert float((one - other).detach().abs().max()) == 0.0
    memories = [trainer.callback_handler.callbacks for trainer in (whole, resumed)]
    states = [next(c for c in found if isinstance(c, MemoriaCallback)).memory for found in memories]
    assert torch.equal(states[0].mean, states[1].mean)
    assert whole.model.transformer.memory.scale.item() != 1.0


IN_A_NEW_PROCESS = """
import contextlib, io, json, sys
import hf_memoria
from hf_memoria.cli import main
from transformers import AutoConfig, AutoModelForCausalLM

def call(*words):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = main(list(words))
    return status, out.getvalue(), err.getvalue()

folder, file = sys.argv[1:]
told = {"unknowing": call("inspect", file)}
try:
    AutoConfig.from_pretrained(folder)
except ValueError as error:
    told["refused"] = str(error)
told["known"] = "mean_memory" in sys.modules
told["knowing"] = call("--import", "mean_memory", "inspect", file)
model = AutoModelForCausalLM.from_pretrained(folder)
told["loaded"] = type(hf_memoria.load_memory(file, model)).__name__
print(json.dumps(told))
"""


@pytest.fixture(scope="module")
def in_a_new_process(tmp_path_factory):
    """What a process says to a checkpoint and a memory file before it imports the module, and after that."""
    folder = tmp_path_factory.mktemp("mean")
    model = tiny_model()
    model.save_pretrained(folder / "model")
    memory = model(**tiny_segments("GPT2", steps=1)[0]).memory
    save_memory(memory, folder / "memory.safetensors", model.config)
    told = run(IN_A_NEW_PROCESS, folder / "model", folder / "memory.safetensors", PYTHONPATH=str(RECIPES))
    return json.loads(told.splitlines()[-1])


def test_a_checkpoint_and_a_memory_file_load_where_the_module_is_imported(tmp_path, in_a_new_process):
    model = tiny_model()
    ids = tiny_segments("GPT2", steps=1)[0]["input_ids"]
    memory = model(ids).memory
    model.save_pretrained(tmp_path / "model")
    save_memory(memory, tmp_path / "memory.safetensors", model.config)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    again = load_memory(tmp_path / "memory.safetensors", loaded)
    assert torch.equal(again.mean, memory.mean)
    assert torch.equal(loaded(ids, memory=again).logits, model(ids, memory=memory).logits)
    assert in_a_new_process["loaded"] == "MeanState"


def test_a_process_that_does_not_know_the_kind_is_told_what_to_import(in_a_new_process):
    assert not in_a_new_process["known"]
    refused = in_a_new_process["refused"]
    assert "memory.kind must be one of ['engram', 'episodic', 'token']; got 'mean'" in refused
    assert "Import the module that registers a kind of your own" in refused


@pytest.mark.parametrize("options", [{"do_sample": False}, {"num_beams": 3}])
def test_generation_past_the_window_is_a_loop_over_segments(options):
    model = tiny_model(segment_length=8)
    ids = tiny_segments("GPT2", steps=1, length=5)[0]["input_ids"]
    output = model.generate(
        ids, max_new_tokens=30, pad_token_id=60, eos_token_id=None, return_dict_in_generate=True, **options
    )
    assert output.sequences.shape == (2, 35)
    memory, read = None, output.sequences
    for start in range(0, 35, 8):
        memory = model(read[:, start : start + 8], memory=memory).memory
    torch.testing.assert_close(output.memory.mean, memory.mean)
    if "do_sample" in options:
        cached = model(read, past_key_values=MemoriaCache(model.config)).logits
        assert torch.equal(cached[:, 4:-1].argmax(dim=-1), read[:, 5:])


def test_rows_of_a_padded_batch_generate_what_they_generate_alone():
    model = tiny_model(segment_length=8)
    ids = tiny_segments("GPT2", steps=1, length=6)[0]["input_ids"]
    mask = torch.ones_like(ids)
    mask[0, :3] = 0
    options = {"max_new_tokens": 20, "pad_token_id": 60, "eos_token_id": None, "do_sample": False}
    together = model.generate(ids, attention_mask=mask, **options)
    alone = model.generate(ids[:1, 3:], **options)
    assert torch.equal(together[0, 3:], alone[0])


def test_what_its_files_may_not_hold_is_neither_written_nor_read(tmp_path):
    path = tmp_path / "memory.safetensors"
    state = MeanState(torch.tensor([[1.0, 2.0], [3.0, float("nan")]]), torch.tensor([4, 5]))
    with pytest.raises(ValueError, match=r"^values of mean of .* must be finite; got nan in rows \[1\]\. Nothing was"):
        save_memory(state, path)
    with pytest.raises(ValueError, match=r"^rows of positions of the memory file .* must be 2; got 1\. Nothing was"):
        save_memory(MeanState(torch.zeros(2, 3), torch.tensor([4])), path)
    assert not list(tmp_path.iterdir())
    save_memory(state.reset(torch.tensor([False, True])), path)
    header, tensors = read_header(path), {**state.tensors()}
    save_file(tensors, path, header | {"checksum": _checksum(tensors)})
    with pytest.raises(ValueError, match=r"^values of mean of .* must be finite; got nan in rows \[1\]\. Load"):
        load_memory(path)


def test_inspect_and_the_card_tell_of_it(tmp_path, capsys):
    model = tiny_model()
    memory = model(**tiny_segments("GPT2", steps=1)[0]).memory
    save_memory(memory, tmp_path / "memory.safetensors", model.config)
    assert command_line(["inspect", str(tmp_path / "memory.safetensors"), "--json"]) == 0
    (summary,) = json.loads(capsys.readouterr().out).values()
    assert [row["positions"] for row in summary["rows"]] == [9, 9]
    card = str(make_card(model, describe(model, "me/mean")))
    assert "a memory of kind 'mean' (mean_memory.MeanMemory)" in card


def test_the_command_line_imports_the_module_that_it_is_told(in_a_new_process):
    status, out, err = in_a_new_process["knowing"]
    assert status == 0, err
    assert "positions" in out
    status, _, err = in_a_new_process["unknowing"]
    assert status != 0
    assert "Import the module that registers a kind" in err


LOAD = """
import sys
import torch, transformers
from safetensors.torch import load_file

model = transformers.AutoModelForCausalLM.from_pretrained(sys.argv[1], trust_remote_code=True).eval()
expected = load_file(sys.argv[1] + "/expected.bin")
first = model(expected["ids"])
assert torch.equal(model(expected["ids"], memory=first.memory).logits, expected["logits"])
print(type(model).__module__.partition(".")[0], type(first.memory).__name__)
if len(sys.argv) > 2:
    model.save_pretrained(sys.argv[2])
"""


def test_a_checkpoint_brings_the_code_of_the_memory_along(tmp_path):
    from safetensors.torch import save_file

    model, folder = tiny_model(), tmp_path / "exported"
    ids = tiny_segments("GPT2", steps=1)[0]["input_ids"]
    model.save_pretrained(folder)
    hf_memoria.export_remote_code(folder)
    with torch.no_grad():
        save_file({"ids": ids, "logits": model(ids, memory=model(ids).memory).logits}, folder / "expected.bin")
    told = run_without_the_package(LOAD, tmp_path, folder, tmp_path / "again")
    assert told.split() == ["transformers_modules", "MeanState"]
    shutil.copy(folder / "expected.bin", tmp_path / "again")
    assert run_without_the_package(LOAD, tmp_path, tmp_path / "again").split() == ["transformers_modules", "MeanState"]
    # Where the package is installed and the module is not, the package is used with the memory that came along.
    assert run(LOAD, folder, HF_HOME=str(tmp_path / "home")).split() == ["hf_memoria", "MeanState"]


def test_a_kind_belongs_to_one_class():
    class Another(MeanMemory):
        pass

    assert register_memory(MeanMemory()) is system_of(MeanMemoryConfig())
    with pytest.raises(ValueError, match=r"kind must be one that no other memory has; got 'mean', which mean_memory"):
        register_memory(Another())
    assert isinstance(system_of(MeanMemoryConfig()), MeanMemory)


def test_settings_have_to_be_settings_of_a_memory():
    class Broken(SegmentMemory):
        settings_class = dict
        state_class = MeanState

    with pytest.raises(TypeError, match="settings_class must be a subclass of MemorySettings; got <class 'dict'>"):
        register_memory(Broken())


def test_what_a_memory_has_to_define_is_named():
    class NewKindConfig(MemorySettings):
        kind = "unfinished"
        segment_length = None

    class Unfinished(SegmentMemory):
        settings_class = NewKindConfig
        state_class = MeanState

    with pytest.raises(TypeError, match=r"Unfinished must define install\(model\)"):
        Unfinished().install(None)
    with pytest.raises(TypeError, match=r"Unfinished must define empty\("):
        Unfinished().empty(None, 1, torch.zeros(1))


def test_the_example_is_one_module_with_one_call():
    source = Path(mean_memory.__file__).read_text(encoding="utf-8")
    assert source.count("register_memory(") == 1


def test_peft_trains_its_parameters():
    from peft import LoraConfig, get_peft_model

    model = tiny_model()
    first, second = tiny_segments("GPT2", steps=2)
    adapters = LoraConfig(
        task_type="CAUSAL_LM", target_modules=["c_attn"], modules_to_save=hf_memoria.memory_modules(model)
    )
    adapted = get_peft_model(model, adapters)
    adapted(**second, labels=second["input_ids"], memory=adapted(**first).memory).loss.backward()
    trained = [parameter for name, parameter in adapted.named_parameters() if "modules_to_save" in name]
    assert len(trained) == 1
    assert trained[0].grad.abs() > 0


def test_a_plain_checkpoint_gets_initialised_parameters(tmp_path):
    plain = wrap(tiny_model(), memory=None)
    plain.save_pretrained(tmp_path)
    loaded = type(plain).from_pretrained(tmp_path, memory=MeanMemoryConfig())
    assert loaded.transformer.memory.scale.item() == 1.0


def test_activation_checkpoints_and_no_targets():
    model = tiny_model().train()
    first, second = tiny_segments("GPT2", steps=2)
    labels = second["input_ids"]
    memory = model(**first).memory
    parameters = list(model.parameters())
    expected = torch.autograd.grad(model(**second, labels=labels, memory=memory).loss, parameters)
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    got = torch.autograd.grad(model(**second, labels=labels, memory=memory).loss, parameters)
    assert all(map(torch.equal, got, expected))
    assert model(**second, labels=torch.full_like(labels, -100), memory=memory).loss == 0


def test_two_modules_of_one_name_in_two_packages_are_two_kinds():
    made = []
    for package in ("one", "other"):
        settings = type("Config", (MeanMemoryConfig,), {"kind": "twin"})
        body = {"settings_class": settings, "__module__": f"{package}.system"}
        made.append(type("Twin", (MeanMemory,), body)())
    try:
        register_memory(made[0])
        with pytest.raises(ValueError, match=r"got 'twin', which one\.system\.Twin has"):
            register_memory(made[1])
    finally:
        SYSTEMS.pop("twin")


def test_settings_of_the_copy_that_a_checkpoint_brought_are_settings_of_the_kind():
    copy_of_settings = type("MeanMemoryConfig", (MemorySettings,), {"kind": "mean", "segment_length": 8})
    copy_of_settings.to_dict = lambda self: {"kind": "mean", "segment_length": 8}
    config = memoria_class("GPT2", "Config")(**SETTINGS["GPT2"], memory=copy_of_settings())
    assert config.memory == MeanMemoryConfig(segment_length=8)
