"""An episodic memory under Trainer, PEFT, DistributedDataParallel and torch.compile."""

import pytest
import torch
from datasets import Dataset
from families import read_all, small_episodes, states_equal, tiny_model, tiny_segments, with_targets
from transformers import Trainer, TrainerCallback, TrainingArguments
from versions import needs_new_dynamo

import hf_memoria
from hf_memoria import MemoriaCallback, segment_documents
from hf_memoria.memories.episodic.keep_score import WEIGHT
from hf_memoria.memories.episodic.statistics import EpisodicStatistics

pytestmark = pytest.mark.slow

FORMS = {
    "ids": {"keep": "random"},
    "own-ids": {"query_ids": True},
    "shared": {"share_attention": True, "association": "spread"},
    "cofire": {"association": "spread", "association_graph": "both"},
}


def episodic(form="ids", **changes):
    return tiny_model("GPT2", "ForCausalLM", small_episodes(**(FORMS[form] | changes)))


def documents(lanes=2):
    generator = torch.Generator().manual_seed(0)
    made = [torch.randint(1, 60, (length,), generator=generator).tolist() for length in (70, 50, 33, 41)]
    return segment_documents(Dataset.from_dict({"input_ids": made}), segment_length=8, lanes=lanes)


class SaveAt(TrainerCallback):
    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        control.should_save = state.global_step == self.step


def new_trainer(folder, form, *callbacks):
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
        episodic(form, segment_length=8).train(),
        arguments,
        train_dataset=data,
        eval_dataset=data.select(range(6)),
        callbacks=[MemoriaCallback(), *callbacks],
    )


def logged(trainer, name="loss"):
    return [entry[name] for entry in trainer.state.log_history if "loss" in entry]


@pytest.mark.parametrize("form", FORMS)
def test_resumed_in_the_middle_of_a_document_nothing_differs(tmp_path, form):
    whole = new_trainer(tmp_path / "whole", form, SaveAt(5))
    whole.train()
    resumed = new_trainer(tmp_path / "resumed", form)
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-5"))
    assert logged(resumed)[-4:] == logged(whole)[-4:]
    for one, other in zip(whole.model.parameters(), resumed.model.parameters(), strict=True):
        assert float((one - other).detach().abs().max()) == 0.0
    memories = [trainer.callback_handler.callbacks for trainer in (whole, resumed)]
    states = [next(c for c in found if isinstance(c, MemoriaCallback)).memory for found in memories]
    assert states_equal(*states)


def test_trainer_logs_what_it_holds(tmp_path):
    trainer = new_trainer(tmp_path, "shared")
    trainer.train()
    assert logged(trainer, "memory/engrams")[:3] == [8.0, 16.0, 20.0]
    assert sum(logged(trainer, "memory/forgotten")) > 0
    assert {"memory/age", "memory/usage"} <= set(trainer.state.log_history[0])
    parts = zip(logged(trainer, "memory/task_loss"), logged(trainer, "memory/keep_loss"), strict=True)
    total = [task + WEIGHT * keep for task, keep in parts]
    torch.testing.assert_close(torch.tensor(logged(trainer)), torch.tensor(total), atol=1e-3, rtol=1e-3)


@torch.no_grad()
def test_a_document_that_ends_is_not_counted_as_forgotten():
    model, memory, statistics = episodic("shared", keep="fifo", capacity=20), None, EpisodicStatistics()
    forgotten = []
    for step, inputs in enumerate(tiny_segments("GPT2", steps=6)):
        inputs["reset_memory"] = torch.tensor([step % 3 == 0, False])
        output = model(**inputs, memory=memory)
        statistics.observe(memory, inputs, output)
        memory = output.memory
        forgotten.append(statistics.logged(statistics.sums(memory))["memory/forgotten"])
    assert forgotten == [0, 0, 7 + 7, 9, 9, 7 + 9]  # of the rows: the first begins a document at the fourth step


def test_peft_trains_its_parameters():
    from peft import LoraConfig, get_peft_model

    model = episodic("shared")
    segments = [with_targets("GPT2", "ForCausalLM", inputs) for inputs in tiny_segments("GPT2", steps=3)]
    adapters = LoraConfig(
        task_type="CAUSAL_LM", target_modules=["c_attn"], modules_to_save=hf_memoria.memory_modules(model)
    )
    adapted = get_peft_model(model, adapters).train()
    memory = adapted(**segments[0]).memory
    memory = adapted(**segments[1], memory=memory).memory
    adapted(**segments[2], memory=memory).loss.backward()
    unreached = [name for name, p in adapted.named_parameters() if p.requires_grad and p.grad is None]
    assert not unreached
    assert any("memory_keep" in name for name, p in adapted.named_parameters() if p.requires_grad)
    assert any("memory_distances" in name for name, p in adapted.named_parameters() if p.requires_grad)


@needs_new_dynamo
@pytest.mark.parametrize("form", FORMS)
@torch.no_grad()
def test_compiled_it_is_one_graph_that_gives_the_same(form):
    torch.compiler.reset()
    model = episodic(form)
    segments = tiny_segments("GPT2", steps=5)
    memory = read_all(model, segments[:3])[-1].memory
    expected = read_all(model, segments[3:], memory)
    compiled = read_all(torch.compile(model, backend="eager", fullgraph=True), segments[3:], memory)
    for one, other in zip(compiled, expected, strict=True):
        torch.testing.assert_close(one.logits, other.logits, atol=1e-5, rtol=1e-4)
        assert torch.equal(one.memory.ids, other.memory.ids)


@pytest.mark.parametrize("form", FORMS)
def test_every_parameter_has_a_gradient_from_the_first_segment_on(form):
    model = episodic(form, keep="learned").train()
    (segment,) = tiny_segments("GPT2", steps=1)
    model(**with_targets("GPT2", "ForCausalLM", segment)).loss.backward()
    assert not [name for name, p in model.named_parameters() if p.grad is None]
